//! The newest revisions of a gateway, in memory and bounded: nodes that are a little behind get a delta from
//! them instead of a whole snapshot.

use std::collections::VecDeque;
use std::sync::Arc;

use model::digest::Digest;
use time::OffsetDateTime;

use crate::store::{Head, RevisionRecord};

const MAX_RECORDS: usize = 1024;
const MAX_BYTES: usize = 16 << 20;

/// An unbroken series of revisions.
pub(super) struct Recent {
    /// What the first record follows.
    base: Head,
    /// When that was published, or later.
    base_at: OffsetDateTime,
    records: VecDeque<Arc<RevisionRecord>>,
    bytes: usize,
}

impl Recent {
    pub(super) fn from(base: Head, base_at: OffsetDateTime) -> Self {
        Self { base, base_at, records: VecDeque::new(), bytes: 0 }
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
            self.base_at = oldest.revision.created_at;
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

    /// When a revision ceased to be the newest; later than that for one from before the series. Nothing for the newest.
    pub(super) fn superseded_at(&self, revision: u64) -> Option<OffsetDateTime> {
        if revision >= self.newest().revision {
            return None;
        }
        let Some(steps) = revision.checked_sub(self.base.revision) else { return Some(self.base_at) };
        Some(self.records.get(usize::try_from(steps).ok()?)?.revision.created_at)
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

    use super::*;
    use crate::store::{ResourceChange, Revision};

    #[test]
    fn the_oldest_are_forgotten_and_the_rest_stays_unbroken() {
        let mut recent = Recent::from(Head { revision: 5, digest: digest(5) }, time_of(5));
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
        let mut recent = Recent::from(Head { revision: 0, digest: digest(0) }, time_of(0));
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
            created_at: time_of(number),
            digest: digest(number),
            change_count: 1,
        };
        let key = Key::new(Kind::Service, "a".parse().expect("a name"));
        let after = Some(Document { created: 1, spec: "x".repeat(size).into() });
        Arc::new(RevisionRecord { revision, changes: [ResourceChange { key, before: None, after }].into() })
    }

    #[test]
    fn it_is_known_since_when_a_revision_is_old_and_for_the_oldest_at_least() {
        let mut recent = Recent::from(Head { revision: 5, digest: digest(5) }, time_of(5));
        assert_eq!((recent.superseded_at(5), recent.superseded_at(6)), (None, None));
        assert_eq!(recent.superseded_at(3), Some(time_of(5)));
        for number in 6..=5 + MAX_RECORDS as u64 + 10 {
            recent.push(record(number, 10));
        }
        assert_eq!(recent.superseded_at(3), Some(time_of(15)), "no longer ago than is known");
        assert_eq!(recent.superseded_at(15), Some(time_of(16)));
        let newest = recent.newest().revision;
        assert_eq!((recent.superseded_at(newest - 1), recent.superseded_at(newest)), (Some(time_of(newest)), None));
    }

    fn time_of(number: u64) -> OffsetDateTime {
        OffsetDateTime::UNIX_EPOCH + std::time::Duration::from_secs(number)
    }

    fn digest(number: u64) -> Digest {
        Digest::of_resource("revision", "", number, "")
    }
}
