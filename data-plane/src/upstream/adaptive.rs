//! How many requests a service may have at a time so that they do not wait for one another there, as one core finds out: the
//! limit grows as long as answers take no longer than they do without pressure, and shrinks by as much as they take longer.
//! While they keep taking longer, the limit is halved now and then for a moment: if that does not help, it is not the crowd,
//! and so long is what answers take.
//!
//! Nothing here reads a clock. What is known is looked at when an answer comes, a few times a second.

use std::cell::Cell;

use model::resource::service::AdaptiveLimit;

/// Answers are judged together that came in this time, and no fewer than so many.
const WINDOW_NS: u64 = 100_000_000;
const WINDOW_ANSWERS: u32 = 10;

/// So many times as long as without pressure answers may take before the limit shrinks.
const TOLERANCE: f64 = 1.5;

/// In one window it shrinks by half at most.
const LEAST_GRADIENT: f64 = 0.5;

/// After so many windows in a row with slow answers it is tried whether half the limit makes a difference: if they take less
/// than this part of the time.
const TRY_AFTER: u32 = 50;
const DIFFERENCE: f64 = 0.8;

/// How much of what a window without pressure shows is believed.
const TRUST: f64 = 0.1;

/// The limit of one service on one core.
#[derive(Default)]
pub(super) struct Adaptive {
    limit: Cell<f64>,
    inside: Cell<u32>,
    /// How long an answer takes without pressure; nothing when that is not known.
    base_ns: Cell<f64>,
    window: Cell<Window>,
    /// Windows in a row with slow answers.
    slow_windows: Cell<u32>,
    trial: Cell<Option<Trial>>,
}

/// The limit is halved for a moment.
#[derive(Clone, Copy)]
struct Trial {
    limit: f64,
    mean_ns: f64,
    /// What had come in before is out.
    has_begun: bool,
}

/// What came since a moment.
#[derive(Clone, Copy, Default)]
struct Window {
    began_ns: u64,
    answers: u32,
    sum_ns: u64,
    most_inside: u32,
}

impl Adaptive {
    /// One more request, if it may come in: `percent` is the part of the limit that those of its kind have.
    pub(super) fn enter(&self, terms: AdaptiveLimit, percent: u32) -> bool {
        let limit = self.limit(terms);
        // One is always let in, or nothing would be found out.
        if self.inside.get() > 0 && f64::from(self.inside.get()) >= limit * f64::from(percent) / 100.0 {
            // It is wanted, so it may grow.
            self.seen(self.inside.get().max(limit as u32));
            return false;
        }
        self.inside.set(self.inside.get() + 1);
        self.seen(self.inside.get());
        true
    }

    pub(super) fn leave(&self) {
        self.inside.set(self.inside.get() - 1);
    }

    /// The limit as it is now.
    pub(super) fn limit(&self, terms: AdaptiveLimit) -> f64 {
        self.limit.get().clamp(f64::from(terms.min), f64::from(terms.max))
    }

    /// An answer took this long, or has not come in it.
    pub(super) fn took(&self, took_ns: u64, now_ns: u64, terms: AdaptiveLimit) {
        let mut window = self.window.get();
        if window.answers == 0 && window.began_ns == 0 {
            window.began_ns = now_ns;
        }
        window.answers += 1;
        window.sum_ns = window.sum_ns.saturating_add(took_ns);
        if window.answers < WINDOW_ANSWERS || now_ns.saturating_sub(window.began_ns) < WINDOW_NS {
            return self.window.set(window);
        }
        let mean_ns = (window.sum_ns / u64::from(window.answers)) as f64;
        match self.trial.take() {
            Some(trial) if !trial.has_begun => self.trial.set(Some(Trial { has_begun: true, ..trial })),
            Some(trial) => {
                if mean_ns > trial.mean_ns * DIFFERENCE {
                    self.base_ns.set(mean_ns);
                }
                self.limit.set(trial.limit);
            }
            None => self.judge(mean_ns, window.most_inside, terms),
        }
        self.window.set(Window { began_ns: now_ns, most_inside: self.inside.get(), ..Window::default() });
    }

