//! Where what is said beside the configuration meets it.
//!
//! A target that the service says gets the weight that is said beside it, and is left out while it drains. Any other
//! target is added. [`Service::joined`] does that for nodes, [`effective`] for people.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Entries, Entry, Member};
use crate::resource::service::{DnsRecords, NameServer, Target as Written, TargetUrl};
use crate::resource::{Labels, is_default};
use crate::snapshot::{Endpoint, Gate, Placement, Service, Target};

/// A target that a service has found by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub url: TargetUrl,
    pub weight: u32,
    /// As that of a target that the service says.
    pub priority: u8,
}

impl Service {
    /// The service as it is compiled, with the targets that it has found besides. `previous` is an earlier outcome:
    /// endpoints that stay equal stay the same thing.
    #[must_use]
    pub fn with_found(&self, found: &[Found], previous: Option<&Self>) -> Self {
        let known: HashSet<&TargetUrl> = self.targets.iter().map(|target| &target.endpoint.url).collect();
        let before = previous.map_or(&[][..], |previous| &previous.targets);
        let before: HashMap<_, _> = before.iter().map(|target| (&target.endpoint.url, &target.endpoint)).collect();
        let name_servers = self.name_servers_of_hosts();
        let found = found.iter().filter(|found| !known.contains(&found.url)).map(|found| {
            let mut endpoint = Endpoint { name_servers: name_servers.clone(), ..self.endpoint(&found.url) };
            self.name_certificate(&mut endpoint);
            let endpoint = match before.get(&found.url) {
                Some(same) if ***same == endpoint => Arc::clone(same),
                _ => Arc::new(endpoint),
            };
            let placement = Placement { priority: found.priority, ..Placement::default() };
            Target { endpoint, weight: found.weight, placement: placement.unless_default() }
        });
        self.with_targets(self.targets.iter().cloned().chain(found).collect(), Some(self))
    }

    /// Name servers that know a service know its hosts.
    fn name_servers_of_hosts(&self) -> Option<Arc<[NameServer]>> {
        let discovery = self.discovery.as_ref().filter(|discovery| discovery.records == DnsRecords::Srv)?;
        (!discovery.servers.is_empty()).then(|| discovery.servers.clone().into())
    }

    /// A certificate is not for an address, but for the name that it was found by.
    fn name_certificate(&self, endpoint: &mut Endpoint) {
        let (Some(tls), Some(discovery)) = (&mut endpoint.tls, &self.discovery) else { return };
        if tls.server_name.is_none() && discovery.records != DnsRecords::Srv {
            tls.server_name = Some(discovery.name.as_str().trim_end_matches('.').to_owned());
        }
    }

    /// The service as it is compiled, with what is said about its targets. `previous` is an earlier outcome: endpoints
    /// that stay equal stay the same thing.
    #[must_use]
    pub fn joined(&self, entries: &Entries, previous: Option<&Self>) -> Self {
        let said = |target: &Target| entries.get(&target.endpoint.url).map(|entry| &*entry.member);
        let kept = self.targets.iter().filter_map(|target| match said(target) {
            Some(member) if member.draining => None,
            Some(member) => Some(Target {
                weight: member.weight.unwrap_or(target.weight),
                placement: placement(target.placement.as_ref(), member),
                ..target.clone()
            }),
            None => Some(target.clone()),
        });
        let mut targets: Vec<Target> = kept.collect();
        let known: HashSet<&TargetUrl> = self.targets.iter().map(|target| &target.endpoint.url).collect();
        // Both are in the order of URLs, so that each is found right after the one before.
        let before = previous.map_or(&[][..], |previous| &previous.targets);
        let mut before = before.iter().filter(|target| !known.contains(&target.endpoint.url)).peekable();
        for (url, entry) in entries.iter().filter(|(url, _)| !known.contains(url)) {
            while before.next_if(|target| target.endpoint.url < *url).is_some() {}
            if entry.member.draining {
                continue;
            }
            let endpoint = match before.next_if(|target| target.endpoint.url == *url) {
                Some(same) if self.would_make(&same.endpoint) => Arc::clone(&same.endpoint),
                _ => Arc::new(self.endpoint(url)),
            };
            let placement = placement(None, &entry.member);
            targets.push(Target { endpoint, weight: entry.member.weight.unwrap_or(1), placement });
        }
        self.with_targets(targets.into(), Some(previous.unwrap_or(self)))
    }

