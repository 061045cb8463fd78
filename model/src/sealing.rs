//! Sealing of what lies on a disk: AES-256-GCM (NIST SP 800-38D) with a random nonce for each value.
//!
//! A sealed value begins with the id of its key, so that a reader with several keys knows which one to take. It is bound
//! to a context, the place where it lies: moved to another place, it does not open.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::rand;

use crate::digest::sha256;

/// Bytes of a key.
pub const KEY_BYTES: usize = 32;
const ID_BYTES: usize = 8;
const HEAD: usize = ID_BYTES + NONCE_LEN;

/// Says which key sealed a value, and nothing of the key.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct KeyId([u8; ID_BYTES]);

/// Seals and opens.
pub struct SealingKey {
    id: KeyId,
    key: RandomizedNonceKey,
}

impl SealingKey {
    #[must_use]
    pub fn new(secret: &[u8; KEY_BYTES]) -> Self {
        let named = sha256(&[b"sluice sealing key ".as_slice(), secret].concat());
        let id = *named.first_chunk().expect("SHA-256 is longer");
        let key = RandomizedNonceKey::new(&AES_256_GCM, secret).expect("the key has the length of the algorithm");
        Self { id: KeyId(id), key }
    }

    #[must_use]
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// `id | nonce | ciphertext | tag`
    #[must_use]
    pub fn seal(&self, context: &[u8], plain: &[u8]) -> Vec<u8> {
        let mut body = plain.to_vec();
        let nonce = self
            .key
            .seal_in_place_append_tag(Aad::from(context), &mut body)
            .expect("values are far shorter than AES-GCM allows, and the system has random numbers");
        [&self.id.0[..], nonce.as_ref(), &body].concat()
    }

    /// Nothing if another key sealed it, in another context, or if it was changed since.
    #[must_use]
    pub fn open(&self, context: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        if key_of(sealed)? != self.id {
            return None;
        }
        let (head, body) = sealed.split_at_checked(HEAD)?;
        let nonce = Nonce::try_assume_unique_for_key(&head[ID_BYTES..]).ok()?;
        let mut body = body.to_vec();
        let length = self.key.open_in_place(nonce, Aad::from(context), &mut body).ok()?.len();
        body.truncate(length);
        Some(body)
    }
}

/// The key that sealed a value.
#[must_use]
pub fn key_of(sealed: &[u8]) -> Option<KeyId> {
    sealed.first_chunk().copied().map(KeyId)
}

/// A new secret for a key.
#[must_use]
pub fn new_secret() -> [u8; KEY_BYTES] {
    let mut secret = [0; KEY_BYTES];
    rand::fill(&mut secret).expect("the system has random numbers");
    secret
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealingKey({})", self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sealed_opens_with_its_key_at_its_place_and_unchanged() {
        let (key, other) = (SealingKey::new(&[1; KEY_BYTES]), SealingKey::new(&[2; KEY_BYTES]));
        let sealed = key.seal(b"here", b"a secret");
        assert_eq!(key.open(b"here", &sealed).as_deref(), Some(&b"a secret"[..]));
        assert_eq!(key_of(&sealed), Some(key.id()));
        assert_ne!(sealed, key.seal(b"here", b"a secret"), "the same twice looks different");
        assert!(!sealed.windows(8).any(|window| window == b"a secret"));
        assert_eq!(key.open(b"there", &sealed), None);
        assert_eq!(other.open(b"here", &sealed), None);
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert_eq!(key.open(b"here", &changed), None, "byte {at}");
            assert_eq!(key.open(b"here", &sealed[..at]), None, "{at} bytes of it");
        }
    }
}
