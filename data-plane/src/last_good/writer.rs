//! A thread that brings to disk what holds now. Nobody waits for it: when the disk is slower than the changes, or fails,
//! only the newest is written.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// How long after a failure the disk is tried again, if nothing new is to be written before.
const RETRY: Duration = Duration::from_secs(30);

/// The thread, and what it shall write next.
pub struct Writer<N> {
    shared: Arc<Shared<N>>,
    thread: Option<JoinHandle<()>>,
}

struct Shared<N> {
    waiting: Mutex<Waiting<N>>,
    woken: Condvar,
}

struct Waiting<N> {
    next: Option<N>,
    is_closing: bool,
}

impl<N: Send + 'static> Writer<N> {
    /// `write` gives back what is to be tried again when it fails. Two writes are `pace` apart.
    pub fn start(
        what: &'static str,
        pace: Duration,
        write: impl FnMut(N) -> Result<(), (io::Error, N)> + Send + 'static,
    ) -> io::Result<Self> {
        let waiting = Mutex::new(Waiting { next: None, is_closing: false });
        let shared = Arc::new(Shared { waiting, woken: Condvar::new() });
        let thread = std::thread::Builder::new().name("last-good".to_owned()).spawn({
            let shared = Arc::clone(&shared);
            move || shared.write_what_comes(what, pace, write)
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Has something written soon: what `next` makes of what still waits.
    pub fn put(&self, next: impl FnOnce(Option<N>) -> N) {
        let mut waiting = self.shared.waiting.lock();
        let before = waiting.next.take();
        waiting.next = Some(next(before));
        self.shared.woken.notify_one();
    }

    /// Returns when everything is on disk, or cannot be written.
    pub fn close(mut self) {
        self.shared.end();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl<N> Drop for Writer<N> {
    fn drop(&mut self) {
        self.shared.end();
    }
}

impl<N> Shared<N> {
    fn end(&self) {
        self.waiting.lock().is_closing = true;
        self.woken.notify_one();
    }

    fn write_what_comes(&self, what: &str, pace: Duration, mut write: impl FnMut(N) -> Result<(), (io::Error, N)>) {
        let mut is_failing = false;
        while let Some(next) = self.wait() {
            let written = write(next);
            match &written {
                Ok(()) if is_failing => tracing::info!("{what} can be written to disk again"),
                Err((error, _)) if !is_failing => {
                    tracing::error!("cannot write {what} to disk, will keep trying: {error}");
                }
                _ => {}
            }
            is_failing = written.is_err();
            self.pause(pace, written.err().map(|(_, again)| again));
        }
    }

    /// What to write next; nothing when that was all.
    fn wait(&self) -> Option<N> {
        let mut waiting = self.waiting.lock();
        while waiting.next.is_none() && !waiting.is_closing {
            self.woken.wait(&mut waiting);
        }
        waiting.next.take()
    }

    /// Lets `pace` go by. What failed is due `again` when there is something newer, which takes its place, or after a while.
    fn pause(&self, pace: Duration, again: Option<N>) {
        let mut waiting = self.waiting.lock();
        let ends = Instant::now() + pace;
        while !waiting.is_closing && !self.woken.wait_until(&mut waiting, ends).timed_out() {}
        let Some(again) = again else { return };
        if waiting.next.is_none() && !waiting.is_closing {
            self.woken.wait_for(&mut waiting, RETRY);
        }
        if !waiting.is_closing {
            waiting.next.get_or_insert(again);
        }
    }
}