    /// How connections of this service to an address are.
    #[must_use]
    pub fn endpoint(&self, url: &TargetUrl) -> Endpoint {
        let tls = url.https.then(|| self.tls.clone());
        Endpoint {
            url: url.clone(),
            protocol: self.protocol,
            proxy_protocol: self.proxy_protocol,
            name_servers: None,
            tls,
            gate: Gate::default(),
        }
    }

    fn would_make(&self, endpoint: &Endpoint) -> bool {
        let tls = endpoint.url.https.then_some(&self.tls);
        endpoint.name_servers.is_none()
            && (endpoint.protocol, endpoint.proxy_protocol, endpoint.tls.as_ref())
                == (self.protocol, self.proxy_protocol, tls)
    }
}

/// What tells a target from others, with the labels that are said about it.
fn placement(written: Option<&Arc<Placement>>, member: &Member) -> Option<Arc<Placement>> {
    let Some(labels) = &member.labels else { return written.cloned() };
    Placement { labels: labels.clone(), ..written.map(|written| (**written).clone()).unwrap_or_default() }
        .unless_default()
}

/// One target of a service as it is in effect, and where that comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "EffectiveTarget")]
pub struct EffectiveTarget {
    /// Its name: scheme, host and port.
    pub url: TargetUrl,
    pub state: TargetState,
    /// Share of the requests, relative to the other targets.
    pub weight: u32,
    /// What it is, for routes that send requests only to targets with certain labels.
    #[serde(default, skip_serializing_if = "is_default")]
    pub labels: Labels,
    pub origin: Origin,
    /// What was said about it beside the configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<Member>,
    /// The version of what was said beside the configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
}

/// What a target gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TargetState {
    /// Its share of the requests.
    Serving,
    /// No new requests; what it serves is finished.
    Draining,
    /// Nothing, for its weight is 0.
    Idle,
}

impl fmt::Display for TargetState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// Where a target comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// The service says it.
    Written,
    /// It was added beside the configuration.
    Added,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// The targets of a service: those that it says in their order, then those that were added by their names.
#[must_use]
pub fn effective(written: &[Written], entries: Option<&Entries>) -> Vec<EffectiveTarget> {
    let known: HashSet<&TargetUrl> = written.iter().map(|target| &target.url).collect();
    let said = |url: &TargetUrl| entries.and_then(|entries| entries.get(url));
    let written = written.iter().map(|target| one(&target.url, Some(target), said(&target.url)));
    let added = entries.into_iter().flatten().filter(|(url, _)| !known.contains(url));
    written.chain(added.map(|(url, entry)| one(url, None, Some(entry)))).collect()
}

/// One of these targets; nothing if it is none.
#[must_use]
pub fn effective_one(written: &[Written], url: &TargetUrl, entries: Option<&Entries>) -> Option<EffectiveTarget> {
    let entry = entries.and_then(|entries| entries.get(url));
    let written = written.iter().find(|target| target.url == *url);
    (written.is_some() || entry.is_some()).then(|| one(url, written, entry))
}

fn one(url: &TargetUrl, written: Option<&Written>, entry: Option<&Entry>) -> EffectiveTarget {
    let member = entry.map(|entry| Member::clone(&entry.member));
    let said = member.as_ref();
    let weight = said.and_then(|member| member.weight).unwrap_or_else(|| written.map_or(1, |target| target.weight));
    let state = match &member {
        Some(member) if member.draining => TargetState::Draining,
        _ if weight == 0 => TargetState::Idle,
        _ => TargetState::Serving,
    };
    let labels = said.and_then(|member| member.labels.clone()).or_else(|| Some(written?.labels.clone()));
    EffectiveTarget {
        url: url.clone(),
        state,
        weight,
        labels: labels.unwrap_or_default(),
        origin: if written.is_some() { Origin::Written } else { Origin::Added },
        member,
        version: entry.map(|entry| entry.version),
    }
}
