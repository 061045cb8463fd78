//! Authorities for tests, with certificates that they issue.

use std::path::Path;

use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use serde_json::{Value, json};

/// An authority whose certificate, and those that it issued with their keys, lie in a folder.
pub struct Authority<'f> {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: &'f Path,
    name: &'static str,
}

impl<'f> Authority<'f> {
    pub fn new(folder: &'f Path, name: &'static str) -> Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        std::fs::write(folder.join(name), issuer.pem())?;
        Ok(Self { issuer, folder, name })
    }

    pub fn bundle(&self) -> Value {
        json!({ "name": self.name, "certs": self.issuer.pem() })
    }

    /// A certificate in its written form; the name of the resource is that of its files too.
    pub fn issue(&self, name: &str, host: &str) -> Result<Value> {
        let mut params = CertificateParams::new([host.to_owned()])?;
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate()?;
        let cert = params.signed_by(&key, &self.issuer)?;
        std::fs::write(self.folder.join(format!("{name}.crt")), cert.pem())?;
        std::fs::write(self.folder.join(format!("{name}.key")), key.serialize_pem())?;
        Ok(json!({ "name": name, "cert": cert.pem(), "key": key.serialize_pem() }))
    }
}
