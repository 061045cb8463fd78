//! Follows what services find by themselves: the records of their names in DNS, as targets.
//!
//! There is one task for each discovery, however many services have the same. When to ask, and what counts when there is
//! no good answer, is a matter of [`crate::dns`]; how targets get to the cores is one of [`crate::membership`].

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::proto::rr::{Name as DnsOwner, RecordType};
use model::membership::Found;
use model::resource::Name;
use model::resource::service::{DnsDiscovery, DnsRecords, MAX_PRIORITY, TargetUrl};
use model::snapshot::Snapshot;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::dns::ask::{Record, Servers};
use crate::dns::memory::{Known, Trouble};
use crate::dns::{Names, Wanted};
use crate::membership::Sources;
use crate::telemetry::NodeState;

/// How long a revision waits for the first answers to its names.
const FIRST_WITHIN: Duration = Duration::from_secs(2);

/// The largest weight of a target.
const MOST_WEIGHT: u32 = 1000;

/// What services find by themselves.
pub struct Discoveries {
    names: Names,
    node: Arc<NodeState>,
    followed: Mutex<HashMap<Arc<DnsDiscovery>, Followed>>,
}

struct Followed {
    tally: Arc<Tally>,
    /// There was an answer, or none that is waited for.
    is_known: watch::Receiver<bool>,
    _task: AbortOnDropHandle<()>,
}

/// What came of the questions of one discovery.
#[derive(Default)]
pub struct Tally(Mutex<Discovered>);

/// See [`Tally`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Discovered {
    pub answers: u64,
    pub failed: u64,
    pub nothing: u64,
    pub targets: usize,
    pub good_at: Option<Instant>,
}

impl Discoveries {
    pub fn new(names: Names, node: Arc<NodeState>) -> Self {
        Self { names, node, followed: Mutex::default() }
    }

    pub fn names(&self) -> &Names {
        &self.names
    }

    /// Follows what the services of a snapshot find, too, and tells of it whenever it changes. Waits a while for the first
    /// answers.
    pub async fn begin<T, R>(&self, snapshot: &Snapshot, tell: T)
    where
        T: Fn(Arc<DnsDiscovery>, Arc<[Found]>) -> R + Clone + Send + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let mut waiting = Vec::new();
        for discovery in snapshot.discovered.values() {
            let mut followed = self.followed.lock();
            let followed =
                followed.entry(Arc::clone(discovery)).or_insert_with(|| self.follow(discovery, tell.clone()));
            waiting.push(followed.is_known.clone());
        }
        let all = waiting.iter_mut().map(|is_known| async { is_known.wait_for(|is_known| *is_known).await.map(drop) });
        // Without an answer, services begin without targets.
        let _ = tokio::time::timeout(FIRST_WITHIN, futures_util::future::join_all(all)).await;
    }

    /// Gives up what no service of the snapshot wants to know.
    pub fn settle(&self, snapshot: &Snapshot, sources: &Sources) {
        let wanted: HashSet<&Arc<DnsDiscovery>> = snapshot.discovered.values().collect();
        let mut followed = self.followed.lock();
        for (discovery, _) in followed.extract_if(|discovery, _| !wanted.contains(discovery)) {
            sources.find(&discovery, None);
        }
        let tallies = snapshot.discovered.iter().filter_map(|(name, discovery)| {
            let tally = Arc::clone(&followed.get(discovery)?.tally);
            Some((Name::clone(name), tally))
        });
        self.node.discovers(tallies.collect());
    }

    fn follow<T, R>(&self, discovery: &Arc<DnsDiscovery>, tell: T) -> Followed
    where
        T: Fn(Arc<DnsDiscovery>, Arc<[Found]>) -> R + Send + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        let (known, is_known) = watch::channel(false);
        let tally = Arc::new(Tally::default());
        let task = follow(self.names.clone(), Arc::clone(discovery), Arc::clone(&tally), known, tell);
        Followed { tally, is_known, _task: AbortOnDropHandle::new(self.names.runtime().spawn(task)) }
    }
}

impl Tally {
    pub fn read(&self) -> Discovered {
        *self.0.lock()
    }

