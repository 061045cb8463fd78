//! How many requests of a service may be tried again: a part of those that one core has sent it lately. A request that goes
//! well pays one count for it; time is looked at only when something is to be tried again.

use std::cell::Cell;

use model::resource::service::RetryBudget;

const WINDOW_NS: u64 = 10_000_000_000;

/// The requests and retries of one service on one core.
#[derive(Default)]
pub(in crate::upstream) struct Budget {
    requests: Cell<u64>,
    window: Cell<Window>,
}

/// What had happened when a window began, and how much happens in a window before it.
#[derive(Clone, Copy, Default)]
struct Window {
    began_ns: u64,
    requests_before: u64,
    retries: u64,
    last_requests: u64,
    last_retries: u64,
}

impl Budget {
    /// A request is about to be sent for the first time.
    pub(in crate::upstream) fn request(&self) {
        self.requests.set(self.requests.get().wrapping_add(1));
    }

    /// Takes one retry out, if there is one left.
    pub(in crate::upstream) fn take(&self, terms: RetryBudget, now_ns: u64) -> bool {
        let mut window = self.window.get().at(now_ns, self.requests.get());
        let here = self.requests.get().wrapping_sub(window.requests_before);
        let elapsed_ns = now_ns - window.began_ns;
        // The part of the window before that is within the last ten seconds, as if all came evenly in it.
        let with_last =
            |count: u64, last: u64| count.saturating_add(scaled(last, WINDOW_NS.saturating_sub(elapsed_ns), WINDOW_NS));
        let allowed = terms.percent.of(with_last(here, window.last_requests))
            + u64::from(terms.per_second) * (WINDOW_NS / 1_000_000_000);
        let is_left = with_last(window.retries, window.last_retries) < allowed;
        window.retries += u64::from(is_left);
        self.window.set(window);
        is_left
    }
}

impl Window {
    /// The window of a moment; a new one if this has ended. If nobody asked for longer than a window, what has come since is
    /// taken to have come evenly: a rate that is true on average keeps the bound on average.
    fn at(self, now_ns: u64, requests: u64) -> Self {
        let elapsed_ns = now_ns.saturating_sub(self.began_ns);
        if elapsed_ns < WINDOW_NS {
            return self;
        }
        let came = requests.wrapping_sub(self.requests_before);
        Self {
            began_ns: now_ns,
            requests_before: requests,
            retries: 0,
            last_requests: scaled(came, WINDOW_NS, elapsed_ns),
            last_retries: scaled(self.retries, WINDOW_NS, elapsed_ns),
        }
    }
}

fn scaled(count: u64, part: u64, whole: u64) -> u64 {
    u64::try_from(u128::from(count) * u128::from(part) / u128::from(whole.max(1))).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn terms(percent: &str, per_second: u32) -> RetryBudget {
        RetryBudget { percent: percent.parse().expect("a percentage"), per_second }
    }

    #[test]
    fn a_service_that_fails_always_gets_its_part_more_and_not_a_retry_beyond() {
        let (budget, terms) = (Budget::default(), terms("20%", 0));
        let mut retries = 0;
        // A hundred requests a second, each of which would be tried again.
        for moment in 0..6000u64 {
            budget.request();
            retries += u64::from(budget.take(terms, moment * SECOND / 100));
        }
        assert!((1150..=1250).contains(&retries), "{retries} of 6000");
    }

    #[test]
    fn a_quiet_service_has_its_floor() {
        let (budget, terms) = (Budget::default(), terms("0%", 3));
        let taken = |second: u64| (0..100).filter(|_| budget.take(terms, second * SECOND)).count();
        assert_eq!(taken(1000), 30);
        assert_eq!(taken(1001), 0);
        assert_eq!(taken(1011), 3, "as much as the older retries have left the last ten seconds by");
        assert_eq!(taken(2000), 30);
    }

    #[test]
    fn requests_of_long_ago_are_no_credit() {
        let (budget, terms) = (Budget::default(), terms("20%", 0));
        assert!(!budget.take(terms, SECOND));
        for _ in 0..1_000_000 {
            budget.request();
        }
        let taken = (0..1_000_000).filter(|_| budget.take(terms, 100_000 * SECOND)).count();
        assert!(taken <= 20, "{taken}");
    }

    proptest! {
        /// Whatever the pattern of requests and failures: in the long run no more is tried again than the part and the floor.
        #[test]
        fn retries_stay_within_their_part(
            steps in prop::collection::vec((0u64..3 * SECOND, 0u64..200, 0u64..400), 1..60),
            per_second in 0u32..10,
        ) {
            let (budget, terms) = (Budget::default(), terms("20%", per_second));
            let (mut now_ns, mut requests, mut retries) = (0, 0, 0);
            for (pause, come, wanted) in steps {
                now_ns += pause;
                (0..come).for_each(|_| budget.request());
                requests += come;
                retries += (0..wanted).filter(|_| budget.take(terms, now_ns)).count() as u64;
                let floor = u64::from(per_second) * (now_ns / SECOND + 10);
                // Twice in a window at the worst, as it may be taken at its end and at the beginning of the next.
                prop_assert!(retries <= 2 * (requests / 5 + floor), "{retries} of {requests}");
            }
        }
    }
}
