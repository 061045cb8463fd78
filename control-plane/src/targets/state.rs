//! What is said in a gateway, and what changed lately, for those who know an older version.

use std::collections::HashMap;

use imbl::OrdMap;
use model::membership::{Change, Membership};

/// Changes that are remembered, so that nodes and replicas get what changed and not everything.
const RECENT: usize = 10_000;

/// All that is said at one version. A copy costs nothing.
#[derive(Clone, Debug, Default)]
pub struct State {
    pub membership: Membership,
    /// The newest changes by their versions.
    recent: OrdMap<u64, Change>,
    /// What changed up to here is not known any more.
    floor: u64,
}

impl State {
    pub(super) fn whole(membership: Membership) -> Self {
        Self { floor: membership.version(), membership, recent: OrdMap::default() }
    }

    /// The state after more changes, which follow without a gap.
    pub(crate) fn after(&self, changes: Vec<Change>) -> Self {
        let mut next = self.clone();
        let version = changes.last().map_or(self.membership.version(), |change| change.version);
        next.membership.apply(version, changes.iter().cloned());
        for change in changes {
            next.recent.insert(change.version, change);
        }
        while next.recent.len() > RECENT {
            let Some((version, _)) = next.recent.get_min().cloned() else { break };
            next.recent.remove(&version);
            next.floor = version;
        }
        next
    }

    /// What changed since a version, of each target the newest; nothing if that is not known any more.
    #[must_use]
    pub fn since(&self, version: u64) -> Option<Vec<Change>> {
        if version < self.floor || version > self.membership.version() {
            return None;
        }
        let mut newest: HashMap<_, &Change> = HashMap::new();
        for (_, change) in self.recent.range(version + 1..) {
            newest.insert((&change.service, &change.target), change);
        }
        Some(newest.into_values().cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use model::membership::Member;

    use super::*;

    fn change(version: u64, target: u64) -> Change {
        Change {
            service: "shop".parse().expect("a name"),
            target: format!("http://10.0.0.1:{target}").parse().expect("a URL"),
            version,
            member: (!version.is_multiple_of(3)).then(Member::default),
        }
    }

    #[test]
    fn what_changed_leads_from_any_remembered_version_to_the_newest() {
        let mut states = vec![State::default()];
        for version in 1..=30 {
            states.push(states[version - 1].after(vec![change(version as u64, 1 + version as u64 % 7)]));
        }
        let newest = states.last().expect("a state");
        for known in &states {
            let changes = newest.since(known.membership.version()).expect("it is remembered");
            assert!(changes.len() <= 7, "of each target the newest");
            let mut reached = known.membership.clone();
            reached.apply(newest.membership.version(), changes);
            assert_eq!(reached, newest.membership);
        }
    }

    #[test]
    fn what_is_forgotten_is_told_as_a_whole() {
        let many = (1..=RECENT as u64 + 5).map(|version| change(version, 80)).collect();
        let state = State::default().after(many);
        assert_eq!((state.since(4).is_none(), state.since(5).map(|changes| changes.len())), (true, Some(1)));
        assert!(state.since(RECENT as u64 + 6).is_none(), "of another database");
        assert!(State::whole(state.membership).since(5).is_none());
    }
}
