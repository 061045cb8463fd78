//! What the node served last, on disk, so that it starts without a control plane.
//!
//! One thread writes; serving never waits for it. When the disk is slower than the changes, only the newest
//! state is written.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use model::snapshot::Snapshot;
use parking_lot::{Condvar, Mutex};

pub mod cookie_key;
mod files;
pub mod reader;
mod record;
pub mod targets;

use files::Files;
pub use record::{MAGIC, Position, Record};

/// Deltas up to this size wait for the disk; beyond it, the whole snapshot takes their place.
const MAX_WAITING_BYTES: usize = 1024 * 1024;

/// How long after a failure the disk is tried again, if nothing new is to be written before.
const RETRY: Duration = Duration::from_secs(30);

/// The place on disk.
pub struct LastGood {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    woken: Condvar,
}

#[derive(Default)]
struct Waiting {
    next: Option<Next>,
    is_closing: bool,
}

/// The state that the disk shall have next, and the way from the state before; without records when that
/// would be too long.
struct Next {
    records: Vec<Record>,
    snapshot: Arc<Snapshot>,
}

impl LastGood {
    /// Takes the directory and reads the newest whole revision in it.
    pub fn open(directory: &Path) -> io::Result<(Self, Option<Arc<Snapshot>>)> {
        let (files, snapshot) = Files::open(directory)?;
        let shared = Arc::new(Shared::default());
        let thread = std::thread::Builder::new().name("last-good".to_owned()).spawn({
            let shared = Arc::clone(&shared);
            move || write_what_comes(&shared, files)
        })?;
        Ok((Self { shared, thread: Some(thread) }, snapshot))
    }

    /// Has `snapshot`, to which `record` led, written soon.
    pub fn keep(&self, record: Record, snapshot: Arc<Snapshot>) {
        let mut waiting = self.shared.waiting.lock();
        let mut records = match waiting.next.take() {
            None => vec![record],
            Some(_) if record.is_whole() => vec![record],
            // The way is too long already.
            Some(before) if before.records.is_empty() => Vec::new(),
            Some(mut before) => {
                before.records.push(record);
                before.records
            }
        };
        if records.len() > 1 && records.iter().map(|record| record.body.len()).sum::<usize>() > MAX_WAITING_BYTES {
            records.clear();
        }
        waiting.next = Some(Next { records, snapshot });
        self.shared.woken.notify_one();
    }

    /// Returns when everything is on disk, or cannot be written.
    pub fn close(mut self) {
        self.end();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }

    fn end(&self) {
        self.shared.waiting.lock().is_closing = true;
        self.shared.woken.notify_one();
    }
}

impl Drop for LastGood {
    fn drop(&mut self) {
        self.end();
    }
}

fn write_what_comes(shared: &Shared, mut files: Files) {
    let mut is_failing = false;
    while let Some(next) = wait(shared) {
        let written = files.write(&next.records, &next.snapshot);
        match &written {
            Ok(()) if is_failing => tracing::info!("the last good configuration is written to disk again"),
            Err(error) if !is_failing => {
                tracing::error!("cannot write the last good configuration to disk, will keep trying: {error}");
            }
            _ => {}
        }
        is_failing = written.is_err();
        if is_failing {
            wait_to_retry(shared, next.snapshot);
        }
    }
}

/// What to write next; nothing when that was all.
fn wait(shared: &Shared) -> Option<Next> {
    let mut waiting = shared.waiting.lock();
    while waiting.next.is_none() && !waiting.is_closing {
        shared.woken.wait(&mut waiting);
    }
    waiting.next.take()
}

/// Waits until there is something newer than `snapshot`, or for a while, after which `snapshot` is due again.
fn wait_to_retry(shared: &Shared, snapshot: Arc<Snapshot>) {
    let mut waiting = shared.waiting.lock();
    if waiting.next.is_none() && !waiting.is_closing {
        shared.woken.wait_for(&mut waiting, RETRY);
    }
    if waiting.next.is_none() && !waiting.is_closing {
        waiting.next = Some(Next { records: Vec::new(), snapshot });
    }
}

#[cfg(test)]
mod tests;
