//! What a gateway would do with a request, and why: every step to the canonical path, the listener, every route that was
//! looked at, and what the one that won brings with it.
//!
//! The route is found by the walk that finds it for requests ([`crate::router::explain`]), and the policies are merged by
//! [`Chain::merge`]: there is no second opinion that could differ. Nothing is sent and no policy runs; what depends on
//! who calls, such as the policies of a consumer, is not known.

use std::ops::Range;

use crate::fields::Fields;
use crate::policy::{Chain, Step};
use crate::problem::{Fault, closest};
use crate::resource::Name;
use crate::resource::service::Timeouts;
use crate::router::explain::{Because, Candidate, Trace, Verdict};
use crate::router::{Request, host, path};
use crate::slots::Slot;
use crate::snapshot::{Action, Listener, Route, Service, Snapshot, Spelling};
use crate::value::Span;
use filters::Asked;
use http::HeaderValue;

mod filters;
mod form;

pub use form::{
    CandidateExplained, Capture, Explanation, HostExplained, Origin, Outcome, PathExplained, PathStep, PolicyExplained,
    Question, RefusedBecause, Replaced, Said, SentField, Setting, WeightOf,
};

/// What `snapshot` would do with a request, or what cannot be understood of the question.
pub fn explain(snapshot: &Snapshot, question: &Question) -> Result<Explanation, Vec<Fault>> {
    let url = Url::read(&question.url)?;
    let (fields, host_field) = fields(&question.headers)?;
    let listener = listener(snapshot, question.listener.as_ref(), &url)?;
    let received = host_field.unwrap_or(url.authority).to_owned();
    let (steps, path) = path::trace(url.path);
    let host = host::canonical(&received);
    let refused = |code: &str, detail: &str| Some(RefusedBecause { code: code.to_owned(), detail: detail.to_owned() });
    let mut explanation = Explanation {
        path: PathExplained {
            steps: steps.into_iter().map(|(step, path)| PathStep { step, path }).collect(),
            counts: None,
            refused: path.as_ref().err().and_then(|fault| refused(fault.code(), fault.detail())),
        },
        host: HostExplained {
            canonical: host.as_ref().ok().map(|host| host.clone().into_owned()),
            refused: host.as_ref().err().and_then(|fault| refused(fault.code(), fault.detail())),
            received: received.clone(),
        },
        listener: listener.map(|(_, listener)| listener.name.clone()),
        route: None,
        captures: Vec::new(),
        candidates: Vec::new(),
        omitted: 0,
        other_values: 0,
        outcomes: Vec::new(),
    };
    let Ok(host) = host else { return Ok(explanation) };
    let request = |path| Request {
        listener: listener.map(|(slot, _)| slot),
        source: question.source.map(|address| address.to_canonical()),
        host: &host,
        path,
        method: &question.method.0,
        headers: &fields,
        query: url.query,
    };
    let canonical = path.as_deref().map_err(|fault| *fault);
    let path = match snapshot.find_spelled(&request(url.path), url.path, canonical) {
        Ok((_, Spelling::Canonical)) => path.unwrap_or_default(),
        Ok((_, Spelling::Received)) => url.path.to_owned(),
        Err(fault) => {
            explanation.path.refused = refused(fault.code(), fault.detail());
            return Ok(explanation);
        }
    };
    explanation.path.refused = None;
    explanation.path.counts = Some(path.clone());
    let trace = snapshot.router.explain(&request(&path));
    let Trace { found, candidates, omitted, other_values } = trace;
    let route = found.and_then(|found| snapshot.routes.get(found.route));
    explanation.route = route.map(|route| route.name.clone());
    let captures = found.map(|found| found.captures(&path)).unwrap_or_default();
    let capture =
        |(name, at): &(&str, Range<usize>)| Capture { name: (*name).to_owned(), value: path[at.clone()].to_owned() };
    explanation.captures = captures.iter().map(capture).collect();
    explanation.candidates = candidates.into_iter().filter_map(|one| candidate(snapshot, one)).collect();
    (explanation.omitted, explanation.other_values) = (omitted, other_values);
    let listener = listener.map(|(_, listener)| listener);
    let (scheme, port) = filters::entry(listener, url.is_https, url.port);
    let asked = Asked { scheme, port, host: &host, path: &path, query: url.query, captures: &captures };
    explanation.outcomes = outcomes(snapshot, listener, route, &asked);
    Ok(explanation)
}

