//! The counts in the text form that Prometheus reads (OpenMetrics 1.0).

use std::fmt;

use model::resource::Name;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::Telemetry;
use super::histogram::{BOUNDS_SECONDS, Counted};
use super::process::{self, ProcessUse};
use super::shard::{CLASSES, Shard};
use crate::discovery::Discovered;
use crate::memory::Pressure;
use crate::sync::{Served, Status};

/// All metrics of the node at this moment.
pub async fn render(telemetry: &Telemetry) -> String {
    let node = &telemetry.node;
    let reading = Reading {
        shard: telemetry.gather().await,
        process: process::used(),
        configuration: node.configuration(),
        draining: node.is_draining(),
        core_failures: node.core_failures(),
        memory: node.memory(),
        log_lines_dropped: telemetry.log_lines_dropped(),
        discoveries: node.discoveries().into_iter().map(|(name, tally)| (name, tally.read())).collect(),
    };
    let mut registry = Registry::default();
    registry.register_collector(Box::new(reading));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).expect("a String takes all that is written");
    text
}

#[derive(Debug)]
struct Reading {
    shard: Shard,
    process: ProcessUse,
    configuration: Status,
    draining: bool,
    core_failures: u64,
    memory: (Pressure, u64),
    log_lines_dropped: u64,
    discoveries: Vec<(Name, Discovered)>,
}

type Labels<'a> = Vec<(&'static str, &'a str)>;

impl Collector for Reading {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Families(encoder);
        self.configuration(&mut out)?;
        self.node(&mut out)?;
        self.traffic(&mut out)?;
        self.upstream(&mut out)?;
        self.discovery(&mut out)
    }
}

impl Reading {
    fn configuration(&self, out: &mut Families<'_>) -> fmt::Result {
        let gauge = |value: f64| [(Labels::new(), value)];
        let total = |value: u64| [(Labels::new(), value)];
        let Status { connected, serving, head, last_heard, refusals, resyncs, .. } = &self.configuration;
        if let Some(Served { revision, .. }) = serving {
            out.gauges("sluice_config_revision", "Revision that all cores serve", None, gauge(*revision as f64))?;
        }
        if let Some((revision, _)) = head {
            let help = "Newest revision that the control plane told of";
            out.gauges("sluice_config_newest_revision", help, None, gauge(*revision as f64))?;
        }
        let connected = gauge(f64::from(u8::from(*connected)));
        out.gauges("sluice_control_plane_connected", "Whether the configuration stream is up", None, connected)?;
        if let Some(at) = last_heard {
            let help = "Time since the control plane last confirmed what this node should serve";
            out.gauges("sluice_config_sync_age", help, Some(&Unit::Seconds), gauge(at.elapsed().as_secs_f64()))?;
        }
        out.counters("sluice_config_refusals", "Revisions that this node did not take", None, total(*refusals))?;
        let help = "How often the whole configuration was asked for because a change did not fit";
        out.counters("sluice_config_resyncs", help, None, total(*resyncs))
    }

    fn node(&self, out: &mut Families<'_>) -> fmt::Result {
        let gauge = |value: f64| [(Labels::new(), value)];
        let draining = gauge(f64::from(u8::from(self.draining)));
        out.gauges("sluice_draining", "Whether the node is on its way out", None, draining)?;
        let dropped = [(Labels::new(), self.log_lines_dropped)];
        out.counters("sluice_access_log_dropped", "Log lines given up for a slow reader", None, dropped)?;
        let failures = [(Labels::new(), self.core_failures)];
        out.counters("sluice_core_failures", "Cores that ended by a panic and were replaced", None, failures)?;
        let ProcessUse { resident_bytes, cpu_seconds, open_files } = self.process;
        let memory = gauge(resident_bytes as f64);
        out.gauges("process_resident_memory", "Resident memory of the process", Some(&Unit::Bytes), memory)?;
        out.gauges("process_open_fds", "Open file descriptors", None, gauge(open_files as f64))?;
        let (pressure, budget) = self.memory;
        out.gauges("sluice_memory_budget", "What the process may have", Some(&Unit::Bytes), gauge(budget as f64))?;
        let help = "0: none. 1: no keep-alive. 2: nothing new. 3: the largest connections are reset";
        out.gauges("sluice_memory_pressure", help, None, gauge(f64::from(pressure as u8)))?;
        let cpu = [(Labels::new(), cpu_seconds)];
        out.counters("process_cpu", "Processor time of the process", Some(&Unit::Seconds), cpu)
    }

