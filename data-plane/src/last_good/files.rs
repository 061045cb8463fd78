//! The files: generations of one snapshot and the journal of what followed it.
//!
//! `12.snapshot` holds one whole record, `12.journal` the deltas after it. A new generation replaces both
//! when the journal has grown past the snapshot; the generation before it stays, for the day on which the
//! newest cannot be read. Both are sealed ([`sealed`]).

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use model::sealing::SealingKey;
use model::snapshot::Snapshot;

use super::reader::{self, Loaded};
use super::record::{Position, Record};
use super::sealed::{self, MAGIC};

/// A journal up to this size is not worth a new snapshot.
const SMALL_JOURNAL: u64 = 1024 * 1024;

/// The only writer of one directory.
pub struct Files {
    directory: PathBuf,
    /// Held as long as this process writes here.
    _lock: File,
    key: Arc<SealingKey>,
    generation: u64,
    snapshot_bytes: u64,
    /// Open for appending; none if there is none yet or if its end may be torn.
    journal: Option<File>,
    journal_bytes: u64,
    /// What a reader would find; nothing when that is not known.
    written: Option<Position>,
}

impl Files {
    /// Takes the directory for this process and reads what it holds.
    pub fn open(directory: &Path, key: Arc<SealingKey>) -> io::Result<(Self, Option<Arc<Snapshot>>)> {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let lock = private().read(true).write(true).create(true).truncate(false).open(directory.join("lock"))?;
        lock.try_lock().map_err(|error| match error {
            fs::TryLockError::WouldBlock => io::Error::new(
                io::ErrorKind::ResourceBusy,
                "another node uses it; give every node a data directory of its own",
            ),
            fs::TryLockError::Error(error) => error,
        })?;
        let mut files = Self {
            directory: directory.to_owned(),
            _lock: lock,
            key,
            generation: 0,
            snapshot_bytes: 0,
            journal: None,
            journal_bytes: 0,
            written: None,
        };
        let snapshot = files.load()?;
        Ok((files, snapshot))
    }

    /// The newest state that can be read. Later writes go on from there.
    fn load(&mut self) -> io::Result<Option<Arc<Snapshot>>> {
        let generations = self.generations()?;
        let newest = generations.last().copied().unwrap_or(0);
        for generation in generations.into_iter().rev() {
            let path = self.path(generation, "snapshot");
            let (loaded, snapshot_bytes, is_old) = match self.read(generation) {
                Ok(read) => read,
                Err(error) => {
                    tracing::error!("cannot use the last good configuration in {}: {error}", path.display());
                    continue;
                }
            };
            let snapshot = Arc::new(loaded.snapshot);
            if let Some(damage) = loaded.damage {
                let (journal, reached) = (self.path(generation, "journal"), snapshot.revision);
                tracing::warn!(
                    "cannot use all of {}: {damage}; revision {reached} is the last whole one in it",
                    journal.display()
                );
            }
            self.generation = newest;
            // A later write may only continue what is whole and newest; otherwise it starts a generation.
            if generation == newest && loaded.damage.is_none() && !is_old {
                self.snapshot_bytes = snapshot_bytes;
                self.written = Some(Position::of(&snapshot));
                self.reopen_journal()?;
            }
            return Ok(Some(snapshot));
        }
        self.generation = newest;
        Ok(None)
    }

    /// What a generation holds, the size of its snapshot, and whether a part of it has the form of before.
    fn read(&self, generation: u64) -> Result<(Loaded, u64, bool), String> {
        let snapshot = read(&self.path(generation, "snapshot")).map_err(|error| error.to_string())?;
        let snapshot = snapshot.ok_or("the file vanished")?;
        let snapshot_bytes = snapshot.len() as u64;
        let journal = read(&self.path(generation, "journal")).unwrap_or_else(|error| {
            tracing::warn!("cannot read {generation}.journal in {}: {error}", self.directory.display());
            // As if nothing in it were whole.
            Some(Bytes::new())
        });
        let open = |ending, bytes| sealed::open(&self.key, &place(generation, ending), bytes);
        let (snapshot, journal) = (open("snapshot", snapshot), journal.map(|journal| open("journal", journal)));
        let is_old = snapshot.is_old || journal.as_ref().is_some_and(|journal| journal.is_old);
        let loaded = reader::read(snapshot.bytes, journal.map(|journal| journal.bytes));
        Ok((loaded.map_err(|reason| format!("{reason}, or sealed with another key"))?, snapshot_bytes, is_old))
    }