/// The parts of a URL, as they are written.
struct Url<'a> {
    is_https: bool,
    authority: &'a str,
    port: Option<u16>,
    path: &'a str,
    query: Option<&'a str>,
}

impl<'a> Url<'a> {
    fn read(text: &'a str) -> Result<Self, Vec<Fault>> {
        let wrong = |why: &str| {
            let fault = Fault::new("/url", "invalid-value", format!("`{text}` {why}"));
            vec![fault.hint("write `https://api.example.com/orders`, or a path and a header `Host`")]
        };
        let (is_https, rest) = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (true, rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (false, rest),
            _ if text.starts_with('/') => (false, text),
            _ => return Err(wrong("is no URL that a gateway answers")),
        };
        // A fragment stays with the client (RFC 9110 section 7.1).
        let rest = rest.split_once('#').map_or(rest, |(rest, _)| rest);
        let (authority, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        let port = authority.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
        let usual = (!authority.is_empty()).then_some(if is_https { 443 } else { 80 });
        // An empty path is sent as a slash (RFC 9112 section 3.2.1).
        Ok(Self { is_https, authority, port: port.or(usual), path: if path.is_empty() { "/" } else { path }, query })
    }
}

/// The fields that routing sees, and the value of `Host`.
fn fields(sent: &[SentField]) -> Result<(Fields, Option<&str>), Vec<Fault>> {
    let mut fields = Fields::default();
    let mut host = None;
    let mut faults = Vec::new();
    for (index, SentField { name, value }) in sent.iter().enumerate() {
        if name.0 == http::header::HOST {
            host = Some(value.as_str());
        }
        match HeaderValue::from_str(value) {
            Ok(value) => fields.append(&name.0, &value),
            Err(_) => faults.push(Fault::new(
                format!("/headers/{index}/value"),
                "invalid-value",
                format!("`{value}` cannot be the value of a header field"),
            )),
        }
    }
    if faults.is_empty() { Ok((fields, host)) } else { Err(faults) }
}

/// The listener that was named, or the only one that the URL leads to.
fn listener<'s>(
    snapshot: &'s Snapshot,
    named: Option<&Name>,
    url: &Url<'_>,
) -> Result<Option<(Slot, &'s Listener)>, Vec<Fault>> {
    let mut all = snapshot.listeners.iter().map(|(slot, listener)| (slot, &**listener));
    if let Some(name) = named {
        let Some(found) = all.find(|(_, listener)| listener.name == *name) else {
            let fault = Fault::new("/listener", "unknown-reference", format!("no listener is named `{name}`"));
            let names = snapshot.listeners.iter().map(|(_, listener)| listener.name.as_str());
            let meant = closest(name, names).map(|meant| format!("did you mean `{meant}`?"));
            return Err(vec![Fault { hint: meant, ..fault }]);
        };
        return Ok(Some(found));
    }
    let mut fitting = all.filter(|(_, listener)| {
        listener.enabled && Some(listener.bind.port()) == url.port && listener.tls.is_some() == url.is_https
    });
    let first = fitting.next();
    Ok(if fitting.next().is_none() { first } else { None })
}

fn candidate(snapshot: &Snapshot, candidate: Candidate) -> Option<CandidateExplained> {
    let Candidate { route, host, path, verdict } = candidate;
    let (verdict, because, detail) = match verdict {
        Verdict::Won => (Said::Won, None, None),
        Verdict::Lost(because) => (Said::Lost, Some(because), Some(behind(because).to_owned())),
        Verdict::Failed(because, detail) => (Said::NoMatch, Some(because), Some(detail)),
    };
    let route = snapshot.routes.get(route)?.name.clone();
    Some(CandidateExplained { route, host: Some(host).filter(|host| !host.is_empty()), path, verdict, because, detail })
}

fn behind(because: Because) -> &'static str {
    match because {
        Because::Host => "its host is less specific",
        Because::Path => "its path is less specific",
        Because::Method => "it names no method",
        Because::Header => "it has fewer conditions on headers",
        Because::Query => "it has fewer conditions on query parameters",
        Because::Source => "it names no sources",
        Because::Listener => "it names no listeners",
        Because::Priority => "its priority is lower",
        Because::Age => "it is younger",
    }
}

