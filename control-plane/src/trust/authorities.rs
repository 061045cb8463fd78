//! The authorities that count: the one that certifies and signs, and the one before it, for as long as nodes still know
//! the control plane by that.
//!
//! They lie sealed in the store as one value, so that all replicas change over together; or they come from files, in which
//! case the operator changes the files. One takes the place of another in two steps: [`Authorities::rotate`] makes a new
//! one, which is vouched for by the one before and certifies from then on; [`Authorities::retire`] ends the trust in the
//! one before, when no certificate of it is good any more.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use model::sealing::SealingKey;
use proto::join::Pin;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use time::OffsetDateTime;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::TrustError;
use super::authority::Authority;
use super::enrolment::clock;
use crate::settings::AuthorityFiles;
use crate::store::{Store, StoreError};

/// Under which name they lie in the store; also what they are bound to.
const NAME: &str = "authorities";
/// How often the store is looked at, for what other replicas change.
const POLL: Duration = Duration::from_secs(1);

/// See the head of this file.
pub struct Authorities {
    store: Arc<dyn Store>,
    seal: Arc<SealingKey>,
    /// Nothing where they come from files.
    stored: parking_lot::Mutex<Option<Vec<u8>>>,
    trusted: watch::Sender<Arc<Trusted>>,
    /// How long the certificate of a node is good.
    lifetime: Duration,
}

/// Those that count at some moment: the first one certifies. There is one at least.
pub struct Trusted(Vec<Arc<Authority>>);

/// Why authorities are not changed.
#[derive(Debug, thiserror::Error)]
pub enum RotationError {
    #[error(
        "the authority comes from files: put the new certificate and key in front in them, and restart the control planes"
    )]
    Files,
    #[error("an authority is about to take the place of another: retire the one before first")]
    UnderWay,
    #[error("there is no authority but the one that certifies")]
    NothingToRetire,
    #[error("nodes may have certificates of the authority before until {}", clock(*.0))]
    StillNeeded(OffsetDateTime),
    #[error("another control plane was faster")]
    Contended,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Says which, and nothing of their keys.
impl fmt::Debug for Trusted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Trusted").field(&self.pins()).finish()
    }
}

impl Trusted {
    /// The one that certifies and signs.
    #[must_use]
    pub fn first(&self) -> &Arc<Authority> {
        &self.0[0]
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Authority>> {
        self.0.iter()
    }

    /// Those of before.
    pub fn earlier(&self) -> &[Arc<Authority>] {
        &self.0[1..]
    }

    /// When no certificate of an earlier one is good any more; nothing if there is none.
    #[must_use]
    pub fn retirable_at(&self, lifetime: Duration) -> Option<OffsetDateTime> {
        (self.0.len() > 1).then(|| self.first().made_at() + lifetime)
    }

    fn pins(&self) -> Vec<Pin> {
        self.0.iter().map(|authority| authority.pin()).collect()
    }

    /// Of each: `length, 4 bytes | certificate | length, 4 bytes | key, PKCS #8`.
    fn to_bytes(&self) -> Vec<u8> {
        let part = |bytes: &[u8]| {
            let length = u32::try_from(bytes.len()).expect("certificates and keys are small");
            [&length.to_be_bytes(), bytes].concat()
        };
        self.0.iter().flat_map(|one| [part(one.certificate()), part(&one.key())].concat()).collect()
    }

    fn from_bytes(mut bytes: &[u8]) -> Option<Self> {
        let mut part = || -> Option<&[u8]> {
            let (length, rest) = bytes.split_first_chunk()?;
            let (part, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
            bytes = rest;
            Some(part)
        };
        let mut authorities = Vec::new();
        while let Some(certificate) = part() {
            let key = PrivatePkcs8KeyDer::from(part()?);
            let key = KeyPair::from_pkcs8_der_and_sign_algo(&key, &PKCS_ECDSA_P256_SHA256).ok()?;
            authorities.push(Arc::new(Authority::new(CertificateDer::from(certificate.to_vec()), key).ok()?));
        }
        (bytes.is_empty() && !authorities.is_empty()).then_some(Self(authorities))
    }
}

impl Authorities {
    /// Those of a store, or of files.
    pub async fn open(
        store: Arc<dyn Store>,
        seal: Arc<SealingKey>,
        files: Option<&AuthorityFiles>,
        lifetime: Duration,
        now: OffsetDateTime,
    ) -> Result<Arc<Self>, TrustError> {
        let (stored, trusted) = match files {
            Some(files) => (None, Trusted(Authority::read(files)?.into_iter().map(Arc::new).collect())),
            None => {
                let one = Trusted(vec![Arc::new(Authority::open(&*store, &seal, now).await?)]);
                let stored = store.keep_shared(NAME, &seal.seal(NAME.as_bytes(), &one.to_bytes())).await?;
                let trusted = open(&seal, &stored)?;
                (Some(stored), trusted)
            }
        };
        let trusted = watch::Sender::new(Arc::new(trusted));
        Ok(Arc::new(Self { store, seal, stored: parking_lot::Mutex::new(stored), trusted, lifetime }))
    }

    /// Those that count now.
    #[must_use]
    pub fn now(&self) -> Arc<Trusted> {
        self.trusted.borrow().clone()
    }

    /// When [`Authorities::retire`] does no harm; nothing if there is none of before.
    #[must_use]
    pub fn retirable_at(&self) -> Option<OffsetDateTime> {
        self.now().retirable_at(self.lifetime)
    }

    /// Makes an authority that certifies from now on. What the one before certified stays good.
    pub async fn rotate(&self, now: OffsetDateTime) -> Result<Arc<Trusted>, RotationError> {
        self.refresh().await?;
        let trusted = self.now();
        if trusted.0.len() > 1 {
            return Err(RotationError::UnderWay);
        }
        let fresh = Authority::make(now).expect("the system has random numbers");
        self.change(Trusted([&[Arc::new(fresh)], &trusted.0[..]].concat())).await
    }

    /// Trusts the one that certifies alone. Not while nodes may need the one before, unless `now` does not matter.
    pub async fn retire(&self, now: Option<OffsetDateTime>) -> Result<Arc<Trusted>, RotationError> {
        self.refresh().await?;
        let trusted = self.now();
        let at = trusted.retirable_at(self.lifetime).ok_or(RotationError::NothingToRetire)?;
        if now.is_some_and(|now| now < at) {
            return Err(RotationError::StillNeeded(at));
        }
        self.change(Trusted(vec![trusted.first().clone()])).await
    }

    async fn change(&self, to: Trusted) -> Result<Arc<Trusted>, RotationError> {
        let from = self.stored.lock().clone().ok_or(RotationError::Files)?;
        let sealed = self.seal.seal(NAME.as_bytes(), &to.to_bytes());
        if !self.store.swap_shared(NAME, &from, &sealed).await? {
            return Err(RotationError::Contended);
        }
        self.take(sealed, to);
        Ok(self.now())
    }

    fn take(&self, stored: Vec<u8>, trusted: Trusted) {
        tracing::info!("nodes know this control plane by the pins {:?}; the first one certifies", trusted.pins());
        *self.stored.lock() = Some(stored);
        self.trusted.send_replace(Arc::new(trusted));
    }

    /// Takes up what another replica changed.
    async fn refresh(&self) -> Result<(), StoreError> {
        let Some(known) = self.stored.lock().clone() else { return Ok(()) };
        let stored = self.store.keep_shared(NAME, &known).await?;
        if stored != known {
            let trusted = open(&self.seal, &stored).map_err(|error| StoreError::Unreadable(error.to_string()))?;
            self.take(stored, trusted);
        }
        Ok(())
    }

    /// Keeps up with other replicas, until `shutdown`.
    pub async fn follow(&self, shutdown: CancellationToken) {
        let mut poll = tokio::time::interval(POLL);
        poll.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut is_reachable = true;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = poll.tick() => {}
            }
            let refreshed = self.refresh().await;
            if let (Err(error), true) = (&refreshed, is_reachable) {
                tracing::error!("cannot see whether the authority was changed, will keep trying: {error}");
            }
            is_reachable = refreshed.is_ok();
        }
    }
}