    fn count(&self, known: &Known, targets: usize) {
        let mut discovered = self.0.lock();
        match known.trouble {
            None => {
                discovered.answers += 1;
                discovered.good_at = Some(Instant::now());
            }
            Some(Trouble::Failed(_)) => discovered.failed += 1,
            Some(Trouble::Nothing) => discovered.nothing += 1,
        }
        discovered.targets = targets;
    }
}

async fn follow<T, R>(
    names: Names,
    discovery: Arc<DnsDiscovery>,
    tally: Arc<Tally>,
    is_known: watch::Sender<bool>,
    tell: T,
) where
    T: Fn(Arc<DnsDiscovery>, Arc<[Found]>) -> R,
    R: Future<Output = ()>,
{
    let Ok(wanted) = wanted(&discovery) else {
        tracing::error!(dns.name = discovery.name.as_str(), "it cannot be asked for");
        return;
    };
    let (mut last, mut is_troubled): (Option<Arc<[Found]>>, _) = (None, false);
    loop {
        let known = names.know(&wanted).await;
        let found = targets(&discovery, &known.records);
        tally.count(&known, found.len());
        let is_new = last.as_ref().is_none_or(|last| *last != found);
        report(&discovery, &known, &mut is_troubled, last.as_ref().filter(|_| is_new).map_or(0, |last| last.len()));
        if is_new {
            last = Some(Arc::clone(&found));
            tell(Arc::clone(&discovery), found).await;
            is_known.send_replace(true);
        }
        tokio::time::sleep_until(next(&discovery, &known, Instant::now())).await;
    }
}

/// When to ask again: with up to a tenth more, so that nodes do not ask together.
fn next(discovery: &DnsDiscovery, known: &Known, now: Instant) -> Instant {
    let left = known.ask_at.saturating_duration_since(now);
    let wait = if known.trouble.is_none() { left.max(discovery.min_ttl.get()) } else { left };
    now + wait + wait.mul_f64(fastrand::f64() / 10.0) + Duration::from_millis(1)
}

fn wanted(discovery: &DnsDiscovery) -> Result<Wanted, String> {
    let name = DnsOwner::from_ascii(discovery.name.as_str()).map_err(|error| error.to_string())?;
    let types: &[RecordType] = match discovery.records {
        DnsRecords::Addresses => &[RecordType::A, RecordType::AAAA],
        DnsRecords::A => &[RecordType::A],
        DnsRecords::Aaaa => &[RecordType::AAAA],
        DnsRecords::Srv => &[RecordType::SRV],
    };
    let servers = discovery.servers.iter().map(|server| server.0);
    let servers = (!discovery.servers.is_empty()).then(|| Arc::new(Servers::new(servers)));
    Ok(Wanted { name, types, servers })
}

/// Once when it begins and once when it is over, not each time.
fn report(discovery: &DnsDiscovery, known: &Known, is_troubled: &mut bool, lost: usize) {
    let name = discovery.name.as_str();
    match &known.trouble {
        Some(_) if known.records.is_empty() && lost > 0 => {
            tracing::warn!(dns.name = name, "there is no such name any more: its {lost} targets are gone");
        }
        Some(Trouble::Failed(reason)) if !*is_troubled => {
            let targets = known.records.len();
            tracing::warn!(dns.name = name, targets, "no answer, so that targets stay what they were: {reason}");
        }
        Some(Trouble::Nothing) if !*is_troubled => {
            let targets = known.records.len();
            tracing::warn!(dns.name = name, targets, "there is no such name, or no such record of it");
        }
        None if *is_troubled => {
            tracing::info!(dns.name = name, targets = known.records.len(), "there are answers again");
        }
        _ => {}
    }
    *is_troubled = known.trouble.is_some();
}