/// What may become of a request that belongs to the route.
fn outcomes(
    snapshot: &Snapshot,
    listener: Option<&Listener>,
    route: Option<&Route>,
    asked: &Asked<'_>,
) -> Vec<Outcome> {
    let to = |service: Slot, backend: usize, share| {
        let service = snapshot.services.get(service).map(|service| &**service);
        let filters = route.map_or_else(Vec::new, |route| asked.filters(snapshot, route, backend));
        Outcome { share, filters, ..outcome(snapshot, listener, service, route) }
    };
    let answered =
        |status: u16, filters| Outcome { status: Some(status), filters, ..outcome(snapshot, listener, None, route) };
    let own = || route.map_or_else(Vec::new, |route| asked.filters(snapshot, route, 0));
    match route.map(|route| &route.action) {
        None => vec![answered(404, Vec::new())],
        Some(Action::Respond(fixed)) => vec![answered(fixed.status.as_u16(), own())],
        Some(Action::Redirect(redirect)) => {
            let filters = std::iter::once(asked.redirect(redirect)).chain(own());
            vec![answered(redirect.status.as_u16(), filters.collect())]
        }
        Some(Action::Forward(service)) => vec![to(*service, 0, None)],
        Some(Action::Split(split)) if split.backends.is_empty() => vec![answered(500, own())],
        Some(Action::Split(split)) => {
            let total = split.total_weight;
            let share = |weight| (split.backends.len() > 1).then_some(WeightOf { weight, total });
            let backends = split.backends.iter().enumerate();
            backends.map(|(place, backend)| to(backend.service, place, share(backend.weight))).collect()
        }
    }
}

fn outcome(
    snapshot: &Snapshot,
    listener: Option<&Listener>,
    service: Option<&Service>,
    route: Option<&Route>,
) -> Outcome {
    let attachments: [(Origin, &[Step]); 4] = [
        (Origin::Everything, &snapshot.everything),
        (Origin::Listener, listener.map_or(&[], |listener| &listener.policies)),
        (Origin::Service, service.map_or(&[], |service| &service.policies)),
        (Origin::Route, route.map_or(&[], |route| route.policies())),
    ];
    let chain = Chain::merge(snapshot, attachments.map(|(_, steps)| steps));
    let policies = chain.steps().iter().filter_map(|step| policy(snapshot, &attachments, *step)).collect();
    let settings = service.map_or_else(Vec::new, |service| settings(service, route));
    let service = service.map(|service| service.name.clone());
    Outcome { service, share: None, status: None, policies, filters: Vec::new(), settings }
}

/// A step of a merged chain, with where it comes from and what it stands in for.
fn policy(snapshot: &Snapshot, attachments: &[(Origin, &[Step])], step: Step) -> Option<PolicyExplained> {
    let compiled = snapshot.policies.get(step.policy)?;
    let same_type = attachments.iter().flat_map(|(origin, steps)| {
        steps.iter().filter(|other| other.order == step.order).map(|other| (*origin, other.policy))
    });
    let enabled =
        same_type.filter_map(|(from, slot)| Some((from, snapshot.policies.get(slot).filter(|it| it.enabled)?)));
    let mut enabled: Vec<Replaced> =
        enabled.map(|(from, compiled)| Replaced { policy: compiled.name.clone(), from }).collect();
    let Replaced { policy, from } = enabled.pop()?;
    Some(PolicyExplained { policy, type_name: compiled.kind.name.to_owned(), from, instead_of: enabled })
}

fn settings(service: &Service, route: Option<&Route>) -> Vec<Setting> {
    let Timeouts { connect, request, idle } = service.timeouts;
    let usual = Timeouts::default();
    let own = route.map(Route::timeouts).unwrap_or_default();
    let each = [
        // Of one name in a route and another in a service.
        (["timeouts.connect"; 2], None, connect, usual.connect),
        (["timeouts.backend_request", "timeouts.request"], own.backend_request, request, usual.request),
        (["timeouts.idle"; 2], own.idle, idle, usual.idle),
    ];
    let whole = own.request.map(|span| Setting {
        name: "timeouts.request".to_owned(),
        value: span.to_string(),
        from: Origin::Route,
    });
    let setting = |([of_route, name], own, of_service, usual): ([&str; 2], Option<Span>, Span, Span)| {
        let (name, value, from) = match own {
            Some(value) => (of_route, value, Origin::Route),
            None if of_service == usual => (name, usual, Origin::Default),
            None => (name, of_service, Origin::Service),
        };
        Setting { name: name.to_owned(), value: value.to_string(), from }
    };
    whole.into_iter().chain(each.map(setting)).collect()
}

#[cfg(test)]
mod tests;
