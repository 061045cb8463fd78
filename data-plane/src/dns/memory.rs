//! What is known of a name, and when to ask again. It reads no clock.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::ask::{Record, Reply};

/// However short records live, a name is not asked for more often.
const LEAST_TTL: Duration = Duration::from_secs(1);

/// However long they live, a name is asked for again.
const MOST_TTL: Duration = Duration::from_secs(3600);

/// That there is nothing is not believed for longer (RFC 2308 section 5 leaves a bound to whoever remembers it).
const MOST_NEGATIVE_TTL: Duration = Duration::from_secs(30);

/// So many answers in a row must say that there is nothing where something was.
const BELIEVED: u32 = 3;

/// The first and the longest wait after no server had an answer (RFC 8767 section 5 asks for a bound).
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// What is known of a name and one type of records.
#[derive(Debug)]
pub struct Memory {
    /// What counts: the last answer with records, until others say often enough that there are none.
    good: Option<Arc<[Record]>>,
    trouble: Option<Trouble>,
    /// Replies of the same kind in a row that brought no records.
    in_a_row: u32,
    ask_at: Instant,
}

/// Why the last reply brought no records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    Nothing,
    Failed(String),
}

/// What holds of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// What counts. Empty if there never was anything, or is nothing any more.
    pub records: Arc<[Record]>,
    /// The last reply was no answer with records, even where what counts has some.
    pub trouble: Option<Trouble>,
    pub ask_at: Instant,
}

impl Memory {
    pub fn new(now: Instant) -> Self {
        Self { good: None, trouble: None, in_a_row: 0, ask_at: now }
    }

    pub fn is_due(&self, now: Instant) -> bool {
        self.ask_at <= now
    }

    /// There is something to go on with, should no answer come.
    pub fn is_good(&self) -> bool {
        self.good.is_some()
    }

    pub fn known(&self) -> Known {
        let (records, trouble) = (self.good.clone().unwrap_or_default(), self.trouble.clone());
        Known { records, trouble, ask_at: self.ask_at }
    }

    pub fn learn(&mut self, reply: Reply, now: Instant) {
        let wait = match reply {
            Reply::Records { records, ttl } => {
                (self.good, self.trouble, self.in_a_row) = (Some(records), None, 0);
                ttl.clamp(LEAST_TTL, MOST_TTL)
            }
            Reply::Nothing { ttl } => {
                self.in_a_row = if self.trouble == Some(Trouble::Nothing) { self.in_a_row + 1 } else { 1 };
                self.trouble = Some(Trouble::Nothing);
                if self.in_a_row >= BELIEVED {
                    self.good = None;
                }
                if self.good.is_some() { LEAST_TTL } else { ttl.clamp(LEAST_TTL, MOST_NEGATIVE_TTL) }
            }
            Reply::Failed(reason) => {
                let is_again = matches!(self.trouble, Some(Trouble::Failed(_)));
                self.in_a_row = if is_again { self.in_a_row + 1 } else { 1 };
                self.trouble = Some(Trouble::Failed(reason));
                let doubled = RETRY.0 * 2_u32.saturating_pow(self.in_a_row - 1).min(64);
                doubled.min(RETRY.1)
            }
        };
        self.ask_at = now + wait;
    }
}

