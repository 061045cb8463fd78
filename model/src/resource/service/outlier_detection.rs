//! Which targets get no requests for a while because of how they answered.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::problem::Fault;
use crate::value::{Percentage, Span};

/// Which targets get no requests for a while because of how they answered: they are ejected. A target that is the only one
/// of its service is never ejected. When its time is over, a target must take a connection before it gets requests again,
/// and the first one that fails ejects it once more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OutlierDetection {
    /// A target is ejected when so many of its requests have failed one after the other, as all cores of a node see it:
    /// no connection, none after half a second, no answer in time, a connection that broke, a 5xx status besides 501
    /// and 505, or the end of a call of gRPC with unknown, internal, unavailable, data_loss, no code, or deadline_exceeded
    /// where the client has set no deadline. 0 switches it off. Default: 5.
    #[serde(skip_serializing_if = "is_default_failures")]
    pub consecutive_failures: u32,
    /// How long a target is ejected, the first time; each further time by as much longer. Good times are forgiven at the
    /// same pace. Default: 30s.
    #[serde(skip_serializing_if = "is_default_base")]
    pub base_ejection_time: Span,
    /// However often, no longer than this. Default: 5m.
    #[serde(skip_serializing_if = "is_default_max")]
    pub max_ejection_time: Span,
    /// No more than this part of the targets at the same time, but always one. Default: 50%.
    #[serde(skip_serializing_if = "is_default_part")]
    pub max_ejection_percent: Percentage,
    /// How often `success_rate` and `latency` are judged, by what has come since. Default: 10s.
    #[serde(skip_serializing_if = "is_default_interval")]
    pub interval: Span,
    /// Also eject targets with far fewer good answers than the others. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub success_rate: Option<SuccessRate>,
    /// Also eject targets whose answers take far longer than those of the others. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency: Option<Latency>,
}

/// Targets with far fewer good answers than the others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SuccessRate {
    /// So many standard deviations below the mean of the targets. Default: 1.9. 0.1 to 10.
    pub stdev_factor: f64,
    /// Targets with fewer requests in the interval are not judged. Default: 100.
    pub minimum_requests: u64,
    /// With fewer targets to be judged, none is. Default: 5. At least 2.
    pub minimum_targets: u32,
}

/// Targets whose answers take far longer than those of the others.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Latency {
    /// So many times the median of the targets, by the mean of each until the head of its answers. Default: 5. 1.5 to 100.
    pub factor: f64,
    /// Targets that are faster than this are never slow. Default: 100ms.
    pub minimum: Span,
    /// Targets with fewer requests in the interval are not judged. Default: 20.
    pub minimum_requests: u64,
    /// With fewer targets to be judged, none is. Default: 3. At least 2.
    pub minimum_targets: u32,
}

const FAILURES: u32 = 5;
const BASE: Span = Span::from_secs(30);
const MAX: Span = Span::from_secs(300);
const PART: Percentage = Percentage::whole(50);
const INTERVAL: Span = Span::from_secs(10);

impl Default for OutlierDetection {
    fn default() -> Self {
        Self {
            consecutive_failures: FAILURES,
            base_ejection_time: BASE,
            max_ejection_time: MAX,
            max_ejection_percent: PART,
            interval: INTERVAL,
            success_rate: None,
            latency: None,
        }
    }
}

impl Default for SuccessRate {
    fn default() -> Self {
        Self { stdev_factor: 1.9, minimum_requests: 100, minimum_targets: 5 }
    }
}

impl Default for Latency {
    fn default() -> Self {
        Self { factor: 5.0, minimum: Span::from_millis(100), minimum_requests: 20, minimum_targets: 3 }
    }
}

impl OutlierDetection {
    /// Whether what targets answer is counted, and not only what fails in a row.
    #[must_use]
    pub fn counts(&self) -> bool {
        self.success_rate.is_some() || self.latency.is_some()
    }

    pub(super) fn check(&self, faults: &mut Vec<Fault>) {
        let mut wrong = |field: &str, message: String, hint: &str| {
            faults.push(Fault::new(format!("/outlier_detection/{field}"), "invalid-value", message).hint(hint));
        };
        if self.base_ejection_time.as_millis() < 100 || self.base_ejection_time > self.max_ejection_time {
            let message = format!("an ejection of {} is out of range", self.base_ejection_time);
            wrong("base_ejection_time", message, "write `100ms` up to `max_ejection_time`");
        }
        if self.max_ejection_time > Span::from_secs(86_400) {
            let message = format!("an ejection of {} is out of range", self.max_ejection_time);
            wrong("max_ejection_time", message, "write `24h` at most");
        }
        if self.interval.as_millis() < 1000 || self.interval > Span::from_secs(3600) {
            wrong("interval", format!("an interval of {} is out of range", self.interval), "write `1s` to `1h`");
        }
        if let Some(SuccessRate { stdev_factor, minimum_targets, .. }) = &self.success_rate {
            if !(0.1..=10.0).contains(stdev_factor) {
                let message = format!("a factor of {stdev_factor} is out of range");
                wrong("success_rate/stdev_factor", message, "write 0.1 to 10");
            }
            if *minimum_targets < 2 {
                wrong("success_rate/minimum_targets", "one target is like itself".to_owned(), "write 2 or more");
            }
        }
        if let Some(Latency { factor, minimum_targets, .. }) = &self.latency {
            if !(1.5..=100.0).contains(factor) {
                wrong("latency/factor", format!("a factor of {factor} is out of range"), "write 1.5 to 100");
            }
            if *minimum_targets < 2 {
                wrong("latency/minimum_targets", "one target is like itself".to_owned(), "write 2 or more");
            }
        }
    }
}

fn is_default_failures(failures: &u32) -> bool {
    *failures == FAILURES
}

fn is_default_base(span: &Span) -> bool {
    *span == BASE
}

fn is_default_max(span: &Span) -> bool {
    *span == MAX
}

fn is_default_part(part: &Percentage) -> bool {
    *part == PART
}

fn is_default_interval(span: &Span) -> bool {
    *span == INTERVAL
}
