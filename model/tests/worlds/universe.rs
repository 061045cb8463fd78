//! Random changes over a handful of names of every kind.

use std::sync::OnceLock;

use model::config::{Config, Edit};
use model::resource::{Key, Kind};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

/// Keys of consumers.
pub const KEYS: [&str; 5] = [
    "key number one, long",
    "key number two, long",
    "key number three, long",
    "key number four, long",
    "no key at all",
];

/// One step of a change, before it is known what there is to refer to.
#[derive(Clone, Copy, Debug)]
pub struct Seed {
    kind: Kind,
    name: u8,
    removes: bool,
    draw: u64,
}

/// Series of changes.
pub fn changes(longest: usize) -> impl Strategy<Value = Vec<Vec<Seed>>> {
    let kind = prop::sample::select(vec![
        Kind::Listener,
        Kind::Certificate,
        Kind::CaBundle,
        Kind::Service,
        Kind::Service,
        Kind::Route,
        Kind::Route,
        Kind::Policy,
        Kind::Policy,
        Kind::Consumer,
    ]);
    let seed = (kind, 0_u8..4, prop::bool::weighted(0.2), any::<u64>());
    let seed = seed.prop_map(|(kind, name, removes, draw)| Seed { kind, name, removes, draw });
    prop::collection::vec(prop::collection::vec(seed, 1..5), 1..longest)
}

/// The edits of a change, referring mostly to what exists.
pub fn edits(config: &Config, change: &[Seed]) -> Vec<Edit> {
    let mut edits: Vec<Edit> = Vec::new();
    let mut seen = Vec::new();
    for seed in change {
        let name = format!("{}-{}", seed.kind.singular().replace('_', "-"), seed.name);
        if seen.contains(&name) {
            continue;
        }
        seen.push(name.clone());
        edits.push(if seed.removes {
            Edit::Remove { key: Key::new(seed.kind, name.parse().expect("a name")) }
        } else {
            Edit::Put { kind: seed.kind, name, spec: spec(seed.kind, &mut Draw { config, state: seed.draw }) }
        });
    }
    edits
}

/// Numbers that follow from a seed, and names that exist.
struct Draw<'a> {
    config: &'a Config,
    state: u64,
}

impl Draw<'_> {
    /// A number below `end` (splitmix64).
    fn below(&mut self, end: u64) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }

    fn one_in(&mut self, odds: u64) -> bool {
        self.below(odds) == 0
    }

    fn of<T: Clone>(&mut self, choices: &[T]) -> T {
        let index = self.below(choices.len() as u64);
        choices[usize::try_from(index).expect("small")].clone()
    }

    fn some<T: Clone>(&mut self, choices: &[T]) -> Vec<T> {
        choices.iter().filter(|_| self.one_in(3)).cloned().collect()
    }

    fn existing(&self, kind: Kind) -> Vec<String> {
        self.config.of_kind(kind, None).map(|(name, _)| name.to_string()).collect()
    }

    /// Perhaps the name of one of this kind.
    fn one(&mut self, kind: Kind) -> Option<String> {
        let existing = self.existing(kind);
        if existing.is_empty() || self.one_in(2) { None } else { Some(self.of(&existing)) }
    }

    fn policies(&mut self) -> Vec<String> {
        let existing = self.existing(Kind::Policy);
        self.some(&existing)
    }
}

fn spec(kind: Kind, draw: &mut Draw<'_>) -> Value {
    let mut spec = match kind {
        Kind::Listener => listener(draw),
        Kind::Certificate => certificate(draw),
        Kind::CaBundle => ca_bundle(draw),
        Kind::Service => service(draw),
        Kind::Route => route(draw),
        Kind::Policy => policy(draw),
        Kind::Consumer => consumer(draw),
    };
    if draw.one_in(4) && kind != Kind::CaBundle {
        spec["enabled"] = false.into();
    }
    if draw.one_in(4) {
        spec["labels"] = json!({"team": draw.of(&["a", "${env:b}", "c\nd: *e"])});
    }
    spec
}

fn listener(draw: &mut Draw<'_>) -> Value {
    let port = 8000 + draw.below(6);
    let mut spec = json!({"bind": format!("127.0.0.1:{port}"), "policies": draw.policies()});
    spec["revision_header"] = draw.of(&[true, false]).into();
    let certificates = draw.existing(Kind::Certificate);
    let certificates = draw.some(&certificates);
    if !certificates.is_empty() {
        spec["tls"] = json!({"certificates": certificates, "min_version": draw.of(&["1.2", "1.3"])});
        if let Some(ca_bundle) = draw.one(Kind::CaBundle) {
            let mode = draw.of(&["none", "optional", "required"]);
            spec["tls"]["client_certificate"] =
                json!({"mode": mode, "ca_bundle": ca_bundle, "forward": draw.of(&[true, false])});
        }
    }
    spec
}

