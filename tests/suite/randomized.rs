//! In the spirit of Jepsen: writers, readers and probes on a fleet whose processes are killed and frozen, whose networks are
//! cut, silent, slow and broken, from a seed. What they saw is judged afterwards by [`tests::history`].
//!
//! `FLEET_SEED` repeats a run as far as threads and the kernel allow it, `FLEET_SECONDS` harms the fleet for longer.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use fastrand::Rng;
use serde_json::{Value, json};
use tests::gateway::{Admin, wait_until};
use tests::history::{End, History, Outcome, Probe, Read, Revision, Write, violations};
use tests::http::{Answer, Connection};
use tests::relay::Fault;
use tests::traffic::Backend;

use crate::fleet::Fleet;

const CONTROL_PLANES: usize = 2;
const NODES: usize = 3;
const WRITERS: usize = 4;
/// Resources that writers choose from.
const RESOURCES: u64 = 6;
/// Kept for as long as faults last, unless something else is asked for.
const SECONDS: u64 = 40;

#[test]
fn a_fleet_that_is_harmed_at_random_keeps_every_promise() -> Result<()> {
    let asked = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let seed = asked("FLEET_SEED").unwrap_or_else(|| fastrand::u64(..));
    let duration = Duration::from_secs(asked("FLEET_SECONDS").unwrap_or(SECONDS));
    println!("FLEET_SEED={seed} FLEET_SECONDS={}", duration.as_secs());

    let mut fleet = Fleet::start_with(CONTROL_PLANES, NODES, &["--certificate-lifetime", "30s"])?;
    let backend = Backend::start("echo");
    let seen = Seen::new(&fleet, &backend);
    seen.write(&mut Rng::with_seed(seed), 0);
    fleet.wait_until_converged()?;
    let mut nemesis = Nemesis { rng: Rng::with_seed(seed), active: Vec::new(), log: Vec::new() };
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (seen, mut rng) = (&seen, Rng::with_seed(seed ^ (writer as u64 + 1)));
            scope.spawn(move || seen.keep_writing(&mut rng));
        }
        for replica in 0..CONTROL_PLANES {
            let seen = &seen;
            scope.spawn(move || seen.keep_reading(replica));
        }
        for node in 0..NODES {
            let seen = &seen;
            scope.spawn(move || seen.keep_probing(node));
        }
        let harmed = nemesis.harm(&mut fleet, &seen, duration);
        let healed = harmed.and_then(|()| nemesis.heal_all(&mut fleet, &seen));
        let healed = healed.and_then(|()| {
            let since = seen.now();
            wait_until("with all of it whole again, something more is written", || seen.acknowledged_since(since) >= 10)
        });
        seen.is_over.store(true, Ordering::SeqCst);
        healed
    })?;
    fleet.wait_until_converged().with_context(|| nemesis.told(seed))?;
    let history = seen.history(&fleet)?;
    let found = violations(&history);
    let acknowledged = history.writes.iter().filter(|write| matches!(write.outcome, Outcome::Acknowledged(_)));
    let unknown = history.writes.iter().filter(|write| write.outcome == Outcome::Unknown);
    let (acknowledged, unknown) = (acknowledged.count(), unknown.count());
    println!(
        "{} writes, {acknowledged} acknowledged, {unknown} without an answer; {} revisions, {} probes, {} reads\n{}",
        history.writes.len(),
        history.revisions.len(),
        history.probes.len(),
        history.reads.len(),
        nemesis.told(seed)
    );
    let shown = &found[..found.len().min(20)];
    ensure!(found.is_empty(), "{} promises were broken: {shown:#?}\n{}", found.len(), nemesis.told(seed));
    // Or it has shown nothing.
    ensure!(acknowledged > 20 && history.probes.len() > 200 && nemesis.log.len() > 5, "too little happened");
    Ok(())
}

/// What writers, readers and probes write down.
struct Seen {
    began: Instant,
    admins: Vec<Admin>,
    listeners: Vec<SocketAddr>,
    bind: String,
    backend: String,
    next: AtomicU64,
    is_over: AtomicBool,
    vitals: Vec<Vitals>,
    history: Mutex<History>,
}

/// What the nemesis tells of a node, so that nobody wonders why a dead one does not answer.
#[derive(Default)]
struct Vitals {
    life: AtomicU64,
    is_killed: AtomicBool,
}

