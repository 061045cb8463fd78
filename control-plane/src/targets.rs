//! The lane of targets: what is said about targets of services beside the configuration. The only writer of it.
//!
//! Each gateway has one [`Lane`]: all that is said is in memory, and the store has it on disk before a write returns.
//! Writes that come while another is being stored go to the store together. Replicas follow one another as they do with
//! revisions. What is said about a service that is removed from the configuration is forgotten with it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use model::membership::{Member, Membership};
use model::problem::Fault;
use model::resource::Name;
use model::resource::service::TargetUrl;
use model::snapshot::Snapshot;
use parking_lot::RwLock;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::publish::Publisher;
use crate::store::{Store, StoreError};

mod lane;
mod state;

use lane::Lane;
pub use state::State;

/// How often to look whether an announcement of another replica was lost.
const POLL: Duration = Duration::from_secs(1);
/// Who forgets what was said about a service that is gone.
const HOUSEKEEPER: &str = "control-plane";

/// The lanes of all gateways.
pub struct Lanes {
    publisher: Arc<Publisher>,
    store: Arc<dyn Store>,
    gateways: RwLock<BTreeMap<String, Arc<Lane>>>,
}

/// What somebody wants to have said.
#[derive(Clone)]
pub struct Write {
    pub author: String,
    /// Derives the edits from the configuration and from what is said. It runs again when another replica was faster.
    pub edits: Arc<DeriveEdits>,
}

/// Looks at the configuration and at what is said, and says what to edit.
pub type DeriveEdits = dyn Fn(&Snapshot, &Membership) -> Result<Vec<Edit>, WriteError> + Send + Sync;

/// What is said about one target from now on; nothing if nothing is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    pub service: Name,
    pub target: TargetUrl,
    pub member: Option<Member>,
}

/// A write that is stored.
#[derive(Clone, Debug)]
pub struct Written {
    /// The newest version when it was done.
    pub version: u64,
    pub membership: Membership,
    /// How many targets it changed.
    pub changed: usize,
}

/// Why a write was not done.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WriteError {
    #[error("there is no gateway `{0}`")]
    UnknownGateway(String),
    #[error("there is no service `{0}`")]
    UnknownService(Name),
    #[error("the service `{service}` has no target `{target}`")]
    UnknownTarget { service: Name, target: String },
    #[error("what is written does not hold")]
    Invalid { service: Name, faults: Vec<Fault> },
    #[error("more than {limit} targets of {of} would have something said about them")]
    TooMany { of: String, limit: usize },
    #[error("other writers were faster")]
    Contended,
    #[error("{0}")]
    Store(Arc<StoreError>),
}

impl From<StoreError> for WriteError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::UnknownGateway(gateway) => Self::UnknownGateway(gateway),
            other => Self::Store(Arc::new(other)),
        }
    }
}

impl Lanes {
    /// Loads what is said in every gateway.
    pub async fn start(publisher: Arc<Publisher>) -> Result<Arc<Self>, StoreError> {
        let store = publisher.store().clone();
        let lanes = Self { publisher, store, gateways: RwLock::default() };
        for gateway in lanes.publisher.gateways() {
            lanes.open(&gateway).await?;
        }
        Ok(Arc::new(lanes))
    }

    /// What is said in a gateway, now and whenever it changes; a slow reader sees only the newest.
    pub async fn watch(&self, gateway: &str) -> Result<watch::Receiver<Arc<State>>, StoreError> {
        Ok(self.lane(gateway).await?.watch())
    }

    /// What is said now.
    pub async fn now(&self, gateway: &str) -> Result<Arc<State>, StoreError> {
        Ok(self.lane(gateway).await?.state())
    }

    /// Brings what is known here up to the store, where another replica may have had something said.
    pub async fn catch_up(&self, gateway: &str) -> Result<(), StoreError> {
        match self.store.target_versions().await?.into_iter().find(|(name, _)| name == gateway) {
            Some((_, version)) => self.catch_up_to(gateway, version).await,
            None => Ok(()),
        }
    }

