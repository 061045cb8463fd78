//! Certificates that no peer will accept, although they can be served.

use rustls::pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;

use crate::config::Changed;
use crate::problem::Fault;
use crate::resource::certificate::chain;
use crate::resource::{Certificate, Kind, Resource};
use crate::value::HostPattern;

/// The warnings about a certificate or a CA bundle; `now` is in seconds since 1970.
pub(super) fn lint(change: &Changed, now: u64) -> Vec<Fault> {
    if !matches!(change.key.kind, Kind::Certificate | Kind::CaBundle) {
        return Vec::new();
    }
    match change.resource() {
        Some(Resource::Certificate(written)) if written.enabled => {
            let chain = chain("/cert", &written.cert).unwrap_or_default();
            let others = chain.first().and_then(|leaf| other_hosts(&written, leaf));
            validity("/cert", &chain, now).into_iter().chain(others).collect()
        }
        Some(Resource::CaBundle(written)) => {
            validity("/certs", &chain("/certs", &written.certs).unwrap_or_default(), now)
        }
        _ => Vec::new(),
    }
}

fn validity(pointer: &str, chain: &[CertificateDer<'_>], now: u64) -> Vec<Fault> {
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    let fault = |(index, der): (usize, &CertificateDer<'_>)| {
        let (_, parsed) = x509_parser::parse_x509_certificate(der).ok()?;
        let (from, until) = (parsed.validity().not_before, parsed.validity().not_after);
        let what = if until.timestamp() < now {
            format!("expired on {}", until.to_datetime().date())
        } else if from.timestamp() > now {
            format!("is not valid before {}", from.to_datetime().date())
        } else {
            return None;
        };
        let message = format!("certificate {}, of `{}`, {what}", index + 1, parsed.subject());
        Some(Fault::new(pointer, "certificate-validity", message).hint("replace it by one that is valid now"))
    };
    chain.iter().enumerate().filter_map(fault).collect()
}

/// The hosts that are written and that the certificate does not name.
fn other_hosts(written: &Certificate, leaf: &CertificateDer<'_>) -> Option<Fault> {
    let (_, parsed) = x509_parser::parse_x509_certificate(leaf).ok()?;
    let names = parsed.subject_alternative_name().ok().flatten();
    let names: Vec<String> = names
        .iter()
        .flat_map(|extension| &extension.value.general_names)
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
            _ => None,
        })
        .collect();
    let (index, host) = written.hosts.iter().enumerate().find(|(_, host)| !is_named(host, &names))?;
    let message = format!("the certificate is not for `{host}`: clients that ask for it will not accept it");
    let hint =
        if names.is_empty() { "it names no host at all".to_owned() } else { format!("it is for {}", names.join(", ")) };
    Some(Fault::new(format!("/hosts/{index}"), "host-not-in-certificate", message).hint(hint))
}

/// A wildcard in a certificate stands for one label (RFC 6125 section 6.4.3).
fn is_named(host: &HostPattern, names: &[String]) -> bool {
    let host = host.as_str();
    let parent = host.split_once('.').map(|(_, parent)| parent);
    names.iter().any(|name| name == host || name.strip_prefix("*.").is_some_and(|suffix| Some(suffix) == parent))
}
