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
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio_rustls::TlsAcceptor;

use super::*;

/// A service behind TLS that answers with the version of HTTP it was asked in. Returns its certificate in PEM.
pub(super) async fn secure(name: &str, protocols: &[&str]) -> (SocketAddr, String) {
    secure_for(None, name, protocols).await
}

/// The same, for clients with a certificate of this authority.
async fn secure_for(clients: Option<&str>, name: &str, protocols: &[&str]) -> (SocketAddr, String) {
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed([name.to_owned()]).expect("a certificate");
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).expect("a key");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone());
    let builder = builder.with_safe_default_protocol_versions().expect("versions");
    let builder = match clients {
        Some(authority) => {
            let mut roots = rustls::RootCertStore::empty();
            roots.add(CertificateDer::from_pem_slice(authority.as_bytes()).expect("PEM")).expect("an authority");
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build();
            builder.with_client_cert_verifier(verifier.expect("a verifier"))
        }
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(vec![cert.der().clone()], key).expect("a certificate with its key");
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let address = serve(move |stream, _| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let handshake = format!("{:?}", stream.get_ref().1.handshake_kind().expect("it is over"));
            let service = service_fn(|request: Request<Incoming>| {
                let response = Response::builder().header("handshake", &handshake);
                let version = Bytes::from(format!("{:?}", request.version()));
                let response = response.body(Full::new(version)).expect("a response");
                async move { Ok::<_, Infallible>(response) }
            });
            let _ = auto::Builder::new(OnThisCore).serve_connection(TokioIo::new(stream), service).await;
        }
    })
    .await;
    (address, cert.pem())
}

fn put(kind: Kind, name: &str, spec: Value) -> Edit {
    Edit::Put { kind, name: name.into(), spec }
}

fn bundle(certs: &str) -> Edit {
    put(Kind::CaBundle, "trusted", json!({"certs": certs}))
}

/// A core with the service, which may name the bundle `trusted`.
pub(super) fn core(address: SocketAddr, protocol: &str, certs: &str, tls: &Value) -> Rc<Core> {
    let core = Core::new(url(address));
    let service = json!({"url": format!("https://{address}"), "protocol": protocol, "tls": tls});
    core.apply_all(vec![bundle(certs), put(Kind::Service, "shop", service)]);
    core
}

pub(super) fn named(name: &str) -> Value {
    json!({"ca_bundle": "trusted", "server_name": name})
}

#[test]
fn certificates_are_checked_unless_told_otherwise() {
    on_a_core(|| async {
        let (address, right) = secure("shop.internal", &[]).await;
        let (_, wrong) = secure("shop.internal", &[]).await;
        let cases = [
            (json!({}), &right, false),
            (json!({"verify": false}), &wrong, true),
            (named("shop.internal"), &right, true),
            (named("shop.internal"), &wrong, false),
            (named("shop.internal"), &format!("{wrong}{right}"), true),
            (json!({"ca_bundle": "trusted"}), &right, false),
            (named("blog.internal"), &right, false),
        ];
        for (tls, certs, is_good) in cases {
            match core(address, "auto", certs, &tls).get("/").await {
                Ok(_) => assert!(is_good, "{tls}"),
                Err(error) => assert!(!is_good && matches!(error, UpstreamError::Unreachable(_)), "{tls}: {error}"),
            }
        }
    });
}

#[test]
fn who_asks_for_a_certificate_gets_the_one_of_the_service() {
    on_a_core(|| async {
        let make = || rcgen::generate_simple_self_signed(["gateway".to_owned()]).expect("a certificate");
        let (known, stranger) = (make(), make());
        let (address, certs) = secure_for(Some(&known.cert.pem()), "shop.internal", &[]).await;
        let core = core(address, "http1", &certs, &named("shop.internal"));
        core.get("/").await.expect_err("it shows none");
        let mut tls = named("shop.internal");
        tls["client_certificate"] = "gateway".into();
        let service = json!({"url": format!("https://{address}"), "tls": tls});
        let certificate = |made: &rcgen::CertifiedKey<rcgen::KeyPair>| {
            put(Kind::Certificate, "gateway", json!({"cert": made.cert.pem(), "key": made.signing_key.serialize_pem()}))
        };
        core.apply_all(vec![certificate(&stranger), put(Kind::Service, "shop", service)]);
        core.get("/").await.expect_err("nobody knows it");
        core.apply(certificate(&known));
        core.get("/").await.expect("it is known, and the service was not written again");
    });
}

#[test]
fn a_bundle_that_changes_takes_effect_on_the_services_that_name_it() {
    on_a_core(|| async {
        let (address, right) = secure("shop.internal", &[]).await;
        let (_, wrong) = secure("shop.internal", &[]).await;
        let core = core(address, "auto", &right, &named("shop.internal"));
        core.get("/").await.expect("it is trusted");
        core.apply(bundle(&wrong));
        core.get("/").await.expect_err("it is not trusted any more, on no connection from before either");
        core.apply(bundle(&right));
        core.get("/").await.expect("it is trusted again");
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
            let core = core(address, protocol, &ca, &named("shop.internal"));
            for _ in 0..3 {
                let answer = core.get("/").await.ok().map(|(_, body)| body);
                assert_eq!(answer.as_deref(), expected, "{protocol} {offered:?}");
            }
            assert!(core.open() <= 1);
        }
    });
}

#[test]
fn the_next_connection_resumes_the_session_of_one_before() {
    on_a_core(|| async {
        let (address, certs) = secure("shop.internal", &["http/1.1"]).await;
        let core = Core::new(url(address));
        let service = json!({
            "url": format!("https://{address}"), "tls": named("shop.internal"), "connections": {"max_requests": 1},
        });
        core.apply_all(vec![bundle(&certs), put(Kind::Service, "shop", service)]);
        let mut handshakes = Vec::new();
        for _ in 0..4 {
            let (headers, _) = core.get("/").await.expect("an answer");
            handshakes.push(headers.get_str("handshake").expect("it is told").to_owned());
        }
        assert_eq!(handshakes, ["Full", "Resumed", "Resumed", "Resumed"]);
        // So does that of another core.
        let other = Core::new(url(address));
        *other.snapshot.borrow_mut() = Rc::clone(&core.snapshot.borrow());
        let (headers, _) = other.get("/").await.expect("an answer");
        assert_eq!(headers.get_str("handshake"), Some("Resumed"));
    });
}

#[test]
fn a_request_that_may_switch_protocols_goes_over_http1() {
    on_a_core(|| async {
        let (address, ca) = secure("shop.internal", &["h2", "http/1.1"]).await;
        let core = core(address, "auto", &ca, &named("shop.internal"));
        assert_eq!(core.get("/").await.expect("an answer").1, "HTTP/2.0");
        let request = with_field(with_field(get("/"), "upgrade", "echo"), "connection", "upgrade");
        let response = core.send(request).await.expect("an answer");
        assert_eq!(response.body.collect().await.expect("a body").to_bytes(), "HTTP/1.1");
    });
}
