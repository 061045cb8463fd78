//! What the authority of a control plane signs of a revision on its way to nodes.

use crate::Revision;

/// The signed text: which gateway, from where to where, and the SHA-256 of all that the chunks hold. The digests of the
/// revisions are not enough: they are sums, and find accidents alone.
#[must_use]
pub fn revision(gateway: &str, base: Option<&Revision>, reached: &Revision, body_sha256: &[u8; 32]) -> Vec<u8> {
    let mut text = b"sluice revision\0".to_vec();
    text.extend_from_slice(&(gateway.len() as u64).to_be_bytes());
    text.extend_from_slice(gateway.as_bytes());
    for position in [base, Some(reached)] {
        // The revision that everything starts from, which a delta may build on as well as a snapshot.
        let nothing = Revision { number: 0, digest: bytes::Bytes::from_static(&[0; 32]) };
        let position = position.unwrap_or(&nothing);
        text.extend_from_slice(&position.number.to_be_bytes());
        text.extend_from_slice(&(position.digest.len() as u64).to_be_bytes());
        text.extend_from_slice(&position.digest);
    }
    text.extend_from_slice(body_sha256);
    text
}
