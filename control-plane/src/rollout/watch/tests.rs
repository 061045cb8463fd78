//! Rollouts on a clock of their own: each second somebody looks, and what is decided happens.

use std::time::Duration;

use model::digest::Digest;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::nodes::{Introduction, Nodes, Reached, Refusal, Traffic};

const BASE: u64 = 7;
const NEW: u64 = 8;

/// A fleet, and a rollout on it.
struct World {
    rollout: Rollout,
    watch: Watch,
    nodes: Vec<NodeStatus>,
    now: Instant,
}

impl World {
    fn start(nodes: usize, strategy: Value) -> Self {
        let strategy = serde_json::from_value(strategy).expect("a strategy");
        let rollout = Rollout::begin("default", BASE, "a test", strategy, OffsetDateTime::UNIX_EPOCH);
        let watch = Watch::new(&rollout);
        let nodes = (0..nodes).map(|number| node(&format!("node-{number}"))).collect();
        Self { rollout, watch, nodes, now: Instant::now() }
    }

    /// Somebody looks, and what comes of it is done. Nodes that are reached serve the revision at once.
    fn look(&mut self) -> (Verdict, Evidence) {
        let (verdict, evidence) = self.watch.look(&self.rollout, &self.nodes, self.now);
        match &verdict {
            Verdict::Wait => {}
            Verdict::Begin(cohort) => {
                self.rollout.cohorts.push(cohort.clone());
                self.rollout.step = self.rollout.cohorts.len() - 1;
            }
            Verdict::Promote => self.rollout.state = State::Promoted,
            Verdict::RollBack(_) => self.rollout.state = State::RollingBack,
        }
        (verdict, evidence)
    }

    fn adopt(&mut self) {
        let rollout = &self.rollout;
        let is_in = |node: &&mut NodeStatus| rollout.has_reached(position(&node.node_id), &node.labels);
        for node in self.nodes.iter_mut().filter(is_in).filter(|node| !serves(node, NEW)) {
            node.serving = reached(NEW);
            let before = node.traffic.take().map(|traffic| traffic.counts);
            node.traffic = Some(Traffic { revision: NEW, counts: Counts::default(), before });
        }
    }

    /// Every node answers so many requests, those with the new revision some of them badly.
    fn traffic(&mut self, requests: u64, failed: impl Fn(u64) -> u64) {
        for node in &mut self.nodes {
            let revision = node.serving.as_ref().map_or(0, |serving| serving.revision);
            let traffic =
                node.traffic.get_or_insert_with(|| Traffic { revision, counts: Counts::default(), before: None });
            traffic.counts.add(&Counts { requests, failed: failed(revision), durations: vec![0, requests] });
        }
    }

    /// Goes on second by second until something is decided; what, and after how many seconds.
    fn run(&mut self, failed: impl Fn(u64) -> u64) -> (Verdict, u64) {
        for second in 0..10_000 {
            self.adopt();
            self.traffic(10, &failed);
            let (verdict, _) = self.look();
            if !matches!(verdict, Verdict::Wait | Verdict::Begin(_)) {
                return (verdict, second);
            }
            self.now += Duration::from_secs(1);
        }
        panic!("nothing was decided: {:?}", self.rollout);
    }

    fn with_it(&self) -> usize {
        let is_in = |node: &&NodeStatus| self.rollout.has_reached(position(&node.node_id), &node.labels);
        self.nodes.iter().filter(is_in).count()
    }

    fn first_with_it(&mut self) -> &mut NodeStatus {
        self.nodes.iter_mut().find(|node| serves(node, NEW)).expect("a node has it")
    }
}

fn reached(revision: u64) -> Option<Reached> {
    Some(Reached { revision, digest: Digest::default(), at: OffsetDateTime::UNIX_EPOCH })
}

fn node(node_id: &str) -> NodeStatus {
    let nodes = Nodes::new();
    let introduction = Introduction { node_id: node_id.to_owned(), ..Introduction::default() };
    let _session = nodes.connect("default", introduction);
    let mut status = nodes.list("default").remove(0);
    status.serving = reached(BASE);
    status.started_at = Some(OffsetDateTime::UNIX_EPOCH);
    status
}

fn steps() -> Value {
    json!({ "steps": [
        { "nodes": { "count": 1 }, "bake": "60s" },
        { "nodes": { "percent": 50 }, "bake": "30s" },
    ] })
}

