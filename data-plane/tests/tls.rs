//! TLS of listeners as clients meet it: versions and ciphers, certificates of both sides, sessions that are resumed.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use std::io;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;

use data_plane::telemetry::Telemetry;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use model::config::Edit;
use model::resource::Kind;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::client::Resumption;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ClientConfig, HandshakeKind, SupportedProtocolVersion};
use serde_json::{Value, json};
use support::{Log, Node, free_address, put, respond, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

const REQUEST: &str = "GET / HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\n\r\n";

/// An authority, and a certificate with its key that it issued.
struct Authority(CertifiedIssuer<'static, KeyPair>);

struct Issued {
    cert: rcgen::Certificate,
    key: KeyPair,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn issue(&self, name: &str) -> Issued {
        self.issue_with(name, |_| ())
    }

    fn issue_with(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Issued {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        Issued { cert: params.signed_by(&key, &self.0).unwrap(), key }
    }

    fn bundle(&self) -> Edit {
        put(Kind::CaBundle, "partners", json!({ "certs": self.0.pem() }))
    }
}

impl Issued {
    fn written(&self) -> Value {
        json!({ "cert": self.cert.pem(), "key": self.key.serialize_pem() })
    }
}

/// A node with a route that answers `ok`, and a listener `secure` with this TLS and a certificate for `a.test`.
async fn node(secure: SocketAddr, tls: Value) -> Node {
    let made = Authority::new("Servers").issue("a.test");
    node_with(secure, tls, &made, Telemetry::without_log(), vec![]).await
}

async fn node_with(secure: SocketAddr, tls: Value, made: &Issued, telemetry: Telemetry, more: Vec<Edit>) -> Node {
    let mut edits = vec![put(Kind::Route, "all", respond("ok")), put(Kind::Certificate, "a", made.written())];
    edits.extend(more);
    edits.push(listener("secure", secure, tls));
    Node::start_telling(support::settings(), telemetry, edits).await
}

fn listener(name: &str, bind: SocketAddr, mut tls: Value) -> Edit {
    tls["certificates"] = json!(["a"]);
    put(Kind::Listener, name, json!({ "bind": bind.to_string(), "tls": tls }))
}

fn demand(mode: &str) -> Value {
    json!({ "client_certificate": { "mode": mode, "ca_bundle": "partners" } })
}

const BOTH: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13, &rustls::version::TLS12];
const ONLY_1_2: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12];
const ONLY_1_3: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// A client that remembers sessions, perhaps with a certificate. It takes any certificate of the server.
fn client(versions: &[&'static SupportedProtocolVersion], shows: Option<&Issued>) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(versions)
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(support::AnyCertificate(provider)));
    let mut config = match shows {
        Some(issued) => {
            let key = PrivateKeyDer::try_from(issued.key.serialize_der()).unwrap();
            builder.with_client_auth_cert(vec![issued.cert.der().clone()], key).unwrap()
        }
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::in_memory_sessions(8);
    Arc::new(config)
}

async fn connect(config: &Arc<ClientConfig>, address: SocketAddr) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("a.test").unwrap();
    within(tokio_rustls::TlsConnector::from(config.clone()).connect(name, stream)).await
}

/// How the handshake went, and whether the request was answered after it: in TLS 1.3 a client hears only then that the
/// server does not want it.
async fn visit(config: &Arc<ClientConfig>, address: SocketAddr) -> io::Result<(HandshakeKind, bool)> {
    let mut stream = connect(config, address).await?;
    let kind = stream.get_ref().1.handshake_kind().unwrap();
    let mut answer = String::new();
    let _ = stream.write_all(REQUEST.as_bytes()).await;
    let _ = within(stream.read_to_string(&mut answer)).await;
    Ok((kind, answer.ends_with("ok")))
}

async fn is_let_in(config: &Arc<ClientConfig>, address: SocketAddr) -> bool {
    matches!(visit(config, address).await, Ok((_, true)))
}

const FULL: HandshakeKind = HandshakeKind::Full;
const RESUMED: HandshakeKind = HandshakeKind::Resumed;

/// What openssl's client says, without what it is asked to send.
async fn openssl(address: SocketAddr, arguments: &[&str]) -> (bool, String) {
    let mut client = tokio::process::Command::new("openssl");
    client.args(["s_client", "-connect", &address.to_string(), "-servername", "a.test"]).args(arguments);
    let output = within(client.stdin(Stdio::null()).output()).await.unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[tokio::test]
async fn versions_before_the_oldest_are_refused() {
    let secure = free_address();
    let mut node = node(secure, json!({})).await;
    for (tls, over_1_2) in [
        (json!({}), true),
        (json!({ "min_version": "1.2" }), true),
        (json!({ "min_version": "1.3" }), false),
        (json!({ "profile": "modern" }), false),
        (json!({ "profile": "intermediate" }), true),
    ] {
        node.change(vec![listener("secure", secure, tls.clone())]).await.unwrap();
        assert_eq!(is_let_in(&client(ONLY_1_2, None), secure).await, over_1_2, "{tls}");
        assert!(is_let_in(&client(ONLY_1_3, None), secure).await, "{tls}");
    }
    let wrong = listener("secure", secure, json!({ "profile": "modern", "min_version": "1.2" }));
    let problems = node.change(vec![wrong]).await.unwrap_err();
    assert_eq!((&*problems[0].pointer, &*problems[0].code), ("/tls/min_version", "conflicting-fields"));
}

#[tokio::test]
async fn a_profile_speaks_its_ciphers_and_no_others() {
    let secure = free_address();
    let mut node = node(secure, json!({})).await;
    let speaks = async |arguments: &[&str]| openssl(secure, arguments).await.0;
    for (cipher, is_spoken) in [
        ("ECDHE-ECDSA-AES128-GCM-SHA256", true),
        ("ECDHE-ECDSA-AES256-GCM-SHA384", true),
        ("ECDHE-ECDSA-CHACHA20-POLY1305", true),
        ("ECDHE-ECDSA-AES128-SHA", false),
        ("ECDHE-ECDSA-AES256-SHA384", false),
        ("AES128-GCM-SHA256:AES128-SHA:@SECLEVEL=0", false),
    ] {
        assert_eq!(speaks(&["-tls1_2", "-cipher", cipher]).await, is_spoken, "{cipher}");
    }
    for version in ["-tls1", "-tls1_1"] {
        assert!(!speaks(&[version, "-cipher", "ALL:@SECLEVEL=0"]).await, "{version}");
    }
    node.change(vec![listener("secure", secure, json!({ "profile": "modern" }))]).await.unwrap();
    for suite in ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"] {
        assert!(speaks(&["-tls1_3", "-ciphersuites", suite]).await, "{suite}");
    }
    assert!(!speaks(&["-tls1_3", "-ciphersuites", "TLS_AES_128_CCM_SHA256"]).await);
    assert!(!speaks(&["-tls1_2"]).await);
}

#[tokio::test]
async fn clients_are_let_in_by_the_certificate_that_they_show() {
    let (secure, partners) = (free_address(), Authority::new("Partners"));
    let made = Authority::new("Servers").issue("a.test");
    let mut node = node_with(secure, json!({}), &made, Telemetry::without_log(), vec![partners.bundle()]).await;
    let right = partners.issue("orders");
    let wrong = Authority::new("Partners").issue("orders");
    let expired = partners.issue_with("orders", |params| params.not_after = rcgen::date_time_ymd(2020, 1, 1));
    for (mode, nobody, right_one, wrong_one) in
        [("none", true, true, true), ("optional", true, true, false), ("required", false, true, false)]
    {
        node.change(vec![listener("secure", secure, demand(mode))]).await.unwrap();
        for versions in [ONLY_1_2, ONLY_1_3] {
            assert_eq!(is_let_in(&client(versions, None), secure).await, nobody, "{mode}, none");
            assert_eq!(is_let_in(&client(versions, Some(&right)), secure).await, right_one, "{mode}, the right one");
            assert_eq!(is_let_in(&client(versions, Some(&wrong)), secure).await, wrong_one, "{mode}, a wrong one");
            assert_eq!(is_let_in(&client(versions, Some(&expired)), secure).await, wrong_one, "{mode}, an old one");
        }
    }
}

#[tokio::test]
async fn who_a_client_has_proved_to_be_is_logged() {
    let (secure, partners) = (free_address(), Authority::new("Partners"));
    let made = Authority::new("Servers").issue("a.test");
    let log = Log::default();
    let telemetry = Telemetry::with_log_to(Box::new(log.clone())).unwrap();
    let node = node_with(secure, demand("optional"), &made, telemetry, vec![partners.bundle()]).await;
    let orders = partners.issue("orders");
    let known = client(BOTH, Some(&orders));
    assert_eq!(visit(&known, secure).await.unwrap(), (FULL, true));
    assert_eq!(visit(&known, secure).await.unwrap(), (RESUMED, true), "and the identity comes with the session");
    assert!(is_let_in(&client(BOTH, None), secure).await);
    within(node.cores.drain(std::time::Duration::from_secs(20))).await;
    node.telemetry.finish();
    let fingerprint: String =
        model::digest::sha256(orders.cert.der()).iter().map(|byte| format!("{byte:02x}")).collect();
    let mut seen: Vec<(Value, Value)> =
        log.lines().iter().map(|line| (line["client_subject"].clone(), line["client_fingerprint"].clone())).collect();
    seen.sort_by_key(|(subject, _)| subject.is_null());
    let orders = (json!("CN=orders"), json!(fingerprint));
    assert_eq!(seen, [orders.clone(), orders, (Value::Null, Value::Null)]);
}

#[tokio::test]
async fn a_session_is_resumed_on_another_node_with_the_same_keys() {
    let (one, other, stranger) = (free_address(), free_address(), free_address());
    let (old, present, next) = ([1; 32], [2; 32], [3; 32]);
    let nodes = [node(one, json!({})).await, node(other, json!({})).await, node(stranger, json!({})).await];
    for versions in [ONLY_1_2, ONLY_1_3] {
        nodes[0].cores.use_ticket_keys(&[old]);
        nodes[1].cores.use_ticket_keys(&[present, next, old]);
        let client = client(versions, None);
        assert_eq!(visit(&client, one).await.unwrap(), (FULL, true));
        assert_eq!(visit(&client, other).await.unwrap(), (RESUMED, true), "the other node has the key from before");
        nodes[0].cores.use_ticket_keys(&[next, present]);
        assert_eq!(visit(&client, one).await.unwrap(), (RESUMED, true), "keys may be replaced while the node serves");
        assert_eq!(visit(&client, stranger).await.unwrap(), (FULL, true), "a node with keys of its own");
    }
}

#[tokio::test]
async fn nobody_resumes_past_a_demand_for_a_certificate() {
    let (open, secure) = (free_address(), free_address());
    let (partners, others) = (Authority::new("Partners"), Authority::new("Others"));
    let made = Authority::new("Servers").issue("a.test");
    let mut node =
        node_with(secure, demand("required"), &made, Telemetry::without_log(), vec![partners.bundle()]).await;
    for versions in [ONLY_1_2, ONLY_1_3] {
        node.change(vec![listener("open", open, json!({})), listener("secure", secure, demand("required"))])
            .await
            .unwrap();
        let nobody = client(versions, None);
        assert_eq!(visit(&nobody, open).await.unwrap(), (FULL, true));
        assert!(!is_let_in(&nobody, secure).await, "a session of a listener that demands nothing");

        for mode in ["none", "optional"] {
            node.change(vec![listener("secure", secure, demand(mode))]).await.unwrap();
            let nobody = client(versions, None);
            assert_eq!(visit(&nobody, secure).await.unwrap(), (FULL, true));
            assert_eq!(visit(&nobody, secure).await.unwrap(), (RESUMED, true));
            node.change(vec![listener("secure", secure, demand("required"))]).await.unwrap();
            assert!(!is_let_in(&nobody, secure).await, "a session from when the listener demanded less: {mode}");
        }

        let orders = partners.issue("orders");
        let known = client(versions, Some(&orders));
        assert_eq!(visit(&known, secure).await.unwrap(), (FULL, true));
        assert_eq!(visit(&known, secure).await.unwrap(), (RESUMED, true));
        node.change(vec![put(Kind::CaBundle, "partners", json!({ "certs": others.0.pem() }))]).await.unwrap();
        assert!(!is_let_in(&known, secure).await, "its authority is not trusted any more");
        node.change(vec![partners.bundle()]).await.unwrap();
        assert!(is_let_in(&known, secure).await);
    }
}

#[tokio::test]
async fn a_staple_is_delivered_while_it_is_good() {
    let secure = free_address();
    let authority = Authority::new("Servers");
    let made = authority.issue_with("a.test", |params| params.serial_number = Some(vec![0x12, 0x34].into()));
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| folder.path().join(name);
    std::fs::write(file("ca.pem"), authority.0.pem()).unwrap();
    std::fs::write(file("ca.key"), authority.0.key().serialize_pem()).unwrap();
    std::fs::write(file("a.pem"), made.cert.pem()).unwrap();
    std::fs::write(file("index.txt"), "V\t400101000000Z\t\t1234\tunknown\t/CN=a.test\n").unwrap();
    let staple = async |lifetime: [&str; 2]| {
        let responder =
            ["-CA", "ca.pem", "-rsigner", "ca.pem", "-rkey", "ca.key", "-issuer", "ca.pem", "-cert", "a.pem"];
        let mut openssl = tokio::process::Command::new("openssl");
        openssl.current_dir(folder.path()).args(["ocsp", "-index", "index.txt", "-respout", "staple.der"]);
        let output = within(openssl.args(responder).args(lifetime).output()).await.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let encoded = tokio::process::Command::new("openssl").args(["base64", "-in"]).arg(file("staple.der")).output();
        String::from_utf8(within(encoded).await.unwrap().stdout).unwrap()
    };
    let mut node = node_with(secure, json!({}), &made, Telemetry::without_log(), vec![]).await;
    let status = async || openssl(secure, &["-status"]).await.1;
    assert!(status().await.contains("OCSP response: no response sent"));

    let mut written = made.written();
    written["ocsp_staple"] = staple(["-ndays", "1"]).await.into();
    node.change(vec![put(Kind::Certificate, "a", written.clone())]).await.unwrap();
    let said = status().await;
    assert!(said.contains("OCSP Response Status: successful") && said.contains("Cert Status: good"), "{said}");

    let other = authority.issue("a.test").written();
    written["cert"] = other["cert"].clone();
    written["key"] = other["key"].clone();
    let problems = node.change(vec![put(Kind::Certificate, "a", written.clone())]).await.unwrap_err();
    assert_eq!(&*problems[0].pointer, "/ocsp_staple");
    assert!(problems[0].message.contains("it is about another certificate"), "{}", problems[0].message);
}

/// In TLS 1.3 a client is done before it hears whether it is let in, and may be sending already: closing at once would
/// reset the connection and take the alert with it.
#[tokio::test]
async fn a_client_that_is_not_let_in_reads_why_however_much_it_sends() {
    let (secure, partners) = (free_address(), Authority::new("Partners"));
    let made = Authority::new("Servers").issue("a.test");
    let telemetry = Telemetry::without_log();
    let _node = node_with(secure, demand("required"), &made, telemetry, vec![partners.bundle()]).await;
    let connector = tokio_rustls::TlsConnector::from(client(ONLY_1_3, None));
    let stream = TcpStream::connect(secure).await.unwrap();
    let mut stream = within(connector.connect(ServerName::try_from("a.test").unwrap(), stream)).await.unwrap();
    // More than the node reads at once.
    within(stream.write_all(&vec![b'x'; 256 * 1024])).await.unwrap();
    within(stream.flush()).await.unwrap();
    support::taken(stream.get_ref().0).await;
    let error = within(stream.read(&mut [0; 100])).await.unwrap_err();
    assert!(error.to_string().contains("CertificateRequired"), "{error}");
}

/// RFC 9440 section 2.2; what clients say in the fields themselves is believed of nobody.
#[tokio::test]
async fn a_service_gets_to_see_the_certificate_of_a_client_where_that_is_asked_for() {
    let (secure, partners) = (free_address(), Authority::new("Partners"));
    let made = Authority::new("Servers").issue("a.test");
    let echo = support::backend::echo().await;
    let edits = vec![
        partners.bundle(),
        put(Kind::Service, "echo", json!({ "url": format!("http://{echo}") })),
        put(Kind::Route, "echo", json!({ "paths": ["/echo"], "service": "echo" })),
    ];
    let mut tls = demand("optional");
    let mut node = node_with(secure, tls.clone(), &made, Telemetry::without_log(), edits).await;
    let orders = partners.issue("orders");
    let seen = async |shows: Option<&Issued>| {
        let connector = tokio_rustls::TlsConnector::from(client(BOTH, shows));
        let stream = TcpStream::connect(secure).await.unwrap();
        let mut stream = within(connector.connect(ServerName::try_from("a.test").unwrap(), stream)).await.unwrap();
        let own = "client-cert: :AA==:\r\nclient-cert-chain: :AA==:\r\n";
        let request = format!("GET /echo HTTP/1.1\r\nhost: a.test\r\n{own}connection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let _ = within(stream.read_to_string(&mut answer)).await;
        let got: Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
        let fields = got["headers"].as_array().unwrap().iter();
        let fields = fields.filter(|field| field[0].as_str().unwrap().starts_with("client-cert"));
        fields.map(|field| field[1].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(seen(Some(&orders)).await, Vec::<String>::new());
    tls["client_certificate"]["forward"] = true.into();
    node.change(vec![listener("secure", secure, tls)]).await.unwrap();
    use base64::Engine as _;
    let encoded = base64::engine::general_purpose::STANDARD.encode(orders.cert.der());
    assert_eq!(seen(Some(&orders)).await, [format!(":{encoded}:")]);
    assert_eq!(seen(None).await, Vec::<String>::new());
}

#[tokio::test]
async fn a_request_for_a_host_with_another_certificate_is_misdirected() {
    let (secure, authority) = (free_address(), Authority::new("Servers"));
    let made = authority.issue_with("a.test", |params| {
        params.subject_alt_names.push(rcgen::SanType::DnsName("also.test".try_into().unwrap()));
    });
    let mut node = node_with(secure, json!({}), &made, Telemetry::without_log(), vec![]).await;
    node.change(vec![
        put(Kind::Certificate, "b", authority.issue("b.test").written()),
        put(Kind::Certificate, "wild", authority.issue("*.a.test").written()),
        put(
            Kind::Listener,
            "secure",
            json!({ "bind": secure.to_string(), "tls": { "certificates": ["b", "a", "wild"] } }),
        ),
    ])
    .await
    .unwrap();
    let mut nameless = ClientConfig::clone(&client(BOTH, None));
    nameless.enable_sni = false;
    let (named, nameless) = (client(BOTH, None), Arc::new(nameless));
    for (config, host, status) in [
        (&named, "a.test", 200),
        (&named, "A.test:8443", 200),
        (&named, "also.test", 200),
        (&named, "b.test", 421),
        (&named, "x.a.test", 421),
        (&named, "elsewhere.test", 200),
        (&nameless, "a.test", 200),
        (&nameless, "b.test", 200),
    ] {
        let mut stream = connect(config, secure).await.unwrap();
        let request = format!("GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let _ = within(stream.read_to_string(&mut answer)).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{host}: {answer}");
        assert!(status == 200 || support::problem(&answer)["code"] == "misdirected-request", "{answer}");
    }
}

/// One connection of HTTP/2 may carry requests for several hosts (RFC 9113 section 9.1.2): those for another certificate
/// are sent away, and the others go on.
#[tokio::test]
async fn a_misdirected_request_leaves_the_others_of_its_connection() {
    let (secure, authority) = (free_address(), Authority::new("Servers"));
    let made = authority.issue("a.test");
    let mut node = node_with(secure, json!({}), &made, Telemetry::without_log(), vec![]).await;
    let tls = json!({ "certificates": ["b", "a"] });
    node.change(vec![
        put(Kind::Certificate, "b", authority.issue("b.test").written()),
        put(Kind::Listener, "secure", json!({ "bind": secure.to_string(), "tls": tls })),
    ])
    .await
    .unwrap();
    let mut config = ClientConfig::clone(&client(BOTH, None));
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = connect(&Arc::new(config), secure).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    for (host, status) in [("a.test", 200), ("b.test", 421), ("a.test", 200)] {
        let request = hyper::Request::get(format!("https://{host}/")).body(Empty::<bytes::Bytes>::new()).unwrap();
        let response = within(sender.send_request(request)).await.unwrap();
        assert_eq!((response.status().as_u16(), response.version()), (status, hyper::Version::HTTP_2), "{host}");
        let body = within(response.into_body().collect()).await.unwrap().to_bytes();
        assert_eq!(String::from_utf8_lossy(&body).contains("misdirected-request"), status == 421, "{host}");
    }
}
