//! The access log: JSON lines, formatted by the core that served the request, written by one thread.
//!
//! A core collects lines in a buffer and hands it over when it is full or a moment has passed. Between cores and
//! writer is a queue of bounded length; a core never waits for it: if it is full, the lines are counted and gone.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::RequestRecord;
use super::line::Line;

/// A core hands over when it has this much.
const BATCH_BYTES: usize = 16 * 1024;

/// What a line may exceed that by before the buffer grows.
const ROOM_BYTES: usize = 2 * 1024;

/// Batches that may wait for the writer: with the bytes above 4 MiB at most.
const QUEUE_BATCHES: usize = 256;

const WRITE_BUFFER_BYTES: usize = 64 * 1024;

/// How long shutdown waits for a reader of the log that does not read.
const FINISH_WITHIN: Duration = Duration::from_secs(2);

/// The way to the writer of the access log; cheap to clone.
#[derive(Clone)]
pub struct AccessLog {
    queue: SyncSender<Message>,
    dropped: Arc<AtomicU64>,
    finished: Arc<Mutex<Receiver<()>>>,
}

enum Message {
    Lines(Batch),
    Finish,
}

struct Batch {
    bytes: Vec<u8>,
    lines: u64,
}

/// The access log as one core writes it.
pub(super) struct CoreLog {
    log: AccessLog,
    line: RefCell<Line>,
    bytes: RefCell<Vec<u8>>,
    lines: Cell<u64>,
}

/// Standard output without the line buffer of the standard library: batches are whole lines already.
pub(super) fn stdout() -> io::Result<File> {
    Ok(File::from(io::stdout().as_fd().try_clone_to_owned()?))
}

impl AccessLog {
    pub(super) fn start(sink: Box<dyn Write + Send>) -> io::Result<Self> {
        let (queue, batches) = sync_channel(QUEUE_BATCHES);
        let (done, finished) = sync_channel(1);
        let dropped = Arc::new(AtomicU64::new(0));
        let lost = Arc::clone(&dropped);
        std::thread::Builder::new().name("access-log".into()).spawn(move || {
            write_batches(&batches, sink, &lost);
            // Nobody may be waiting: then the process ends without `finish`.
            let _ = done.send(());
        })?;
        Ok(Self { queue, dropped, finished: Arc::new(Mutex::new(finished)) })
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Waits on this thread: the cores have ended when it is called.
    pub(super) fn finish(&self) {
        let deadline = Instant::now() + FINISH_WITHIN;
        // The queue may be full of lines that are still read; the channel has no send that waits a bounded time.
        while let Err(TrySendError::Full(_)) = self.queue.try_send(Message::Finish) {
            if Instant::now() >= deadline {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let _ = self.finished.lock().recv_timeout(deadline.saturating_duration_since(Instant::now()));
    }

    fn take(&self, batch: Batch) {
        let lines = batch.lines;
        if self.queue.try_send(Message::Lines(batch)).is_err() {
            self.dropped.fetch_add(lines, Ordering::Relaxed);
        }
    }
}

/// Writes until it is told to finish; flushes whenever nothing more is waiting.
fn write_batches(batches: &Receiver<Message>, sink: Box<dyn Write + Send>, dropped: &AtomicU64) {
    let mut out = BufWriter::with_capacity(WRITE_BUFFER_BYTES, sink);
    while let Ok(first) = batches.recv() {
        let mut next = Some(first);
        while let Some(message) = next {
            let Message::Lines(batch) = message else {
                drop(out.flush());
                return;
            };
            if out.write_all(&batch.bytes).is_err() {
                dropped.fetch_add(batch.lines, Ordering::Relaxed);
            }
            next = batches.try_recv().ok();
        }
        // What cannot be flushed stays in the buffer; the next batch meets the same error and is counted.
        drop(out.flush());
    }
}

impl CoreLog {
    pub(super) fn new(log: AccessLog) -> Self {
        Self {
            log,
            line: RefCell::new(Line::default()),
            bytes: RefCell::new(Vec::with_capacity(BATCH_BYTES + ROOM_BYTES)),
            lines: Cell::new(0),
        }
    }

    pub(super) fn write(&self, record: &RequestRecord<'_>) {
        let mut bytes = self.bytes.borrow_mut();
        self.line.borrow_mut().append(record, &mut bytes);
        self.lines.set(self.lines.get() + 1);
        if bytes.len() >= BATCH_BYTES {
            drop(bytes);
            self.hand_over();
        }
    }

    pub(super) fn hand_over(&self) {
        let lines = self.lines.take();
        if lines > 0 {
            let bytes = self.bytes.replace(Vec::with_capacity(BATCH_BYTES + ROOM_BYTES));
            self.log.take(Batch { bytes, lines });
        }
    }
}
