//! The keys of session tickets: made here, so that a client resumes its session on any node of a gateway.
//!
//! Time is cut into periods, and each has a key of its own, which whoever is first puts into the store. Nodes seal with
//! the key of the present period, open with that of the one before, and know the next: whatever the order in which
//! replicas and nodes notice that a period is over, nobody meets a ticket that cannot be opened. What is older is
//! deleted, so that it cannot be used to read what was recorded.
//!
//! One key has a period that never comes, and stays: it is for cookies, which hold nothing that is to be kept from anybody.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::store::{Store, StoreError, TicketKey};

/// How long a key seals. Nodes tell clients to keep tickets for so long.
const PERIOD: Duration = Duration::from_secs(12 * 3600);

/// The period of the key that stays.
const LASTING: u64 = i64::MAX.cast_unsigned();

/// How often it is looked whether a period is over.
const POLL: Duration = Duration::from_secs(60);

/// See the head of this file.
pub struct TicketKeys {
    store: Arc<dyn Store>,
    gateways: Mutex<BTreeMap<String, watch::Sender<Secrets>>>,
}

/// The keys of a gateway.
#[derive(Clone, Default, PartialEq)]
pub struct Secrets {
    /// The first seals, all open.
    pub tickets: Vec<Bytes>,
    /// The one that stays.
    pub lasting: Bytes,
}

impl TicketKeys {
    /// Has keys for the present period, of all gateways that there are.
    pub async fn start(store: Arc<dyn Store>) -> Result<Arc<Self>, StoreError> {
        let keys = Self { store, gateways: Mutex::default() };
        keys.turn_to(present()).await?;
        Ok(Arc::new(keys))
    }

    /// The keys of a gateway, now and whenever they change.
    pub async fn watch(&self, gateway: &str) -> Result<watch::Receiver<Secrets>, StoreError> {
        if let Some(known) = self.gateways.lock().get(gateway) {
            return Ok(known.subscribe());
        }
        // Made since the last look.
        let secrets = self.turn(gateway, present()).await?;
        Ok(self.set(gateway, secrets))
    }

    /// Has the keys for a period, counted from 1970.
    pub async fn turn_to(&self, period: u64) -> Result<(), StoreError> {
        let stored = self.store.gateways().await?;
        self.gateways.lock().retain(|gateway, _| stored.contains(gateway));
        for gateway in stored {
            let secrets = self.turn(&gateway, period).await?;
            self.set(&gateway, secrets);
        }
        Ok(())
    }

    async fn turn(&self, gateway: &str, period: u64) -> Result<Secrets, StoreError> {
        let fresh = [period, period + 1, LASTING].map(|period| TicketKey { period, secret: random() });
        let stored = self.store.turn_ticket_keys(gateway, period.saturating_sub(1), &fresh).await?;
        let bytes = |key: &TicketKey| Bytes::copy_from_slice(&key.secret);
        let lasting = stored.iter().find(|key| key.period == LASTING).map(bytes).unwrap_or_default();
        let periods = stored.iter().filter(|key| key.period != LASTING);
        let (before, mut usable): (Vec<_>, Vec<_>) = periods.partition(|key| key.period < period);
        usable.extend(before);
        Ok(Secrets { tickets: usable.into_iter().map(bytes).collect(), lasting })
    }

    fn set(&self, gateway: &str, secrets: Secrets) -> watch::Receiver<Secrets> {
        let mut gateways = self.gateways.lock();
        let sender = gateways.entry(gateway.to_owned()).or_default();
        sender.send_if_modified(|known| {
            let is_new = *known != secrets;
            *known = secrets;
            is_new
        });
        sender.subscribe()
    }

    /// Turns from period to period until `shutdown`.
    pub async fn follow(&self, shutdown: CancellationToken) {
        let mut is_reachable = true;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(POLL) => {}
            }
            let turned = self.turn_to(present()).await;
            if let (Err(error), true) = (&turned, is_reachable) {
                tracing::error!("cannot look after the keys of session tickets, will keep trying: {error}");
            }
            is_reachable = turned.is_ok();
        }
    }
}

fn present() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    since.as_secs() / PERIOD.as_secs()
}

fn random() -> [u8; 32] {
    let mut secret = [0; 32];
    aws_lc_rs::rand::fill(&mut secret).expect("the system has random numbers");
    secret
}
