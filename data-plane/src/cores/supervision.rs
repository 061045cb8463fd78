//! The thread of a core: when a panic ends the core, another one takes its place. Its connections are lost, the others
//! serve on; and a node whose cores keep failing says so and ends.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use model::snapshot::Snapshot;
use tokio::runtime::{Builder, Handle, LocalOptions};
use tokio::sync::{Mutex, Notify, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::core::{self, Order};
use crate::dns::Names;
use crate::settings::Settings;
use crate::telemetry::Telemetry;
use crate::upstream::CookieKey;

/// A core that fails more often than this within the time is not started again.
const MAX_FAILURES: usize = 3;
const FAILURES_WITHIN: Duration = Duration::from_secs(60);

/// What blocks is reading certificates: seldom, and better queued than on hundreds of threads.
const BLOCKING_THREADS: usize = 16;

/// What a core's thread is made with.
pub(super) struct Post {
    pub(super) number: usize,
    /// A runtime that has timers.
    pub(super) timers: Handle,
    pub(super) settings: Settings,
    pub(super) telemetry: Telemetry,
    pub(super) names: Names,
    pub(super) cookie_key: CookieKey,
    pub(super) retire: std::sync::mpsc::Sender<Arc<Snapshot>>,
    /// Whoever opens the listeners for a core that has taken the place of another.
    pub(super) failed: std::sync::mpsc::Sender<usize>,
    /// The node cannot go on.
    pub(super) broken: CancellationToken,
}

/// Runs a core, and another when it fails, until it is told to stop.
pub(super) fn run(post: &Post, orders: mpsc::UnboundedReceiver<Order>) {
    let orders = Rc::new(Mutex::new(orders));
    let mut failures: Vec<Instant> = Vec::new();
    loop {
        let mut runtime = Builder::new_current_thread();
        let runtime = runtime.enable_io().max_blocking_threads(BLOCKING_THREADS);
        let runtime = match runtime.build_local(LocalOptions::default()) {
            Ok(runtime) => runtime,
            Err(error) => {
                tracing::error!(core = post.number, %error, "a core cannot be started: the node gives up");
                post.broken.cancel();
                return;
            }
        };
        let seat = post.telemetry.seat();
        let (timers, names, retire) = (post.timers.clone(), post.names.clone(), post.retire.clone());
        let known = (names, post.cookie_key.clone());
        let life = core::run(&post.settings, timers, seat, known, orders.clone(), retire);
        let is_done = catch_unwind(AssertUnwindSafe(|| runtime.block_on(life))).is_ok();
        // Outside of the panic, so that connections end like those of a node that stops; and without waiting for files
        // that are being read.
        runtime.shutdown_background();
        if is_done {
            return;
        }
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
