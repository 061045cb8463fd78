//! The compiled form of one revision.
//!
//! Nothing in it is looked up by name, sorted or parsed when a request comes. It is immutable and shares every
//! unchanged part with the snapshot before it: [`Snapshot::apply`] compiles only what the change touched. A
//! snapshot from nothing is the same operation on an empty one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use imbl::{HashMap, OrdMap, OrdSet};

use crate::config::{Changed, Config, Edit};
use crate::filter::Filters;
use crate::filter::redirect::Redirect;
use crate::hashing::HashTable;
use crate::policy::{Policy, PolicyKind, Step};
use crate::problem::Problems;
use crate::resource::consumer::KeyHash;
use crate::resource::listener;
use crate::resource::route::{Importance, RouteRetries, RouteTimeouts};
use crate::resource::service::{
    Connections, DnsDiscovery, HealthCheck, Limits, LoadBalancing, NameServer, OutlierDetection, Protocol,
    ProxyVersion, Retries, TargetUrl, Timeouts,
};
use crate::resource::{Key, Kind, Labels, Name};
use crate::router::Router;
use crate::slots::{Named, Slot, Slots};
use crate::value::Percentage;

mod compile;
mod edge;
mod gate;
mod spelling;
mod sticky;
mod ties;
mod tls;

pub use edge::{Forwarding, ProxyHeaders};
pub use gate::{Gate, Gates};
pub use spelling::Spelling;
pub use sticky::Sticky;
pub use tls::{CaBundle, Certificate, ClientCertificates, ClientConfigs, EndpointTls, ListenerTls};

/// The compiled form of one revision of one gateway.
#[derive(Clone, Default)]
pub struct Snapshot {
    /// Number of the revision; 0 for the empty one that everything starts from.
    pub revision: u64,
    /// The same as the value of a field; nothing for the empty one.
    pub revision_value: Option<HeaderValue>,
    pub config: Config,
    pub listeners: Slots<Arc<Listener>>,
    pub certificates: Slots<Arc<Certificate>>,
    pub ca_bundles: Slots<Arc<CaBundle>>,
    pub services: Slots<Arc<Service>>,
    pub routes: Slots<Route>,
    pub policies: Slots<Arc<CompiledPolicy>>,
    pub consumers: Slots<Arc<Consumer>>,
    /// Policies with `apply_to: everything`, in running order.
    pub everything: Arc<[Step]>,
    pub router: Router,
    keys: HashMap<KeyHash, Slot>,
    /// Listener addresses in use, to find two that want the same.
    addresses: HashMap<SocketAddr, Name>,
    /// How many routes keep the path as it came.
    routes_keeping_path: usize,
    /// The services that hold a certificate or a CA bundle, which change with it.
    holders: HashMap<Key, OrdSet<Name>>,
    /// The services that find targets by themselves.
    pub discovered: OrdMap<Name, Arc<DnsDiscovery>>,
    /// The services whose targets are checked.
    pub checked: OrdSet<Slot>,
}

/// Where requests come in.
#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
    pub name: Name,
    pub bind: SocketAddr,
    pub tls: Option<ListenerTls>,
    pub proxy_headers: Option<ProxyHeaders>,
    pub forwarding: Forwarding,
    pub limits: listener::Limits,
    /// Answers name the revision.
    pub revision_header: bool,
    pub policies: Arc<[Step]>,
    pub enabled: bool,
}

/// What stands behind the gateway.
#[derive(Clone, Debug)]
pub struct Service {
    pub name: Name,
    pub targets: Arc<[Target]>,
    /// Where nodes find further targets.
    pub discovery: Option<Arc<DnsDiscovery>>,
    pub protocol: Protocol,
    pub proxy_protocol: Option<ProxyVersion>,
    /// For targets with `https`.
    pub tls: EndpointTls,
    pub load_balancing: LoadBalancing,
    /// The cookie by which clients come back to their targets.
    pub sticky: Option<Arc<Sticky>>,
    /// Of the targets, for policies that go by the hash of a key.
    pub hash_table: Option<Arc<HashTable>>,
    pub outlier_detection: Arc<OutlierDetection>,
    pub health_check: Option<Arc<HealthCheck>>,
    pub timeouts: Timeouts,
    /// In which field targets are told how long they have.
    pub deadline_header: Option<HeaderName>,
    pub retries: Retries,
    pub limits: Limits,
    pub connections: Connections,
    /// What the node counts against the limits, for as long as there is a service of this name.
    pub gates: Arc<Gates>,
    pub policies: Arc<[Step]>,
    pub enabled: bool,
}

