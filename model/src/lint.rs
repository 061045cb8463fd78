//! What a configuration may hold and hardly anybody means: warnings, told when it is written. They keep nothing from being
//! published.
//!
//! Only what a change touches is looked at, so that a warning comes with the change that is its cause.

use std::collections::BTreeSet;

use crate::config::Changed;
use crate::problem::{Fault, Problem};
use crate::resource::route::{Condition, Route, ValueMatch};
use crate::resource::{Key, Kind, Name, Resource};
use crate::router::rivals::Patience;
use crate::slots::Slot;
use crate::snapshot::Snapshot;

mod certificates;
mod redirects;

/// More warnings about one change than anybody reads.
const MAX_WARNINGS: usize = 100;
/// How many routes that a change does not hold are looked at because of it.
const MAX_OTHERS: usize = 1_000;
/// How many comparisons of two routes the warnings about one change are worth: a fraction of a second.
const MAX_COMPARISONS: usize = 1_000_000;

/// One sort of warning.
pub struct Lint {
    /// Stable, for programs.
    pub code: &'static str,
    /// One line for documentation.
    pub summary: &'static str,
    /// What it means and what to do, in paragraphs.
    pub explanation: &'static str,
}

/// Every sort of warning, by code.
pub static LINTS: &[Lint] = &[
    Lint {
        code: "certificate-validity",
        summary: "a certificate has expired, or is not valid yet",
        explanation: "Every certificate says from when and until when it is valid. Whoever checks one outside that time \
            refuses the connection: clients for a certificate of a listener, listeners and services for authorities of a \
            CA bundle. It is looked at when the certificate is written.\n\n\
            Write one that is valid now. It takes effect without a dropped connection.",
    },
    Lint {
        code: "contradicting-conditions",
        summary: "a route asks for a value and for its absence",
        explanation: "A condition with `present: false` asks that there is no value of that name, and another condition \
            of the same route asks for one. No request can meet both, so the route never gets one.\n\n\
            Remove one of the two, or make two routes of it.",
    },
    Lint {
        code: "disabled-listeners",
        summary: "a route is only for listeners that are disabled",
        explanation: "Every listener in `listeners` has `enabled: false`, so no request can come in there.\n\n\
            Enable one of them, add another, or leave `listeners` away: then the route is for all.",
    },
    Lint {
        code: "endless-redirect",
        summary: "a route sends clients to where it sends them on again",
        explanation: "Where the redirect leads, the same route answers with the same redirect, until the client gives up. \
            Mostly it is one that leads to `https` and is for every listener, the one with TLS among them. The warning has \
            an example. A listener is taken to be known to clients by the usual port of its scheme where the redirect says \
            nothing else.\n\n\
            Leave out of the route where it leads: by `listeners`, `hosts` or `paths`, or by a more specific route for \
            that. What takes a certain header field, query or source to happen is not looked for.",
    },
    Lint {
        code: "host-not-in-certificate",
        summary: "a certificate is to answer a host that it does not name",
        explanation: "`hosts` says for which server names a certificate is served. Clients accept it only for the names in \
            it, so those that ask for the host will end the connection.\n\n\
            Have the certificate issued for that host too, or take the host out: without `hosts`, the names in the \
            certificate count.",
    },
    Lint {
        code: "no-backend",
        summary: "a route leads nowhere",
        explanation: "The route has none of `service`, `backends`, `respond` and `redirect`, so there is nothing that could \
            answer its requests, and the gateway answers 500.\n\n\
            Write one of them, or remove the route. To keep requests away from everything on purpose, `respond` says \
            clearly with what they are answered.",
    },
    Lint {
        code: "no-weight",
        summary: "every backend of a route has weight 0",
        explanation: "Weights share requests out. Where all of them are 0 there is no service to send a request to, and the \
            gateway answers 500.\n\n\
            Give one of the backends a weight. To keep requests away from everything on purpose, `respond` says \
            clearly with what they are answered.",
    },
    Lint {
        code: "unreachable-route",
        summary: "a route never gets a request, because others come first wherever it matches",
        explanation: "For every host and path of the route there are others that match whatever it matches, and that come \
            first: they are as specific and have a higher `priority`, or they are older. The warning names them. It \
            comes when such a route is written, and when another route that comes first is.\n\n\
            Give the route a higher `priority` if it is meant to win, a condition that sets it apart, or remove it. \
            `sluice explain` shows for one request which routes were looked at and why each lost.\n\n\
            What several others only cover together is found where methods and listeners are listed, and not where it \
            takes a proof about regular expressions: a route without this warning may be unreachable all the same.",
    },
];

