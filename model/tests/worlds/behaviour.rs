//! What a snapshot is and does, told by name, so that two can be compared whatever their slots are.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use http::{HeaderName, HeaderValue, Method, StatusCode};
use model::exchange::{Client, Exchange, RequestHead, ResponseHead, Scheme, Time};
use model::explain::{Explanation, Question, SentField, explain};
use model::fields::{Fields, plain_text};
use model::policy::{Chain, Step};
use model::resource::consumer::KeyHash;
use model::resource::route::{HeaderField, MethodName};
use model::router;
use model::slots::Slot;
use model::snapshot::{Action, Backend, Mirror, Snapshot};

use crate::universe::KEYS;

/// Two snapshots with the same answer cannot be told apart by any of these requests, nor by what stands in them.
pub fn behaviour(snapshot: &Snapshot) -> Vec<String> {
    let mut told = vec![format!("digest {}", snapshot.config.digest())];
    told.extend(snapshot.config.iter().map(|(key, document)| format!("{key} {document:?}")));
    told.push(format!("everything {:?}", steps(snapshot, &snapshot.everything)));
    told.extend(contents(snapshot));
    for key in KEYS {
        let consumer = snapshot.consumer_of_key(&KeyHash::of(key.as_bytes()));
        told.push(format!("{key}: {:?}", consumer.map(|slot| consumer_name(snapshot, slot))));
    }
    let snapshot = Rc::new(snapshot.clone());
    let listeners = snapshot.listeners.iter().map(|(slot, _)| Some(slot)).chain([None]);
    let mut answers = Vec::new();
    for listener in listeners {
        for host in ["", "a.test", "x.test", "b.test", "y.b.test", "elsewhere"] {
            for target in ["/", "/a", "/a/b/c?q=1%202", "/ab", "/c?q=1+2&key=key%20number%20one,%20long"] {
                for fields in [&[][..], &[("x-test", "1"), ("x-api-key", KEYS[1])]] {
                    answers.push(answer(&snapshot, listener, host, target, fields));
                }
            }
        }
    }
    // Listeners come in the order of their slots.
    answers.sort();
    told.extend(answers);
    told
}

fn steps(snapshot: &Snapshot, steps: &[Step]) -> Vec<String> {
    let name = |step: &Step| {
        let compiled = snapshot.policies.get(step.policy).expect("a step points at a policy");
        assert_eq!(compiled.kind.order(), step.order, "{} stands where its type does", compiled.name);
        compiled.name.to_string()
    };
    steps.iter().map(name).collect()
}

fn consumer_name(snapshot: &Snapshot, slot: Slot) -> String {
    snapshot.consumers.get(slot).expect("a key points at a consumer").name.to_string()
}

/// Every compiled thing, by name.
fn contents(snapshot: &Snapshot) -> Vec<String> {
    let service = |slot: &Slot| snapshot.services.get(*slot).expect("a service").name.to_string();
    let mut told = Vec::new();
    for (_, listener) in snapshot.listeners.iter() {
        let certificates: Option<Vec<_>> = listener.tls.as_ref().map(|tls| {
            let name = |slot: &Slot| snapshot.certificates.get(*slot).expect("a certificate").name.to_string();
            tls.certificates.iter().map(name).collect()
        });
        let version = listener.tls.as_ref().map(|tls| {
            let clients = tls.client_certificates.as_ref();
            let bundle =
                clients.map(|clients| (clients.mode, snapshot.ca_bundles.get(clients.ca_bundle).expect("a bundle")));
            (tls.min_version, tls.profile, bundle)
        });
        let policies = steps(snapshot, &listener.policies);
        let (name, bind, enabled) = (&listener.name, listener.bind, listener.enabled);
        let edge = (&listener.proxy_headers, &listener.forwarding, listener.limits);
        told.push(format!("listener {name} {bind} {enabled} {certificates:?} {version:?} {edge:?} {policies:?}"));
    }
    for (_, certificate) in snapshot.certificates.iter() {
        let (name, hosts, enabled) = (&certificate.name, &certificate.hosts, certificate.enabled);
        told.push(format!("certificate {name} {hosts:?} {enabled} {certificate:?} {:?}", certificate.key.cert));
    }
    told.extend(
        snapshot
            .ca_bundles
            .iter()
            .map(|(_, bundle)| format!("ca_bundle {} {bundle:?} {}", bundle.name, bundle.roots.len())),
    );
    for (_, it) in snapshot.services.iter() {
        let policies = steps(snapshot, &it.policies);
        let health = (&it.outlier_detection, &it.health_check);
        let how =
            (it.protocol, &it.load_balancing, it.timeouts, &it.retries, it.limits, it.connections, it.enabled, health);
        told.push(format!("service {} {:?} {how:?} {policies:?}", it.name, it.targets));
    }
    let mirrors = |mirrors: &[Mirror]| -> Vec<_> {
        mirrors.iter().map(|one| (service(&one.service), one.fraction, one.timeout)).collect()
    };
    for (_, route) in snapshot.routes.iter() {
        let action = match &route.action {
            Action::Forward(slot) => service(slot),
            Action::Split(split) => {
                let backend = |one: &Backend| {
                    let mirrors = mirrors(&one.mirrors);
                    format!("{} {} {:?} {:?} {mirrors:?}", service(&one.service), one.weight, one.filters, one.subset)
                };
                let backends: Vec<_> = split.backends.iter().map(backend).collect();
                format!("{backends:?} of {}", split.total_weight)
            }
            Action::Respond(fixed) => format!("{fixed:?}"),
            Action::Redirect(redirect) => format!("{redirect:?}"),
        };
        let policies = steps(snapshot, route.policies());
        let (timeouts, filters) = (route.timeouts(), route.filters());
        let mirrors = mirrors(route.mirrors());
        told.push(format!("route {} {action} {timeouts:?} {filters:?} {mirrors:?} {policies:?}", route.name));
    }
    for (_, policy) in snapshot.policies.iter() {
        told.push(format!("policy {} {} {}", policy.name, policy.kind.name, policy.enabled));
    }
    for (_, consumer) in snapshot.consumers.iter() {
        told.push(format!("consumer {} {:?}", consumer.name, steps(snapshot, &consumer.policies)));
    }
    told.sort();
    told
}