fn targets(discovery: &DnsDiscovery, records: &[Record]) -> Arc<[Found]> {
    let url = |host: String, port| TargetUrl { https: discovery.is_https(), host, port };
    let services = records.iter().filter_map(|record| match record {
        Record::Service { priority, weight, port, host } => Some((*priority, u32::from(*weight), *port, host)),
        Record::Address(_) => None,
    });
    let mut services: Vec<_> = services.collect();
    services.sort_by_key(|(priority, ..)| *priority);
    let of_same = services.chunk_by(|(one, ..), (other, ..)| one == other);
    // Only their order counts (RFC 2782).
    let priorities = (0..MAX_PRIORITY).chain(std::iter::repeat(MAX_PRIORITY));
    let found = of_same.zip(priorities).flat_map(|(same, priority)| {
        let largest = same.iter().map(|(_, weight, ..)| *weight).max().unwrap_or(0).max(MOST_WEIGHT);
        // The smallest share that there is stands for 0 (RFC 2782: a very small chance), which is an equal one if all are 0.
        let scaled = move |weight: u32| (weight * MOST_WEIGHT / largest).max(1);
        same.iter().map(move |(_, weight, port, host)| Found {
            url: url(String::clone(host), *port),
            weight: scaled(*weight),
            priority,
        })
    });
    let addresses = records.iter().filter_map(|record| match record {
        Record::Address(address) => Some(IpAddr::to_string(address)),
        Record::Service { .. } => None,
    });
    let addresses = addresses.map(|address| Found { url: url(address, discovery.port()), weight: 1, priority: 0 });
    let mut known = HashSet::new();
    found.chain(addresses).filter(|found| known.insert(found.url.clone())).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn discovery(dns: Value) -> DnsDiscovery {
        serde_json::from_value(dns).expect("it can be read")
    }

    fn shown(found: &[Found]) -> Vec<(String, u32)> {
        found.iter().map(|found| (found.url.to_string(), found.weight)).collect()
    }

    #[test]
    fn each_address_is_a_target() {
        let records = ["10.0.0.1", "::1"].map(|text| Record::Address(text.parse().expect("an address")));
        let https = discovery(json!({"name": "a.test", "scheme": "https"}));
        let expected = ["https://10.0.0.1:443", "https://[::1]:443"].map(|url| (url.to_owned(), 1));
        assert_eq!(shown(&targets(&https, &records)), expected);
    }

    #[test]
    fn srv_records_are_targets_by_priority_and_weight() {
        let srv = discovery(json!({"name": "_http._tcp.a.test", "records": "srv"}));
        let record =
            |priority, weight, host: &str| Record::Service { priority, weight, port: 80, host: host.to_owned() };
        let shares = |records: &[Record]| -> Vec<(String, u32, u8)> {
            let found = targets(&srv, records);
            found.iter().map(|found| (found.url.host.clone(), found.weight, found.priority)).collect()
        };
        let is = |shares: &[(&str, u32, u8)]| -> Vec<_> {
            shares.iter().map(|(host, weight, priority)| ((*host).to_owned(), *weight, *priority)).collect()
        };
        let records = [record(7, 9, "d"), record(1, 0, "a"), record(1, 30_000, "b"), record(1, 60_000, "c")];
        assert_eq!(shares(&records), is(&[("a", 1, 0), ("b", 500, 0), ("c", 1000, 0), ("d", 9, 1)]));
        assert_eq!(shares(&[record(5, 0, "a"), record(5, 0, "b")]), is(&[("a", 1, 0), ("b", 1, 0)]));
        assert_eq!(shares(&[record(5, 10, "a"), record(5, 20, "b")]), is(&[("a", 10, 0), ("b", 20, 0)]));
        assert_eq!(shares(&[]), is(&[]));
        // One that is listed twice counts where it comes first, and after the last priority there is none.
        assert_eq!(shares(&[record(2, 3, "a"), record(1, 5, "b"), record(9, 7, "b")]), is(&[("b", 5, 0), ("a", 3, 1)]));
        let many: Vec<Record> = (0..300).map(|priority| record(priority, 1, &format!("h{priority}"))).collect();
        let last: Vec<u8> = shares(&many).into_iter().map(|(.., priority)| priority).collect();
        assert_eq!((last.len(), last[14], last[15], last[299]), (300, 14, 15, 15));
    }

    #[test]
    fn the_floor_holds_for_answers_and_not_for_the_search_after_one() {
        let discovery = discovery(json!({"name": "a.test", "min_ttl": "10s"}));
        let now = Instant::now();
        let second = Duration::from_secs(1);
        let wait = |secs: u32, trouble| {
            let known = Known { records: Arc::default(), trouble, ask_at: now + second * secs };
            next(&discovery, &known, now) - now
        };
        for _ in 0..100 {
            assert!((10 * second..=11 * second + second / 100).contains(&wait(1, None)));
            assert!((60 * second..=66 * second + second / 100).contains(&wait(60, None)));
            assert!((second..=second * 12 / 10).contains(&wait(1, Some(Trouble::Nothing))));
        }
    }
}