#[test]
fn a_good_revision_goes_from_step_to_step_when_its_time_is_over() {
    let mut world = World::start(10, steps());
    assert!(matches!(world.look().0, Verdict::Begin(_)));
    assert_eq!(world.with_it(), 1);
    world.adopt();
    for left in (1..=60).rev() {
        let (verdict, evidence) = world.look();
        assert_eq!((verdict, evidence.bake_left_seconds), (Verdict::Wait, Some(left)));
        world.now += Duration::from_secs(1);
    }
    assert!(matches!(world.look().0, Verdict::Begin(_)));
    assert_eq!(world.with_it(), 5);
    let (verdict, seconds) = world.run(|_| 0);
    assert_eq!((verdict, seconds), (Verdict::Promote, 30));
}

#[test]
fn the_bake_time_begins_when_all_nodes_of_the_step_serve_it() {
    let mut world = World::start(3, json!({ "steps": [{ "nodes": {}, "bake": "10s" }], "within": "60s" }));
    world.look();
    world.adopt();
    world.nodes[0].serving = reached(BASE);
    for _ in 0..50 {
        let (verdict, evidence) = world.look();
        assert_eq!((verdict, evidence.waiting_for), (Verdict::Wait, vec!["node-0".to_owned()]));
        world.now += Duration::from_secs(1);
    }
    assert_eq!(world.run(|_| 0), (Verdict::Promote, 10));
}

#[test]
fn a_node_that_never_comes_to_serve_it_ends_it() {
    let mut world = World::start(3, json!({ "steps": [{ "nodes": {}, "bake": "10s" }], "within": "60s" }));
    world.look();
    assert_eq!(world.look().0, Verdict::Wait);
    world.now += Duration::from_secs(61);
    assert!(
        matches!(world.look().0, Verdict::RollBack(reason) if reason.contains("after 1m") && reason.contains("node-0"))
    );
}

#[test]
fn errors_of_the_new_revision_alone_end_it() {
    let mut world = World::start(4, steps());
    let (verdict, seconds) = world.run(|revision| if revision == NEW { 5 } else { 0 });
    assert!(matches!(verdict, Verdict::RollBack(_)) && seconds < 60, "{verdict:?} after {seconds} s");
    assert_eq!(world.with_it(), 1, "nobody else had it");

    let mut world = World::start(4, steps());
    assert_eq!(world.run(|_| 5).0, Verdict::Promote, "everything fails: it is not the revision");
}

#[test]
fn with_one_node_it_is_compared_with_itself_before() {
    let one = json!({ "steps": [{ "nodes": { "count": 1 }, "bake": "60s" }] });
    let mut world = World::start(1, one.clone());
    for _ in 0..20 {
        world.traffic(10, |_| 3);
    }
    assert_eq!(world.run(|_| 3).0, Verdict::Promote, "it was no better before");
    let mut world = World::start(1, one);
    for _ in 0..20 {
        world.traffic(10, |_| 0);
    }
    let verdict = world.run(|revision| if revision == NEW { 3 } else { 0 }).0;
    assert!(matches!(verdict, Verdict::RollBack(reason) if reason.contains("before 0%")));
}

#[test]
fn a_refusal_ends_it_at_once() {
    let mut world = World::start(4, steps());
    world.look();
    let id = world
        .nodes
        .iter()
        .map(|node| node.node_id.clone())
        .find(|id| world.rollout.has_reached(position(id), &[].into()));
    let refused = world.nodes.iter_mut().find(|node| Some(&node.node_id) == id.as_ref()).expect("one is chosen");
    refused.refusal = Some(Refusal { revision: NEW, problems: Vec::new(), at: OffsetDateTime::UNIX_EPOCH });
    assert!(matches!(world.look().0, Verdict::RollBack(_)));
}

#[test]
fn a_node_that_restarts_or_vanishes_ends_it_and_one_that_leaves_does_not() {
    let second = Duration::from_secs(1);
    let start = || {
        let mut world = World::start(4, steps());
        world.look();
        world.adopt();
        world.look();
        world
    };
    let mut world = start();
    world.first_with_it().started_at = Some(OffsetDateTime::UNIX_EPOCH + time::Duration::minutes(1));
    assert!(matches!(world.look().0, Verdict::RollBack(reason) if reason.contains("restarted")));

    let mut world = start();
    world.first_with_it().connected = false;
    for _ in 0..=30 {
        assert_eq!(world.look().0, Verdict::Wait, "it may come back");
        world.now += second;
    }
    assert!(matches!(world.look().0, Verdict::RollBack(_)));

    let mut world = World::start(4, steps());
    world.look();
    world.adopt();
    world.first_with_it().connected = false;
    world.look();
    world.now += 31 * second;
    assert!(matches!(world.look().0, Verdict::RollBack(_)), "it vanished before anybody had looked");

    let mut world = start();
    let left = world.first_with_it();
    (left.connected, left.has_left) = (false, true);
    for _ in 0..100 {
        assert_eq!(world.look().0, Verdict::Wait, "nobody has it, and nobody is waited for");
        world.now += second;
    }
    let back = world.nodes.iter_mut().find(|node| node.has_left).expect("it left");
    (back.connected, back.has_left) = (true, false);
    back.started_at = Some(OffsetDateTime::UNIX_EPOCH + time::Duration::minutes(1));
    assert_eq!(world.look().0, Verdict::Wait, "it was restarted in good order");

    let mut world = start();
    let back = world.first_with_it();
    back.started_at = Some(OffsetDateTime::UNIX_EPOCH + time::Duration::minutes(1));
    back.has_returned = true;
    assert_eq!(world.look().0, Verdict::Wait, "so quickly that nobody saw it go");
    world.first_with_it().started_at = Some(OffsetDateTime::UNIX_EPOCH + time::Duration::minutes(2));
    world.first_with_it().has_returned = false;
    assert!(matches!(world.look().0, Verdict::RollBack(_)), "and then it crashed");
}