/// Certificates with their keys, in PEM.
fn made() -> &'static [(String, String)] {
    static MADE: OnceLock<Vec<(String, String)>> = OnceLock::new();
    MADE.get_or_init(|| {
        let make = |host: &str| {
            let made = rcgen::generate_simple_self_signed(vec![host.to_owned()]).expect("a certificate");
            (made.cert.pem(), made.signing_key.serialize_pem())
        };
        ["a.test", "b.test", "*.c.test"].map(make).to_vec()
    })
}

fn certificate(draw: &mut Draw<'_>) -> Value {
    let (cert, key) = draw.of(made());
    json!({"cert": cert, "key": key, "hosts": draw.some(&["a.test", "*.d.test"])})
}

fn ca_bundle(draw: &mut Draw<'_>) -> Value {
    let (first, second) = (draw.of(made()).0, draw.of(made()).0);
    json!({"certs": if draw.one_in(2) { first } else { first + &second }})
}

fn service(draw: &mut Draw<'_>) -> Value {
    let urls = draw.some(&["http://10.0.0.1:80", "https://b.test", "http://[::1]:9000"]);
    let mut spec = match &urls[..] {
        [] => json!({"url": "http://10.0.0.9:9000"}),
        urls => {
            let targets: Vec<Value> = urls.iter().map(|url| target(draw, url)).collect();
            json!({"targets": targets})
        }
    };
    spec["policies"] = draw.policies().into();
    let ca_bundle = draw.one(Kind::CaBundle);
    let client_certificate = draw.one(Kind::Certificate);
    spec["tls"] = json!({"ca_bundle": ca_bundle, "client_certificate": client_certificate});
    spec["protocol"] = draw.of(&["auto", "http1", "http2"]).into();
    spec["load_balancing"] = draw.of(&[
        json!("least_request"),
        json!("round_robin"),
        json!({"policy": "peak_ewma", "slow_start": "10s"}),
        json!({"policy": "ring_hash", "key": {"header": "X-User"}}),
        json!({"policy": "maglev", "key": "consumer", "panic_threshold": "0%"}),
        json!({"sticky_cookie": {"name": "at", "max_age": "1h", "same_site": "none"}}),
    ]);
    spec["outlier_detection"] = draw.of(&[
        json!({}),
        json!({"consecutive_failures": 0, "success_rate": {"stdev_factor": 2.5}}),
        json!({"base_ejection_time": "1s", "latency": {"factor": 3.0}}),
    ]);
    if draw.one_in(3) {
        spec["health_check"] = draw.of(&[
            json!({"tcp": {}, "interval": "1s"}),
            json!({"http": {"path": "/health", "expected_status": ["200-299", "401"], "expected_body": "ok"}}),
            json!({"grpc": {"service": "shop.Orders"}, "healthy_threshold": 1}),
        ]);
    }
    spec["timeouts"] = json!({"connect": draw.of(&["2s", "1s"])});
    if draw.one_in(4) {
        spec["connections"] = json!({"max_age": draw.of(&["1h", "90s"]), "max_idle": draw.of(&["1m", "5s"]), "max_requests": draw.below(9) + 1});
        if draw.one_in(2) {
            spec["connections"]["pings"] =
                json!({"enabled": draw.of(&[true, false]), "after": draw.of(&["30s", "5s"])});
        }
    }
    if draw.one_in(4) {
        spec["deadline_header"] = "X-Left".into();
    }
    if draw.one_in(3) {
        spec["limits"] = json!({"requests": draw.below(3) + 1, "pending": draw.below(2)});
        if draw.one_in(2) {
            spec["limits"]["adaptive"] = json!({"max": draw.below(99) + 10});
        }
    }
    if draw.one_in(4) {
        let records = draw.of(&["addresses", "srv"]);
        spec["discovery"] = json!({"dns": {"name": "a.test", "records": records, "min_ttl": "1m"}});
    }
    if draw.one_in(3) {
        spec["retries"] = json!({
            "attempts": draw.below(4),
            "on": draw.some(&["connect_failure", "reset", "timeout"]),
            "statuses": draw.some(&[502, 503]),
            "methods": draw.some(&["GET", "POST"]),
            "budget": {"percent": draw.of(&["20%", "0.5%"])},
        });
        if draw.one_in(2) && spec["retries"]["attempts"] != 0 {
            spec["retries"]["hedging"] = json!({"percentile": draw.of(&["95%", "99%"]), "min_delay": "20ms"});
        }
    }
    spec
}

fn target(draw: &mut Draw<'_>, url: &str) -> Value {
    let mut target = json!({"url": url, "weight": draw.below(3)});
    if draw.one_in(3) {
        target["labels"] = json!({"version": draw.of(&["1", "2"])});
        target["zone"] = draw.of(&["a", "b"]).into();
        target["priority"] = draw.below(2).into();
    }
    target
}

