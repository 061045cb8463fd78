//! A question and its explanation, as they are written.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::resource::Name;
use crate::resource::route::{HeaderField, MethodName, PathPattern};
use crate::router::explain::Because;
use crate::router::path;

/// A request as somebody would send it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// Default: `GET`.
    #[serde(default = "get")]
    pub method: MethodName,
    /// `https://api.example.com/orders?page=2`, with the port of the listener if it is not the usual one; or the path alone,
    /// with a header `Host`.
    pub url: String,
    /// Header fields, as often as they are sent. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<SentField>,
    /// The address of the client. Default: unknown, and in no network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<IpAddr>,
    /// The listener that it comes in through. Default: the one that the URL leads to, if that is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listener: Option<Name>,
}

/// A header field that is sent.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SentField {
    pub name: HeaderField,
    pub value: String,
}

/// What would be done with a request, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Explanation {
    pub path: PathExplained,
    pub host: HostExplained,
    /// The listener; absent if it could be none or several, and then routes for certain listeners do not match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listener: Option<Name>,
    /// The route that the request belongs to; absent if none matches, or if the path or the host is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<Name>,
    /// What stands in the path where its template has a name or its regular expression a named group.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub captures: Vec<Capture>,
    /// The routes that were looked at, the most specific first.
    pub candidates: Vec<CandidateExplained>,
    /// How many more candidates there are than are listed.
    pub omitted: usize,
    /// How many routes at the same places ask for exact values that the request does not have.
    pub other_values: usize,
    /// What may become of the request: several where backends share it out.
    pub outcomes: Vec<Outcome>,
}

/// How the path becomes the one that decides.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PathExplained {
    pub steps: Vec<PathStep>,
    /// The path that counts: the canonical one, or the received one where the route says `normalize_path: false`; absent if
    /// the path or the host is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counts: Option<String>,
    /// Why it is refused with 400; absent if it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<RefusedBecause>,
}

/// The path after a step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PathStep {
    pub step: path::Step,
    pub path: String,
}

/// How the host becomes the one that decides.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct HostExplained {
    pub received: String,
    /// Absent if it is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canonical: Option<String>,
    /// Why it is refused with 400; absent if it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<RefusedBecause>,
}

/// Why a request is refused before a route is looked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RefusedBecause {
    /// The code of the answer.
    pub code: String,
    pub detail: String,
}

/// A part of the path under its name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Capture {
    pub name: String,
    pub value: String,
}

/// A route that was looked at.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CandidateExplained {
    pub route: Name,
    /// The host of it that matches; absent for every host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The path of it that is at this place.
    pub path: PathPattern,
    pub verdict: Said,
    /// What decided against it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub because: Option<Because>,
    /// The same as a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// What became of a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Said {
    Won,
    /// It matches, but the winner comes first.
    Lost,
    NoMatch,
}

/// Where the request may go, with what it meets on the way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Outcome {
    /// Absent where the gateway answers itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<Name>,
    /// Which part of the requests goes there: the weight among all weights. Absent if all do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<WeightOf>,
    /// The status with which the gateway answers itself, unless a policy does so earlier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// In running order.
    pub policies: Vec<PolicyExplained>,
    /// What is changed in the request and in its response, and where a redirect leads; in the order in which it is done.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<Setting>,
    /// How long is waited, and who says so.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub settings: Vec<Setting>,
}

/// A weight and the sum of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WeightOf {
    pub weight: u32,
    pub total: u64,
}

/// A policy that runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PolicyExplained {
    pub policy: Name,
    #[serde(rename = "type")]
    pub type_name: String,
    pub from: Origin,
    /// Policies of the same type that are attached less closely, and therefore do not run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub instead_of: Vec<Replaced>,
}

/// A policy that does not run, because one of the same type is attached more closely.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Replaced {
    pub policy: Name,
    pub from: Origin,
}

/// Where a policy is attached, or a setting is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    Everything,
    Listener,
    Service,
    Route,
    /// One of the backends of the route.
    Backend,
    Default,
}

/// A setting, its value, and where it comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Setting {
    pub name: String,
    pub value: String,
    pub from: Origin,
}

fn get() -> MethodName {
    MethodName(http::Method::GET)
}
