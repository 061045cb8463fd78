//! How a target is chosen for a request.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How a target is chosen for a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LoadBalancing {
    /// Of two targets drawn at random, by weight, the one with fewer requests in flight for its weight, as each core
    /// sees it.
    #[default]
    LeastRequest,
    /// One after the other, by weight.
    RoundRobin,
}