    /// Has something said. When this returns, the store has it on disk.
    pub async fn write(&self, gateway: &str, write: Write) -> Result<Written, WriteError> {
        self.lane(gateway).await?.write(&self.publisher, write).await
    }

    /// What writing would come to, by what is known here.
    pub async fn try_out(&self, gateway: &str, write: &Write) -> Result<Written, WriteError> {
        self.lane(gateway).await?.try_out(&self.publisher, write)
    }

    /// Keeps up with other replicas, and forgets what was said about services that are gone, until `shutdown`.
    pub async fn follow(&self, shutdown: CancellationToken) {
        let mut announcements = self.store.target_announcements();
        let mut poll = tokio::time::interval(POLL);
        poll.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut is_reachable = true;
        loop {
            let followed = tokio::select! {
                () = shutdown.cancelled() => return,
                Some(hint) = announcements.next() => self.catch_up_to(&hint.gateway, hint.number).await,
                _ = poll.tick() => self.keep_up().await,
            };
            match &followed {
                Ok(()) if !is_reachable => tracing::info!("targets that other replicas change arrive again"),
                Err(error) if is_reachable => {
                    tracing::error!("cannot follow the targets that other replicas change, will keep trying: {error}");
                }
                _ => {}
            }
            is_reachable = followed.is_ok();
        }
    }

    async fn keep_up(&self) -> Result<(), StoreError> {
        let gateways = self.publisher.gateways();
        self.gateways.write().retain(|gateway, _| gateways.contains(gateway));
        for (gateway, version) in self.store.target_versions().await? {
            self.catch_up_to(&gateway, version).await?;
        }
        for gateway in gateways {
            self.forget_services_that_are_gone(&gateway).await?;
        }
        Ok(())
    }

    async fn catch_up_to(&self, gateway: &str, version: u64) -> Result<(), StoreError> {
        match self.lane(gateway).await {
            Ok(lane) => lane.catch_up(version).await,
            // Removed a moment ago, or made by another replica: the next round knows.
            Err(StoreError::UnknownGateway(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn forget_services_that_are_gone(&self, gateway: &str) -> Result<(), StoreError> {
        let (Some(head), Ok(lane)) = (self.publisher.head(gateway), self.lane(gateway).await) else { return Ok(()) };
        let said = lane.state().membership.clone();
        if gone(&head, &said, said.version()).next().is_none() {
            return Ok(());
        }
        // If this head is still the newest, what was said until now is about services that are gone. If it is not, another
        // replica may have made the service a moment ago.
        if self.store.head(gateway).await?.revision != head.revision {
            return Ok(());
        }
        let until = said.version();
        let edits = Arc::new(move |_: &Snapshot, now: &Membership| Ok(gone(&head, now, until).collect()));
        match lane.write(&self.publisher, Write { author: HOUSEKEEPER.to_owned(), edits }).await {
            Err(WriteError::Store(error)) => Err(StoreError::Unavailable(error.to_string().into())),
            _ => Ok(()),
        }
    }

    async fn lane(&self, gateway: &str) -> Result<Arc<Lane>, StoreError> {
        let known = self.gateways.read().get(gateway).cloned();
        match known {
            Some(lane) => Ok(lane),
            None if self.publisher.head(gateway).is_some() => self.open(gateway).await,
            None => Err(StoreError::UnknownGateway(gateway.to_owned())),
        }
    }

    /// Whoever is first: there must be one for each gateway, because it is what orders the writes.
    async fn open(&self, gateway: &str) -> Result<Arc<Lane>, StoreError> {
        let lane = Arc::new(Lane::load(gateway, self.store.clone()).await?);
        Ok(self.gateways.write().entry(gateway.to_owned()).or_insert(lane).clone())
    }
}

/// What was said until a version about services that the configuration does not have.
fn gone(head: &Snapshot, said: &Membership, until: u64) -> impl Iterator<Item = Edit> {
    let services = said.services().filter(|(service, _)| head.services.slot(service).is_none());
    services.flat_map(move |(service, entries)| {
        let old = entries.iter().filter(move |(_, entry)| entry.version <= until);
        old.map(|(target, _)| Edit { service: service.clone(), target: target.clone(), member: None })
    })
}
