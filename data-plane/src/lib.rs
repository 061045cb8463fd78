//! The data plane: forwards traffic by the snapshot that it holds.
//!
//! Requests run on cores, each a thread with a runtime of its own ([`cores`]). Everything else, the stream of
//! configuration, metrics and health, runs on the runtime that [`run`] is called on.

#[cfg(test)]
#[path = "../../tests/src/address.rs"]
mod address;
pub mod body;
pub mod clock;
pub mod cores;
pub mod current;
pub mod discovery;
pub mod dns;
pub mod grpc_web;
pub mod health;
mod http1;
mod http2;
mod interim;
pub mod last_good;
mod listener;
mod membership;
pub mod memory;
pub mod port_holder;
mod proxy;
pub mod proxy_protocol;
pub mod settings;
pub mod sync;
pub mod telemetry;
pub mod trust;
pub mod upstream;

use std::io;
use std::net::SocketAddr;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cores::Cores;
use crate::port_holder::{PortHolder, port_holder};
use crate::settings::Settings;
use crate::sync::{Status, Sync};
use crate::telemetry::{Telemetry, node_port};

/// Why the node cannot run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("cannot serve the node port on {address}{}", held_by(holder.as_ref()))]
    NodePort { address: SocketAddr, holder: Option<PortHolder>, source: io::Error },
    #[error("cannot start")]
    Start(#[from] io::Error),
    #[error(transparent)]
    Sync(#[from] sync::StartError),
    #[error("a core of the node kept ending by panics, which the log tells of")]
    Cores,
}

fn held_by(holder: Option<&PortHolder>) -> String {
    holder.map_or_else(String::new, |holder| format!(", which {holder} holds"))
}

/// Runs the node until `shutdown`, then drains it.
pub async fn run(settings: Settings, shutdown: CancellationToken) -> Result<(), RunError> {
    let node_port = open_node_port(settings.node_port).await?;
    let telemetry = Telemetry::start(settings.access_log)?;
    let cores = Cores::start(&settings, &telemetry)?;
    let sync = Sync::start(&settings, cores.clone()).await?;

    let tasks = TaskTracker::new();
    let (stop_sync, stop_node_port) = (CancellationToken::new(), CancellationToken::new());
    tasks.spawn(report(sync.status(), telemetry.clone(), stop_sync.clone()));
    let sync_status = sync.status();
    let following = tasks.spawn(sync.run(stop_sync.clone()));
    tasks.spawn(telemetry::traffic::watch(telemetry.clone(), sync_status, stop_sync.clone()));
    let stop_health = CancellationToken::new();
    tasks.spawn(telemetry.health.clone().watch(cores.names(), stop_health.clone()));
    let stop_memory = CancellationToken::new();
    tasks.spawn(memory::watch(settings.memory_budget, cores.clone(), telemetry.node.clone(), stop_memory.clone()));
    tasks.spawn(node_port::serve(node_port, telemetry.clone(), stop_node_port.clone()));

    let is_broken = tokio::select! {
        () = shutdown.cancelled() => false,
        () = cores.broken() => true,
    };
    telemetry.node.drain();
    tracing::info!("draining: the node is not ready from now on");
    tokio::time::sleep(settings.drain.delay).await;
    stop_sync.cancel();
    let _ = following.await;
    cores.drain(settings.drain.timeout.saturating_sub(settings.drain.delay)).await;
    stop_health.cancel();
    stop_memory.cancel();
    stop_node_port.cancel();
    tasks.close();
    tasks.wait().await;
    telemetry.finish();
    if is_broken { Err(RunError::Cores) } else { Ok(()) }
}

async fn open_node_port(address: SocketAddr) -> Result<TcpListener, RunError> {
    TcpListener::bind(address).await.map_err(|source| {
        let holder = (source.kind() == io::ErrorKind::AddrInUse).then(|| port_holder(address)).flatten();
        RunError::NodePort { address, holder, source }
    })
}

/// Tells the node port what the stream of configuration has come to.
async fn report(mut status: watch::Receiver<Status>, telemetry: Telemetry, stop: CancellationToken) {
    loop {
        let now = status.borrow_and_update().clone();
        telemetry.node.follows(now);
        tokio::select! {
            () = stop.cancelled() => return,
            changed = status.changed() => if changed.is_err() { return },
        }
    }
}
