//! The digest of a configuration: equal content, equal digest, on every node and in every version.
//!
//! It is a sum: each resource is hashed alone and the hashes are added modulo 2^256, so that adding,
//! changing or removing one resource costs one hash and not a walk over all of them. It finds drift
//! and torn files; it is no signature, because whoever may choose resources freely can make sums collide.

use std::fmt;

use aws_lc_rs::digest::{Context, SHA256};

/// Digest of a set of resources. The empty set has the digest zero.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Digest([u64; 4]);

impl Digest {
    /// The digest of one resource.
    #[must_use]
    pub fn of_resource(kind: &str, name: &str, created: u64, spec: &str) -> Self {
        let mut hash = Context::new(&SHA256);
        for part in [kind.as_bytes(), name.as_bytes(), &created.to_be_bytes()] {
            hash.update(&(part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        hash.update(spec.as_bytes());
        let bytes: [u8; 32] = hash.finish().as_ref().try_into().expect("SHA-256 has 32 bytes");
        Self::from_bytes(&bytes)
    }

    /// The digest of the set with `part` added.
    #[must_use]
    pub fn plus(self, part: Self) -> Self {
        let mut sum = [0; 4];
        let mut carry = false;
        for (out, (a, b)) in sum.iter_mut().zip(self.0.into_iter().zip(part.0)) {
            let (with_b, first) = a.overflowing_add(b);
            let (with_carry, second) = with_b.overflowing_add(u64::from(carry));
            *out = with_carry;
            carry = first || second;
        }
        Self(sum)
    }

    /// The digest of the set with `part` taken away.
    #[must_use]
    pub fn minus(self, part: Self) -> Self {
        let mut difference = [0; 4];
        let mut borrow = false;
        for (out, (a, b)) in difference.iter_mut().zip(self.0.into_iter().zip(part.0)) {
            let (without_b, first) = a.overflowing_sub(b);
            let (without_borrow, second) = without_b.overflowing_sub(u64::from(borrow));
            *out = without_borrow;
            borrow = first || second;
        }
        Self(difference)
    }

    #[must_use]
    pub fn to_bytes(self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for (chunk, limb) in bytes.chunks_exact_mut(8).zip(self.0.iter().rev()) {
            chunk.copy_from_slice(&limb.to_be_bytes());
        }
        bytes
    }

    #[must_use]
    pub fn from_bytes(bytes: &[u8; 32]) -> Self {
        let mut limbs = [0; 4];
        for (chunk, limb) in bytes.chunks_exact(8).zip(limbs.iter_mut().rev()) {
            *limb = u64::from_be_bytes(chunk.try_into().expect("chunks of eight bytes"));
        }
        Self(limbs)
    }

    /// Reads what `Display` wrote: 64 hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != 64 || !text.is_ascii() {
            return None;
        }
        let mut bytes = [0; 32];
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[index * 2..index * 2 + 2], 16).ok()?;
        }
        Some(Self::from_bytes(&bytes))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// SHA-256 of some bytes, for keys and other values that are stored only as their hash.
#[must_use]
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    aws_lc_rs::digest::digest(&SHA256, bytes).as_ref().try_into().expect("SHA-256 has 32 bytes")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn sums_do_not_depend_on_order_and_can_be_undone(parts in prop::collection::vec(any::<[u8; 32]>(), 0..8)) {
            let sum = |parts: &[[u8; 32]]| parts.iter().fold(Digest::default(), |sum, part| sum.plus(Digest::from_bytes(part)));
            let forward = sum(&parts);
            let backward = sum(&parts.iter().rev().copied().collect::<Vec<_>>());
            prop_assert_eq!(forward, backward);
            let undone = parts.iter().fold(forward, |sum, part| sum.minus(Digest::from_bytes(part)));
            prop_assert_eq!(undone, Digest::default());
            prop_assert_eq!(Digest::parse(&forward.to_string()), Some(forward));
        }
    }

    #[test]
    fn parts_of_a_resource_cannot_run_into_each_other() {
        assert_ne!(Digest::of_resource("route", "ab", 1, "{}"), Digest::of_resource("routea", "b", 1, "{}"));
    }
}