impl Known {
    /// What holds of a name by records of two types, which are asked for one by one.
    pub fn and(self, other: Self) -> Self {
        let mut records = [&*self.records, &*other.records].concat();
        records.sort_unstable();
        let trouble = match (self.trouble, other.trouble) {
            (Some(Trouble::Failed(reason)), _) | (_, Some(Trouble::Failed(reason))) => Some(Trouble::Failed(reason)),
            (Some(Trouble::Nothing), Some(Trouble::Nothing)) => Some(Trouble::Nothing),
            // The one that has none need not have any; but what it had is in question.
            (Some(Trouble::Nothing), None) if !self.records.is_empty() => Some(Trouble::Nothing),
            (None, Some(Trouble::Nothing)) if !other.records.is_empty() => Some(Trouble::Nothing),
            _ => None,
        };
        Self { records: records.into(), trouble, ask_at: self.ask_at.min(other.ask_at) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn records(last: u8, ttl_secs: u64) -> Reply {
        let address = Record::Address(std::net::Ipv4Addr::new(10, 0, 0, last).into());
        Reply::Records { records: [address].into(), ttl: Duration::from_secs(ttl_secs) }
    }

    /// A memory with a clock of its own, which stands where the next question is due.
    struct Run {
        memory: Memory,
        now: Instant,
    }

    impl Run {
        fn new() -> Self {
            let now = Instant::now();
            Self { memory: Memory::new(now), now }
        }

        /// Learns at the time when the question is due; returns how long it waits then.
        fn learn(&mut self, reply: Reply) -> Duration {
            assert!(self.memory.is_due(self.now));
            self.memory.learn(reply, self.now);
            let wait = self.memory.known().ask_at - self.now;
            assert!(!self.memory.is_due(self.now + wait - Duration::from_millis(1)));
            self.now += wait;
            wait
        }

        fn len(&self) -> usize {
            self.memory.known().records.len()
        }
    }

    #[test]
    fn the_time_to_live_says_when_to_ask_within_bounds() {
        let mut run = Run::new();
        for (ttl_secs, wait_secs) in [(0, 1), (1, 1), (60, 60), (86_400, 3600)] {
            assert_eq!(run.learn(records(1, ttl_secs)), wait_secs * SECOND);
            assert_eq!((run.len(), run.memory.known().trouble), (1, None));
        }
    }

    #[test]
    fn failures_keep_what_was_good_and_are_followed_by_longer_and_longer_waits() {
        let mut run = Run::new();
        run.learn(records(1, 60));
        let waits: Vec<u64> = (0..7).map(|_| run.learn(Reply::Failed("no".into())).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!((run.len(), run.memory.known().trouble), (1, Some(Trouble::Failed("no".into()))));
        run.learn(records(2, 60));
        assert_eq!((run.learn(Reply::Failed("no".into())), run.len()), (SECOND, 1), "waits begin anew");
    }

    #[test]
    fn what_was_there_is_gone_after_three_answers_in_a_row() {
        let nothing = |ttl_secs| Reply::Nothing { ttl: Duration::from_secs(ttl_secs) };
        let mut run = Run::new();
        run.learn(records(1, 60));
        assert_eq!((run.learn(nothing(600)), run.len()), (SECOND, 1));
        assert_eq!((run.learn(nothing(600)), run.len()), (SECOND, 1));
        run.learn(Reply::Failed("no".into()));
        assert_eq!((run.learn(nothing(600)), run.len()), (SECOND, 1), "not in a row");
        run.learn(nothing(600));
        assert_eq!((run.learn(nothing(600)), run.len()), (30 * SECOND, 0));
        assert_eq!(run.learn(nothing(10)), 10 * SECOND);
        assert_eq!((run.learn(nothing(0)), run.memory.is_good()), (SECOND, false));
        // It is gone: a failure brings nothing back, and an answer does.
        run.learn(Reply::Failed("no".into()));
        assert_eq!(run.len(), 0);
        run.learn(records(2, 60));
        assert_eq!((run.len(), run.memory.known().trouble), (1, None));
    }

    #[test]
    fn a_name_with_addresses_of_one_kind_is_a_good_name() {
        let (mut four, mut six) = (Run::new(), Run::new());
        four.learn(records(1, 60));
        six.learn(Reply::Nothing { ttl: 10 * SECOND });
        let known = four.memory.known().and(six.memory.known());
        assert_eq!((known.records.len(), known.trouble, known.ask_at), (1, None, six.now));
        six.learn(Reply::Failed("no".into()));
        let known = six.memory.known().and(four.memory.known());
        assert_eq!((known.records.len(), known.trouble), (1, Some(Trouble::Failed("no".into()))));
    }
}