impl Seen {
    fn new(fleet: &Fleet, backend: &Backend) -> Self {
        Self {
            began: Instant::now(),
            admins: (0..CONTROL_PLANES).map(|control| fleet.admin(control).clone()).collect(),
            listeners: (0..NODES).map(|node| fleet.listener(node)).collect(),
            bind: fleet.bind(),
            backend: backend.url(),
            next: AtomicU64::new(1),
            is_over: AtomicBool::new(false),
            vitals: (0..NODES).map(|_| Vitals::default()).collect(),
            history: Mutex::default(),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).expect("tests are short")
    }

    fn acknowledged_since(&self, since: u64) -> usize {
        let history = self.history.lock().expect("no panic while it is held");
        let later = history.writes.iter().filter(|write| write.began >= since);
        later.filter(|write| matches!(write.outcome, Outcome::Acknowledged(_))).count()
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst)
    }

    fn keep_writing(&self, rng: &mut Rng) {
        while !self.is_over() {
            let replica = rng.usize(..CONTROL_PLANES);
            self.write(rng, replica);
            std::thread::sleep(Duration::from_millis(rng.u64(20..120)));
        }
    }

    /// Without a base, or on the head that this replica shows, or with a fault in it.
    fn write(&self, rng: &mut Rng, replica: usize) {
        let number = self.next.fetch_add(1, Ordering::SeqCst);
        let resource = format!("own-{}", rng.u64(..RESOURCES));
        let mut path = format!("config:apply?message=write-{number}");
        let mut file = self.file(number, &resource);
        match rng.u32(..10) {
            0 => file["routes"][0]["service"] = "missing".into(),
            1..=3 if number > 1 => {
                let Ok(status) = self.admins[replica].get("status") else { return };
                path.push_str(&format!("&base={}", status["revision"]));
            }
            _ => {}
        }
        let began = self.now();
        let answer = self.admins[replica].call("POST", &path, &file.to_string());
        let outcome = match answer {
            Ok(answer) if answer.status < 300 => {
                let revision = answer.field("sluice-revision").and_then(|text| text.parse().ok());
                Outcome::Acknowledged(revision.expect("an acknowledged write names its revision"))
            }
            Ok(answer) if answer.status < 500 => Outcome::Refused,
            _ => Outcome::Unknown,
        };
        let write = Write { number, resource, replica, began, ended: self.now(), outcome };
        self.history.lock().expect("no panic while it is held").writes.push(write);
    }

    /// The number in a resource of the writer's choice, and in a route and a policy that one request meets.
    fn file(&self, number: u64, resource: &str) -> Value {
        let marker = number.to_string();
        json!({
            "version": 1,
            "listeners": [{ "name": "web", "bind": self.bind }],
            "services": [{ "name": "echo", "url": self.backend }],
            "policies": [{ "name": "marked", "type": "headers", "config": {
                "request": { "set": { "X-Policy": marker } },
                "response": { "set": { "X-Answer": marker } },
            } }],
            "routes": [
                { "name": "marked", "paths": ["/marked"], "service": "echo", "policies": ["marked"],
                  "request_headers": { "set": { "X-Route": marker } } },
                { "name": resource, "paths": [format!("/{resource}")], "respond": { "body": marker } },
            ],
        })
    }

    fn keep_reading(&self, replica: usize) {
        while !self.is_over() {
            let began = self.now();
            if let Ok(status) = self.admins[replica].get("status") {
                let revision = status["revision"].as_u64().expect("a revision is a number");
                let read = Read { replica, began, ended: self.now(), revision };
                self.history.lock().expect("no panic while it is held").reads.push(read);
            }
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    fn keep_probing(&self, node: usize) {
        let Vitals { life, is_killed } = &self.vitals[node];
        let mut connection = None;
        let mut has_answered_in = None;
        while !self.is_over() {
            std::thread::sleep(Duration::from_millis(10));
            let (lives, began) = (life.load(Ordering::SeqCst), self.now());
            let seen = probe(&mut connection, self.listeners[node]).map_err(|error| error.to_string());
            let is_same_life = life.load(Ordering::SeqCst) == lives;
            match &seen {
                Ok(_) => has_answered_in = Some(lives),
                // It has just been started, or killed.
                Err(_) if has_answered_in != Some(lives) || is_killed.load(Ordering::SeqCst) => continue,
                Err(_) => {}
            }
            if is_same_life {
                let probe = Probe { node, life: lives, began, ended: self.now(), seen };
                self.history.lock().expect("no panic while it is held").probes.push(probe);
            }
        }
    }

    /// With what the control planes and nodes say in the end.
    fn history(&self, fleet: &Fleet) -> Result<History> {
        let mut history = std::mem::take(&mut *self.history.lock().expect("no panic while it is held"));
        let mut cursor = String::new();
        loop {
            let page = fleet.admin(0).get(&format!("revisions?limit=1000{cursor}"))?;
            for revision in page["items"].as_array().context("a list of revisions")? {
                let write = revision["message"].as_str().and_then(|message| message.strip_prefix("write-"));
                let number = revision["number"].as_u64().context("a number")?;
                history.revisions.push(Revision { number, write: write.map(str::parse).transpose()? });
            }
            let Some(next) = page["next_cursor"].as_str() else { break };
            cursor = format!("&cursor={next}");
        }
        history.revisions.reverse();
        let position = |of: &Value| Some((of["revision"].as_u64()?, of["digest"].as_str()?.to_owned()));
        let heads = (0..CONTROL_PLANES).map(|control| position(&fleet.admin(control).get("status").ok()?));
        let nodes = fleet.admin(1).nodes()?;
        let mut resources = BTreeMap::new();
        for route in fleet.admin(1).get("routes?limit=1000")?["items"].as_array().context("a list of routes")? {
            let (name, body) = (route["name"].as_str(), route["respond"]["body"].as_str());
            if let (Some(name), Some(body)) = (name, body) {
                resources.insert(name.to_owned(), body.parse()?);
            }
        }
        history.end = End {
            heads: heads.collect::<Option<_>>().context("a head")?,
            nodes: nodes.iter().map(|node| position(&node["serving"])).collect::<Option<_>>().context("a node")?,
            resources,
        };
        Ok(history)
    }
}

/// The numbers that one answer shows: what the service was sent by the route and by the policy, and what the client got.
fn probe(connection: &mut Option<Connection>, listener: SocketAddr) -> Result<Vec<u64>> {
    let mut open = match connection.take() {
        Some(open) => open,
        None => Connection::open(listener)?,
    };
    let answer = open.send("GET", "/marked", &[("Host", "any")], b"")?;
    ensure!(answer.status == 200, "{}: {}", answer.status, answer.text());
    let seen = markers(&answer)?;
    if answer.field("connection") != Some("close") {
        *connection = Some(open);
    }
    Ok(seen)
}

fn markers(answer: &Answer) -> Result<Vec<u64>> {
    let text = answer.text();
    let sent = |name: &str| {
        let line =
            text.lines().find_map(|line| line.split_once(':').filter(|(field, _)| field.eq_ignore_ascii_case(name)));
        Some(line?.1.trim().to_owned())
    };
    let got = answer.field("x-answer").map(str::to_owned);
    let seen = [sent("x-policy"), sent("x-route"), got];
    seen.into_iter()
        .map(|marker| Ok(marker.with_context(|| format!("a marker is missing: {text}"))?.parse()?))
        .collect()
}

/// Harms the fleet, several faults at a time, each for a while.
struct Nemesis {
    rng: Rng,
    active: Vec<(Instant, Harm)>,
    log: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Harm {
    KillControl(usize),
    FreezeControl(usize),
    KillNode(usize),
    FreezeNode(usize),
    RestartDatabase,
    /// Between a node and the control planes.
    Stream(usize, Fault),
    /// Between a control plane and PostgreSQL, whose protocol has no checks of its own: bytes are not changed here.
    Database(usize, Fault),
}

impl Harm {
    /// Two that would undo each other.
    fn is_about_the_same(self, other: Self) -> bool {
        let subject = |harm| match harm {
            Self::KillControl(control) | Self::FreezeControl(control) => (0, control),
            Self::KillNode(node) | Self::FreezeNode(node) => (1, node),
            Self::RestartDatabase => (2, 0),
            Self::Stream(node, _) => (3, node),
            Self::Database(control, _) => (4, control),
        };
        subject(self) == subject(other)
    }
}

impl Nemesis {
    fn harm(&mut self, fleet: &mut Fleet, seen: &Seen, duration: Duration) -> Result<()> {
        let end = Instant::now() + duration;
        while Instant::now() < end {
            if self.active.len() < 3 {
                let harm = self.draw();
                let until = Instant::now() + Duration::from_millis(self.rng.u64(200..4000));
                if !self.active.iter().any(|(_, other)| other.is_about_the_same(harm)) {
                    self.log.push(format!("{:>6} ms {harm:?}", seen.now() / 1000));
                    begin(harm, fleet, seen)?;
                    self.active.push((until, harm));
                }
            }
            std::thread::sleep(Duration::from_millis(self.rng.u64(50..400)));
            let (over, active) = self.active.iter().partition(|(until, _)| *until < Instant::now());
            self.active = active;
            let over: Vec<(Instant, Harm)> = over;
            over.into_iter().try_for_each(|(_, harm)| end_of(harm, fleet, seen))?;
        }
        Ok(())
    }

    fn heal_all(&mut self, fleet: &mut Fleet, seen: &Seen) -> Result<()> {
        std::mem::take(&mut self.active).into_iter().try_for_each(|(_, harm)| end_of(harm, fleet, seen))?;
        for control in &mut fleet.controls {
            ensure!(control.process.is_running(), "a control plane has ended by itself: {}", control.process.output());
        }
        for node in &mut fleet.nodes {
            ensure!(node.process.is_running(), "a node has ended by itself: {}", node.process.output());
        }
        Ok(())
    }

    fn draw(&mut self) -> Harm {
        let rng = &mut self.rng;
        let (control, node) = (rng.usize(..CONTROL_PLANES), rng.usize(..NODES));
        let pause = Duration::from_millis(rng.u64(10..300));
        let bytes = rng.usize(100..5000);
        let faults = [
            Fault::Cut,
            Fault::Stall,
            Fault::Delay(pause),
            Fault::CutAfter(bytes),
            Fault::Mute,
            Fault::Corrupt,
            Fault::Swap,
        ];
        match rng.u32(..12) {
            0 | 1 => Harm::KillControl(control),
            2 => Harm::FreezeControl(control),
            3 | 4 => Harm::KillNode(node),
            5 => Harm::FreezeNode(node),
            6 => Harm::RestartDatabase,
            7 | 8 => Harm::Database(control, faults[rng.usize(..5)]),
            _ => Harm::Stream(node, faults[rng.usize(..faults.len())]),
        }
    }

    fn told(&self, seed: u64) -> String {
        format!("FLEET_SEED={seed}\n{}", self.log.join("\n"))
    }
}

fn begin(harm: Harm, fleet: &mut Fleet, seen: &Seen) -> Result<()> {
    match harm {
        Harm::KillControl(control) => fleet.controls[control].process.kill(),
        Harm::FreezeControl(control) => fleet.controls[control].process.signal("STOP")?,
        Harm::KillNode(node) => {
            seen.vitals[node].is_killed.store(true, Ordering::SeqCst);
            fleet.nodes[node].process.kill();
        }
        Harm::FreezeNode(node) => fleet.nodes[node].process.signal("STOP")?,
        Harm::RestartDatabase => fleet.postgres.stop(),
        Harm::Stream(node, fault) => fleet.to_control[node].set(Some(fault)),
        Harm::Database(control, fault) => fleet.to_database[control].set(Some(fault)),
    }
    Ok(())
}

fn end_of(harm: Harm, fleet: &mut Fleet, seen: &Seen) -> Result<()> {
    match harm {
        Harm::KillControl(control) => fleet.controls[control].process.start_again()?,
        Harm::FreezeControl(control) => fleet.controls[control].process.signal("CONT")?,
        Harm::KillNode(node) => {
            let Vitals { life, is_killed } = &seen.vitals[node];
            life.fetch_add(1, Ordering::SeqCst);
            is_killed.store(false, Ordering::SeqCst);
            fleet.nodes[node].process.start_again()?;
        }
        Harm::FreezeNode(node) => fleet.nodes[node].process.signal("CONT")?,
        Harm::RestartDatabase => fleet.postgres.start_again(),
        Harm::Stream(node, _) => fleet.to_control[node].set(None),
        Harm::Database(control, _) => fleet.to_database[control].set(None),
    }
    Ok(())
}
