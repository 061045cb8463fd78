//! The thread of a core: when a panic ends the core, another one takes its place. Its connections are lost, the others
//! serve on; and a node whose cores keep failing says so and ends.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use model::snapshot::Snapshot;
use tokio::runtime::{Handle, Runtime};
use tokio::sync::{Mutex, Notify, mpsc};
use tokio::task::{JoinHandle, LocalSet};
use tokio_util::sync::CancellationToken;

use super::core::{self, Order};
use crate::settings::Settings;
use crate::telemetry::Telemetry;

/// A core that fails more often than this within the time is not started again.
const MAX_FAILURES: usize = 3;
const FAILURES_WITHIN: Duration = Duration::from_secs(60);

/// What a core's thread is made with.
pub(super) struct Post {
    pub(super) number: usize,
    /// A runtime that has timers.
    pub(super) timers: Handle,
    pub(super) settings: Settings,
    pub(super) telemetry: Telemetry,
    pub(super) retire: std::sync::mpsc::Sender<Arc<Snapshot>>,
    /// Whoever opens the listeners for a core that has taken the place of another.
    pub(super) failed: std::sync::mpsc::Sender<usize>,
    /// The node cannot go on.
    pub(super) broken: CancellationToken,
}

/// Runs a core, and another when it fails, until it is told to stop.
pub(super) fn run(post: &Post, runtime: &Runtime, orders: mpsc::UnboundedReceiver<Order>) {
    let orders = Rc::new(Mutex::new(orders));
    let mut failures: Vec<Instant> = Vec::new();
    loop {
        let local = LocalSet::new();
        let seat = post.telemetry.seat();
        let life = core::run(&post.settings, post.timers.clone(), seat, orders.clone(), post.retire.clone());
        if catch_unwind(AssertUnwindSafe(|| local.block_on(runtime, life))).is_ok() {
            return;
        }
        // Outside of the panic, so that connections end like those of a node that stops.
        drop(local);
        post.telemetry.node.core_failed();
        failures.retain(|at| at.elapsed() < FAILURES_WITHIN);
        failures.push(Instant::now());
        if failures.len() > MAX_FAILURES {
            tracing::error!(core = post.number, "a core keeps ending by panics: the node gives up");
            post.broken.cancel();
            return;
        }
        tracing::error!(core = post.number, "a core ended by a panic, with its connections: it is started again");
        // Without anybody to open listeners the node is on its way out.
        let _ = post.failed.send(post.number);
    }
}

/// Runs a part of the core itself on the side: when it panics, `failed` is told, so that the core fails with it.
pub(crate) fn run_part(failed: &Rc<Notify>, part: impl Future<Output = ()> + 'static) -> JoinHandle<()> {
    let watch = Watch(failed.clone());
    tokio::task::spawn_local(async move {
        let _watch = watch;
        part.await;
    })
}

struct Watch(Rc<Notify>);

impl Drop for Watch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.notify_one();
        }
    }
}