    fn generations(&self) -> io::Result<Vec<u64>> {
        let mut generations = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let name = entry?.file_name();
            let number = name.to_str().and_then(|name| name.strip_suffix(".snapshot")).map(str::parse::<u64>);
            generations.extend(number.and_then(Result::ok));
        }
        generations.sort_unstable();
        Ok(generations)
    }

    fn reopen_journal(&mut self) -> io::Result<()> {
        match OpenOptions::new().append(true).open(self.path(self.generation, "journal")) {
            Ok(journal) => {
                self.journal_bytes = journal.metadata()?.len();
                self.journal = Some(journal);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Brings the disk to `snapshot`, which is where `records` lead, and returns when it is there to stay.
    /// Without fitting records, the whole snapshot is written.
    pub fn write(&mut self, records: &[Record], snapshot: &Snapshot) -> io::Result<()> {
        let goal = Position::of(snapshot);
        for record in records {
            if record.is_whole() {
                self.start_generation(record)?;
            } else if !self.append(record)? {
                break;
            }
        }
        if self.written != Some(goal) {
            self.start_generation(&Record::whole(snapshot))?;
        }
        if let Some(journal) = &self.journal {
            let synced = journal.sync_data();
            if synced.is_err() {
                self.forget();
            }
            return synced;
        }
        Ok(())
    }

    /// Adds to the journal, without waiting for the disk. False if the record does not follow what is there
    /// or the journal is long enough.
    fn append(&mut self, record: &Record) -> io::Result<bool> {
        let bytes = sealed::frame(&self.key, &place(self.generation, "journal"), record);
        let journal_bytes = self.journal_bytes + bytes.len() as u64;
        if self.written != Some(record.base) || journal_bytes > self.snapshot_bytes.max(SMALL_JOURNAL) {
            return Ok(false);
        }
        // Until the write has succeeded, the end of the journal may be anything.
        self.written = None;
        let mut journal = match self.journal.take() {
            Some(journal) => journal,
            None => self.create_journal()?,
        };
        journal.write_all(&bytes)?;
        self.journal = Some(journal);
        self.journal_bytes += bytes.len() as u64;
        self.written = Some(record.reached);
        Ok(true)
    }

    fn create_journal(&mut self) -> io::Result<File> {
        let mut journal = private().append(true).create_new(true).open(self.path(self.generation, "journal"))?;
        journal.write_all(&MAGIC)?;
        self.journal_bytes = MAGIC.len() as u64;
        journal.sync_all()?;
        File::open(&self.directory)?.sync_all()?;
        Ok(journal)
    }

    fn start_generation(&mut self, whole: &Record) -> io::Result<()> {
        self.forget();
        let previous = self.generation;
        self.generation += 1;
        let temporary = self.directory.join("next");
        let mut file = private().write(true).create(true).truncate(true).open(&temporary)?;
        let bytes = sealed::frame(&self.key, &place(self.generation, "snapshot"), whole);
        file.write_all(&MAGIC)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, self.path(self.generation, "snapshot"))?;
        File::open(&self.directory)?.sync_all()?;
        self.snapshot_bytes = (MAGIC.len() + bytes.len()) as u64;
        self.written = Some(whole.reached);
        for old in self.generations()?.into_iter().filter(|old| *old < previous) {
            fs::remove_file(self.path(old, "snapshot"))?;
            match fs::remove_file(self.path(old, "journal")) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// The next write starts a generation.
    fn forget(&mut self) {
        self.journal = None;
        self.journal_bytes = 0;
        self.written = None;
    }

    fn path(&self, generation: u64, ending: &str) -> PathBuf {
        self.directory.join(place(generation, ending))
    }
}

fn place(generation: u64, ending: &str) -> String {
    format!("{generation}.{ending}")
}

/// The content of a file; nothing if there is no such file.
fn read(path: &Path) -> io::Result<Option<Bytes>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(Bytes::from(bytes))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Configurations hold key material.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600);
    options
}
