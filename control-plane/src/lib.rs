//! The control plane keeps the truth and publishes it.

use std::fs::{DirBuilder, File, TryLockError};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub mod api;
pub mod distribution;
pub mod events;
mod files;
pub mod metrics;
pub mod nodes;
pub mod publish;
pub mod rollout;
pub mod settings;
pub mod store;
pub mod targets;
pub mod ticket_keys;
pub mod token;
pub mod trust;

use api::ApiState;
use distribution::tls::{Tls, TlsError};
use distribution::{Distribution, Timing};
use nodes::Nodes;
use nodes::fleet::Fleet;
use publish::Publisher;
use rollout::driver::Driver;
use settings::Settings;
use store::{Store, StoreError};
use targets::Lanes;
use ticket_keys::TicketKeys;
use token::{Role, TokenError, Tokens};
use trust::master_key::MasterKeys;
use trust::{Trust, TrustError};

/// How long a start waits for a database that is not there yet.
const DATABASE_TIMEOUT: Duration = Duration::from_secs(30);
const DATABASE_PAUSE: Duration = Duration::from_secs(1);

impl RunError {
    /// Whether it is the database, and waiting may help.
    fn is_passing(&self) -> bool {
        match self {
            Self::Database { source, .. }
            | Self::Token(TokenError::Store(source))
            | Self::Trust(TrustError::Store(source)) => source.is_passing(),
            _ => false,
        }
    }
}

/// A control plane that serves.
pub struct Running {
    /// Where the admin API listens, with the port that was chosen if the settings left it open.
    pub admin: SocketAddr,
    /// Where the configuration stream listens.
    pub stream: SocketAddr,
    pub publisher: Arc<Publisher>,
    pub nodes: Arc<Nodes>,
    /// The file with the admin token; nothing when another control plane made the token.
    pub admin_token_file: Option<PathBuf>,
    /// The same for the token that nodes on loopback share.
    pub node_token_file: Option<PathBuf>,
}

