//! Whether a revision is what the authority signed: whoever takes over the port of a control plane, but not its key, makes
//! no revision.

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use bytes::Bytes;
use model::digest::sha256;

use crate::last_good::Record;
use crate::sync::to_wire;

/// Knows the authority by its key: a point on P-256.
#[derive(Clone)]
pub struct Approver {
    key: Bytes,
    gateway: String,
}

impl Approver {
    pub fn new(key: Bytes, gateway: String) -> Self {
        Self { key, gateway }
    }

    /// Whether one of the signatures is that of the authority.
    pub fn approves<S: AsRef<[u8]>>(&self, record: &Record, signatures: &[S]) -> bool {
        let (base, reached) = (to_wire(record.base), to_wire(record.reached));
        let text = proto::signed::revision(&self.gateway, Some(&base), &reached, &sha256(&record.body));
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &self.key);
        signatures.iter().any(|signature| key.verify(&text, signature.as_ref()).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use model::snapshot::Snapshot;
    use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, SigningKey};

    use super::*;
    use crate::last_good::Position;

    #[test]
    fn a_revision_is_approved_as_it_was_signed_and_for_its_gateway() {
        let (ours, theirs) = [(), ()].map(|()| KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key")).into();
        let approver = |key: &KeyPair, gateway: &str| {
            Approver::new(Bytes::copy_from_slice(key.public_key_raw()), gateway.to_owned())
        };
        let record = Record::whole(&Snapshot::default());
        let text = proto::signed::revision("edge", None, &to_wire(record.reached), &sha256(&record.body));
        let signature = ours.sign(&text).expect("it signs");
        assert!(approver(&ours, "edge").approves(&record, &[&signature]));
        assert!(!approver(&ours, "default").approves(&record, &[&signature]));
        assert!(!approver(&theirs, "edge").approves(&record, &[&signature]));
        assert!(approver(&ours, "edge").approves(&record, &[&vec![1], &signature]), "one of them is enough");
        assert!(!approver(&ours, "edge").approves::<&[u8]>(&record, &[]));
        let newer = Record { reached: Position { revision: 7, ..record.reached }, ..record.clone() };
        let other = Record { body: [&record.body[..], b"x"].concat().into(), ..record.clone() };
        let delta = Record { base: Position { revision: 7, ..Position::default() }, ..record };
        for changed in [newer, other, delta] {
            assert!(!approver(&ours, "edge").approves(&changed, &[&signature]));
        }
    }
}
