//! Against the naive way: all changes one by one, in order.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::config::Edit;
use crate::resource::Kind;
use crate::snapshot::{self, Service, Snapshot};

fn url(number: u8) -> TargetUrl {
    format!("http://10.0.0.{number}:80").parse().expect("a URL")
}

fn name(number: u8) -> Name {
    format!("s{number}").parse().expect("a name")
}

fn member() -> impl Strategy<Value = Member> {
    (prop::option::of(0u32..5), any::<bool>()).prop_map(|(weight, draining)| Member { weight, draining, labels: None })
}

/// Changes in order, numbered from 1.
fn history() -> impl Strategy<Value = Vec<Change>> {
    let change = (0u8..2, 0u8..6, prop::option::weighted(0.7, member()));
    prop::collection::vec(change, 0..40).prop_map(|changes| {
        let numbered = (1..).zip(changes);
        let change = |(version, (service, target, member))| Change {
            service: name(service),
            target: url(target),
            version,
            member,
        };
        numbered.map(change).collect()
    })
}

/// What a naive reader makes of a history.
fn oracle(history: &[Change]) -> BTreeMap<(Name, TargetUrl), (u64, Member)> {
    let mut state = BTreeMap::new();
    for Change { service, target, version, member } in history {
        let key = (service.clone(), target.clone());
        match member {
            Some(member) => drop(state.insert(key, (*version, member.clone()))),
            None => drop(state.remove(&key)),
        }
    }
    state
}

fn told(membership: &Membership) -> BTreeMap<(Name, TargetUrl), (u64, Member)> {
    let changes = membership.changes();
    changes
        .map(|change| ((change.service, change.target), (change.version, change.member.expect("it is said"))))
        .collect()
}

/// Only the newest change of each target, in any order.
fn coalesced(changes: &[Change], seed: u64) -> Vec<Change> {
    let mut newest = BTreeMap::new();
    for change in changes {
        newest.insert((change.service.clone(), change.target.clone()), change.clone());
    }
    let mut newest: Vec<_> = newest.into_values().collect();
    newest.sort_by_key(|change| change.version.wrapping_mul(seed | 1) % 64);
    newest
}

proptest! {
    /// However the changes are cut into batches, coalesced, shuffled within them and repeated, the end is the same.
    #[test]
    fn any_batches_lead_to_what_all_changes_lead_to(
        history in history(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        overlap in 0usize..5,
        seed in any::<u64>(),
    ) {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(history.len() + 1)).chain([history.len()]).collect();
        cuts.sort_unstable();
        let mut reached = Membership::default();
        let mut from = 0;
        for cut in cuts {
            // A batch may repeat what came before it.
            let batch = coalesced(&history[from.min(cut).saturating_sub(overlap)..cut], seed);
            reached.apply(cut as u64, batch);
            prop_assert_eq!(told(&reached), oracle(&history[..cut]));
            from = cut;
        }
        prop_assert_eq!((reached.version(), reached.len()), (history.len() as u64, oracle(&history).len()));
        // All of it at once is the same thing.
        let whole = Membership::whole(reached.version(), reached.changes().collect::<Vec<_>>());
        prop_assert_eq!(whole, reached);
    }

    /// What nodes use is what people are shown, whatever was joined before.
    #[test]
    fn what_is_joined_is_what_is_shown(
        written in prop::collection::btree_map(0u8..6, 0u32..3, 0..5),
        history in history(),
        at in any::<prop::sample::Index>(),
    ) {
        let list: Vec<_> = written.iter().map(|(number, weight)| json!({"url": url(*number), "weight": weight, "labels": {"rack": weight.to_string()}})).collect();
        let edit = Edit::Put { kind: Kind::Service, name: "s0".into(), spec: json!({"targets": list}) };
        let (snapshot, _) = Snapshot::default().apply(1, vec![edit]).expect("a good service");
        let service = snapshot.services.find("s0").expect("a service");
        let at = at.index(history.len() + 1);
        let join = |changes: &[Change], previous: Option<&Service>| {
            let mut membership = Membership::default();
            membership.apply(changes.len() as u64, changes.to_vec());
            let entries = membership.of("s0").cloned().unwrap_or_default();
            (service.joined(&entries, previous), entries)
        };
        let (before, _) = join(&history[..at], None);
        let (after, entries) = join(&history, Some(&before));

        let resource = snapshot.config.of_kind(Kind::Service, None).next().expect("a service").1.parse(Kind::Service);
        let Ok(crate::resource::Resource::Service(resource)) = resource else { panic!("a service") };
        let shown = effective(&resource.targets, Some(&entries));
        for number in 0..6 {
            let alone = effective_one(&resource.targets, &url(number), Some(&entries));
            prop_assert_eq!(alone.as_ref(), shown.iter().find(|target| target.url == url(number)));
        }
        let shown: Vec<_> = shown
            .iter()
            .filter(|target| target.state != TargetState::Draining)
            .map(|target| (target.url.clone(), target.weight, target.labels.clone()))
            .collect();
        let joined = |service: &Service| -> Vec<_> {
            let labels = |target: &snapshot::Target| target.placement.as_ref().map(|placement| placement.labels.clone());
            let told = |target: &snapshot::Target| (target.endpoint.url.clone(), target.weight, labels(target).unwrap_or_default());
            service.targets.iter().map(told).collect()
        };
        prop_assert_eq!(joined(&after), shown);
        // By that nodes keep connections.
        for target in &*after.targets {
            if let Some(same) = before.targets.iter().find(|before| before.endpoint.url == target.endpoint.url) {
                prop_assert!(Arc::ptr_eq(&same.endpoint, &target.endpoint));
            }
        }
    }
}

#[test]
fn faults_are_told_with_their_place() {
    let labels = |count: usize| (0..count).map(|number| (format!("l{number}"), String::new())).collect();
    let pointers = |member: Member| member.faults().into_iter().map(|fault| fault.pointer).collect::<Vec<_>>();
    assert!(pointers(Member { weight: Some(1000), labels: Some(labels(32)), draining: true }).is_empty());
    assert_eq!(
        pointers(Member { weight: Some(1001), labels: Some(labels(33)), draining: true }),
        ["/weight", "/labels"]
    );
}