    fn traffic(&self, out: &mut Families<'_>) -> fmt::Result {
        let shard = &self.shard;
        let total = |value: u64| [(Labels::new(), value)];
        let gauge = |value: u64| [(Labels::new(), value as f64)];
        out.counters("sluice_connections", "Client connections accepted", None, total(shard.connections_opened))?;
        let open = shard.connections_opened.saturating_sub(shard.connections_closed);
        out.gauges("sluice_connections_open", "Client connections now", None, gauge(open))?;
        let refusals = shard.refusals.iter().map(|(code, count)| (vec![("code", *code)], *count));
        out.counters("sluice_connections_refused", "Connections given up for what came on them", None, refusals)?;
        let in_flight = shard.requests_started.saturating_sub(shard.requests_ended);
        out.gauges("sluice_requests_in_flight", "Requests now", None, gauge(in_flight))?;
        out.counters("sluice_request_body", "Bodies of requests", Some(&Unit::Bytes), total(shard.bytes_in))?;
        out.counters("sluice_response_body", "Bodies of responses", Some(&Unit::Bytes), total(shard.bytes_out))?;
        let rejections = shard.rejections.iter().map(|(code, count)| (vec![("code", *code)], *count));
        out.counters("sluice_rejections", "Answers of the gateway itself, by reason", None, rejections)?;
        let requests = shard.routes.iter().flat_map(|(route, counts)| {
            let by_class = CLASSES.into_iter().zip(counts.by_class).filter(|(_, count)| *count > 0);
            by_class.map(move |(class, count)| (vec![("route", route.as_str()), ("code", class)], count))
        });
        out.counters("sluice_requests", "Requests that have ended, by class of their status", None, requests)?;
        let durations = shard.routes.iter().map(|(route, counts)| (vec![("route", route.as_str())], &counts.duration));
        out.histograms("sluice_request_duration", "From the head of a request to the end of its response", durations)
    }

    fn discovery(&self, out: &mut Families<'_>) -> fmt::Result {
        let services = || self.discoveries.iter().map(|(name, found)| (("service", name.as_str()), found));
        let answers = services().map(|(name, found)| (vec![name], found.answers));
        out.counters("sluice_discovery_answers", "Answers of DNS with targets of the service", None, answers)?;
        let failures = services().flat_map(|(name, found)| {
            let by_code = [("failed", found.failed), ("nothing", found.nothing)];
            by_code.map(move |(code, count)| (vec![name, ("code", code)], count))
        });
        let help = "Questions to DNS without targets: nobody answered, or there is no such name";
        out.counters("sluice_discovery_failures", help, None, failures)?;
        let targets = services().map(|(name, found)| (vec![name], found.targets as f64));
        out.gauges("sluice_discovery_targets", "Targets of the service that DNS told of", None, targets)?;
        let ages = services().filter_map(|(name, found)| Some((vec![name], found.good_at?.elapsed().as_secs_f64())));
        let help = "Time since the last answer of DNS with targets";
        out.gauges("sluice_discovery_answer_age", help, Some(&Unit::Seconds), ages)
    }