/// One address of a service. Connections to targets that are equal in everything are shared.
#[derive(Clone, Debug)]
pub struct Target {
    pub endpoint: Arc<Endpoint>,
    pub weight: u32,
    /// Most targets say nothing of it.
    pub placement: Option<Arc<Placement>>,
}

/// What tells a target from the others of its service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placement {
    pub labels: Labels,
    pub priority: u8,
    pub zone: Option<String>,
}

impl Placement {
    pub(crate) fn unless_default(self) -> Option<Arc<Self>> {
        (self != Self::default()).then(|| Arc::new(self))
    }
}

/// All that decides whether a connection can serve a request: the key of connection pools.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    pub url: TargetUrl,
    pub protocol: Protocol,
    /// Connections begin with a header, and are for one client.
    pub proxy_protocol: Option<ProxyVersion>,
    /// Who is asked first where its host is; name servers of the system without any.
    pub name_servers: Option<Arc<[NameServer]>>,
    /// For `https` only.
    pub tls: Option<EndpointTls>,
    /// Requests at it, where they are limited.
    pub gate: Gate,
}

/// Where matching requests go.
#[derive(Clone, Debug)]
pub struct Route {
    pub name: Name,
    pub action: Action,
    /// Most routes have none, and there may be very many routes.
    settings: Option<Arc<RouteSettings>>,
}

#[derive(Debug)]
struct RouteSettings {
    timeouts: RouteTimeouts,
    retries: Option<Arc<RouteRetries>>,
    importance: Importance,
    policies: Arc<[Step]>,
    keeps_path: bool,
    filters: Option<Filters>,
    mirrors: Box<[Mirror]>,
}

/// A service that gets copies of requests.
#[derive(Clone, Copy, Debug)]
pub struct Mirror {
    pub service: Slot,
    /// Which part of them.
    pub fraction: Percentage,
    /// For all of a copy, to the end of its answer.
    pub timeout: Duration,
}

/// What happens to a request that matched.
#[derive(Clone, Debug)]
pub enum Action {
    /// All to one service: the common case, without a list.
    Forward(Slot),
    /// Shared out by weight, or with filters or mirrors of a backend.
    Split(Arc<Split>),
    Respond(Arc<FixedResponse>),
    Redirect(Arc<Redirect>),
}

/// Backends with weights.
#[derive(Debug)]
pub struct Split {
    /// Those of weight 0 are left out.
    pub backends: Vec<Backend>,
    pub total_weight: u64,
}

/// A service that gets a share of a route's requests.
#[derive(Debug)]
pub struct Backend {
    pub service: Slot,
    pub weight: u32,
    pub filters: Option<Box<Filters>>,
    pub mirrors: Box<[Mirror]>,
    /// The targets of the service that get them; all without one.
    pub subset: Option<Arc<Subset>>,
}

/// The targets with certain labels, for the whole of a service.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Subset(Labels);

impl Subset {
    pub(crate) fn of(labels: &Labels) -> Option<Arc<Self>> {
        (!labels.is_empty()).then(|| Arc::new(Self(labels.clone())))
    }

    #[must_use]
    pub fn holds(&self, target: &Target) -> bool {
        let has = |label: (&String, &String)| {
            target.placement.as_ref().is_some_and(|placement| placement.labels.get(label.0) == Some(label.1))
        };
        self.0.iter().all(has)
    }
}

/// An answer of the gateway itself.
#[derive(Debug)]
pub struct FixedResponse {
    pub status: http::StatusCode,
    pub content_type: http::HeaderValue,
    pub body: bytes::Bytes,
}

/// A policy that runs.
pub struct CompiledPolicy {
    pub name: Name,
    pub kind: &'static PolicyKind,
    pub policy: Arc<dyn Policy>,
    pub enabled: bool,
}

/// Who calls.
#[derive(Debug)]
pub struct Consumer {
    pub name: Name,
    pub policies: Arc<[Step]>,
    keys: Vec<KeyHash>,
}

impl Snapshot {
    /// The snapshot of revision `revision`, which is this one after `edits`, and what they changed; or
    /// every problem with them.
    pub fn apply(&self, revision: u64, edits: Vec<Edit>) -> Result<(Self, Vec<Changed>), Problems> {
        let is_written = edits.iter().any(|edit| matches!(edit, Edit::Put { kind: Kind::Route, .. }));
        let (config, changes, mut problems) = self.config.try_apply(edits, revision);
        // Compiled in any case, because that finds problems of its own.
        match compile::compile(self, revision, config, &changes) {
            Ok(snapshot) => {
                // What was published once is served, whatever is thought of it later.
                if is_written {
                    problems.extend(ties::find(&snapshot, &changes));
                }
                if problems.is_empty() {
                    return Ok((snapshot, changes));
                }
            }
            Err(more) => problems.extend(more),
        }
        Err(problems)
    }

