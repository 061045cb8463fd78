//! TLS towards services: whom to trust, and the choice of the protocol by ALPN.

use std::convert::Infallible;
use std::sync::Arc;

use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto;
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::upstream::connection::OnThisCore;

/// A service behind TLS that answers with the version of HTTP it was asked in. Returns its certificate in PEM.
async fn secure(name: &str, protocols: &[&str]) -> (SocketAddr, String) {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed([name.to_owned()]).expect("a certificate");
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).expect("a key");
    let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .expect("a certificate with its key");
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let address = serve(move |stream, _| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let service = service_fn(|request: Request<Incoming>| async move {
                let version = Bytes::from(format!("{:?}", request.version()));
                Ok::<_, Infallible>(Response::new(Full::new(version)))
            });
            let _ = auto::Builder::new(OnThisCore).serve_connection(TokioIo::new(stream), service).await;
        }
    })
    .await;
    (address, cert.pem())
}

fn service(address: SocketAddr, protocol: &str, tls: &Value) -> Value {
    json!({"url": format!("https://{address}"), "protocol": protocol, "tls": tls})
}

#[test]
fn certificates_are_checked_unless_told_otherwise() {
    on_a_core(|| async {
        let (address, ca) = secure("shop.internal", &[]).await;
        let (_, other_ca) = secure("shop.internal", &[]).await;
        let named = |ca: &str| json!({"ca": ca, "server_name": "shop.internal"});
        let cases = [
            (json!({}), false),
            (json!({"verify": false}), true),
            (named(&ca), true),
            (named(&other_ca), false),
            (json!({"ca": ca}), false),
            (json!({"ca": ca, "server_name": "blog.internal"}), false),
        ];
        for (tls, is_good) in cases {
            let core = Core::new(service(address, "auto", &tls));
            match core.get("/").await {
                Ok(_) => assert!(is_good, "{tls}"),
                Err(error) => assert!(!is_good && matches!(error, UpstreamError::Unreachable(_)), "{tls}: {error}"),
            }
        }
    });
}

#[test]
fn the_protocol_is_agreed_on() {
    on_a_core(|| async {
        let cases = [
            ("auto", &["h2", "http/1.1"][..], Some("HTTP/2.0")),
            ("auto", &["http/1.1"], Some("HTTP/1.1")),
            ("auto", &[], Some("HTTP/1.1")),
            ("http1", &["h2", "http/1.1"], Some("HTTP/1.1")),
            ("http2", &["h2"], Some("HTTP/2.0")),
            ("http2", &["http/1.1"], None),
            ("http2", &[], None),
        ];
        for (protocol, offered, expected) in cases {
            let (address, ca) = secure("shop.internal", offered).await;
            let tls = json!({"ca": ca, "server_name": "shop.internal"});
            let core = Core::new(service(address, protocol, &tls));
            for _ in 0..3 {
                let answer = core.get("/").await.ok().map(|(_, body)| body);
                assert_eq!(answer.as_deref(), expected, "{protocol} {offered:?}");
            }
            assert!(core.open() <= 1);
        }
    });
}

#[test]
fn a_request_that_may_switch_protocols_goes_over_http1() {
    on_a_core(|| async {
        let (address, ca) = secure("shop.internal", &["h2", "http/1.1"]).await;
        let core = Core::new(service(address, "auto", &json!({"ca": ca, "server_name": "shop.internal"})));
        assert_eq!(core.get("/").await.expect("an answer").1, "HTTP/2.0");
        let request = with_field(with_field(get("/"), "upgrade", "echo"), "connection", "upgrade");
        let response = core.send(request).await.expect("an answer");
        assert_eq!(response.body.collect().await.expect("a body").to_bytes(), "HTTP/1.1");
    });
}
