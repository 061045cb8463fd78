//! Which number stands for which target in sticky cookies.
//!
//! The number of a target is a part of the authentication code (HMAC, RFC 2104) of its service and address, by a key that all
//! nodes of a gateway share: it says nothing of the target, and whoever makes one up meets none. A number that is known is
//! looked up in a table that each core makes when it first needs it.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use aws_lc_rs::hmac;
use model::resource::service::TargetUrl;

/// What a key is made of.
type Secret = [u8; 32];

/// The key of this node. Clones are the same key.
#[derive(Clone)]
pub struct CookieKey(Arc<ArcSwap<Key>>);

pub(super) struct Key {
    /// Tells it from the keys before it.
    pub(super) serial: u64,
    hmac: hmac::Key,
}

/// The numbers of the targets of a service.
pub(super) struct Tags {
    /// Of the key that they were made with.
    pub(super) serial: u64,
    pub(super) of_targets: Box<[u64]>,
    targets: HashMap<u64, usize, foldhash::fast::RandomState>,
}

impl CookieKey {
    /// A key of its own: what a node has until the control plane gives it that of its gateway.
    #[must_use]
    pub fn alone() -> Self {
        let mut secret = [0; 32];
        aws_lc_rs::rand::fill(&mut secret).expect("the system has random numbers");
        Self(Arc::new(ArcSwap::from_pointee(Key::of(&secret, 0))))
    }

    pub fn replace(&self, secret: &Secret) {
        let key = Key::of(secret, self.0.load().serial + 1);
        self.0.store(Arc::new(key));
    }

    pub(super) fn load(&self) -> impl std::ops::Deref<Target = Arc<Key>> {
        self.0.load()
    }
}

impl Key {
    fn of(secret: &Secret, serial: u64) -> Self {
        Self { serial, hmac: hmac::Key::new(hmac::HMAC_SHA256, secret) }
    }

    /// The number of one target.
    pub(super) fn tag(&self, service: &str, target: &TargetUrl) -> u64 {
        let code = hmac::sign(&self.hmac, format!("sticky {service} {target}").as_bytes());
        let (first, _) = code.as_ref().split_first_chunk().expect("it has 32 bytes");
        u64::from_be_bytes(*first)
    }
}

impl Tags {
    pub(super) fn new(serial: u64, of_targets: Box<[u64]>) -> Self {
        let targets = of_targets.iter().copied().zip(0..).collect();
        Self { serial, of_targets, targets }
    }

    pub(super) fn target(&self, tag: u64) -> Option<usize> {
        self.targets.get(&tag).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_follow_from_key_service_and_target_and_from_nothing_else() {
        let key = |byte| Key::of(&[byte; 32], u64::from(byte));
        let url = |text: &str| text.parse::<TargetUrl>().expect("a target");
        let tag = key(1).tag("shop", &url("http://10.0.0.1:80"));
        assert_eq!(tag, key(1).tag("shop", &url("http://10.0.0.1")));
        let others = [
            key(2).tag("shop", &url("http://10.0.0.1:80")),
            key(1).tag("shop2", &url("http://10.0.0.1:80")),
            key(1).tag("shop", &url("https://10.0.0.1:80")),
            key(1).tag("shop", &url("http://10.0.0.2:80")),
        ];
        assert!(!others.contains(&tag), "{tag} in {others:?}");
        let tags = Tags::new(1, [others[0], tag].into());
        assert_eq!([tag, others[0], others[1]].map(|tag| tags.target(tag)), [Some(1), Some(0), None]);
    }

    #[test]
    fn a_key_that_is_replaced_is_another() {
        let (key, target) = (CookieKey::alone(), "http://10.0.0.1".parse().expect("a target"));
        let (before, serial) = (key.load().tag("shop", &target), key.load().serial);
        let other = key.clone();
        other.replace(&[7; 32]);
        assert_ne!((key.load().tag("shop", &target), key.load().serial), (before, serial));
        assert_eq!(key.load().tag("shop", &target), Key::of(&[7; 32], 0).tag("shop", &target));
    }
}
