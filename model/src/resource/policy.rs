//! Policy: configured behaviour of a known type.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Kind, Labels, Name, Reference, Resource, Written, is_default, is_true, yes};
use crate::policy::PolicyKind;
use crate::problem::{Fault, did_you_mean};

/// Configured behaviour of a known type. It acts where it is attached: on the routes, services, listeners
/// and consumers that name it in `policies`, or on everything. Of two policies of one type only the one
/// that is attached more closely runs: consumer over route over service over listener over everything.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// What it does, `rate-limit` for example.
    #[serde(rename = "type")]
    pub type_name: String,
    /// `everything`: it acts on all requests. Absent: only where it is named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub apply_to: Option<ApplyTo>,
    /// The settings of this type. Default: all defaults.
    #[serde(default, skip_serializing_if = "is_default")]
    pub config: Value,
    /// What it is for, in words: for people alone. Default: empty.
    #[serde(default, skip_serializing_if = "is_default")]
    pub description: String,
    /// Keys with values, to find it by in lists: `team: payments`. They change nothing else. Default: none.
    #[serde(default, skip_serializing_if = "is_default")]
    pub labels: Labels,
    /// `false`: it counts as attached nowhere, and a less specific one of its type acts instead. Default: true.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub enabled: bool,
}

/// Where a policy acts without being named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ApplyTo {
    Everything,
}

impl Policy {
    /// The type, if it is known.
    #[must_use]
    pub fn policy_kind(&self) -> Option<&'static PolicyKind> {
        PolicyKind::find(&self.type_name)
    }
}

/// Reports each policy in a list as a reference.
pub(super) fn references(policies: &[Name], visit: &mut dyn FnMut(Reference<'_>)) {
    for (index, name) in policies.iter().enumerate() {
        let pointer = format!("/policies/{index}");
        visit(Reference { kind: Kind::Policy, name, pointer });
    }
}

impl Written for Policy {
    const KIND: Kind = Kind::Policy;

    fn check(&self, faults: &mut Vec<Fault>) {
        let Some(kind) = self.policy_kind() else {
            let known = PolicyKind::names();
            let fault =
                Fault::new("/type", "unknown-policy-type", format!("there is no policy type `{}`", self.type_name));
            let hint = did_you_mean(&self.type_name, known.clone())
                .unwrap_or_else(|| format!("the types are {}", known.collect::<Vec<_>>().join(", ")));
            faults.push(fault.hint(hint));
            return;
        };
        if let Err(found) = kind.check(&self.config) {
            faults.extend(found.into_iter().map(|fault| fault.below("/config")));
        }
    }

    fn references(&self, _: &mut dyn FnMut(Reference<'_>)) {}

    fn into_resource(mut self) -> Resource {
        if let Some(Ok(config)) = self.policy_kind().map(|kind| kind.canonical(&self.config)) {
            self.config = config;
        }
        Resource::Policy(self)
    }
}
