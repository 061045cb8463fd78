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

#[cfg(test)]
mod tests {
    use model::resource::{Document, Key, Kind};
    use time::OffsetDateTime;

    use super::*;
    use crate::store::{ResourceChange, Revision};

    #[test]
    fn the_oldest_are_forgotten_and_the_rest_stays_unbroken() {
        let mut recent = Recent::from(Head { revision: 5, digest: digest(5) });
        for number in 6..=5 + MAX_RECORDS as u64 + 10 {
            recent.push(record(number, 10));
        }
        let newest = recent.newest().revision;
        assert_eq!(newest, 5 + MAX_RECORDS as u64 + 10);
        assert_eq!(recent.between(14, newest), None);
        assert_eq!(recent.digest_at(14), None);
        for after in 15..=newest {
            let numbers =
                recent.between(after, newest).map(|records| records.iter().map(|r| r.revision.number).collect());
            assert_eq!(numbers, Some((after + 1..=newest).collect::<Vec<_>>()));
            assert_eq!(recent.digest_at(after), Some(digest(after)));
        }
    }

    #[test]
    fn a_revision_that_is_too_large_empties_the_series() {
        let mut recent = Recent::from(Head { revision: 0, digest: digest(0) });
        recent.push(record(1, 10));
        recent.push(record(2, MAX_BYTES));
        assert_eq!(recent.between(1, 2), None);
        assert_eq!(recent.between(2, 2), Some(vec![]));
        recent.push(record(3, 10));
        assert_eq!(recent.between(2, 3).map(|records| records.len()), Some(1));
    }

    fn record(number: u64, size: usize) -> Arc<RevisionRecord> {
        let revision = Revision {
            number,
            parent: number - 1,
            author: String::new(),
            message: String::new(),
            created_at: OffsetDateTime::UNIX_EPOCH,
            digest: digest(number),
            change_count: 1,
        };
        let key = Key::new(Kind::Service, "a".parse().expect("a name"));
        let after = Some(Document { created: 1, spec: "x".repeat(size).into() });
        Arc::new(RevisionRecord { revision, changes: [ResourceChange { key, before: None, after }].into() })
    }

    fn digest(number: u64) -> Digest {
        Digest::of_resource("revision", "", number, "")
    }
}
