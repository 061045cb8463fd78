//! Decisions on a clock of the tests' own.

use model::resource::service::{HealthCheck, Latency, OutlierDetection, SuccessRate};
use model::value::Percentage;
use proptest::prelude::*;
use serde_json::json;

use super::outliers::{Outliers, failing, slow};
use super::target::Counts;
use super::verdict::{Verdict, pause};
use super::*;

const SECOND: u64 = 1_000;

fn url(number: usize) -> TargetUrl {
    format!("http://10.0.0.{number}:80").parse().expect("a target")
}

#[test]
fn ejections_grow_and_good_times_are_forgiven() {
    let terms = OutlierDetection::default();
    let mut outliers = Outliers::default();
    let mut now_ms = 0;
    for times in [1, 2, 3] {
        let until_ms = outliers.eject(&url(0), 4, &terms, now_ms).expect("it goes");
        assert_eq!(until_ms, now_ms + times * 30 * SECOND);
        assert_eq!(outliers.eject(&url(0), 4, &terms, now_ms), None, "it is out");
        assert!(outliers.due(until_ms - 1).is_empty());
        assert_eq!(outliers.due(until_ms), [url(0)]);
        outliers.let_in(&url(0), until_ms);
        assert!(outliers.due(u64::MAX).is_empty());
        now_ms = until_ms + 1;
    }
    // A minute well is two times less.
    now_ms += 60 * SECOND;
    assert_eq!(outliers.eject(&url(0), 4, &terms, now_ms), Some(now_ms + 60 * SECOND));
    for _ in 0..20 {
        now_ms = outliers.eject_again(&url(0), &terms, now_ms);
    }
    assert_eq!(outliers.eject_again(&url(0), &terms, now_ms), now_ms + 300 * SECOND, "no longer than the longest");
    outliers.let_in(&url(0), now_ms);
    outliers.keep(|_| true, &terms, now_ms + 3600 * SECOND);
    assert!(outliers.is_empty(), "an hour well, and nothing is known of it");
}

#[test]
fn a_target_that_left_is_forgotten() {
    let terms = OutlierDetection::default();
    let mut outliers = Outliers::default();
    outliers.eject(&url(0), 3, &terms, 0).expect("it goes");
    outliers.keep(|target| *target != url(0), &terms, 1);
    assert!(outliers.is_empty());
}

proptest! {
    /// Never all of them, never more than the part that is allowed, besides one.
    #[test]
    fn the_rest_stays(targets in 1..40_usize, percent in 0..101_u32, asked in proptest::collection::vec(0..40_usize, 0..80)) {
        let terms = OutlierDetection { max_ejection_percent: Percentage::whole(percent), ..OutlierDetection::default() };
        let mut outliers = Outliers::default();
        let mut out = 0;
        for number in asked.into_iter().filter(|number| *number < targets) {
            out += usize::from(outliers.eject(&url(number), targets, &terms, 0).is_some());
            prop_assert!(out < targets);
            prop_assert!(out <= 1 || out as u64 <= terms.max_ejection_percent.of(targets as u64));
        }
    }
}

fn counts(requests: u64, failures: u64, answer_ms: u64) -> Counts {
    Counts { requests, failures, answers_us: requests * answer_ms * 1000 }
}

#[test]
fn the_target_that_fails_more_than_the_others_is_found() {
    let terms = SuccessRate::default();
    let mut all = vec![counts(1000, 3, 5); 9];
    let found = |all: &[Counts]| failing(all, &terms).into_iter().map(|(place, _)| place).collect::<Vec<_>>();
    assert!(found(&all).is_empty(), "all are the same");
    all.push(counts(1000, 400, 5));
    assert_eq!(found(&all), [9]);
    all[9].requests = 99;
    assert!(found(&all).is_empty(), "too few to tell");
    all[9] = counts(1000, 400, 5);
    assert!(failing(&all[6..], &terms).is_empty(), "too few to compare");
    assert!(found(&vec![counts(1000, 1000, 5); 10]).is_empty(), "nobody is better");
}

#[test]
fn the_target_that_is_slower_than_the_others_is_found() {
    let terms = Latency::default();
    let found = |all: &[Counts]| slow(all, &terms).into_iter().map(|(place, _)| place).collect::<Vec<_>>();
    assert_eq!(found(&[counts(50, 0, 10), counts(50, 0, 2000), counts(50, 0, 12)]), [1]);
    assert!(found(&[counts(50, 0, 10), counts(50, 0, 90), counts(50, 0, 12)]).is_empty(), "it is quick enough");
    assert!(found(&[counts(50, 0, 400), counts(50, 0, 1500), counts(50, 0, 500)]).is_empty(), "all are slow");
    assert!(found(&[counts(50, 0, 10), counts(19, 0, 2000), counts(50, 0, 12)]).is_empty(), "too few to tell");
}

#[test]
fn checks_must_agree_before_a_target_goes_or_comes() {
    let terms: HealthCheck = serde_json::from_value(json!({"tcp": {}})).expect("a check");
    let mut verdict = Verdict::default();
    let mut hear = |passed: bool| verdict.hear(passed, &terms);
    assert_eq!(hear(false), Some(false), "the first counts at once");
    assert_eq!([hear(true), hear(false), hear(true)], [None; 3]);
    assert_eq!(hear(true), Some(true));
    assert_eq!([hear(false), hear(false), hear(true), hear(false), hear(false)], [None; 5]);
    assert_eq!(hear(false), Some(false));
    assert_eq!(hear(false), None);
}

#[test]
fn pauses_are_up_to_a_tenth_shorter() {
    let terms: HealthCheck = serde_json::from_value(json!({"tcp": {}})).expect("a check");
    assert_eq!((pause(&terms, 0.0).as_millis(), pause(&terms, 1.0).as_millis()), (5000, 4500));
}

#[test]
fn a_success_ends_a_row_of_failures_and_probation_is_one_failure_long() {
    let health = Health::default();
    let mut events = health.0.received.lock().take().expect("not taken yet");
    let service = health.service(&"shop".parse().expect("a name"));
    let target = TargetHealth::default();
    let mut failing = |count: usize| {
        for _ in 0..count {
            service.failed(&url(0), &target, 5);
        }
        let mut told = 0;
        while events.try_recv().is_ok() {
            told += 1;
        }
        told
    };
    assert_eq!(failing(4), 0);
    target.succeeded();
    assert_eq!(failing(4), 0);
    assert_eq!(failing(1), 1);
    assert_eq!(failing(5), 1, "it is said again as long as nothing comes of it");
    target.put_on_probation(5);
    assert_eq!(failing(1), 1);
}

#[test]
fn cores_see_a_change_only_when_there_is_one() {
    let health = Health::default();
    let service = health.service(&"shop".parse().expect("a name"));
    service.targets.lock().insert(url(0), Arc::default());
    let out = |cause| Some(trouble(cause, "it is so".into(), None));
    let seen = service.generation();
    service.set(&url(0), Cause::Check, out(Cause::Check));
    assert_eq!((service.generation(), health.troubles(9).len()), (seen + 1, 1));
    service.set(&url(0), Cause::Outlier, out(Cause::Outlier));
    service.set(&url(0), Cause::Outlier, out(Cause::Outlier));
    assert_eq!(service.generation(), seen + 2);
    service.set(&url(0), Cause::Check, None);
    let target = service.target(&url(0)).expect("it is known");
    assert!(!target.is_healthy() && target.troubles().len() == 1, "the other cause is left");
    service.set(&url(0), Cause::Outlier, None);
    assert!(target.is_healthy() && health.troubles(9).is_empty());
}
