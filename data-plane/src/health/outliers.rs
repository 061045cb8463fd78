//! Which targets are put out because their answers are not like those of the others, for how long, and how many at once.

use std::collections::HashMap;

use model::resource::service::{Latency, OutlierDetection, SuccessRate, TargetUrl};

use super::target::Counts;

/// The targets of a service that are out, or were of late.
#[derive(Default)]
pub(super) struct Outliers(HashMap<TargetUrl, Ejection>);

struct Ejection {
    /// How often it was put out, less what is forgiven.
    times: u32,
    is_out: bool,
    /// When its time is over, or when it came back.
    at_ms: u64,
}

impl Outliers {
    /// Until when a target is put out of a service that has `targets`; nothing if it stays in.
    pub(super) fn eject(
        &mut self,
        target: &TargetUrl,
        targets: usize,
        terms: &OutlierDetection,
        now_ms: u64,
    ) -> Option<u64> {
        let before = self.0.get(target);
        if before.is_some_and(|before| before.is_out) || !self.may_eject(targets, terms) {
            return None;
        }
        let base_ms = terms.base_ejection_time.as_millis();
        let times = before.map_or(0, |before| {
            let forgiven = now_ms.saturating_sub(before.at_ms) / base_ms.max(1);
            before.times.saturating_sub(u32::try_from(forgiven).unwrap_or(u32::MAX))
        });
        Some(self.put_out(target, times + 1, terms, now_ms))
    }

    /// The time of a target is over, and it is no better: it stays out for longer.
    pub(super) fn eject_again(&mut self, target: &TargetUrl, terms: &OutlierDetection, now_ms: u64) -> u64 {
        let times = self.0.get(target).map_or(0, |before| before.times);
        self.put_out(target, times.saturating_add(1), terms, now_ms)
    }

    fn put_out(&mut self, target: &TargetUrl, times: u32, terms: &OutlierDetection, now_ms: u64) -> u64 {
        let span_ms = terms.base_ejection_time.as_millis().saturating_mul(u64::from(times));
        let at_ms = now_ms + span_ms.min(terms.max_ejection_time.as_millis());
        self.0.insert(target.clone(), Ejection { times, is_out: true, at_ms });
        at_ms
    }

    /// A part of the targets, but one in any case, unless it is the only one.
    fn may_eject(&self, targets: usize, terms: &OutlierDetection) -> bool {
        let out = self.0.values().filter(|ejection| ejection.is_out).count();
        let most = terms.max_ejection_percent.of(targets as u64).max(1);
        out + 1 < targets && (out as u64) < most
    }

    /// The targets whose time is over. They are out until they are let in or put out again.
    pub(super) fn due(&self, now_ms: u64) -> Vec<TargetUrl> {
        let due = self.0.iter().filter(|(_, ejection)| ejection.is_out && ejection.at_ms <= now_ms);
        due.map(|(target, _)| target.clone()).collect()
    }

    pub(super) fn let_in(&mut self, target: &TargetUrl, now_ms: u64) {
        if let Some(ejection) = self.0.get_mut(target) {
            (ejection.is_out, ejection.at_ms) = (false, now_ms);
        }
    }

    /// Forgets targets that are not there any more, and those that behave.
    pub(super) fn keep(&mut self, is_there: impl Fn(&TargetUrl) -> bool, terms: &OutlierDetection, now_ms: u64) {
        let base_ms = terms.base_ejection_time.as_millis();
        self.0.retain(|target, ejection| {
            let forgiven_ms = ejection.at_ms + base_ms.saturating_mul(u64::from(ejection.times));
            is_there(target) && (ejection.is_out || now_ms < forgiven_ms)
        });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The targets with far fewer good answers than the others: below the mean by so many standard deviations.
pub(super) fn failing(counts: &[Counts], terms: &SuccessRate) -> Vec<(usize, String)> {
    let rate = |counts: &Counts| 1.0 - counts.failures as f64 / counts.requests as f64;
    let Some(judged) = judged(counts, terms.minimum_requests, terms.minimum_targets) else { return Vec::new() };
    let rates: Vec<f64> = judged.iter().map(|(_, counts)| rate(counts)).collect();
    let mean = rates.iter().sum::<f64>() / rates.len() as f64;
    let variance = rates.iter().map(|rate| (rate - mean).powi(2)).sum::<f64>() / rates.len() as f64;
    let least = mean - terms.stdev_factor * variance.sqrt();
    let is_out = |(_, rate): &(_, f64)| *rate < least;
    let why = |rate: f64| format!("{:.1}% of its answers are good, {:.1}% of all", rate * 100.0, mean * 100.0);
    judged.iter().zip(rates).filter(is_out).map(|((place, _), rate)| (*place, why(rate))).collect()
}

/// The targets whose answers take far longer than those of the others: so many times the median.
pub(super) fn slow(counts: &[Counts], terms: &Latency) -> Vec<(usize, String)> {
    let Some(judged) = judged(counts, terms.minimum_requests, terms.minimum_targets) else { return Vec::new() };
    let mean_us = |counts: &Counts| counts.answers_us as f64 / (counts.requests - counts.failures).max(1) as f64;
    let mut means: Vec<f64> = judged.iter().map(|(_, counts)| mean_us(counts)).collect();
    means.sort_by(f64::total_cmp);
    // Of two in the middle the lower, so that with two targets the slower one can be told.
    let median = means[(means.len() - 1) / 2];
    let most = (median * terms.factor).max(terms.minimum.as_millis() as f64 * 1000.0);
    let why =
        |us: f64| format!("its answers take {:.1} ms, half of the targets take up to {:.1} ms", us / 1e3, median / 1e3);
    let slow = judged.iter().map(|(place, counts)| (*place, mean_us(counts))).filter(|(_, us)| *us > most);
    slow.map(|(place, us)| (place, why(us))).collect()
}

/// The targets with enough requests to be judged by, if they are enough to compare.
fn judged(counts: &[Counts], minimum_requests: u64, minimum_targets: u32) -> Option<Vec<(usize, &Counts)>> {
    let judged: Vec<_> = counts.iter().enumerate().filter(|(_, of)| of.requests >= minimum_requests.max(1)).collect();
    (judged.len() >= (minimum_targets as usize).max(2)).then_some(judged)
}
