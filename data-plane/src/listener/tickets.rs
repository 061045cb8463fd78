//! Session tickets: a client that was here before shows one and resumes, on whatever node of the fleet it comes to.
//!
//! A ticket is the session itself, sealed with a key that all nodes have from the control plane (RFC 5077 section 4,
//! RFC 8446 section 4.6.1). It is bound to the listener and to what that demands of clients: elsewhere it is worth
//! nothing, so nobody gets past a demand for a certificate with a session from where there was none. Keys stay in
//! memory: who finds a disk must not be able to read what was recorded on the wire.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM_SIV, Aad, MAX_TAG_LEN, NONCE_LEN, Nonce, RandomizedNonceKey};
use model::digest::sha256;
use rustls::server::ProducesTickets;

/// What a key is made of.
pub type Secret = [u8; 32];

/// For how long clients may keep a ticket. The control plane moves on to another key this often, and every node opens
/// what was sealed with the one before.
const LIFETIME: Duration = Duration::from_secs(12 * 3600);

/// Keys that were not confirmed for so long are given up, so that what they protect has an end. Until the control plane
/// is back, tickets are good for this node alone.
const MAX_AGE: Duration = Duration::from_secs(24 * 3600);

/// Longest ticket that is looked at: a session with a chain of certificates of the client takes a few kilobytes.
const MAX_TICKET: usize = 32 * 1024;

/// The keys of this node. Clones are the same keys.
#[derive(Clone)]
pub struct TicketKeys(Arc<ArcSwap<Ring>>);

struct Ring {
    /// The first seals; all open.
    keys: Vec<Key>,
    since: Instant,
}

struct Key {
    /// Goes in front of tickets, so that each is tried with one key only.
    name: [u8; Self::NAME_BYTES],
    sealing: RandomizedNonceKey,
}

impl TicketKeys {
    /// A key of its own: what a node has until the control plane gives it those of the fleet.
    #[must_use]
    pub fn alone() -> Self {
        Self(Arc::new(ArcSwap::from_pointee(Ring::of(&[fresh()]))))
    }

    /// Goes on with these: the first seals, all open.
    pub fn replace(&self, secrets: &[Secret]) {
        self.0.store(Arc::new(Ring::of(secrets)));
    }

    /// Makes tickets that open only where `purpose` is the same.
    #[must_use]
    pub fn for_purpose(&self, purpose: [u8; 32]) -> Arc<dyn ProducesTickets> {
        Arc::new(Ticketer { keys: self.clone(), purpose })
    }

    fn current(&self, max_age: Duration) -> Arc<Ring> {
        let ring = self.0.load_full();
        if ring.since.elapsed() < max_age {
            return ring;
        }
        let next = Arc::new(Ring::of(&[fresh()]));
        // Of two that do this at once, one is as good as the other.
        self.0.compare_and_swap(&ring, next);
        self.0.load_full()
    }
}

impl Ring {
    fn of(secrets: &[Secret]) -> Self {
        Self { keys: secrets.iter().map(Key::of).collect(), since: Instant::now() }
    }
}

impl Key {
    const NAME_BYTES: usize = 16;

    fn of(secret: &Secret) -> Self {
        let mut name = [0; Self::NAME_BYTES];
        name.copy_from_slice(&sha256(secret)[..Self::NAME_BYTES]);
        // Nodes draw nonces without knowing of one another: with this algorithm two that are equal give nothing away.
        let sealing = RandomizedNonceKey::new(&AES_256_GCM_SIV, secret).expect("the length is right");
        Self { name, sealing }
    }
}

fn fresh() -> Secret {
    let mut secret = [0; 32];
    aws_lc_rs::rand::fill(&mut secret).expect("the system has random numbers");
    secret
}

/// The keys as one listener uses them.
struct Ticketer {
    keys: TicketKeys,
    purpose: [u8; 32],
}

