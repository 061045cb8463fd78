//! The only way to end a request without an answer from its service.

use std::borrow::Cow;

use http::{HeaderName, HeaderValue, StatusCode};
use smallvec::SmallVec;

/// An answer of the gateway itself: an RFC 9457 problem. What it says is for the client and leaks
/// nothing internal; the reason in `code` is stable, for programs, logs and metrics.
#[derive(Clone, Debug)]
pub struct Rejection {
    pub status: StatusCode,
    /// `no-route`, `rate-limited`, …
    pub code: &'static str,
    /// One sentence for the person behind the client.
    pub detail: Cow<'static, str>,
    /// Fields that belong to this answer, such as `WWW-Authenticate`.
    pub fields: SmallVec<[(HeaderName, HeaderValue); 1]>,
}

impl Rejection {
    #[must_use]
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { status, code, detail: detail.into(), fields: SmallVec::new() }
    }

    #[must_use]
    pub fn with_field(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.fields.push((name, value));
        self
    }
}