#[test]
fn while_it_is_paused_it_goes_no_further_and_its_gates_hold() {
    let mut world = World::start(4, steps());
    world.look();
    world.rollout.state = State::Paused;
    for _ in 0..1000 {
        world.adopt();
        assert_eq!(world.look().0, Verdict::Wait);
        world.now += Duration::from_secs(1);
    }
    assert!(matches!(world.run(|revision| if revision == NEW { 5 } else { 0 }).0, Verdict::RollBack(_)));
}

#[test]
fn without_nodes_it_waits_for_some() {
    let mut world = World::start(0, steps());
    for _ in 0..1000 {
        assert_eq!(world.look().0, Verdict::Wait);
        world.now += Duration::from_secs(1);
    }
    world.nodes.push(node("late"));
    assert_eq!(world.run(|_| 0).0, Verdict::Promote);
}

#[test]
fn who_takes_over_watches_the_step_from_its_beginning() {
    let mut world = World::start(4, steps());
    world.look();
    world.adopt();
    world.look();
    world.now += Duration::from_secs(59);
    world.watch = Watch::new(&world.rollout);
    let (verdict, evidence) = world.look();
    assert_eq!((verdict, evidence.bake_left_seconds), (Verdict::Wait, Some(60)));
}

proptest! {
    /// Whatever nodes do: nothing is promoted before its time, what is bad and seen goes back, and the steps only grow.
    #[test]
    fn nothing_bad_is_promoted_and_nothing_before_its_time(
        size in 1usize..12,
        bakes in prop::collection::vec((1u64..40, 1u8..=100), 1..4),
        is_bad in any::<bool>(),
        events in prop::collection::vec((0usize..12, 0u8..4), 0..200),
    ) {
        let steps: Vec<Value> = bakes
            .iter()
            .map(|(bake, percent)| json!({ "nodes": { "percent": percent }, "bake": format!("{bake}s") }))
            .collect();
        let gates = json!({ "min_requests": 20, "gone_after": "1h" });
        let mut world = World::start(size, json!({ "steps": steps, "gates": gates, "within": "1h" }));
        let (mut with_it, mut seconds) = (0, 0);
        let mut events = events.into_iter();
        let verdict = loop {
            if let Some((index, what)) = events.next()
                && let Some(node) = world.nodes.get_mut(index % size)
            {
                match what {
                    0 => node.connected = false,
                    1 => node.connected = true,
                    _ => {}
                }
            } else {
                world.nodes.iter_mut().for_each(|node| node.connected = true);
            }
            world.adopt();
            world.traffic(10, |revision| if is_bad && revision == NEW { 10 } else { 0 });
            let (verdict, evidence) = world.look();
            prop_assert!(world.with_it() >= with_it);
            with_it = world.with_it();
            if is_bad && evidence.new.requests >= 20 {
                prop_assert!(matches!(verdict, Verdict::RollBack(_)));
            }
            if matches!(verdict, Verdict::Promote | Verdict::RollBack(_)) {
                break verdict;
            }
            world.now += Duration::from_secs(1);
            seconds += 1;
            prop_assert!(seconds < 10_000);
        };
        if is_bad {
            // In a bake of a second nobody has sent enough requests to say.
            let is_short = bakes.iter().map(|(bake, _)| bake).sum::<u64>() < 3;
            prop_assert!(is_short || matches!(verdict, Verdict::RollBack(_)));
        } else {
            prop_assert_eq!(verdict, Verdict::Promote);
            prop_assert!(seconds >= bakes.iter().map(|(bake, _)| bake).sum::<u64>());
        }
    }
}
