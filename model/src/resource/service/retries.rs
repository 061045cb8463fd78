//! When a request to a service is tried again, and how much of that there may be.

use http::Method;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::problem::Fault;
use crate::resource::is_default;
use crate::resource::route::MethodName;
use crate::value::{Percentage, Span};

/// When a request to a service is tried again: on a target that was not tried yet, as long as there is one. What the
/// service may have begun to work on is tried again only for `methods`, and only if the whole request is still at hand.
/// A response that has begun is never replaced.
///
/// A connection that the service had closed before anything of the request was sent on it is replaced by another whatever
/// is written here. So is, for `methods`, one that idled and was closed without a word as the request came, unless
/// `attempts` is 0.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Retries {
    /// How often a request is tried again; 0: never. Default: 1. At most 5.
    #[serde(skip_serializing_if = "is_one")]
    pub attempts: u8,
    /// After which failures. Default: connect_failure, refused_stream and reset.
    #[serde(skip_serializing_if = "is_default_on")]
    pub on: Vec<RetryOn>,
    /// After responses of these statuses, 400 to 599, such as 503. Default: none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub statuses: Vec<u16>,
    /// After calls of gRPC that end with one of these codes and nothing else. Default: none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub grpc_codes: Vec<GrpcCode>,
    /// The methods of requests that may reach the service more than once. Default: those that are idempotent (RFC 9110
    /// section 9.2.2): GET, HEAD, PUT, DELETE, OPTIONS and TRACE. Calls of gRPC are POST.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<MethodName>,
    #[serde(skip_serializing_if = "is_default")]
    pub backoff: Backoff,
    /// What is kept of the body of a request in case that it is sent again, in bytes. A request with a longer one is tried
    /// again only if nothing of the body was sent. All bodies that are kept take at most 16 MiB on each core. Default: 65536
    /// (64 KiB). At most 1048576 (1 MiB).
    #[serde(skip_serializing_if = "is_default_buffer")]
    pub buffer_bytes: u32,
    #[serde(skip_serializing_if = "is_default")]
    pub budget: RetryBudget,
    /// A second attempt beside a first one that takes long. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hedging: Option<Hedging>,
}

/// A second attempt beside a first one that takes long, at another target: the first answer to be content with goes to the
/// client, and what is left of the other is cancelled. It is for the requests that may reach the service more than once
/// (`methods`), whose body is at hand by then (`buffer_bytes`); it counts as one of `attempts`, and as a retry in `budget`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Hedging {
    /// The second attempt begins when the first takes longer than this part of such requests did of late, each until the
    /// head of its response, as each core sees them. Default: `95%`. 50% to 99.9%.
    #[serde(skip_serializing_if = "is_default_percentile")]
    pub percentile: Percentage,
    /// But no sooner than this. Cores look every 10 ms. Default: 10ms. At least 1ms.
    #[serde(skip_serializing_if = "is_default_min_delay")]
    pub min_delay: Span,
    /// It begins after this as long as fewer than 50 such requests were answered. Default: 100ms. At least `min_delay`, at
    /// most 1m.
    #[serde(skip_serializing_if = "is_default_initial_delay")]
    pub initial_delay: Span,
}

/// A failure after which a request may be tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RetryOn {
    /// No connection to the target, or none in time. Whatever the method: nothing was sent.
    ConnectFailure,
    /// The target said that it did not look at the request: a stream that was refused, or that came behind the last one of
    /// a connection that is closing (RFC 9113 sections 6.8 and 8.7). Whatever the method.
    RefusedStream,
    /// The connection or the stream ended before the head of a response.
    Reset,
    /// No head of a response within `timeouts.request`.
    Timeout,
}

/// A status code of gRPC (gRPC over HTTP/2, Responses).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GrpcCode {
    Cancelled = 1,
    Unknown = 2,
    DeadlineExceeded = 4,
    ResourceExhausted = 8,
    Aborted = 10,
    Internal = 13,
    Unavailable = 14,
}

/// The wait before a target is asked again. One that was not tried yet is asked at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Backoff {
    /// Before the first retry the wait is between nothing and this, at random; it doubles with each retry. Default: 25ms.
    #[serde(skip_serializing_if = "is_default_base")]
    pub base: Span,
    /// The longest wait. A response that asks for a longer one in `Retry-After` goes to the client. Default: 250ms. At most
    /// 1m.
    #[serde(skip_serializing_if = "is_default_max")]
    pub max: Span,
}

/// How many requests may be tried again, so that a service in distress gets little more than what clients ask: of the
/// requests to the service in the last 10 seconds, as each core sees them. What never reached a service costs nothing:
/// connections that were not made, and those that had idled and were gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RetryBudget {
    /// This part of the requests. Default: `20%`. At most `100%`.
    #[serde(skip_serializing_if = "is_default_percent")]
    pub percent: Percentage,
    /// And this many each second, so that services with few requests have retries as well; on each core. Default: 3. At most
    /// 100.
    #[serde(skip_serializing_if = "is_default_floor")]
    pub per_second: u32,
}

const DEFAULT_ON: [RetryOn; 3] = [RetryOn::ConnectFailure, RetryOn::RefusedStream, RetryOn::Reset];
const DEFAULT_BUFFER: u32 = 64 * 1024;
const DEFAULT_BASE: Span = Span::from_millis(25);
const DEFAULT_MAX: Span = Span::from_millis(250);
const DEFAULT_PERCENT: Percentage = Percentage::whole(20);
const DEFAULT_FLOOR: u32 = 3;
const DEFAULT_PERCENTILE: Percentage = Percentage::whole(95);
const DEFAULT_MIN_DELAY: Span = Span::from_millis(10);
const DEFAULT_INITIAL_DELAY: Span = Span::from_millis(100);