/// The warnings about a change that led to `snapshot`; `now` is in seconds since 1970.
#[must_use]
pub fn lint(snapshot: &Snapshot, changes: &[Changed], now: u64) -> Vec<Problem> {
    let of_certificates = |change: &Changed| {
        certificates::lint(change, now).into_iter().map(|fault| fault.at(&change.key)).collect::<Vec<_>>()
    };
    let mut warnings: Vec<Problem> = changes.iter().flat_map(of_certificates).take(MAX_WARNINGS).collect();
    let mut others = BTreeSet::new();
    let mut patience = Patience(MAX_COMPARISONS);
    for change in changes.iter().filter(|change| change.key.kind == Kind::Route) {
        if warnings.len() >= MAX_WARNINGS {
            break;
        }
        let (Some(Resource::Route(written)), Some(slot)) = (change.resource(), snapshot.routes.slot(&change.key.name))
        else {
            continue;
        };
        if !written.enabled {
            continue;
        }
        let faults = [
            contradiction(&written),
            disabled_listeners(snapshot, &written),
            no_backend(&written),
            no_weight(&written),
            redirects::endless(snapshot, &written, slot),
        ];
        let faults = faults.into_iter().flatten().chain(unreachable(snapshot, &written, slot, &mut patience));
        warnings.extend(faults.map(|fault| fault.at(&change.key)));
        if others.len() < MAX_OTHERS {
            others.extend(snapshot.router.behind(&written, slot, &mut patience));
        }
    }
    let changed: BTreeSet<&Name> = changes.iter().map(|change| &change.key.name).collect();
    for slot in others.into_iter().take(MAX_OTHERS) {
        let Some(route) = snapshot.routes.get(slot).filter(|route| !changed.contains(&route.name)) else { continue };
        let key = Key::new(Kind::Route, route.name.clone());
        let Some(document) = snapshot.config.get(&key) else { continue };
        if let Ok(Resource::Route(written)) = document.parse(Kind::Route) {
            warnings.extend(unreachable(snapshot, &written, slot, &mut patience).map(|fault| fault.at(&key)));
        }
    }
    warnings.truncate(MAX_WARNINGS);
    for warning in &mut warnings {
        warning.page = Some(format!("/docs/lints/{}", warning.code));
    }
    warnings
}

fn unreachable(snapshot: &Snapshot, written: &Route, slot: Slot, patience: &mut Patience) -> Option<Fault> {
    const SHOWN: usize = 5;
    let covering = snapshot.router.covering(written, slot, patience)?;
    let name = |slot: &Slot| snapshot.routes.get(*slot).map_or(String::new(), |route| format!("`{}`", route.name));
    let mut names: Vec<String> = covering.iter().map(name).collect();
    names.sort();
    let more = names.len().saturating_sub(SHOWN);
    names.truncate(SHOWN);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let (names, come) = (names.join(", "), if covering.len() == 1 { "comes" } else { "come" });
    let message = format!("no request can reach this route: {names}{more} {come} first wherever it matches");
    let fault = Fault::new("", "unreachable-route", message);
    Some(fault.hint("give it a higher `priority` or a condition that sets it apart, or remove it"))
}

fn contradiction(written: &Route) -> Option<Fault> {
    fn of<N: PartialEq>(pointer: &str, conditions: &[Condition<N>]) -> Option<Fault> {
        let is_absent = |one: &Condition<N>| one.asks() == ValueMatch::Absent;
        let contradicts = |one: &Condition<N>| {
            !is_absent(one) && conditions.iter().any(|other| other.name == one.name && is_absent(other))
        };
        let at = conditions.iter().position(contradicts)?;
        let message = "no request can reach this route: another condition asks that there is no value of this name";
        let fault = Fault::new(format!("{pointer}/{at}"), "contradicting-conditions", message);
        Some(fault.hint("remove one of the two"))
    }
    of("/headers", &written.headers).or_else(|| of("/query", &written.query))
}

fn disabled_listeners(snapshot: &Snapshot, written: &Route) -> Option<Fault> {
    let is_disabled = |name: &Name| snapshot.listeners.find(name).is_some_and(|listener| !listener.enabled);
    if written.listeners.is_empty() || !written.listeners.iter().all(is_disabled) {
        return None;
    }
    let message = "no request can reach this route: all of its listeners are disabled";
    Some(Fault::new("/listeners", "disabled-listeners", message).hint("enable one of them, or leave `listeners` away"))
}

fn no_backend(written: &Route) -> Option<Fault> {
    let Route { backends, respond, redirect, .. } = written;
    if !backends.is_empty() || respond.is_some() || redirect.is_some() {
        return None;
    }
    let fault = Fault::new("/backends", "no-backend", "the route leads nowhere: requests are answered with 500");
    Some(fault.hint("write `service`, `backends`, `respond` or `redirect`"))
}

fn no_weight(written: &Route) -> Option<Fault> {
    if written.backends.is_empty() || written.backends.iter().any(|backend| backend.weight > 0) {
        return None;
    }
    let message = "every backend has weight 0: requests are answered with 500";
    Some(Fault::new("/backends", "no-weight", message).hint("give one of them a weight, or write `respond`"))
}

#[cfg(test)]
mod tests;
