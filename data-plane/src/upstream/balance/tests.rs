//! Choices against what is asked of them: shares follow weights, and nothing goes where nothing should.

use model::config::Edit;
use model::resource::Kind;
use model::snapshot::{Snapshot, Target};
use model::value::Percentage;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::health::Health;

const POLICIES: [&str; 5] = ["round_robin", "least_request", "peak_ewma", "ring_hash", "maglev"];

const WELL: Condition = Condition { is_healthy: true, warmth: 1.0 };
const ILL: Condition = Condition { is_healthy: false, warmth: 1.0 };

fn service(load_balancing: &Value, targets: &[Value]) -> Arc<Service> {
    let named = |(number, target): (usize, &Value)| {
        let mut target = target.clone();
        target["url"] = json!(format!("http://10.0.0.{number}:80"));
        target
    };
    let targets: Vec<Value> = targets.iter().enumerate().map(named).collect();
    let spec = json!({"targets": targets, "load_balancing": load_balancing});
    let edit = Edit::Put { kind: Kind::Service, name: "shop".into(), spec };
    let (snapshot, _) = Snapshot::default().apply(1, vec![edit]).expect("a good service");
    Arc::clone(snapshot.services.find("shop").expect("a service"))
}

fn of_service(service: &Arc<Service>) -> Balancer {
    Balancer::new(service, None, &Health::default().service(&service.name), None, None)
}

fn weighted(weights: &[u32]) -> Vec<Value> {
    weights.iter().map(|weight| json!({"weight": weight})).collect()
}

fn balancer(policy: &str, weights: &[u32]) -> Balancer {
    of_service(&service(&json!(policy), &weighted(weights)))
}

fn weights() -> impl Strategy<Value = Vec<u32>> {
    proptest::collection::vec(prop_oneof![Just(0u32), 1u32..10, Just(1000)], 1..8)
}

proptest! {
    /// Oracle: whatever the weights, over a full period each target gets exactly its weight, and at no moment
    /// is it further than one request from its share.
    #[test]
    fn round_robin_gives_each_its_weight(weights in weights()) {
        let balancer = balancer("round_robin", &weights);
        let total: u32 = weights.iter().sum();
        let mut counts = vec![0u32; weights.len()];
        for _ in 0..total {
            counts[balancer.pick(&[], None, |_| 0).expect("there is a weight")] += 1;
        }
        prop_assert_eq!(&counts, &weights);
        if total == 0 {
            prop_assert_eq!(balancer.pick(&[], None, |_| 0), None);
        }
    }

    #[test]
    fn weight_zero_and_what_was_tried_get_nothing(
        weights in weights(),
        ill in proptest::collection::vec(any::<bool>(), 8),
        seed in any::<u64>(),
        policy in 0..POLICIES.len(),
        has_refreshed in any::<bool>(),
    ) {
        fastrand::seed(seed);
        let balancer = balancer(POLICIES[policy], &weights);
        if has_refreshed {
            balancer.refresh(|target| if ill[target] { ILL } else { WELL });
        }
        let mut tried = Vec::new();
        while let Some(target) = balancer.pick(&tried, Some(seed), |target| u64::try_from(target).expect("small")) {
            prop_assert!(weights[target] > 0 && !tried.contains(&target));
            tried.push(target);
        }
        let weight = |is_wanted: &dyn Fn(usize) -> bool| -> u32 {
            (0..weights.len()).filter(|target| is_wanted(*target)).map(|target| weights[target]).sum()
        };
        let (total, healthy) = (weight(&|_| true), weight(&|target| !ill[target]));
        let is_panicking = !has_refreshed || healthy * 2 < total || weights.len() == 1;
        let gets_some = |target: usize| weights[target] > 0 && (is_panicking || !ill[target]);
        prop_assert_eq!(tried.len(), (0..weights.len()).filter(|target| gets_some(*target)).count());
    }

    /// With nothing in flight the first draw decides, which is by weight.
    #[test]
    fn idle_targets_are_drawn_by_weight(seed in any::<u64>()) {
        fastrand::seed(seed);
        let weights = [1, 0, 3, 6];
        let balancer = balancer("least_request", &weights);
        let mut counts = [0u32; 4];
        for _ in 0..10_000 {
            counts[balancer.pick(&[], None, |_| 0).expect("there is a weight")] += 1;
        }
        for (count, weight) in counts.into_iter().zip(weights) {
            let expected = weight * 1000;
            // Six standard deviations of the widest, which is less than 50.
            prop_assert!(count.abs_diff(expected) < 300, "{counts:?}");
        }
    }

    /// When requests never end, loads grow in proportion to the weights.
    #[test]
    fn loads_follow_the_weights(seed in any::<u64>()) {
        fastrand::seed(seed);
        let weights = [1, 2, 7];
        let balancer = balancer("least_request", &weights);
        let loads = RefCell::new([0u64; 3]);
        for _ in 0..10_000 {
            let target = balancer.pick(&[], None, |target| loads.borrow()[target]).expect("there is a weight");
            loads.borrow_mut()[target] += 1;
        }
        for (load, weight) in loads.into_inner().into_iter().zip(weights) {
            prop_assert!(load.abs_diff(u64::from(weight) * 1000) < 150, "{load} of {weight}000");
        }
    }

    /// One hash has one target, on every core; and another while that one was tried or is ill.
    #[test]
    fn a_hash_keeps_its_target(hash in any::<u64>(), is_ring in any::<bool>()) {
        let policy = if is_ring { "ring_hash" } else { "maglev" };
        let service = service(&json!(policy), &weighted(&[1, 2, 3, 1]));
        let (one, other) = (of_service(&service), of_service(&service));
        let pick = |balancer: &Balancer, tried: &[usize]| balancer.pick(tried, Some(hash), |_| 0).expect("a target");
        let first = pick(&one, &[]);
        prop_assert_eq!(first, pick(&other, &[]));
        let second = pick(&one, &[first]);
        prop_assert_ne!(first, second);
        other.refresh(|target| if target == first { ILL } else { WELL });
        prop_assert_eq!(second, pick(&other, &[]));
        other.refresh(|_| WELL);
        prop_assert_eq!(first, pick(&other, &[]));
    }
}