/// What becomes of one request: its route, the policies that run, what is forwarded and what comes back.
fn answer(
    snapshot: &Rc<Snapshot>,
    listener: Option<Slot>,
    host: &str,
    target: &'static str,
    fields: &[(&'static str, &'static str)],
) -> String {
    let mut headers = Fields::default();
    for (name, value) in fields {
        headers.append(&HeaderName::from_static(name), &HeaderValue::from_static(value));
    }
    let request =
        RequestHead { method: Method::GET, host: host.into(), target: target.parse().expect("a target"), headers };
    let client = Client { address: ([192, 0, 2, 1], 40_000).into(), scheme: Scheme::Http };
    let time = Time { monotonic_ns: 1, unix_ms: 1 };
    let mut exchange = Exchange::new(snapshot.clone(), request, client, time, 7);
    exchange.listener = listener;
    let found = snapshot.router.find(&router::Request {
        listener,
        source: Some(client.address.ip()),
        host,
        path: exchange.request.target.path(),
        method: &exchange.request.method,
        headers: &exchange.request.headers,
        query: exchange.request.target.query(),
    });
    let captures = found.map(|found| format!("{:?}", found.captures(exchange.request.target.path())));
    exchange.route = found.map(|found| found.route);
    let at = listener.and_then(|slot| snapshot.listeners.get(slot));
    let route = exchange.route().cloned();
    agrees(&exchange, &explained(snapshot, &exchange));
    let mut chain = Chain::merge(
        snapshot,
        [
            &snapshot.everything,
            at.map_or(&[], |listener| &listener.policies),
            &[],
            route.as_ref().map_or(&[], |route| route.policies()),
        ],
    );
    let decision = now(chain.on_request(&mut exchange)).map_err(|rejection| rejection.code);
    let mut head = ResponseHead { status: StatusCode::OK, headers: Fields::default() };
    chain.on_response(&mut exchange, &mut head);
    exchange.finish_head(&mut head);
    // What is left of a quota depends on what was sent before, which is not compared here.
    head.headers.remove("ratelimit");
    format!(
        "{:?} {host} {target} {}: {:?} {captures:?} {:?} {decision:?} {:?} {:?} {:?} {:?}",
        at.map(|listener| &listener.name),
        fields.len(),
        route.map(|route| route.name),
        chain.last().map(|step| steps(snapshot, &[step])),
        exchange.consumer().map(|consumer| &consumer.name),
        exchange.request.target,
        exchange.request.headers,
        head.headers,
    )
}

/// What the gateway says it would do with the request.
fn explained(snapshot: &Snapshot, exchange: &Exchange) -> Explanation {
    let request = &exchange.request;
    let sent = request.headers.iter().map(|(name, value)| SentField {
        name: HeaderField(HeaderName::from_bytes(name).expect("a name")),
        value: plain_text(value).expect("text").to_owned(),
    });
    let host = SentField { name: HeaderField(http::header::HOST), value: request.host.to_string() };
    let listener = exchange.listener.and_then(|slot| snapshot.listeners.get(slot));
    let question = Question {
        method: MethodName(request.method.clone()),
        url: request.target.to_string(),
        headers: sent.chain([host]).collect(),
        source: Some(exchange.client.address.ip()),
        listener: listener.map(|listener| listener.name.clone()),
    };
    explain(snapshot, &question).unwrap_or_else(|faults| panic!("{faults:?}"))
}

/// What is said agrees with what is done: the route, and for each service that may get the request the policies.
fn agrees(exchange: &Exchange, said: &Explanation) {
    let snapshot = &exchange.snapshot;
    let route = exchange.route();
    assert_eq!(said.route.as_ref(), route.map(|route| &route.name));
    for outcome in &said.outcomes {
        let service = outcome.service.as_ref().map(|name| snapshot.services.find(name).expect("a service"));
        let listener = exchange.listener.and_then(|slot| snapshot.listeners.get(slot));
        let chain = Chain::merge(
            snapshot,
            [
                &snapshot.everything,
                listener.map_or(&[], |listener| &listener.policies),
                service.map_or(&[], |service| &service.policies),
                route.map_or(&[], |route| route.policies()),
            ],
        );
        let named: Vec<String> = outcome.policies.iter().map(|policy| policy.policy.to_string()).collect();
        assert_eq!(named, steps(snapshot, chain.steps()));
    }
    let drawn: BTreeSet<_> = (0..64).filter_map(|draw| Some(route?.draw_service(draw)?.0)).collect();
    let services: BTreeSet<_> =
        said.outcomes.iter().filter_map(|outcome| snapshot.services.slot(outcome.service.as_ref()?)).collect();
    assert_eq!(drawn, services);
}

/// The result of a future that does not wait.
fn now<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("no policy of the tests waits"),
    }
}