fn open(seal: &SealingKey, stored: &[u8]) -> Result<Trusted, TrustError> {
    let opened = seal.open(NAME.as_bytes(), stored).and_then(|bytes| Trusted::from_bytes(&bytes));
    opened.ok_or_else(|| TrustError::Authority("it does not open with the key of this store".to_owned()))
}

#[cfg(test)]
mod tests {
    use model::sealing::KEY_BYTES;

    use super::*;
    use crate::store::SqliteStore;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    async fn replica(store: &Arc<dyn Store>, now: OffsetDateTime) -> Arc<Authorities> {
        let seal = Arc::new(SealingKey::new(&[7; KEY_BYTES]));
        Authorities::open(store.clone(), seal, None, DAY, now).await.expect("they open")
    }

    #[tokio::test]
    async fn one_takes_the_place_of_another_on_all_replicas_and_not_too_early() {
        let now = time::macros::datetime!(2026-11-24 12:00 UTC);
        let folder = tempfile::tempdir().expect("a folder");
        let store = SqliteStore::open(&folder.path().join("sluice.db")).await.expect("a store");
        let store: Arc<dyn Store> = Arc::new(store);
        let (one, two) = (replica(&store, now).await, replica(&store, now).await);
        let first = one.now().first().pin();
        assert!(matches!(one.retire(None).await, Err(RotationError::NothingToRetire)));

        let rotated = one.rotate(now).await.expect("it is made");
        assert_eq!((rotated.pins()[1], rotated.pins().len()), (first, 2));
        assert!(matches!(two.rotate(now).await, Err(RotationError::UnderWay)), "it looks first");
        assert_eq!(two.now().pins(), rotated.pins());
        assert_eq!(replica(&store, now).await.now().pins(), rotated.pins(), "after a restart too");

        assert_eq!(two.retirable_at(), Some(now + DAY));
        assert!(
            matches!(two.retire(Some(now + DAY / 2)).await, Err(RotationError::StillNeeded(at)) if at == now + DAY)
        );
        let retired = two.retire(Some(now + DAY)).await.expect("nobody needs it");
        one.refresh().await.expect("the store answers");
        assert_eq!((one.now().pins(), retired.pins()), (vec![rotated.first().pin()], vec![rotated.first().pin()]));
    }
}