    /// The same revision with another form of one of its services, whose slot it returns.
    pub fn replace_service(&mut self, service: Arc<Service>) -> Slot {
        self.services.put(service)
    }

    /// The consumer that this key belongs to.
    #[must_use]
    pub fn consumer_of_key(&self, key: &KeyHash) -> Option<Slot> {
        self.keys.get(key).copied()
    }
}

impl Service {
    /// The same service with other targets. `previous` is a service that has much the same ones, which saves work.
    #[must_use]
    pub fn with_targets(&self, targets: Arc<[Target]>, previous: Option<&Self>) -> Self {
        let known = previous.and_then(|previous| previous.hash_table.as_deref());
        let hash_table = HashTable::new(self.load_balancing.policy, &targets, known).map(Arc::new);
        Self { targets, hash_table, ..self.clone() }
    }
}

impl Route {
    #[must_use]
    pub fn policies(&self) -> &[Step] {
        self.settings.as_ref().map_or(&[], |settings| &settings.policies)
    }

    #[must_use]
    pub fn timeouts(&self) -> RouteTimeouts {
        self.settings.as_ref().map_or_else(RouteTimeouts::default, |settings| settings.timeouts)
    }

    /// When its requests are tried again, in place of what a service says.
    #[must_use]
    pub fn retries(&self) -> Option<&Arc<RouteRetries>> {
        self.settings.as_ref()?.retries.as_ref()
    }

    /// How much its requests matter when a service has too many.
    #[must_use]
    pub fn importance(&self) -> Importance {
        self.settings.as_ref().map_or_else(Importance::default, |settings| settings.importance)
    }

    /// The path counts as it came, and not in its canonical form: see [`Spelling`].
    #[must_use]
    pub fn keeps_path(&self) -> bool {
        self.settings.as_ref().is_some_and(|settings| settings.keeps_path)
    }

    /// What it changes in every request and response.
    #[must_use]
    pub fn filters(&self) -> Option<&Filters> {
        self.settings.as_ref()?.filters.as_ref()
    }

    /// Who gets copies of its requests, whatever backend they go to.
    #[must_use]
    pub fn mirrors(&self) -> &[Mirror] {
        self.settings.as_ref().map_or(&[], |settings| &settings.mirrors)
    }

    /// What it changes for one backend, by its place in the list of a [`Split`].
    #[must_use]
    pub fn backend_filters(&self, backend: usize) -> Option<&Filters> {
        self.backend(backend)?.filters.as_deref()
    }

    /// Who gets copies of what goes to one backend, besides [`Self::mirrors`].
    #[must_use]
    pub fn backend_mirrors(&self, backend: usize) -> &[Mirror] {
        self.backend(backend).map_or(&[], |backend| &backend.mirrors)
    }

    fn backend(&self, place: usize) -> Option<&Backend> {
        match &self.action {
            Action::Split(split) => split.backends.get(place),
            Action::Forward(_) | Action::Respond(_) | Action::Redirect(_) => None,
        }
    }

    /// The targets that one backend sends to, by its place in the list of a [`Split`]; all without one.
    #[must_use]
    pub fn subset(&self, backend: usize) -> Option<&Arc<Subset>> {
        match &self.action {
            Action::Split(split) => split.backends.get(backend)?.subset.as_ref(),
            Action::Forward(_) | Action::Respond(_) | Action::Redirect(_) => None,
        }
    }

    /// Both, in the order in which they change a request.
    pub fn filters_of(&self, backend: usize) -> impl DoubleEndedIterator<Item = &Filters> {
        self.filters().into_iter().chain(self.backend_filters(backend))
    }

    /// The service for one request, and its place in the list of backends; `draw` is a random number. Nothing where the
    /// gateway answers itself, which it also does if all backends have weight 0.
    #[must_use]
    pub fn draw_service(&self, draw: u64) -> Option<(Slot, usize)> {
        match &self.action {
            Action::Forward(slot) => Some((*slot, 0)),
            Action::Respond(_) | Action::Redirect(_) => None,
            Action::Split(split) => {
                let mut rest = draw.checked_rem(split.total_weight)?;
                for (place, backend) in split.backends.iter().enumerate() {
                    match rest.checked_sub(u64::from(backend.weight)) {
                        Some(left) => rest = left,
                        None => return Some((backend.service, place)),
                    }
                }
                None
            }
        }
    }
}

/// Compiled forms that have a name of their own.
macro_rules! named {
    ($($compiled:ty),*) => {$(
        impl Named for $compiled {
            fn name(&self) -> &Name {
                &self.name
            }
        }
    )*};
}
named!(Listener, Certificate, CaBundle, Service, Route, CompiledPolicy, Consumer);
