//! What finding a route costs, by the number of routes: for the first, the last and a missing one, and for
//! requests all over the table, which shows the memory behind it. Then the same for regular expressions that begin alike,
//! which all have to be looked at.
//!
//! `cargo run --release -p model --example router_cost`

use std::hint::black_box;
use std::time::Instant;

use http::Method;
use model::config::Edit;
use model::fields::Fields;
use model::resource::{Document, Key, Kind};
use model::router::Request;
use model::snapshot::Snapshot;

const LOOKUPS: usize = 20_000;
const ROUNDS: usize = 25;

fn main() {
    println!("nanoseconds a request, best of {ROUNDS} rounds");
    println!("{:>8} {:>8} {:>8} {:>8} {:>8} {:>8}", "routes", "hosts", "first", "last", "missing", "spread");
    for hosts_of in [|_: usize| 1, |routes: usize| routes.div_ceil(10)] {
        for routes in [10, 1_000, 100_000] {
            let hosts = hosts_of(routes);
            let snapshot = table(routes, hosts, prefix);
            let first = measure(&snapshot, &[address(0, hosts)]);
            let last = measure(&snapshot, &[address(routes - 1, hosts)]);
            let missing = measure(&snapshot, &[(host(0), "/api/v1/nothing/here".to_owned())]);
            let step = (routes / 4_096).max(1);
            let all: Vec<_> = (0..routes).step_by(step).map(|number| address(number, hosts)).collect();
            let spread = measure(&snapshot, &all);
            println!("{routes:>8} {hosts:>8} {first:>8.1} {last:>8.1} {missing:>8.1} {spread:>8.1}");
        }
    }
    println!("of one host, by regular expressions that begin alike, and milliseconds for one more");
    println!("{:>8} {:>8} {:>8} {:>8} {:>8}", "routes", "first", "last", "missing", "change");
    for routes in [10, 100, 1_000] {
        let snapshot = table(routes, 1, expression);
        let [first, last] = [0, routes - 1].map(|number| measure(&snapshot, &[address(number, 1)]));
        let missing = measure(&snapshot, &[(host(0), "/api/v1/nothing-1/here".to_owned())]);
        let started = Instant::now();
        let more = route(routes, 1, expression);
        black_box(snapshot.apply(2, vec![more]).expect("the route is valid"));
        let change = started.elapsed().as_secs_f64() * 1e3;
        println!("{routes:>8} {first:>8.1} {last:>8.1} {missing:>8.1} {change:>8.2}");
    }
}

fn host(number: usize) -> String {
    format!("host-{number}.example.com")
}

fn address(number: usize, hosts: usize) -> (String, String) {
    (host(number % hosts), format!("/api/v1/orders-{number}/lines/7"))
}

fn prefix(number: usize) -> String {
    format!(r#"{{"prefix":"/api/v1/orders-{number}"}}"#)
}

fn expression(number: usize) -> String {
    format!(r#"{{"regex":"/api/v1/[a-z]+-{number}/lines/[0-9]+"}}"#)
}

fn table(routes: usize, hosts: usize, path: fn(usize) -> String) -> Snapshot {
    let service = Edit::Restore {
        key: Key::new(Kind::Service, "s".parse().expect("a name")),
        document: Document { created: 1, spec: r#"{"targets":[{"url":"http://127.0.0.1:1"}]}"#.into() },
    };
    let edits = std::iter::once(service).chain((0..routes).map(|number| route(number, hosts, path))).collect();
    Snapshot::default().apply(1, edits).expect("the routes are valid").0
}

fn route(number: usize, hosts: usize, path: fn(usize) -> String) -> Edit {
    let (host, path) = (host(number % hosts), path(number));
    let spec = format!(r#"{{"hosts":["{host}"],"paths":[{path}],"backends":[{{"service":"s"}}]}}"#);
    let name = format!("route-{number}").parse().expect("a name");
    Edit::Restore { key: Key::new(Kind::Route, name), document: Document { created: 1, spec: spec.into() } }
}

fn measure(snapshot: &Snapshot, addresses: &[(String, String)]) -> f64 {
    let headers = Fields::default();
    let once = || {
        let started = Instant::now();
        for (host, path) in addresses.iter().cycle().take(LOOKUPS) {
            let request = Request {
                listener: None,
                source: None,
                host,
                path,
                method: &Method::GET,
                headers: &headers,
                query: None,
            };
            black_box(snapshot.router.find(black_box(&request)));
        }
        started.elapsed().as_secs_f64() * 1e9
    };
    let best = (0..ROUNDS).map(|_| once()).fold(f64::INFINITY, f64::min);
    best / f64::from(u32::try_from(LOOKUPS).expect("few"))
}