impl ProducesTickets for Ticketer {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        u32::try_from(LIFETIME.as_secs()).expect("half a day")
    }

    /// Name of the key, nonce, and the sealed session with its tag.
    fn encrypt(&self, session: &[u8]) -> Option<Vec<u8>> {
        let ring = self.keys.current(MAX_AGE);
        let key = ring.keys.first()?;
        let mut sealed = Vec::with_capacity(session.len() + MAX_TAG_LEN);
        sealed.extend_from_slice(session);
        let nonce = key.sealing.seal_in_place_append_tag(Aad::from(&self.purpose), &mut sealed).ok()?;
        let ticket = [&key.name[..], nonce.as_ref(), &sealed].concat();
        (ticket.len() <= MAX_TICKET).then_some(ticket)
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        if ticket.len() > MAX_TICKET {
            return None;
        }
        let (name, rest) = ticket.split_at_checked(Key::NAME_BYTES)?;
        let (nonce, sealed) = rest.split_at_checked(NONCE_LEN)?;
        let ring = self.keys.current(MAX_AGE);
        let key = ring.keys.iter().find(|key| key.name == name)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut opened = sealed.to_vec();
        let session = key.sealing.open_in_place(nonce, Aad::from(&self.purpose), &mut opened).ok()?;
        Some(session.to_vec())
    }
}

impl fmt::Debug for Ticketer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ticketer")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HERE: [u8; 32] = [1; 32];
    const ELSEWHERE: [u8; 32] = [2; 32];

    #[test]
    fn every_node_with_the_keys_opens_a_ticket_and_nobody_else() {
        let (old, present, next) = ([1; 32], [2; 32], [3; 32]);
        let (one, other) = (TicketKeys::alone(), TicketKeys::alone());
        let ticket = one.for_purpose(HERE).encrypt(b"a session").expect("a ticket");
        assert_eq!(one.for_purpose(HERE).decrypt(&ticket).as_deref(), Some(&b"a session"[..]));
        assert_eq!(other.for_purpose(HERE).decrypt(&ticket), None, "a key of its own");

        one.replace(&[present, next, old]);
        other.replace(&[next, old, present]);
        let there = other.for_purpose(HERE);
        for (sealed_with, opens) in [(present, true), (next, true), (old, true), ([4; 32], false)] {
            one.replace(&[sealed_with]);
            let ticket = one.for_purpose(HERE).encrypt(b"a session").expect("a ticket");
            assert_eq!(there.decrypt(&ticket).is_some(), opens);
            assert_eq!(other.for_purpose(ELSEWHERE).decrypt(&ticket), None, "another purpose");
        }
    }

    #[test]
    fn keys_that_are_too_old_are_given_up() {
        let keys = TicketKeys::alone();
        keys.replace(&[[1; 32], [2; 32]]);
        let ticket = keys.for_purpose(HERE).encrypt(b"a session").expect("a ticket");
        assert_eq!(keys.current(MAX_AGE).keys.len(), 2);
        assert_eq!(keys.current(Duration::ZERO).keys.len(), 1);
        assert_eq!(keys.for_purpose(HERE).decrypt(&ticket), None);
        let ticket = keys.for_purpose(HERE).encrypt(b"a session").expect("it has one of its own");
        assert!(keys.for_purpose(HERE).decrypt(&ticket).is_some());
    }

    proptest! {
        #[test]
        fn what_was_changed_does_not_open(session: Vec<u8>, place: prop::sample::Index, flip in 1u8.., cut: prop::sample::Index) {
            let ticketer = TicketKeys::alone().for_purpose(HERE);
            let mut ticket = ticketer.encrypt(&session).expect("a ticket");
            prop_assert_eq!(ticketer.decrypt(&ticket), Some(session));
            prop_assert_eq!(ticketer.decrypt(&ticket[..cut.index(ticket.len())]), None);
            *place.get_mut(&mut ticket) ^= flip;
            prop_assert_eq!(ticketer.decrypt(&ticket), None);
        }

        #[test]
        fn any_bytes_may_come(bytes: Vec<u8>) {
            prop_assert_eq!(TicketKeys::alone().for_purpose(HERE).decrypt(&bytes), None);
        }
    }
}