/// However often targets come and go, those that stay get their share.
#[test]
fn turns_go_on_when_other_targets_change() {
    let all = service(&json!("round_robin"), &weighted(&[1, 1, 1, 1]));
    let some = Arc::new(all.with_targets(all.targets[..3].into(), None));
    let health = Health::default().service(&all.name);
    let mut turning = Balancer::new(&all, None, &health, None, None);
    let mut counts = [0u32; 4];
    for round in 0..300 {
        counts[turning.pick(&[], None, |_| 0).expect("there is a weight")] += 1;
        let now = [&some, &all][round % 2];
        let places = [Some(0), Some(1), Some(2), None];
        turning = Balancer::new(now, None, &health, None, Some((&turning, &places[..now.targets.len()])));
    }
    let [ours @ .., theirs] = counts;
    assert!(ours.iter().all(|count| ours[0].abs_diff(*count) <= 1 && *count >= theirs), "{counts:?}");
}

#[test]
fn of_two_targets_the_idle_one_is_taken() {
    for policy in ["least_request", "peak_ewma"] {
        let balancer = balancer(policy, &[1, 1]);
        for _ in 0..100 {
            assert_eq!(balancer.pick(&[], None, |target| if target == 0 { 5 } else { 4 }), Some(1));
        }
    }
}

#[test]
fn only_targets_of_the_subset_are_chosen() {
    let targets = ["v1", "v2", "v1", "v2"].map(|version| json!({"labels": {"version": version, "tier": "a"}}));
    let route = json!({"backends": [{"service": "shop", "labels": {"version": "v2"}}, {"service": "shop"}]});
    for policy in POLICIES {
        let service = service(&json!(policy), &targets);
        let edits = vec![
            Edit::Put { kind: Kind::Service, name: "shop".into(), spec: json!({"url": "http://10.0.0.1:80"}) },
            Edit::Put { kind: Kind::Route, name: "shop".into(), spec: route.clone() },
        ];
        let (snapshot, _) = Snapshot::default().apply(1, edits).expect("a good route");
        let route = snapshot.routes.find("shop").expect("a route");
        assert_eq!(route.subset(1), None);
        let health = Health::default().service(&service.name);
        let balancer = Balancer::new(&service, route.subset(0), &health, None, None);
        for round in 0..2 {
            let mut seen = [false; 4];
            for _ in 0..200 {
                seen[balancer.pick(&[], None, |_| 0).expect("a target")] = true;
            }
            assert_eq!(seen, [false, true, false, round == 0], "{policy}");
            balancer.refresh(|target| if target == 3 { ILL } else { WELL });
        }
    }
}

