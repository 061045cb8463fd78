//! From a checked change to the next snapshot: everything that a request would otherwise have to work out.
//!
//! Kinds are compiled in the order of their references, so that slots exist before they are pointed at, and
//! removed in the opposite order. A policy whose type changes moves in the running order of every list that names it,
//! so those lists are compiled again. Nobody does that by hand, but a node that was away meets it when a policy was
//! removed and its name given to another.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::edge::{Forwarding, ProxyHeaders};
use super::tls::Holding;
use super::{
    Action, Backend, CompiledPolicy, Consumer, Endpoint, FixedResponse, Listener, Mirror, Placement, Route,
    RouteSettings, Service, Snapshot, Split, Sticky, Subset, Target,
};
use crate::config::{Changed, Config};
use crate::filter::Filters;
use crate::filter::redirect::Redirect;
use crate::policy::Step;
use crate::problem::{Fault, Problems};
use crate::resource::policy::ApplyTo;
use crate::resource::route::{Importance, RouteTimeouts};
use crate::resource::service::{Protocol, TargetUrl};
use crate::resource::{self, Key, Kind, Name, Resource};
use crate::router::Age;
use crate::slots::{Slot, Slots};

/// What must exist first comes first.
const ORDER: [Kind; 7] =
    [Kind::Policy, Kind::Certificate, Kind::CaBundle, Kind::Listener, Kind::Service, Kind::Consumer, Kind::Route];

/// The snapshot that follows `previous` by `changes`, which led to `config`.
pub(super) fn compile(
    previous: &Snapshot,
    revision: u64,
    config: Config,
    changes: &[Changed],
) -> Result<Snapshot, Problems> {
    let mut next = Snapshot { revision, revision_value: Some(revision.into()), config, ..previous.clone() };
    let changes = next.with_moved_lists(changes);
    let changes = &*next.with_holders(changes);
    let mut problems = Problems::new();
    for kind in ORDER.into_iter().rev() {
        for change in changes.iter().filter(|change| change.key.kind == kind) {
            next.forget(change);
        }
    }
    for kind in ORDER {
        for change in changes.iter().filter(|change| change.key.kind == kind) {
            if let Some(resource) = change.resource() {
                let faults = next.learn(&change.key.name, &resource);
                problems.extend(faults.into_iter().map(|fault| fault.at(&change.key)));
            }
        }
        if kind == Kind::Policy && changes.iter().any(|change| change.key.kind == kind) {
            next.compile_everything(changes, &mut problems);
        }
    }
    next.router.settle();
    if problems.is_empty() { Ok(next) } else { Err(problems) }
}

