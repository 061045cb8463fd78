//! The authority: it certifies nodes and the control plane itself, and signs revisions.
//!
//! It is made at the first start and lies sealed in the store, so that all replicas on one store are one to nodes; or it
//! comes from files. Its key is ECDSA on P-256.

use std::sync::Arc;
use std::time::Duration;

use model::digest::sha256;
use model::sealing::SealingKey;
use proto::join::{CONTROL_PLANE_NAME, NodeName, Pin};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    DnValue, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
    SigningKey, SubjectPublicKeyInfo,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use time::OffsetDateTime;
use x509_parser::asn1_rs::Tag;
use x509_parser::x509::X509Name;

use super::TrustError;
use crate::settings::AuthorityFiles;
use crate::store::Store;

/// Under which name it lies in the store; also what it is bound to.
const NAME: &str = "authority";
const YEARS: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Clocks of nodes may be so far behind.
const SKEW: Duration = Duration::from_secs(24 * 3600);
/// How long a certificate of the control plane itself is good.
const OWN_LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600);

/// See the head of this file.
pub struct Authority {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    pin: Pin,
    made_at: OffsetDateTime,
}

/// A certificate with what it is shown with.
pub struct OwnCertificate {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKeyDer<'static>,
}

impl Authority {
    /// The first authority of a store.
    pub(super) async fn open(store: &dyn Store, seal: &SealingKey, now: OffsetDateTime) -> Result<Self, TrustError> {
        let broken = |error: rcgen::Error| TrustError::Authority(error.to_string());
        let fresh = Self::make(now).map_err(broken)?;
        let stored = store.keep_shared(NAME, &seal.seal(NAME.as_bytes(), &fresh.to_bytes())).await?;
        let unreadable = || TrustError::Authority("it does not open with the key of this store".to_owned());
        let bytes = seal.open(NAME.as_bytes(), &stored).ok_or_else(unreadable)?;
        let (certificate, key) = split(&bytes).ok_or_else(unreadable)?;
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(key), &PKCS_ECDSA_P256_SHA256);
        Self::new(CertificateDer::from(certificate.to_vec()), key.map_err(broken)?).map_err(broken)
    }

    pub(super) fn make(now: OffsetDateTime) -> Result<Self, rcgen::Error> {
        let (certificate, key) = draw(now)?;
        Self::new(certificate.der().clone(), key)
    }

    /// Those of files: a certificate and a key for each, in the same order, the one that certifies first.
    pub(super) fn read(files: &AuthorityFiles) -> Result<Vec<Self>, TrustError> {
        let failed = |path: &std::path::Path, reason: String| TrustError::AuthorityFile {
            path: path.display().to_string(),
            reason,
        };
        let certificates = CertificateDer::pem_file_iter(&files.certificate)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| failed(&files.certificate, error.to_string()))?;
        let keys = PrivatePkcs8KeyDer::pem_file_iter(&files.key)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| failed(&files.key, error.to_string()))?;
        if certificates.is_empty() || certificates.len() != keys.len() {
            let (found, wanted) = (keys.len(), certificates.len());
            let reason = format!("there are {found} private keys in PKCS #8 form for {wanted} certificates");
            return Err(failed(&files.key, reason));
        }
        let pair = |(certificate, key): (CertificateDer<'static>, PrivatePkcs8KeyDer<'static>)| {
            let key = KeyPair::from_pkcs8_der_and_sign_algo(&key, &PKCS_ECDSA_P256_SHA256)
                .map_err(|_| failed(&files.key, "there is another key than ECDSA on P-256".to_owned()))?;
            let is_pair = x509_parser::parse_x509_certificate(&certificate).is_ok_and(|(_, parsed)| {
                parsed.is_ca() && parsed.public_key().subject_public_key.data.as_ref() == key.public_key_raw()
            });
            if !is_pair {
                let reason = "it is no authority's certificate for the key that is given".to_owned();
                return Err(failed(&files.certificate, reason));
            }
            let given = Self::new(certificate, key).map_err(|error| failed(&files.certificate, error.to_string()))?;
            // Its own beginning is as it says, and not made earlier for the sake of clocks.
            Ok(Self { made_at: given.made_at - SKEW, ..given })
        };
        certificates.into_iter().zip(keys).map(pair).collect()
    }

    pub(super) fn new(certificate: CertificateDer<'static>, key: KeyPair) -> Result<Self, rcgen::Error> {
        let (_, parsed) =
            x509_parser::parse_x509_certificate(&certificate).map_err(|_| rcgen::Error::CouldNotParseCertificate)?;
        let pin = Pin(sha256(parsed.public_key().raw));
        let made_at = parsed.validity().not_before.to_datetime() + SKEW;
        let issuer = Issuer::from_ca_cert_der(&certificate, key)?;
        Ok(Self { certificate, issuer, pin, made_at })
    }

    /// `length of the certificate, 4 bytes | certificate | key, PKCS #8`
    fn to_bytes(&self) -> Vec<u8> {
        let length = u32::try_from(self.certificate.len()).expect("certificates are small");
        [&length.to_be_bytes(), &*self.certificate, self.issuer.key().serialized_der()].concat()
    }

    /// What nodes know it by.
    #[must_use]
    pub fn pin(&self) -> Pin {
        self.pin
    }

    /// When it began to certify, by its certificate.
    #[must_use]
    pub fn made_at(&self) -> OffsetDateTime {
        self.made_at
    }

    /// Its private key, PKCS #8.
    pub(super) fn key(&self) -> Vec<u8> {
        self.issuer.key().serialize_der()
    }

    /// A certificate for the key of another authority: who knows this one can check what that one certifies.
    pub fn vouch_for(&self, other: &Self, now: OffsetDateTime) -> Result<CertificateDer<'static>, rcgen::Error> {
        let (_, parsed) = x509_parser::parse_x509_certificate(&other.certificate)
            .map_err(|_| rcgen::Error::CouldNotParseCertificate)?;
        let mut params = params("", now - SKEW, now + OWN_LIFETIME);
        params.distinguished_name = name(parsed.subject()).ok_or(rcgen::Error::CouldNotParseCertificate)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let key = SubjectPublicKeyInfo::from_der(parsed.public_key().raw)?;
        Ok(params.signed_by(&key, &self.issuer)?.der().clone())
    }

    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// A certificate for a node. Of the request only the key counts, and that its owner signed it.
    pub fn certify(
        &self,
        request: &[u8],
        node: &NodeName,
        now: OffsetDateTime,
        lifetime: Duration,
    ) -> Result<CertificateDer<'static>, rcgen::Error> {
        let mut request = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(request))?;
        let mut params = params(&node.node_id, now, now + lifetime);
        params.subject_alt_names = vec![SanType::URI(node.to_uri().as_str().try_into()?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        request.params = params;
        Ok(request.signed_by(&self.issuer)?.der().clone())
    }

    /// A certificate for this control plane, with a key of its own, and what nodes need that know an earlier authority.
    pub fn certify_self(&self, earlier: &[Arc<Self>], now: OffsetDateTime) -> Result<OwnCertificate, rcgen::Error> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = params("Sluice control plane", now - SKEW, now + OWN_LIFETIME);
        params.subject_alt_names = vec![SanType::DnsName(CONTROL_PLANE_NAME.try_into()?)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.signed_by(&key, &self.issuer)?;
        let key = PrivatePkcs8KeyDer::from(key.serialize_der()).into();
        let mut chain = vec![certificate.der().clone(), self.certificate.clone()];
        for earlier in earlier {
            chain.extend([earlier.vouch_for(self, now)?, earlier.certificate.clone()]);
        }
        Ok(OwnCertificate { chain, key })
    }

    /// When a certificate of [`Authority::certify_self`] should be replaced.
    #[must_use]
    pub fn own_certificate_is_old(made: OffsetDateTime, now: OffsetDateTime) -> bool {
        now - made > OWN_LIFETIME / 3
    }

    /// A signature of `message`: ECDSA with SHA-256, in ASN.1.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.issuer.key().sign(message).expect("the key is there and the system has random numbers")
    }
}

