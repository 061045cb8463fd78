//! Which certificate of a listener a client gets: by the name that it asks for.

use std::sync::Arc;

use foldhash::HashMap;
use model::snapshot::Certificate;
use rustls::pki_types::UnixTime;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// The certificates of a listener: the exact name is looked for, then the longest wildcard, then the first is taken.
#[derive(Debug)]
pub struct ByServerName {
    exact: HashMap<String, Arc<Served>>,
    /// By the part behind `*.`.
    wildcards: HashMap<String, Arc<Served>>,
    first: Option<Arc<Served>>,
}

/// A certificate as it is served.
#[derive(Debug)]
struct Served {
    key: Arc<CertifiedKey>,
    /// With a staple, and until when that is good.
    stapled: Option<(Arc<CertifiedKey>, u64)>,
}

impl ByServerName {
    pub fn new(certificates: &[Arc<Certificate>]) -> Self {
        let mut names = Self { exact: HashMap::default(), wildcards: HashMap::default(), first: None };
        for certificate in certificates.iter().filter(|certificate| certificate.enabled) {
            let served = Arc::new(Served::new(certificate));
            for host in &certificate.hosts {
                let (map, name) = match host.wildcard_suffix() {
                    Some(suffix) => (&mut names.wildcards, suffix),
                    None => (&mut names.exact, host.as_str()),
                };
                map.entry(name.to_owned()).or_insert_with(|| served.clone());
            }
            names.first.get_or_insert(served);
        }
        names
    }

    /// Whether a certificate names the host, and another one is for a client that asked for `name`.
    pub fn would_differ(&self, name: &str, host: &str) -> bool {
        match (self.named(host), self.find(name)) {
            (Some(its), Some(present)) => !Arc::ptr_eq(its, present),
            _ => false,
        }
    }

    fn find(&self, name: &str) -> Option<&Arc<Served>> {
        self.named(name).or(self.first.as_ref())
    }

    fn named(&self, name: &str) -> Option<&Arc<Served>> {
        if let Some(served) = self.exact.get(name) {
            return Some(served);
        }
        let mut rest = name;
        while let Some((_, suffix)) = rest.split_once('.') {
            if let Some(served) = self.wildcards.get(suffix) {
                return Some(served);
            }
            rest = suffix;
        }
        None
    }
}

impl Served {
    fn new(certificate: &Certificate) -> Self {
        let stapled = certificate.staple.as_ref().map(|staple| {
            let key = CertifiedKey { ocsp: Some(staple.der.clone()), ..CertifiedKey::clone(&certificate.key) };
            (Arc::new(key), staple.next_update.unwrap_or(u64::MAX))
        });
        Self { key: certificate.key.clone(), stapled }
    }

    /// An old staple is worse than none: clients may end the handshake for it.
    fn at(&self, now: impl FnOnce() -> u64) -> Arc<CertifiedKey> {
        match &self.stapled {
            Some((stapled, until)) if now() < *until => stapled.clone(),
            _ => self.key.clone(),
        }
    }
}

impl ResolvesServerCert for ByServerName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // rustls has checked the name and put it into lower case.
        let served = hello.server_name().map_or(self.first.as_ref(), |name| self.find(name))?;
        Some(served.at(|| UnixTime::now().as_secs()))
    }
}

#[cfg(test)]
mod tests {
    use model::config::Edit;
    use model::resource::Kind;
    use model::snapshot::Snapshot;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_staple_is_served_until_there_should_be_a_newer_one() {
        let made = rcgen::generate_simple_self_signed(["a.test".to_owned()]).expect("a certificate");
        let spec = json!({"cert": made.cert.pem(), "key": made.signing_key.serialize_pem()});
        let edit = Edit::Put { kind: Kind::Certificate, name: "a".into(), spec };
        let (snapshot, _) = Snapshot::default().apply(1, vec![edit]).expect("a good certificate");
        let plain = snapshot.certificates.find("a").expect("it is there").key.clone();
        let stapled = Arc::new(CertifiedKey { ocsp: Some(vec![1]), ..CertifiedKey::clone(&plain) });
        let served = Served { key: plain, stapled: Some((stapled, 100)) };
        assert!(served.at(|| 99).ocsp.is_some());
        assert!(served.at(|| 100).ocsp.is_none());
    }
}
