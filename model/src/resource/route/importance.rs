//! How much the requests of a route matter when a service has too many.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How much the requests of a route matter when a service has as many as it may: what matters less is sent away sooner, of
/// those who come and of those who would wait. It changes nothing before that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Importance {
    /// They have half of `limits.adaptive`, and may wait while half of `limits.pending` do.
    Low,
    #[default]
    Normal,
    /// They have half as much again of both.
    High,
}

impl Importance {
    /// What there is for such requests of a limit.
    #[must_use]
    pub fn percent(self) -> u32 {
        match self {
            Self::Low => 50,
            Self::Normal => 100,
            Self::High => 150,
        }
    }

    /// The same of a number of requests.
    #[must_use]
    pub fn of(self, limit: u32) -> u32 {
        u32::try_from(u64::from(limit) * u64::from(self.percent()) / 100).unwrap_or(u32::MAX)
    }
}