/// The certificate of a new authority, and its key.
fn draw(now: OffsetDateTime) -> Result<(Certificate, KeyPair), rcgen::Error> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = params("Sluice authority", now - SKEW, now + YEARS);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    Ok((params.self_signed(&key)?, key))
}

fn params(common_name: &str, from: OffsetDateTime, until: OffsetDateTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    (params.not_before, params.not_after) = (from, until);
    params.use_authority_key_identifier_extension = true;
    params
}

/// The same name, to the byte: by that it is found.
fn name(written: &X509Name<'_>) -> Option<DistinguishedName> {
    let mut name = DistinguishedName::new();
    for attribute in written.iter_attributes() {
        let oid: Vec<u64> = attribute.attr_type().iter()?.collect();
        let text = attribute.as_str().ok()?;
        let value = match attribute.attr_value().tag() {
            Tag::PrintableString => DnValue::PrintableString(text.try_into().ok()?),
            _ => DnValue::Utf8String(text.to_owned()),
        };
        name.push(DnType::from_oid(&oid), value);
    }
    Some(name)
}

fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(u32::from_be_bytes(*length) as usize)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::Arc;

    use model::sealing::KEY_BYTES;
    use x509_parser::extensions::GeneralName;

    use super::*;
    use crate::store::SqliteStore;

    const HOUR: Duration = Duration::from_secs(3600);

    fn now() -> OffsetDateTime {
        time::macros::datetime!(2026-11-24 12:00 UTC)
    }

    async fn store() -> (tempfile::TempDir, Arc<dyn Store>) {
        let folder = tempfile::tempdir().expect("a folder");
        let store = SqliteStore::open(&folder.path().join("sluice.db")).await.expect("a store");
        (folder, Arc::new(store))
    }

    #[tokio::test]
    async fn replicas_on_one_store_have_one_authority_and_its_key_is_sealed() {
        let (_folder, store) = store().await;
        let seal = SealingKey::new(&[7; KEY_BYTES]);
        let one = Authority::open(&*store, &seal, now()).await.expect("it is made");
        let two = Authority::open(&*store, &seal, now() + HOUR).await.expect("it is found");
        assert_eq!((one.pin(), one.certificate()), (two.pin(), two.certificate()));
        let stored = store.keep_shared(NAME, b"").await.expect("it is there");
        let key = one.issuer.key().serialized_der();
        assert!(!stored.windows(16).any(|window| key.windows(16).any(|part| part == window)));
        let other = SealingKey::new(&[8; KEY_BYTES]);
        assert!(matches!(Authority::open(&*store, &other, now()).await, Err(TrustError::Authority(_))));
    }

    #[test]
    fn a_node_is_certified_for_its_name_alone_whatever_it_asks_for() {
        let authority = Authority::make(now()).expect("it is made");
        let key = KeyPair::generate().expect("a key");
        let mut asked = CertificateParams::new(vec![CONTROL_PLANE_NAME.to_owned()]).expect("a name");
        asked.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let request = asked.serialize_request(&key).expect("a request");
        let node = NodeName { gateway: "edge".to_owned(), node_id: "n1".to_owned() };
        let certificate = authority.certify(request.der(), &node, now(), HOUR).expect("it is good");
        let (_, parsed) = x509_parser::parse_x509_certificate(&certificate).expect("a certificate");
        let names = parsed.subject_alternative_name().expect("good names").expect("it has one");
        assert_eq!(names.value.general_names, [GeneralName::URI("spiffe://sluice/gateway/edge/node/n1")]);
        assert!(!parsed.is_ca());
        let validity = parsed.validity();
        assert_eq!(validity.not_after.timestamp() - validity.not_before.timestamp(), 3600);

        // The signature of a request proves that who asks has the key.
        let mut forged = request.der().to_vec();
        *forged.last_mut().expect("bytes") ^= 1;
        assert!(authority.certify(&forged, &node, now(), HOUR).is_err());
    }

    #[test]
    fn an_authority_of_files_needs_a_certificate_with_its_key() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| -> PathBuf { folder.path().join(name) };
        for name in ["one", "two"] {
            let (certificate, key) = draw(now()).expect("it is made");
            std::fs::write(path(&format!("{name}.crt")), certificate.pem()).expect("a file");
            std::fs::write(path(&format!("{name}.key")), key.serialize_pem()).expect("a file");
        }
        let read = |certificate: &str, key: &str| {
            Authority::read(&AuthorityFiles { certificate: path(certificate), key: path(key) })
        };
        let pins = |certificate: &str, key: &str| -> Vec<Pin> {
            read(certificate, key).expect("pairs").iter().map(Authority::pin).collect()
        };
        let (one, two) = (pins("one.crt", "one.key"), pins("two.crt", "two.key"));
        assert_ne!(one, two);
        for ending in ["crt", "key"] {
            let [one, two] =
                ["one", "two"].map(|name| std::fs::read(path(&format!("{name}.{ending}"))).expect("a file"));
            std::fs::write(path(&format!("both.{ending}")), [two, one].concat()).expect("a file");
        }
        assert_eq!(pins("both.crt", "both.key"), [two, one].concat(), "the first one certifies");
        for (certificate, key, named) in [
            ("one.crt", "two.key", "one.crt"),
            ("no.crt", "one.key", "no.crt"),
            ("one.crt", "one.crt", "one.crt"),
            ("both.crt", "one.key", "one.key"),
        ] {
            let error = read(certificate, key).err().expect("no pair").to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}