/// The share of each target, in percent.
fn percents(targets: &[Target], zone: Option<&str>, condition: impl Fn(usize) -> Condition) -> Vec<u32> {
    let shares = Shares::of(targets, |_| true, zone, Percentage::whole(50), condition);
    let total: u32 = shares.weights.iter().sum();
    shares.weights.iter().map(|weight| (f64::from(*weight) * 100.0 / f64::from(total)).round() as u32).collect()
}

fn ill(which: &'static [usize]) -> impl Fn(usize) -> Condition {
    move |target| if which.contains(&target) { ILL } else { WELL }
}

#[test]
fn the_next_priority_takes_what_the_first_cannot() {
    let priorities = [0, 0, 0, 0, 1, 1, 2];
    let targets = priorities.map(|priority| json!({"priority": priority}));
    let targets = &service(&json!("round_robin"), &targets).targets;
    assert_eq!(percents(targets, None, ill(&[])), [25, 25, 25, 25, 0, 0, 0]);
    // Three of four can take everything: 1.4 times 75%.
    assert_eq!(percents(targets, None, ill(&[0])), [0, 33, 33, 33, 0, 0, 0]);
    assert_eq!(percents(targets, None, ill(&[0, 1])), [0, 0, 35, 35, 15, 15, 0]);
    assert_eq!(percents(targets, None, ill(&[0, 1, 2, 4])), [0, 0, 0, 35, 0, 65, 0]);
    assert_eq!(percents(targets, None, ill(&[0, 1, 2, 3, 4, 5])), [0, 0, 0, 0, 0, 0, 100]);
    // Nobody is left: the first priority is used as if nothing was the matter.
    assert_eq!(percents(targets, None, |_| ILL), [25, 25, 25, 25, 0, 0, 0]);
}

#[test]
fn the_own_zone_comes_first() {
    let zones = ["a", "a", "b", "b"].map(|zone| json!({"zone": zone}));
    let targets = &service(&json!("round_robin"), &zones).targets;
    assert_eq!(percents(targets, None, ill(&[])), [25, 25, 25, 25]);
    assert_eq!(percents(targets, Some("a"), ill(&[])), [50, 50, 0, 0]);
    assert_eq!(percents(targets, Some("a"), ill(&[1])), [70, 0, 15, 15]);
    assert_eq!(percents(targets, Some("a"), ill(&[0, 1])), [0, 0, 50, 50]);
    assert_eq!(percents(targets, Some("c"), ill(&[])), [25, 25, 25, 25]);
}

#[test]
fn a_target_that_has_just_come_gets_little_and_then_its_share() {
    let targets = &service(&json!("round_robin"), &weighted(&[1, 1])).targets;
    let warm = |warmth| move |target| if target == 0 { WELL } else { Condition { is_healthy: true, warmth } };
    assert_eq!(percents(targets, None, warm(0.0)), [91, 9]);
    assert_eq!(percents(targets, None, warm(0.5)), [65, 35]);
    assert_eq!(percents(targets, None, warm(1.0)), [50, 50]);
    // Of what its hash says it takes the same part.
    let service = service(&json!("maglev"), &weighted(&[1, 1]));
    let (cold, whole) = (of_service(&service), of_service(&service));
    cold.refresh(warm(0.0));
    let mut got = 0;
    for hash in (0..10_000).map(|number: u64| number.wrapping_mul(0x9e37_79b9_7f4a_7c15)) {
        let target = cold.pick(&[], Some(hash), |_| 0).expect("a target");
        assert!(target == 0 || whole.pick(&[], Some(hash), |_| 0) == Some(1), "what it gets is its own");
        got += target;
    }
    assert!((400..600).contains(&got), "{got}");
}

#[test]
fn an_only_target_is_used_whatever_is_the_matter_with_it() {
    for policy in POLICIES {
        let balancer = balancer(policy, &[1]);
        balancer.refresh(|_| ILL);
        assert_eq!(balancer.pick(&[], None, |_| 0), Some(0));
        assert_eq!(balancer.pick(&[0], None, |_| 0), None);
    }
}