const MOST_ATTEMPTS: u8 = 5;
const MOST_BUFFER: u32 = 1024 * 1024;
const MOST_WAIT: Span = Span::from_secs(60);
const MOST_FLOOR: u32 = 100;
const LEAST_PERCENTILE: u64 = 500;
const MOST_PERCENTILE: u64 = 999;

impl Default for Retries {
    fn default() -> Self {
        Self {
            attempts: 1,
            on: DEFAULT_ON.to_vec(),
            statuses: Vec::new(),
            grpc_codes: Vec::new(),
            methods: Vec::new(),
            backoff: Backoff::default(),
            buffer_bytes: DEFAULT_BUFFER,
            budget: RetryBudget::default(),
            hedging: None,
        }
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self { base: DEFAULT_BASE, max: DEFAULT_MAX }
    }
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self { percent: DEFAULT_PERCENT, per_second: DEFAULT_FLOOR }
    }
}

impl Default for Hedging {
    fn default() -> Self {
        Self { percentile: DEFAULT_PERCENTILE, min_delay: DEFAULT_MIN_DELAY, initial_delay: DEFAULT_INITIAL_DELAY }
    }
}

impl Hedging {
    fn check(&self, attempts: u8, faults: &mut Vec<Fault>) {
        let Self { percentile, min_delay, initial_delay } = self;
        let mut wrong = |field: &str, message: String, hint: &str| {
            faults.push(Fault::new(format!("/retries/hedging{field}"), "invalid-value", message).hint(hint));
        };
        if !(LEAST_PERCENTILE..=MOST_PERCENTILE).contains(&percentile.of(1000)) {
            wrong("/percentile", format!("{percentile} is out of range"), "write 50% to 99.9%");
        }
        if min_delay.as_millis() == 0 {
            wrong("/min_delay", "every request would be sent twice".to_owned(), "write 1ms or more");
        }
        if initial_delay > &MOST_WAIT || initial_delay < min_delay {
            wrong("/initial_delay", format!("{initial_delay} is out of range"), "write `min_delay` to 1m");
        }
        if attempts == 0 {
            let message = "a second attempt is one of `attempts`, of which there are none";
            let fault = Fault::new("/retries/hedging", "conflicting-fields", message);
            faults.push(fault.hint("write `attempts: 1` or more, or leave `hedging` away"));
        }
    }
}

impl Retries {
    /// Whether a service may get requests of the method more than once.
    #[must_use]
    pub fn may_repeat(&self, method: &Method) -> bool {
        if self.methods.is_empty() {
            method.is_idempotent()
        } else {
            self.methods.iter().any(|known| known.0 == *method)
        }
    }

    pub(in crate::resource) fn check(&self, faults: &mut Vec<Fault>) {
        let mut out_of_range = |pointer: &str, value: String, range: String| {
            let message = format!("{value} is out of range");
            faults.push(Fault::new(format!("/retries{pointer}"), "invalid-value", message).hint(range));
        };
        if self.attempts > MOST_ATTEMPTS {
            out_of_range("/attempts", self.attempts.to_string(), format!("write 0 to {MOST_ATTEMPTS}"));
        }
        for (index, status) in self.statuses.iter().enumerate() {
            if !(400..=599).contains(status) {
                out_of_range(
                    &format!("/statuses/{index}"),
                    status.to_string(),
                    "write 400 to 599, such as 503".to_owned(),
                );
            }
        }
        if self.buffer_bytes > MOST_BUFFER {
            out_of_range("/buffer_bytes", self.buffer_bytes.to_string(), format!("write 0 to {MOST_BUFFER}"));
        }
        if self.backoff.max > MOST_WAIT {
            out_of_range("/backoff/max", self.backoff.max.to_string(), format!("write {MOST_WAIT} or less"));
        }
        if self.budget.per_second > MOST_FLOOR {
            out_of_range("/budget/per_second", self.budget.per_second.to_string(), format!("write 0 to {MOST_FLOOR}"));
        }
        if let Some(hedging) = &self.hedging {
            hedging.check(self.attempts, faults);
        }
        if self.backoff.base > self.backoff.max {
            let message = format!("a first wait of {} is longer than the longest", self.backoff.base);
            let fault = Fault::new("/retries/backoff/base", "conflicting-fields", message);
            faults.push(fault.hint(format!("write {} or less, or a larger `max`", self.backoff.max)));
        }
    }
}

fn is_one(attempts: &u8) -> bool {
    *attempts == 1
}

fn is_default_on(on: &[RetryOn]) -> bool {
    *on == DEFAULT_ON
}

fn is_default_buffer(bytes: &u32) -> bool {
    *bytes == DEFAULT_BUFFER
}

fn is_default_base(span: &Span) -> bool {
    *span == DEFAULT_BASE
}

fn is_default_max(span: &Span) -> bool {
    *span == DEFAULT_MAX
}

fn is_default_percent(percent: &Percentage) -> bool {
    *percent == DEFAULT_PERCENT
}

fn is_default_floor(per_second: &u32) -> bool {
    *per_second == DEFAULT_FLOOR
}

fn is_default_percentile(percentile: &Percentage) -> bool {
    *percentile == DEFAULT_PERCENTILE
}

fn is_default_min_delay(span: &Span) -> bool {
    *span == DEFAULT_MIN_DELAY
}

fn is_default_initial_delay(span: &Span) -> bool {
    *span == DEFAULT_INITIAL_DELAY
}
