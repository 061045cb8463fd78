//! What the control plane counts of itself, in the text form that Prometheus reads (OpenMetrics 1.0).
//!
//! Counts are of the process, since that is what is scraped; nothing is decided by them. Gauges are read when somebody
//! asks. Labels are names of gateways, of which so many are told at most, and words from this program.

use std::fmt;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::{Registry, Unit};
use time::OffsetDateTime;

use crate::nodes::{Nodes, Progress};
use crate::publish::{Offer, Publisher};

/// Gateways that are told of, the first by name.
const MAX_GATEWAYS: usize = 100;
/// Bounds of the time that publishing takes, in seconds: from a change of one resource to a large import.
const PUBLISH_BOUNDS: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.5, 10.0];

/// What was counted since the process started.
pub static COUNTED: LazyLock<Counted> = LazyLock::new(|| Counted {
    published: Histogram::new(PUBLISH_BOUNDS),
    refusals: Counter::default(),
    resyncs: Counter::default(),
    sent_bytes: Counter::default(),
    store_errors: Counter::default(),
    admin_requests: Family::default(),
});

/// See [`COUNTED`].
pub struct Counted {
    /// From a change to the revision that is on disk.
    pub published: Histogram,
    pub refusals: Counter,
    pub resyncs: Counter,
    pub sent_bytes: Counter,
    pub store_errors: Counter,
    admin_requests: Family<[(&'static str, String); 1], Counter>,
}

impl Counted {
    /// The admin API has answered.
    pub fn answered(&self, status: u16) {
        self.admin_requests.get_or_create(&[("code", status.to_string())]).inc();
    }
}

/// Everything at this moment; `event_streams` are open.
#[must_use]
pub fn render(publisher: &Publisher, nodes: &Nodes, event_streams: usize) -> String {
    let counted = &*COUNTED;
    let mut registry = Registry::with_prefix("sluice");
    let help = "From a change to the revision on disk, of those that were published";
    registry.register_with_unit("publish_duration", help, Unit::Seconds, counted.published.clone());
    let help = "Revisions that a node at this replica did not take";
    registry.register("node_refusals", help, counted.refusals.clone());
    let help = "Nodes at this replica that were sent everything, since what they had was not what it should be";
    registry.register("node_resyncs", help, counted.resyncs.clone());
    let help = "Configuration and what goes with it, sent to nodes by this replica";
    registry.register_with_unit("stream_sent", help, Unit::Bytes, counted.sent_bytes.clone());
    let help = "Operations of the database that failed";
    registry.register("store_errors", help, counted.store_errors.clone());
    registry.register("admin_requests", "Answers of the admin API, by status", counted.admin_requests.clone());
    registry.register("event_streams", "Clients that watch events at this replica", gauge(event_streams as f64));
    let streams = gauge(nodes.connected_here() as f64);
    registry.register("node_streams", "Nodes that are connected to this replica", streams);
    registry.register_collector(Box::new(Fleets::read(publisher, nodes)));
    let mut told = String::new();
    text::encode(&mut told, &registry).expect("a String takes all that is written");
    told
}

fn gauge(value: f64) -> ConstGauge<f64> {
    ConstGauge::new(value)
}

/// The gateways with their nodes, as every replica knows them.
#[derive(Debug)]
struct Fleets(Vec<FleetNow>);

#[derive(Debug)]
struct FleetNow {
    gateway: String,
    revision: u64,
    /// How many nodes are how far with what they are to serve.
    progress: [usize; PROGRESS.len()],
    behind: usize,
    lag: Duration,
}

const PROGRESS: [(Progress, &str); 6] = [
    (Progress::Serving, "serving"),
    (Progress::Differs, "differs"),
    (Progress::Ahead, "ahead"),
    (Progress::Refused, "refused"),
    (Progress::Preparing, "preparing"),
    (Progress::Behind, "behind"),
];

impl Fleets {
    fn read(publisher: &Publisher, nodes: &Nodes) -> Self {
        let gateways = publisher.gateways().into_iter().take(MAX_GATEWAYS);
        Self(gateways.filter_map(|gateway| FleetNow::read(publisher, nodes, gateway)).collect())
    }
}

impl FleetNow {
    fn read(publisher: &Publisher, nodes: &Nodes, gateway: String) -> Option<Self> {
        let offer: Offer = publisher.watch(&gateway)?.borrow().clone();
        let now = OffsetDateTime::now_utc();
        let mut progress = [0; PROGRESS.len()];
        let (mut behind, mut lag) = (0, Duration::ZERO);
        nodes.each(&gateway, |node| {
            if !node.connected {
                return;
            }
            let wanted = offer.for_status(node);
            let state = node.progress(wanted.revision, wanted.config.digest());
            let place = PROGRESS.iter().position(|(known, _)| *known == state).expect("all of them are listed");
            progress[place] += 1;
            let of_node = node.lag(wanted, now, |old| publisher.superseded_at(&gateway, old));
            behind += usize::from(!of_node.is_zero());
            lag = lag.max(of_node);
        });
        let revision = Arc::clone(&offer.head).revision;
        Some(Self { gateway, revision, progress, behind, lag })
    }
}

impl Collector for Fleets {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut family = |name: &str, help: &str, unit: Option<&Unit>, value: &dyn Fn(&FleetNow) -> f64| {
            let mut family = encoder.encode_descriptor(name, help, unit, MetricType::Gauge)?;
            self.0.iter().try_for_each(|fleet| {
                let labels = [("gateway", fleet.gateway.as_str())];
                gauge(value(fleet)).encode(family.encode_family(&labels)?)
            })
        };
        family("head_revision", "The newest revision", None, &|fleet| fleet.revision as f64)?;
        let help = "Nodes of all replicas that do not serve what they are to serve";
        family("nodes_behind", help, None, &|fleet| fleet.behind as f64)?;
        let help = "For how long the node that is furthest behind has been so";
        family("node_lag", help, Some(&Unit::Seconds), &|fleet| fleet.lag.as_secs_f64())?;
        let help = "Nodes of all replicas that are connected, by how far they are with what they are to serve";
        let mut nodes = encoder.encode_descriptor("nodes", help, None, ConstGauge::<f64>::TYPE)?;
        for fleet in &self.0 {
            for ((_, state), count) in PROGRESS.iter().zip(fleet.progress) {
                let labels = [("gateway", fleet.gateway.as_str()), ("state", state)];
                gauge(count as f64).encode(nodes.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}
