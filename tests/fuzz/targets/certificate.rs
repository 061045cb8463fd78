//! What is read of certificates, authorities, staples, and of the certificates that clients show: what is taken can be
//! used, and what is not is told with the field.

#![no_main]

use libfuzzer_sys::fuzz_target;
use model::exchange::ClientCertificate;
use model::resource::{Kind, Resource};
use serde_json::json;

/// The certificate and the key that the seeds hold.
const GOOD: &str = include_str!("../seeds/certificate/pair");

fuzz_target!(|bytes: &[u8]| {
    if let Some(read) = ClientCertificate::from_der(bytes) {
        assert!(!read.subject.chars().any(char::is_control), "{:?}", read.subject);
    }
    let Ok(text) = str::from_utf8(bytes) else { return };
    let (cert, key) = split(text);
    let (good, good_key) = split(GOOD);
    let cases = [
        (Kind::CaBundle, json!({ "certs": text }), "/certs"),
        (Kind::Certificate, json!({ "cert": cert, "key": key }), "/"),
        (Kind::Certificate, json!({ "cert": good, "key": good_key, "ocsp_staple": text }), "/ocsp_staple"),
    ];
    for (kind, spec, pointer) in cases {
        match Resource::parse(kind, spec) {
            Ok(Resource::CaBundle(bundle)) => assert!(!bundle.roots().expect("it was checked").is_empty()),
            Ok(Resource::Certificate(certificate)) => {
                certificate.certified_key().expect("it was checked");
                let _ = certificate.server_names();
            }
            Ok(_) => unreachable!("it is of that kind"),
            Err(faults) => assert!(faults.iter().all(|fault| fault.pointer.starts_with(pointer)), "{faults:?}"),
        }
    }
});

/// Certificates in front, the key behind.
fn split(text: &str) -> (&str, &str) {
    text.split_at(text.rfind("-----BEGIN").unwrap_or(text.len()))
}