impl Snapshot {
    /// The changes, with all that names a policy whose type changed. This walks over everything, which nothing
    /// that happens often needs.
    fn with_moved_lists<'c>(&self, changes: &'c [Changed]) -> Cow<'c, [Changed]> {
        let moved: BTreeSet<&str> = changes
            .iter()
            .filter(|change| change.key.kind == Kind::Policy)
            .filter(|change| match change.resource() {
                Some(Resource::Policy(written)) => {
                    self.policies.find(&change.key.name).is_some_and(|before| before.kind.name != written.type_name)
                }
                _ => false,
            })
            .map(|change| &*change.key.name)
            .collect();
        if moved.is_empty() {
            return Cow::Borrowed(changes);
        }
        let changed: BTreeSet<&Key> = changes.iter().map(|change| &change.key).collect();
        let mut all = changes.to_vec();
        for (key, document) in self.config.iter().filter(|(key, _)| !changed.contains(key)) {
            let Ok(resource) = document.parse(key.kind) else { continue };
            let mut names_one = false;
            resource.references(&mut |reference| {
                names_one |= reference.kind == Kind::Policy && moved.contains(reference.name);
            });
            if names_one {
                let document = Some(document.clone());
                all.push(Changed { key: key.clone(), before: document.clone(), after: document });
            }
        }
        Cow::Owned(all)
    }

    /// Takes out what a resource was before, as far as its new form would not replace it in place.
    fn forget(&mut self, change: &Changed) {
        let Some(before) = &change.before else { return };
        let name = &change.key.name;
        let is_gone = change.after.is_none();
        match change.key.kind {
            Kind::Listener => {
                if let Some(listener) = self.listeners.find(name) {
                    self.addresses.remove(&listener.bind);
                }
                is_gone.then(|| self.listeners.remove(name));
            }
            Kind::Consumer => {
                let consumer = self.consumers.find(name).cloned();
                for hash in consumer.iter().flat_map(|consumer| &consumer.keys) {
                    self.keys.remove(hash);
                }
                is_gone.then(|| self.consumers.remove(name));
            }
            Kind::Route => {
                if let (Ok(Resource::Route(written)), Some(slot)) = (before.parse(Kind::Route), self.routes.slot(name))
                {
                    self.router.remove(&written, slot);
                    self.routes_keeping_path -= usize::from(!written.normalize_path);
                }
                is_gone.then(|| self.routes.remove(name));
            }
            Kind::Certificate => {
                is_gone.then(|| self.certificates.remove(name));
            }
            Kind::CaBundle => {
                is_gone.then(|| self.ca_bundles.remove(name));
            }
            Kind::Service => {
                if let Ok(resource) = before.parse(Kind::Service) {
                    self.hold(name, &resource, Holding::Ends);
                }
                self.discovered.remove(name);
                if let Some(slot) = self.services.slot(name).filter(|_| is_gone) {
                    self.checked.remove(&slot);
                }
                is_gone.then(|| self.services.remove(name));
            }
            Kind::Policy => {
                is_gone.then(|| self.policies.remove(name));
            }
        }
    }

    fn learn(&mut self, name: &Name, resource: &Resource) -> Vec<Fault> {
        let learned = match resource {
            Resource::Policy(written) => self.learn_policy(name, written),
            Resource::Certificate(written) => self.learn_certificate(name, written),
            Resource::CaBundle(written) => self.learn_ca_bundle(name, written),
            Resource::Listener(written) => self.learn_listener(name, written),
            Resource::Service(written) => {
                self.hold(name, resource, Holding::Begins);
                self.learn_service(name, written)
            }
            Resource::Consumer(written) => self.learn_consumer(name, written),
            Resource::Route(written) => self.learn_route(name, written),
        };
        learned.err().unwrap_or_default()
    }

    fn learn_policy(&mut self, name: &Name, written: &resource::Policy) -> Result<(), Vec<Fault>> {
        let kind = written.policy_kind().expect("the type was checked when it was parsed");
        let previous = self.policies.find(name);
        let policy = kind
            .compile(&written.config, previous.map(|previous| &*previous.policy))
            .map_err(|faults| faults.into_iter().map(|fault| fault.below("/config")).collect::<Vec<_>>())?;
        let compiled = CompiledPolicy { name: name.clone(), kind, policy, enabled: written.enabled };
        self.policies.put(Arc::new(compiled));
        Ok(())
    }

    /// Collects the policies for everything anew. There are few policies compared with routes, and policies
    /// seldom change, but `everything` is only touched when one that applies to everything was or is.
    fn compile_everything(&mut self, changes: &[Changed], problems: &mut Problems) {
        let applies = |resource: &Resource| matches!(resource, Resource::Policy(policy) if policy.apply_to == Some(ApplyTo::Everything));
        let touched = changes.iter().filter(|change| change.key.kind == Kind::Policy).any(|change| {
            let before = change.before.as_ref().and_then(|document| document.parse(Kind::Policy).ok());
            before.as_ref().is_some_and(applies) || change.resource().as_ref().is_some_and(applies)
        });
        if !touched {
            return;
        }
        let mut steps: Vec<Step> = Vec::new();
        for (name, document) in self.config.of_kind(Kind::Policy, None) {
            let Ok(resource) = document.parse(Kind::Policy) else { continue };
            let Some(policy) = self.policies.slot(name).filter(|_| applies(&resource)) else { continue };
            let Some(compiled) = self.policies.get(policy) else { continue };
            let step = Step { order: compiled.kind.order(), policy };
            match steps.iter().find(|other| other.order == step.order) {
                Some(other) => {
                    let fault = self.two_of_a_type(*other, "/apply_to".into());
                    problems.push(fault.at(&Key::new(Kind::Policy, name.clone())));
                }
                None => steps.push(step),
            }
        }
        steps.sort_by_key(|step| step.order);
        self.everything = steps.into();
    }

    /// The steps of one attachment, sorted by running order.
    fn steps(&self, policies: &[Name]) -> Result<Arc<[Step]>, Vec<Fault>> {
        let mut steps: Vec<Step> = Vec::with_capacity(policies.len());
        let mut faults = Vec::new();
        for (index, name) in policies.iter().enumerate() {
            // Missing ones were reported with the references.
            let Some(policy) = self.policies.slot(name) else { continue };
            let Some(compiled) = self.policies.get(policy) else { continue };
            let step = Step { order: compiled.kind.order(), policy };
            match steps.iter().find(|other| other.order == step.order) {
                Some(other) => faults.push(self.two_of_a_type(*other, format!("/policies/{index}"))),
                None => steps.push(step),
            }
        }
        steps.sort_by_key(|step| step.order);
        if faults.is_empty() { Ok(steps.into()) } else { Err(faults) }
    }

    fn two_of_a_type(&self, other: Step, pointer: String) -> Fault {
        let other = self.policies.get(other.policy).expect("a step points at a policy");
        let message = format!("`{}` of the same type `{}` is already attached there", other.name, other.kind.name);
        Fault::new(pointer, "duplicate-policy-type", message)
            .hint("only one policy of a type can act at one place: remove one of them")
    }

    fn learn_listener(&mut self, name: &Name, written: &resource::Listener) -> Result<(), Vec<Fault>> {
        if let Some(other) = self.addresses.insert(written.bind, name.clone()).filter(|other| other != name) {
            let message = format!("the listener `{other}` has the address {} already", written.bind);
            return Err(vec![Fault::new("/bind", "duplicate-value", message).hint("give each its own port")]);
        }
        let tls = written.tls.as_ref().map(|tls| self.listener_tls(tls));
        let policies = self.steps(&written.policies)?;
        let compiled = Listener {
            name: name.clone(),
            bind: written.bind,
            tls,
            proxy_headers: written.proxy_protocol.as_ref().map(ProxyHeaders::compile),
            forwarding: Forwarding::compile(&written.forwarded),
            limits: written.limits,
            revision_header: written.revision_header,
            policies,
            enabled: written.enabled,
        };
        self.listeners.put(Arc::new(compiled));
        Ok(())
    }

    fn learn_service(&mut self, name: &Name, written: &resource::Service) -> Result<(), Vec<Fault>> {
        // A connection for one client is not offered to be shared.
        let protocol = if written.proxy_protocol.is_some() { Protocol::Http1 } else { written.protocol };
        let previous = self.services.find(name).cloned();
        let known: HashMap<&TargetUrl, &Arc<Endpoint>> = previous
            .iter()
            .flat_map(|previous| previous.targets.iter())
            .map(|target| (&target.endpoint.url, &target.endpoint))
            .collect();
        let compiled = Service {
            name: name.clone(),
            targets: Arc::default(),
            discovery: written.discovery.clone().map(|resource::service::Discovery::Dns(dns)| Arc::new(dns)),
            protocol,
            proxy_protocol: written.proxy_protocol,
            tls: self.endpoint_tls(&written.tls),
            load_balancing: written.load_balancing.clone(),
            sticky: written.load_balancing.sticky_cookie.as_ref().map(|cookie| Arc::new(Sticky::compile(name, cookie))),
            hash_table: None,
            outlier_detection: Arc::from(written.outlier_detection.clone()),
            health_check: written.health_check.clone().map(Arc::from),
            timeouts: written.timeouts,
            deadline_header: written.deadline_header.as_ref().map(|field| field.0.clone()),
            retries: written.retries.clone(),
            limits: written.limits,
            connections: written.connections,
            gates: previous.as_ref().map_or_else(Arc::default, |previous| Arc::clone(&previous.gates)),
            policies: self.steps(&written.policies)?,
            enabled: written.enabled,
        };
        let compile = |target: &resource::service::Target| {
            let endpoint = compiled.endpoint(&target.url);
            // What stays equal stays the same thing: by that nodes know what to keep.
            let endpoint = match known.get(&target.url) {
                Some(known) if ***known == endpoint => Arc::clone(known),
                _ => Arc::new(endpoint),
            };
            Target { endpoint, weight: target.weight, placement: placement(target) }
        };
        let targets = written.targets.iter().map(compile).collect();
        let compiled = compiled.with_targets(targets, previous.as_deref());
        if let Some(discovery) = &compiled.discovery {
            self.discovered.insert(name.clone(), Arc::clone(discovery));
        }
        let is_checked = compiled.health_check.is_some();
        let slot = self.services.put(Arc::new(compiled));
        match is_checked {
            true => self.checked.insert(slot),
            false => self.checked.remove(&slot),
        };
        Ok(())
    }

    fn learn_consumer(&mut self, name: &Name, written: &resource::Consumer) -> Result<(), Vec<Fault>> {
        let policies = self.steps(&written.policies)?;
        let keys: Vec<_> = if written.enabled { written.key_hashes().collect() } else { Vec::new() };
        let mut faults = Vec::new();
        let compiled = Consumer { name: name.clone(), policies, keys: keys.iter().map(|(_, hash)| *hash).collect() };
        let slot = self.consumers.put(Arc::new(compiled));
        for (pointer, hash) in keys {
            if let Some(owner) = self.keys.insert(hash, slot) {
                let owner = self.consumers.get(owner).map_or("", |owner| owner.name.as_str());
                let message = format!("the consumer `{owner}` has the same key");
                faults
                    .push(Fault::new(pointer, "duplicate-value", message).hint("every key belongs to one credential"));
            }
        }
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }

    fn learn_route(&mut self, name: &Name, written: &resource::Route) -> Result<(), Vec<Fault>> {
        let timeouts = written.timeouts;
        let filters = Filters::of_route(written);
        let action = self.action(written);
        let mirrors = self.mirrors(&written.mirrors);
        let keeps_path = !written.normalize_path;
        let (retries, importance) = (written.retries.clone().map(Arc::new), written.importance);
        let has_settings = keeps_path
            || !written.policies.is_empty()
            || !mirrors.is_empty()
            || retries.is_some()
            || importance != Importance::default()
            || timeouts != RouteTimeouts::default();
        let settings = if has_settings || !matches!(filters, Ok(None)) {
            let policies = self.steps(&written.policies)?;
            Some(Arc::new(RouteSettings {
                timeouts,
                retries,
                importance,
                policies,
                keeps_path,
                filters: filters?,
                mirrors,
            }))
        } else {
            None
        };
        let compiled = Route { name: name.clone(), action: action?, settings };
        let slot = self.routes.put(compiled);
        self.routes_keeping_path += usize::from(!written.normalize_path);
        if written.enabled {
            let listeners: Vec<Slot> =
                written.listeners.iter().filter_map(|listener| self.listeners.slot(listener)).collect();
            let age = |slot| age_of_route(&self.routes, &self.config, slot);
            self.router.insert(written, slot, &listeners, &age)?;
        }
        Ok(())
    }

    fn action(&self, written: &resource::Route) -> Result<Action, Vec<Fault>> {
        if let Some(respond) = &written.respond {
            let content_type = respond.content_type.as_deref().unwrap_or("text/plain; charset=utf-8");
            return Ok(Action::Respond(Arc::new(FixedResponse {
                status: http::StatusCode::from_u16(respond.status).expect("the status was checked"),
                content_type: content_type.parse().expect("the content type was checked"),
                body: respond.body.clone().into(),
            })));
        }
        if let Some(redirect) = &written.redirect {
            return Ok(Action::Redirect(Arc::new(Redirect::compile(redirect, &written.paths)?)));
        }
        let mut backends = Vec::with_capacity(written.backends.len());
        let mut faults = Vec::new();
        for (index, backend) in written.backends.iter().enumerate() {
            match (Filters::of_backend(backend, &written.paths), self.services.slot(&backend.service)) {
                (Err(found), _) => {
                    faults.extend(found.into_iter().map(|fault| fault.below(&format!("/backends/{index}"))));
                }
                (Ok(filters), Some(service)) if backend.weight > 0 => {
                    let subset = Subset::of(&backend.labels);
                    let (filters, mirrors) = (filters.map(Box::new), self.mirrors(&backend.mirrors));
                    backends.push(Backend { service, weight: backend.weight, filters, mirrors, subset });
                }
                // Missing ones were reported with the references.
                (Ok(_), _) => {}
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        if let [Backend { service, filters: None, subset: None, mirrors, .. }] = &backends[..]
            && mirrors.is_empty()
        {
            return Ok(Action::Forward(*service));
        }
        let total_weight = backends.iter().map(|backend| u64::from(backend.weight)).sum();
        Ok(Action::Split(Arc::new(Split { backends, total_weight })))
    }

    /// Missing services were reported with the references.
    fn mirrors(&self, written: &[resource::route::Mirror]) -> Box<[Mirror]> {
        let mirror = |mirror: &resource::route::Mirror| {
            let (fraction, timeout) = (mirror.fraction, mirror.timeout.get());
            Some(Mirror { service: self.services.slot(&mirror.service)?, fraction, timeout })
        };
        written.iter().filter_map(mirror).collect()
    }
}

fn placement(target: &resource::service::Target) -> Option<Arc<Placement>> {
    let (labels, zone) = (target.labels.clone(), target.zone.clone());
    let placement = Placement { labels, priority: target.priority, zone };
    (placement != Placement::default()).then(|| Arc::new(placement))
}

/// The age of a route whose slot the router holds.
pub(super) fn age_of_route(routes: &Slots<Route>, config: &Config, slot: Slot) -> Age {
    let route = routes.get(slot).expect("the router holds slots of routes");
    let key = Key::new(Kind::Route, route.name.clone());
    Age { created: config.get(&key).map_or(0, |document| document.created), name: key.name }
}
