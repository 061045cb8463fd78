//! What a node can compile. It is sent nothing beyond that: a policy that a node does not know may be what
//! keeps somebody out.

use std::collections::HashSet;

use model::policy::PolicyKind;
use model::problem::{Fault, Problem, Problems};
use model::resource::{KINDS, Kind};
use model::snapshot::Snapshot;

/// What a node can not do of all that this control plane can.
pub struct Capabilities {
    version: String,
    unknown_kinds: Vec<Kind>,
    unknown_policy_types: HashSet<&'static str>,
}

impl Capabilities {
    pub fn new(version: &str, kinds: Vec<String>, policy_types: Vec<String>) -> Self {
        let (kinds, types): (HashSet<_>, HashSet<_>) =
            (kinds.into_iter().collect(), policy_types.into_iter().collect());
        Self {
            version: version.to_owned(),
            unknown_kinds: KINDS.iter().map(|info| info.kind).filter(|kind| !kinds.contains(kind.singular())).collect(),
            unknown_policy_types: PolicyKind::names().filter(|name| !types.contains(*name)).collect(),
        }
    }

    /// Why the node cannot be sent `head`. Costs nothing for a node that knows all that we know, which is
    /// every one except during an upgrade.
    pub fn missing(&self, head: &Snapshot) -> Problems {
        let mut problems = Problems::new();
        for kind in &self.unknown_kinds {
            if let Some((name, _)) = head.config.of_kind(*kind, None).next() {
                problems.push(self.problem(*kind, name, "", &format!("resources of the kind {kind}")));
            }
        }
        if !self.unknown_policy_types.is_empty() {
            let policies = head.policies.iter().map(|(_, policy)| policy);
            for policy in policies.filter(|policy| self.unknown_policy_types.contains(policy.kind.name)) {
                let what = format!("policies of the type `{}`", policy.kind.name);
                problems.push(self.problem(Kind::Policy, &policy.name, "/type", &what));
            }
        }
        problems
    }

    fn problem(&self, kind: Kind, name: &str, pointer: &str, what: &str) -> Problem {
        let message = format!("the node runs version {}, which does not know {what}", self.version);
        Fault::new(pointer, "node-too-old", message)
            .hint("upgrade the node, or take this resource out until then")
            .in_resource(kind, name)
    }
}