    fn upstream(&self, out: &mut Families<'_>) -> fmt::Result {
        let services = || self.shard.services.iter().map(|(name, counts)| (("service", name.as_str()), counts));
        let requests = services().map(|(name, counts)| (vec![name], counts.requests));
        out.counters("sluice_upstream_requests", "Requests given to a target of the service", None, requests)?;
        let failures = services().flat_map(|(name, counts)| {
            counts.failures.iter().map(move |(code, count)| (vec![name, ("code", *code)], *count))
        });
        out.counters("sluice_upstream_failures", "Requests without an answer, by reason", None, failures)?;
        let failures = services().map(|(name, counts)| (vec![name], counts.connect_failures));
        out.counters("sluice_upstream_connect_failures", "Connections that could not be made", None, failures)?;
        let retries = services().flat_map(|(name, counts)| {
            counts.retries.iter().map(move |(code, count)| (vec![name, ("code", *code)], *count))
        });
        out.counters("sluice_upstream_retries", "Requests that were sent again, by reason", None, retries)?;
        let denied = services().filter(|(_, counts)| counts.retries_denied > 0);
        let denied = denied.map(|(name, counts)| (vec![name], counts.retries_denied));
        let help = "Requests that were not sent again because the retry budget was used up";
        out.counters("sluice_upstream_retries_denied", help, None, denied)?;
        let won = services().filter(|(_, counts)| counts.hedges_won > 0);
        let won = won.map(|(name, counts)| (vec![name], counts.hedges_won));
        let help = "Second attempts beside slow ones that were answered sooner";
        out.counters("sluice_upstream_hedges_won", help, None, won)?;
        let mirrored = services().filter(|(_, counts)| counts.mirrored > 0);
        let mirrored = mirrored.map(|(name, counts)| (vec![name], counts.mirrored));
        out.counters("sluice_mirrored_requests", "Copies of requests sent to the service", None, mirrored)?;
        let drops = services().flat_map(|(name, counts)| {
            counts.mirror_drops.iter().map(move |(code, count)| (vec![name, ("code", *code)], *count))
        });
        out.counters("sluice_mirrored_requests_dropped", "Copies that came to nothing, by reason", None, drops)?;
        let limits = services().filter(|(_, counts)| counts.adaptive_limit > 0);
        let limits = limits.map(|(name, counts)| (vec![name], counts.adaptive_limit as f64));
        let help = "Adaptive limit of requests at the service, of all cores together";
        out.gauges("sluice_upstream_adaptive_limit", help, None, limits)?;
        let in_flight = services().map(|(name, counts)| (vec![name], counts.in_flight as f64));
        out.gauges("sluice_upstream_requests_in_flight", "Requests at the service now", None, in_flight)?;
        let durations = services().map(|(name, counts)| (vec![name], &counts.duration));
        out.histograms("sluice_upstream_duration", "From sending a request to the head of its response", durations)?;
        let targets = || self.shard.targets.iter().map(|(name, counts)| (("target", name.as_str()), counts));
        let requests = targets().map(|(name, counts)| (vec![name], counts.requests));
        out.counters("sluice_upstream_target_requests", "Requests given to the target", None, requests)?;
        let connections = targets().flat_map(|(name, counts)| {
            let busy = counts.open.saturating_sub(counts.idle);
            [("idle", counts.idle), ("busy", busy)].map(|(state, count)| (vec![name, ("state", state)], count as f64))
        });
        out.gauges("sluice_upstream_connections", "Connections to the target now", None, connections)
    }
}

/// Writes whole families of metrics.
struct Families<'a>(DescriptorEncoder<'a>);

impl Families<'_> {
    fn counters<'a, N>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        values: impl IntoIterator<Item = (Labels<'a>, N)>,
    ) -> fmt::Result
    where
        N: prometheus_client::encoding::EncodeCounterValue,
    {
        self.family(name, help, unit, MetricType::Counter, values, |mut metric, value| {
            metric.encode_counter::<NoLabelSet, _, f64>(&value, None)
        })
    }

    fn gauges<'a>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        values: impl IntoIterator<Item = (Labels<'a>, f64)>,
    ) -> fmt::Result {
        self.family(name, help, unit, MetricType::Gauge, values, |mut metric, value| metric.encode_gauge(&value))
    }

    fn histograms<'a>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Labels<'a>, &'a Counted)>,
    ) -> fmt::Result {
        let bounds = || BOUNDS_SECONDS.into_iter().chain([f64::INFINITY]);
        self.family(name, help, Some(&Unit::Seconds), MetricType::Histogram, values, |mut metric, counted| {
            let buckets: Vec<_> = bounds().zip(counted.buckets).collect();
            let count = counted.buckets.iter().sum();
            metric.encode_histogram::<NoLabelSet>(counted.sum_ns as f64 / 1e9, count, &buckets, None)
        })
    }

    fn family<'a, V>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        of_type: MetricType,
        values: impl IntoIterator<Item = (Labels<'a>, V)>,
        encode: impl Fn(MetricEncoder<'_>, V) -> fmt::Result,
    ) -> fmt::Result {
        let mut family = self.0.encode_descriptor(name, help, unit, of_type)?;
        for (labels, value) in values {
            if labels.is_empty() {
                return encode(family, value);
            }
            encode(family.encode_family(&labels)?, value)?;
        }
        Ok(())
    }
}