    fn judge(&self, mean_ns: f64, most_inside: u32, terms: AdaptiveLimit) {
        let (limit, base_ns) = (self.limit(terms), self.base_ns.get());
        let is_under_pressure = f64::from(most_inside) * 2.0 >= limit;
        let is_slow = base_ns > 0.0 && mean_ns > base_ns * TOLERANCE;
        if base_ns == 0.0 || mean_ns < base_ns {
            self.base_ns.set(mean_ns);
        } else if !is_under_pressure && !is_slow {
            self.base_ns.set(base_ns + (mean_ns - base_ns) * TRUST);
        }
        self.slow_windows.set(if is_slow { self.slow_windows.get() + 1 } else { 0 });
        if self.slow_windows.get() >= TRY_AFTER {
            self.slow_windows.set(0);
            self.trial.set(Some(Trial { limit, mean_ns, has_begun: false }));
            return self.limit.set(limit / 2.0);
        }
        let gradient = (TOLERANCE * self.base_ns.get() / mean_ns.max(1.0)).clamp(LEAST_GRADIENT, 1.0);
        let next = if gradient < 1.0 || is_under_pressure { limit * gradient + limit.sqrt() } else { limit };
        self.limit.set(next.clamp(f64::from(terms.min), f64::from(terms.max)));
    }

