//! How long a first attempt is waited for before there is a second beside it: a percentile of how long answers took of late.
//!
//! Times are counted in buckets that grow with what they hold, an eighth of a power of two wide. What is old weighs half as
//! much after every so many answers, so that it follows a service that changes.

use std::cell::{OnceCell, RefCell};
use std::time::Duration;

use model::resource::service::Hedging;

/// Times below this fall into a bucket of their own for each microsecond.
const SUB_BUCKETS: u64 = 8;
const SUB_BITS: u32 = SUB_BUCKETS.trailing_zeros();

/// The last bucket ends at 134 seconds: longer times count as that.
const BITS: u32 = 27;
const BUCKETS: usize = ((BITS - SUB_BITS) as usize + 1) * SUB_BUCKETS as usize;

/// With fewer answers nothing is known.
const ENOUGH: u32 = 50;

/// After so many answers what is counted is halved.
const MEMORY: u32 = 2048;

/// How many answers change so little that it need not be worked out anew.
const WORTH_A_LOOK: u32 = 16;

/// How long answers of a service took of late, as one core sees it. It takes room only where somebody asks.
#[derive(Default)]
pub(in crate::upstream) struct Recent(OnceCell<Box<RefCell<Counted>>>);

struct Counted {
    buckets: [u16; BUCKETS],
    total: u32,
    /// Answers since the delay was worked out, which was by these terms.
    since: u32,
    worked_out: Option<(Hedging, Duration)>,
}

impl Recent {
    /// A first attempt was answered after this time, or given up after it.
    pub(in crate::upstream) fn took(&self, took_ns: u64) {
        let mut counted = self.counted().borrow_mut();
        counted.buckets[bucket_of(took_ns / 1000)] += 1;
        counted.total += 1;
        counted.since += 1;
        if counted.total >= MEMORY {
            counted.buckets.iter_mut().for_each(|count| *count /= 2);
            counted.total = counted.buckets.iter().map(|count| u32::from(*count)).sum();
        }
    }

    /// How long the next one is waited for.
    pub(in crate::upstream) fn delay(&self, terms: Hedging) -> Duration {
        let mut counted = self.counted().borrow_mut();
        if let Some((by, delay)) = counted.worked_out
            && by == terms
            && counted.since < WORTH_A_LOOK
        {
            return delay;
        }
        if counted.total < ENOUGH {
            return terms.initial_delay.get();
        }
        let delay = counted.percentile(terms).max(terms.min_delay.get());
        (counted.since, counted.worked_out) = (0, Some((terms, delay)));
        delay
    }

    fn counted(&self) -> &RefCell<Counted> {
        let nothing = || Counted { buckets: [0; BUCKETS], total: 0, since: 0, worked_out: None };
        self.0.get_or_init(|| Box::new(RefCell::new(nothing())))
    }
}

impl Counted {
    /// The end of the bucket that the percentile lies in.
    fn percentile(&self, terms: Hedging) -> Duration {
        let below = terms.percentile.of(self.total.into());
        let mut seen = 0;
        let bucket = self.buckets.iter().position(|count| {
            seen += u64::from(*count);
            seen > below
        });
        Duration::from_micros(end_of(bucket.unwrap_or(BUCKETS - 1)))
    }
}

fn bucket_of(micros: u64) -> usize {
    let micros = micros.min((1 << BITS) - 1);
    let bucket = if micros < SUB_BUCKETS {
        micros
    } else {
        let shift = micros.ilog2() - SUB_BITS;
        (u64::from(shift) + 1) * SUB_BUCKETS + (micros >> shift) - SUB_BUCKETS
    };
    usize::try_from(bucket).expect("there are few")
}

/// The least time that is beyond a bucket.
fn end_of(bucket: usize) -> u64 {
    let next = bucket as u64 + 1;
    match next.checked_sub(SUB_BUCKETS) {
        None | Some(0) => next,
        Some(beyond) => (SUB_BUCKETS + beyond % SUB_BUCKETS) << (beyond / SUB_BUCKETS),
    }
}

#[cfg(test)]
mod tests {
    use model::value::Span;
    use proptest::prelude::*;

    use super::*;

    const LONG: u64 = 200_000_000;

    fn terms(percentile: &str) -> Hedging {
        let percentile = percentile.parse().expect("a percentage");
        Hedging { percentile, min_delay: Span::from_millis(1), ..Hedging::default() }
    }

    proptest! {
        /// Oracle: of all times in order, the one at the place of the percentile. It is at most an eighth below what comes out.
        #[test]
        fn the_percentile_is_that_of_a_sorted_list(
            mut micros in prop::collection::vec(prop_oneof![0u64..100, 1_000u64..100_000, 0u64..LONG], 50..1000),
            percentile in prop::sample::select(vec!["50%", "90%", "95%", "99.9%"]),
        ) {
            let (recent, terms) = (Recent::default(), terms(percentile));
            micros.iter().for_each(|micros| recent.took(micros * 1000));
            micros.sort_unstable();
            let place = terms.percentile.of(micros.len() as u64);
            let exact = micros[usize::try_from(place).expect("small")].min((1 << BITS) - 1);
            let delay = u64::try_from(recent.delay(terms).as_micros()).expect("minutes");
            prop_assert!(delay >= exact && delay <= (exact + exact / 8 + 1).max(1000), "{delay} for {exact}");
        }

        #[test]
        fn buckets_follow_one_another(micros in 0u64..1 << BITS) {
            let bucket = bucket_of(micros);
            prop_assert!(bucket < BUCKETS && micros < end_of(bucket));
            prop_assert!(bucket == 0 || micros >= end_of(bucket - 1));
        }
    }

    #[test]
    fn little_is_known_at_first_and_no_delay_is_too_short() {
        let recent = Recent::default();
        let terms = Hedging::default();
        for _ in 0..ENOUGH - 1 {
            recent.took(1000);
        }
        assert_eq!(recent.delay(terms), Duration::from_millis(100));
        recent.took(1000);
        assert_eq!(recent.delay(terms), Duration::from_millis(10));
        let least = Hedging { min_delay: Span::from_millis(30), ..terms };
        assert_eq!(recent.delay(least), Duration::from_millis(30), "other terms count at once");
    }

    #[test]
    fn a_service_that_changes_is_followed() {
        let (recent, terms) = (Recent::default(), terms("95%"));
        let delay_after = |answers: u32, took_ms: u64| {
            (0..answers).for_each(|_| recent.took(took_ms * 1_000_000));
            recent.delay(terms).as_millis()
        };
        assert!((2..=3).contains(&delay_after(10_000, 2)));
        assert!((80..=90).contains(&delay_after(300, 80)), "slower answers soon count");
        assert!((2..=3).contains(&delay_after(10_000, 2)), "and are forgotten");
    }
}
