//! The newest revisions of a gateway, in memory and bounded: nodes that are a little behind get a delta from
//! them instead of a whole snapshot.

use std::collections::VecDeque;
use std::sync::Arc;

use model::digest::Digest;

use crate::store::{Head, RevisionRecord};

const MAX_RECORDS: usize = 1024;
const MAX_BYTES: usize = 16 << 20;

/// An unbroken series of revisions.
pub(super) struct Recent {
    /// What the first record follows.
    base: Head,
    records: VecDeque<Arc<RevisionRecord>>,
    bytes: usize,
}

impl Recent {
    pub(super) fn from(base: Head) -> Self {
        Self { base, records: VecDeque::new(), bytes: 0 }
    }

    /// The newest revision, with the digest that its author recorded.
    pub(super) fn newest(&self) -> Head {
        self.records.back().map_or(self.base, |record| head_after(record))
    }

    /// Adds the next revision and forgets the oldest where there is no room. One that is too large to be
    /// kept at all empties the series: sending the snapshot is cheaper than such a delta.
    pub(super) fn push(&mut self, record: Arc<RevisionRecord>) {
        debug_assert_eq!(record.revision.parent, self.newest().revision, "the series is unbroken");
        self.bytes += size(&record);
        self.records.push_back(record);
        while self.records.len() > MAX_RECORDS || self.bytes > MAX_BYTES {
            let Some(oldest) = self.records.pop_front() else { break };
            self.bytes -= size(&oldest);
            self.base = head_after(&oldest);
        }
    }

    pub(super) fn between(&self, after: u64, up_to: u64) -> Option<Vec<Arc<RevisionRecord>>> {
        if after > up_to || up_to > self.newest().revision {
            return None;
        }
        let first = usize::try_from(after.checked_sub(self.base.revision)?).ok()?;
        let count = usize::try_from(up_to - after).ok()?;
        Some(self.records.iter().skip(first).take(count).cloned().collect())
    }

    pub(super) fn digest_at(&self, revision: u64) -> Option<Digest> {
        match revision.checked_sub(self.base.revision)? {
            0 => Some(self.base.digest),
            steps => Some(self.records.get(usize::try_from(steps - 1).ok()?)?.revision.digest),
        }
    }
}

fn head_after(record: &RevisionRecord) -> Head {
    Head { revision: record.revision.number, digest: record.revision.digest }
}

fn size(record: &RevisionRecord) -> usize {
    let documents = record.changes.iter().flat_map(|change| [&change.before, &change.after]).flatten();
    documents.map(|document| document.spec.len()).sum::<usize>() + record.changes.len() * 128 + 256
}