/// Why a control plane does not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("cannot use the data folder {}", path.display())]
    DataDir { path: PathBuf, source: io::Error },
    #[error("another control plane uses the data folder {}: stop it, or give this one a folder of its own", path.display())]
    InUse { path: PathBuf },
    #[error("cannot use the database {database}")]
    Database { database: String, source: StoreError },
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error(transparent)]
    Trust(#[from] TrustError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("cannot listen on {address} for {purpose}")]
    Bind { address: SocketAddr, purpose: &'static str, source: io::Error },
    #[error("a part of the control plane ended by itself")]
    Ended,
}

/// Runs a control plane until `shutdown`; calls `ready` once it serves.
pub async fn run(settings: Settings, shutdown: CancellationToken, ready: impl FnOnce(Running)) -> Result<(), RunError> {
    let _folder = take_folder(&settings.data_dir)?;
    let shared = store::is_postgres(&settings.database_url);
    let master =
        MasterKeys::load(settings.master_key.as_ref(), &settings.data_dir, shared).map_err(TrustError::from)?;
    // Before the database, which may take a while: a taken port should be told at once.
    let admin = bind(settings.admin_bind, "the admin API").await?;
    let stream = bind(settings.stream_bind, "the configuration stream").await?;
    let is_on_loopback = stream.1.ip().is_loopback();
    let begun = loop {
        let Some(store) = open(&settings.database_url, &shutdown).await.map_err(database_error(&settings))? else {
            return Ok(());
        };
        match begin(&settings, store, &master, is_on_loopback).await {
            Ok(begun) => break begun,
            Err(error) if shared && error.is_passing() && !shutdown.is_cancelled() => {
                tracing::warn!("will begin anew: {error}");
                tokio::time::sleep(DATABASE_PAUSE).await;
            }
            Err(error) => return Err(error),
        }
    };
    let Begun { store, trust, tls: stream_tls, token_files, tokens, publisher, ticket_keys, lanes, nodes, fleet } =
        begun;
    let [admin_token_file, node_token_file] = token_files;

    let running = Running {
        admin: admin.1,
        stream: stream.1,
        publisher: publisher.clone(),
        nodes: nodes.clone(),
        admin_token_file,
        node_token_file,
    };
    // When one part ends, all do.
    let stop = shutdown.child_token();
    let mut parts = JoinSet::new();
    let (follower, stop_following) = (publisher.clone(), stop.clone());
    parts.spawn(async move { follower.follow(stop_following).await });
    let (follower, stop_following) = (tokens.clone(), stop.clone());
    parts.spawn(async move { follower.follow(stop_following).await });
    let (follower, stop_following) = (ticket_keys.clone(), stop.clone());
    parts.spawn(async move { follower.follow(stop_following).await });
    let (follower, stop_following) = (lanes.clone(), stop.clone());
    parts.spawn(async move { follower.follow(stop_following).await });
    let (follower, stop_following) = (trust.clone(), stop.clone());
    parts.spawn(async move { follower.revocations.follow(stop_following).await });
    let (known, history, shortened) = (nodes.clone(), settings.history, publisher.clone());
    parts.spawn(shortened.keep_short(history, move |gateway| known.oldest_served(gateway), stop.clone()));
    let (driver, stop_driving) = (Driver::new(publisher.clone(), nodes.clone()), stop.clone());
    parts.spawn(async move { driver.follow(stop_driving).await });
    let (follower, stop_following) = (trust.clone(), stop.clone());
    parts.spawn(async move { follower.authorities().follow(stop_following).await });
    if let Some(fleet) = fleet {
        parts.spawn(fleet.follow(stop.clone()));
    }
    let state = ApiState::new(publisher.clone(), store, tokens.clone(), nodes.clone(), lanes.clone(), trust.clone());
    parts.spawn(api::serve(admin.0, state, stop.clone()));
    tracing::info!("nodes know this control plane by the pin {}", trust.authorities().now().first().pin());
    let distribution = Distribution::new(publisher, tokens, nodes, ticket_keys, lanes, trust, Timing::default());
    parts.spawn(distribution.serve(stream.0, Some(stream_tls), stop.clone()));
    tracing::info!("the control plane serves the admin API on {} and nodes on {}", running.admin, running.stream);
    ready(running);
    join(parts, &shutdown, &stop).await
}

/// What a control plane has from its database when it begins to serve.
struct Begun {
    store: Arc<dyn Store>,
    trust: Arc<Trust>,
    tls: Tls,
    /// Of the admin token, and of the token that nodes on loopback share.
    token_files: [Option<PathBuf>; 2],
    tokens: Arc<Tokens>,
    publisher: Arc<Publisher>,
    ticket_keys: Arc<TicketKeys>,
    lanes: Arc<Lanes>,
    nodes: Arc<Nodes>,
    fleet: Option<Fleet>,
}

/// Reads what there is. It may be done again: whatever it makes is made once.
async fn begin(
    settings: &Settings,
    store: Arc<dyn Store>,
    master: &MasterKeys,
    is_on_loopback: bool,
) -> Result<Begun, RunError> {
    let database = database_error(settings);
    let seal = Arc::new(trust::seal::open(&*store, master).await?);
    store.seal_with(seal.clone());
    let trust = Trust::start(store.clone(), seal, settings.authority.as_ref(), settings.certificate_lifetime).await?;
    let tls = Tls::new(trust.authorities().clone())?;
    let admin_token_file = token::ensure(&*store, Role::Admin, &settings.data_dir).await?;
    // The token that nodes share is for loopback alone.
    let node_token_file = match is_on_loopback {
        true => token::ensure(&*store, Role::Node, &settings.data_dir).await?,
        false => None,
    };
    let tokens = Tokens::new(store.clone());
    let publisher = Publisher::start(store.clone()).await.map_err(&database)?;
    let ticket_keys = TicketKeys::start(store.clone()).await.map_err(&database)?;
    let lanes = Lanes::start(publisher.clone()).await.map_err(&database)?;
    let nodes = Nodes::new();
    // Before it serves: who asks for all nodes must not get those of this replica alone.
    let fleet = match store.shared_nodes() {
        Some(shared) => Some(Fleet::join(nodes.clone(), shared).await.map_err(&database)?),
        None => None,
    };
    let token_files = [admin_token_file, node_token_file];
    Ok(Begun { store, trust, tls, token_files, tokens, publisher, ticket_keys, lanes, nodes, fleet })
}

fn database_error(settings: &Settings) -> impl Fn(StoreError) -> RunError {
    |source| RunError::Database { database: store::describe(&settings.database_url), source }
}

/// Waits until every part has ended, which is an error unless it was asked for.
async fn join(mut parts: JoinSet<()>, shutdown: &CancellationToken, stop: &CancellationToken) -> Result<(), RunError> {
    let mut outcome = Ok(());
    while let Some(ended) = parts.join_next().await {
        if let Err(error) = &ended {
            tracing::error!("a part of the control plane panicked: {error}");
        }
        if ended.is_err() || !shutdown.is_cancelled() {
            outcome = Err(RunError::Ended);
        }
        stop.cancel();
    }
    outcome
}

/// Takes the data folder for as long as the file that comes back is held: two control planes on one folder, even with
/// ports of their own, would change each other's configuration. Nobody else may look into the folder: the database
/// in it holds keys of certificates, and tokens lie beside it.
fn take_folder(path: &Path) -> Result<File, RunError> {
    let failed = |source| RunError::DataDir { path: path.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
    let mut options = File::options();
    options.write(true).create(true).truncate(false).mode(0o600);
    let lock = options.open(path.join("control-plane.lock")).map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(RunError::InUse { path: path.to_owned() }),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

async fn bind(address: SocketAddr, purpose: &'static str) -> Result<(TcpListener, SocketAddr), RunError> {
    let failed = |source| RunError::Bind { address, purpose, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

/// Waits a while for a database that is about to start; nothing when `shutdown` came first.
async fn open(url: &str, shutdown: &CancellationToken) -> Result<Option<Arc<dyn Store>>, StoreError> {
    let deadline = Instant::now() + DATABASE_TIMEOUT;
    let mut was_said = false;
    loop {
        let error = tokio::select! {
            () = shutdown.cancelled() => return Ok(None),
            opened = tokio::time::timeout_at(deadline, store::open(url)) => match opened {
                Ok(Ok(store)) => return Ok(Some(store)),
                Ok(Err(error)) => error,
                Err(elapsed) => return Err(StoreError::Unavailable(Box::new(elapsed))),
            },
        };
        if !store::is_postgres(url) || !error.is_passing() || Instant::now() + DATABASE_PAUSE > deadline {
            return Err(error);
        }
        if !was_said {
            tracing::warn!("will try again for {} seconds: {error}", DATABASE_TIMEOUT.as_secs());
            was_said = true;
        }
        tokio::time::sleep(DATABASE_PAUSE).await;
    }
}
