//! What the node served last, on disk, so that it starts without a control plane. Serving never waits for the disk.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use model::sealing::SealingKey;
use model::snapshot::Snapshot;

pub mod cookie_key;
mod files;
pub mod reader;
mod record;
mod sealed;
pub mod targets;
mod writer;

use files::Files;
pub use record::{MAGIC, Position, Record};
use writer::Writer;

/// Deltas up to this size wait for the disk; beyond it, the whole snapshot takes their place.
const MAX_WAITING_BYTES: usize = 1024 * 1024;

/// The place on disk.
pub struct LastGood(Writer<Next>);

/// The state that the disk shall have next, and the way from the state before; without records when that
/// would be too long.
struct Next {
    records: Vec<Record>,
    snapshot: Arc<Snapshot>,
}

impl LastGood {
    /// Takes the directory and reads the newest whole revision in it.
    pub fn open(directory: &Path, key: Arc<SealingKey>) -> io::Result<(Self, Option<Arc<Snapshot>>)> {
        let (mut files, snapshot) = Files::open(directory, key)?;
        let writer = Writer::start("the last good configuration", Duration::ZERO, move |next: Next| {
            let written = files.write(&next.records, &next.snapshot);
            written.map_err(|error| (error, Next { records: Vec::new(), ..next }))
        })?;
        Ok((Self(writer), snapshot))
    }

    /// Has `snapshot`, to which `record` led, written soon.
    pub fn keep(&self, record: Record, snapshot: Arc<Snapshot>) {
        self.0.put(|waiting| {
            let mut records = match waiting {
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
            Next { records, snapshot }
        });
    }

    /// Returns when everything is on disk, or cannot be written.
    pub fn close(self) {
        self.0.close();
    }
}

#[cfg(test)]
mod tests;