fn route(draw: &mut Draw<'_>) -> Value {
    let listeners = draw.existing(Kind::Listener);
    let mut spec = Map::new();
    spec.insert("hosts".into(), draw.some(&["a.test", "*.test", "b.test", "*.b.test"]).into());
    let paths = [
        json!("/"),
        json!("/a"),
        json!({"exact": "/a"}),
        json!({"prefix": "/a/b/"}),
        json!("/c"),
        json!({"template": "/a/{one}/{two}"}),
        json!({"regex": "/(?<all>a.*)"}),
    ];
    spec.insert("paths".into(), draw.some(&paths).into());
    spec.insert("methods".into(), draw.some(&["GET", "POST"]).into());
    let conditions = [json!({"name": "X-Test", "exact": "1"}), json!({"name": "X-Test", "regex": "[1-9]"})];
    spec.insert("headers".into(), draw.some(&conditions).into());
    let conditions = [json!({"name": "q", "exact": "1 2"}), json!({"name": "key", "present": false})];
    spec.insert("query".into(), draw.some(&conditions).into());
    if draw.one_in(4) {
        spec.insert("sources".into(), draw.some(&["192.0.2.0/24", "10.0.0.0/8", "::1"]).into());
    }
    if draw.one_in(4) {
        spec.insert("listeners".into(), draw.some(&listeners).into());
    }
    spec.insert("priority".into(), draw.below(3).into());
    spec.insert("policies".into(), draw.policies().into());
    let services = draw.existing(Kind::Service);
    let backends: Vec<Value> = draw.some(&services).into_iter().map(|service| backend(draw, &service)).collect();
    match (backends.is_empty(), services.first()) {
        (false, _) => spec.insert("backends".into(), backends.into()),
        (true, Some(service)) if draw.one_in(2) => spec.insert("service".into(), service.as_str().into()),
        _ if draw.one_in(8) => None,
        _ if draw.one_in(2) => spec.insert("redirect".into(), json!({"scheme": "https", "status": 308})),
        _ => spec.insert("respond".into(), json!({"status": 200 + draw.below(2), "body": "here\n"})),
    };
    if draw.one_in(8) {
        spec.insert("normalize_path".into(), false.into());
        return spec.into();
    }
    if !spec.contains_key("respond") && !spec.contains_key("redirect") {
        spec.insert("rewrite".into(), rewrite(draw));
        spec.insert("importance".into(), draw.of(&["low", "normal", "high"]).into());
        if draw.one_in(4) {
            let retries = json!({"attempts": draw.below(4), "statuses": draw.some(&[502, 503])});
            spec.insert("retries".into(), retries);
        }
        let mirrors = draw.some(&services).into_iter();
        let mirrors: Vec<Value> = mirrors.map(|service| json!({"service": service, "fraction": "0.5%"})).collect();
        spec.insert("mirrors".into(), mirrors.into());
    }
    if draw.one_in(4) {
        spec.insert("response_headers".into(), json!({"add": {"X-Route": draw.of(&["1", "2"])}}));
    }
    spec.into()
}

fn backend(draw: &mut Draw<'_>, service: &str) -> Value {
    let mut spec = json!({"service": service, "weight": draw.below(3)});
    if draw.one_in(4) {
        spec["rewrite"] = rewrite(draw);
        spec["request_headers"] = json!({"set": {"X-Backend": service}, "remove": ["X-Test"]});
    }
    if draw.one_in(4) {
        spec["labels"] = json!({"version": draw.of(&["1", "2"])});
    }
    if draw.one_in(4) {
        let services = draw.existing(Kind::Service);
        let mirrors = draw.some(&services).into_iter();
        spec["mirrors"] = mirrors.map(|service| json!({"service": service, "timeout": "5s"})).collect();
    }
    spec
}

fn rewrite(draw: &mut Draw<'_>) -> Value {
    draw.of(&[
        json!({}),
        json!({"host": "internal.test"}),
        json!({"path": {"replace_full": "/all"}}),
        json!({"path": {"regex": {"pattern": "/a/(?<rest>.*)", "substitution": "/b/{rest}"}}}),
    ])
}

fn policy(draw: &mut Draw<'_>) -> Value {
    let (type_name, config) = draw.of(&[
        ("request-id", json!(null)),
        ("request-id", json!({"header": "X-Trace"})),
        ("key-auth", json!({})),
        ("key-auth", json!({"header": "X-Key", "query": "key"})),
        ("rate-limit", json!({"limit": 1_000_000, "per": "60s", "by": "consumer"})),
        ("rate-limit", json!({"limit": 1_000_000, "per": "1m", "burst": 1_000})),
        ("headers", json!({"request": {"set": {"X-A": "1"}, "remove": ["X-Test"]}})),
        ("headers", json!({"response": {"add": {"X-B": "2"}}})),
    ]);
    let mut spec = json!({"type": type_name, "config": config});
    if draw.one_in(4) {
        spec["apply_to"] = "everything".into();
    }
    spec
}

fn consumer(draw: &mut Draw<'_>) -> Value {
    let keys = draw.some(&KEYS[..4]);
    let credentials: Vec<Value> = keys
        .iter()
        .enumerate()
        .map(|(index, key)| json!({"type": "key-auth", "name": format!("k{index}"), "key": key}))
        .collect();
    json!({"credentials": credentials, "policies": draw.policies()})
}