    fn seen(&self, inside: u32) {
        let mut window = self.window.get();
        if inside > window.most_inside {
            window.most_inside = inside;
            self.window.set(window);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BinaryHeap;

    use proptest::prelude::*;

    use super::*;

    const TERMS: AdaptiveLimit = AdaptiveLimit { min: 4, max: 500 };
    const MS: u64 = 1_000_000;

    /// A service with so many workers, each of which takes so long for a request, under a load in a closed loop: what there is
    /// of clients asks again as soon as it is answered, or a while after it was refused.
    struct Simulation {
        adaptive: Adaptive,
        now_ns: u64,
        workers: usize,
        work_ns: u64,
        /// When each worker is free, soonest first.
        free: BinaryHeap<std::cmp::Reverse<u64>>,
        /// When a client asks (nothing), or is answered that asked at a time.
        events: BinaryHeap<std::cmp::Reverse<(u64, Option<u64>)>>,
        answered: u64,
        refused: u64,
    }

    impl Simulation {
        fn new(clients: usize, workers: usize, work_ns: u64) -> Self {
            let free = (0..workers).map(|_| std::cmp::Reverse(0)).collect();
            let events = (0..clients as u64).map(|client| std::cmp::Reverse((client * MS, None))).collect();
            let (adaptive, now_ns) = (Adaptive::default(), 0);
            Self { adaptive, now_ns, workers, work_ns, free, events, answered: 0, refused: 0 }
        }

        /// Goes on for so long, and tells how long an answer took on average, and the limit at the end.
        fn run(&mut self, for_ns: u64) -> (u64, f64) {
            let (end_ns, mut took_ns) = (self.now_ns + for_ns, 0);
            (self.answered, self.refused) = (0, 0);
            while let Some(std::cmp::Reverse((at_ns, asked_ns))) = self.events.pop() {
                self.now_ns = at_ns;
                let next = match asked_ns {
                    Some(asked_ns) => {
                        self.adaptive.leave();
                        self.adaptive.took(at_ns - asked_ns, at_ns, TERMS);
                        self.answered += 1;
                        took_ns += at_ns - asked_ns;
                        (at_ns + MS, None)
                    }
                    None if self.adaptive.enter(TERMS, 100) => {
                        let std::cmp::Reverse(free_ns) = self.free.pop().expect("there are workers");
                        let done_ns = free_ns.max(at_ns) + self.work_ns;
                        self.free.push(std::cmp::Reverse(done_ns));
                        (done_ns, Some(at_ns))
                    }
                    None => {
                        self.refused += 1;
                        (at_ns + 10 * MS, None)
                    }
                };
                self.events.push(std::cmp::Reverse(next));
                if self.now_ns >= end_ns {
                    break;
                }
            }
            (took_ns / self.answered.max(1), self.adaptive.limit(TERMS))
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]

        /// Whatever a service can take: it is kept busy, and its answers take no more than a few times as long as without a
        /// crowd, as they do without a limit.
        #[test]
        fn a_crowd_does_not_make_a_service_slow(workers in 8usize..40, work_ms in 5u64..50) {
            let mut crowd = Simulation::new(200, workers, work_ms * MS);
            crowd.run(10_000 * MS);
            let (took_ns, limit) = crowd.run(5_000 * MS);
            prop_assert!(took_ns <= 3 * work_ms * MS, "{took_ns} ns for {work_ms} ms, {limit} for {workers}");
            prop_assert!(limit >= workers as f64 * 0.8, "{limit} for {workers} workers");
            let could_ns = crowd.workers as u64 * 5_000 * MS / crowd.work_ns;
            prop_assert!(crowd.answered * 10 >= could_ns * 8, "{} of {could_ns}", crowd.answered);
        }
    }

    proptest! {
        /// Any terms and any times: the limit stays within its bounds.
        #[test]
        fn the_limit_stays_within_its_bounds(
            min in 1u32..50, more in 0u32..500,
            steps in prop::collection::vec((0u64..3_000 * MS, 0u64..200 * MS, any::<bool>()), 1..400),
        ) {
            let (terms, adaptive) = (AdaptiveLimit { min, max: min + more }, Adaptive::default());
            let (mut now_ns, mut inside) = (1, 0);
            for (took_ns, pause_ns, leaves) in steps {
                now_ns += pause_ns;
                inside += u32::from(adaptive.enter(terms, 100));
                prop_assert!(f64::from(inside) <= f64::from(terms.max).max(1.0));
                if leaves && inside > 0 {
                    inside -= 1;
                    adaptive.leave();
                    adaptive.took(took_ns, now_ns, terms);
                }
                let limit = adaptive.limit(terms);
                prop_assert!(limit >= f64::from(terms.min) && limit <= f64::from(terms.max), "{limit}");
            }
        }
    }

    #[test]
    fn a_few_requests_are_never_refused_and_a_service_that_becomes_slower_is_believed() {
        let mut few = Simulation::new(10, 50, 10 * MS);
        few.run(5_000 * MS);
        few.run(30_000 * MS);
        assert_eq!(few.refused, 0, "{}", few.adaptive.limit(TERMS));
        // What it does takes longer from now on, and no less for being asked less.
        for (clients, work_ms) in [(10, 30), (40, 20)] {
            let mut slower = Simulation::new(clients, 50, 10 * MS);
            slower.run(5_000 * MS);
            slower.work_ns = work_ms * MS;
            slower.run(30_000 * MS);
            slower.run(10_000 * MS);
            assert_eq!(slower.refused, 0, "{}", slower.adaptive.limit(TERMS));
        }
    }

    #[test]
    fn a_service_that_loses_its_workers_gets_less_and_more_when_they_are_back() {
        let mut crowd = Simulation::new(200, 40, 10 * MS);
        let (_, before) = crowd.run(10_000 * MS);
        crowd.free = (0..10).map(|_| std::cmp::Reverse(crowd.now_ns)).collect();
        let (_, fewer) = crowd.run(5_000 * MS);
        assert!(fewer < before / 2.0, "{fewer} after {before}");
        crowd.free = (0..40).map(|_| std::cmp::Reverse(crowd.now_ns)).collect();
        let (_, again) = crowd.run(10_000 * MS);
        assert!(again > 30.0, "{again} after {before}");
    }

    #[test]
    fn who_matters_less_is_refused_first_and_one_is_always_let_in() {
        let terms = AdaptiveLimit { min: 10, max: 10 };
        let adaptive = Adaptive::default();
        let enter = |percent| (0..100).take_while(|_| adaptive.enter(terms, percent)).count();
        assert_eq!([50, 100, 150, 150].map(enter), [5, 5, 5, 0]);
        let narrow = AdaptiveLimit { min: 1, max: 1 };
        let adaptive = Adaptive::default();
        assert!(adaptive.enter(narrow, 50) && !adaptive.enter(narrow, 50));
        adaptive.leave();
        assert!(adaptive.enter(narrow, 50));
    }
}
