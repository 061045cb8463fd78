//! What a model of very many simple routes costs: memory for each route, time for a cold load and for a
//! change of one route.
//!
//! `cargo run --release -p model --example memory -- 100000 10000` for 100,000 routes over 10,000 hosts.

use std::time::{Duration, Instant};

use model::config::Edit;
use model::resource::{Document, Key, Kind};
use model::snapshot::Snapshot;
use serde_json::json;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let mut numbers = std::env::args().skip(1).map(|number| number.parse().expect("a number"));
    let routes: usize = numbers.next().unwrap_or(100_000);
    let hosts: usize = numbers.next().unwrap_or(10_000);
    // So many edits at once; all of them unless told.
    let batch: usize = numbers.next().unwrap_or(usize::MAX);

    let service = json!({"targets": [{"url": "http://127.0.0.1:9000"}]});
    let mut snapshot = Snapshot::default();
    for name in ["orders", "other"] {
        let spec = service.clone();
        snapshot = load(&snapshot, vec![Edit::Put { kind: Kind::Service, name: name.to_owned(), spec }]);
    }
    // What a node does when it starts: it receives checked documents.
    let before = resident_bytes();
    let started = Instant::now();
    let mut documents = (0..routes).map(|number| route(number, hosts, "orders"));
    loop {
        let edits: Vec<Edit> = documents.by_ref().take(batch).collect();
        if edits.is_empty() {
            break;
        }
        snapshot = load(&snapshot, edits);
    }
    let cold = started.elapsed();
    let peak = resident_bytes().saturating_sub(before);
    settle();
    let grown = resident_bytes().saturating_sub(before);
    let each = |bytes: usize| bytes / routes;
    println!("{routes} routes over {hosts} hosts: {} bytes a route ({} while loading)", each(grown), each(peak));
    println!("cold load: {cold:.1?}");

    let changes = 1_000;
    let started = Instant::now();
    for change in 0..changes {
        snapshot = load(&snapshot, vec![route(change * (routes / changes), hosts, "other")]);
    }
    println!("one changed route: {:.1?}", started.elapsed() / u32::try_from(changes).expect("few"));
    settle();
    let grown = resident_bytes().saturating_sub(before);
    println!("after {changes} changes: {} bytes a route", each(grown));
}

fn load(snapshot: &Snapshot, edits: Vec<Edit>) -> Snapshot {
    snapshot.apply(snapshot.revision + 1, edits).expect("the routes are valid").0
}

fn route(number: usize, hosts: usize, service: &str) -> Edit {
    let host = number % hosts;
    let spec = format!(
        r#"{{"hosts":["h{host}.example"],"paths":[{{"prefix":"/r{number}"}}],"backends":[{{"service":"{service}"}}]}}"#
    );
    let name = format!("r{number}").parse().expect("a name");
    Edit::Restore { key: Key::new(Kind::Route, name), document: Document { created: 3, spec: spec.into() } }
}

/// Lets the allocator give back what it keeps for a moment.
fn settle() {
    for _ in 0..50 {
        std::thread::sleep(Duration::from_millis(50));
        drop(vec![1_u8; 256 * 1024]);
    }
}

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux tells the memory of a process");
    let pages: usize = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("a number of pages");
    pages * 4096
}
