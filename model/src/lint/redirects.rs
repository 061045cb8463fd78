//! Redirects that lead to themselves, found by following them with examples of requests.

use http::{Method, Uri};

use crate::exchange::Scheme;
use crate::fields::Fields;
use crate::filter::redirect::{Origin, Redirect};
use crate::problem::Fault;
use crate::resource::route::{PathPattern, Route};
use crate::router::{self, host, template};
use crate::slots::Slot;
use crate::snapshot::{Action, Listener, Snapshot};

/// Who was sent on by one route this often will be sent on by it for ever.
const HOPS: usize = 4;
/// Hosts, paths and listeners of a route that examples are made of.
const SAMPLES: usize = 8;

/// A redirect and an example of a request that it sends on.
struct Example<'a> {
    snapshot: &'a Snapshot,
    route: Slot,
    redirect: &'a Redirect,
    /// The port that it names.
    port: Option<u16>,
    listener: (Slot, &'a Listener),
    method: Method,
}

/// A warning if the route sends clients to where it sends them on again.
pub(super) fn endless(snapshot: &Snapshot, written: &Route, route: Slot) -> Option<Fault> {
    let Action::Redirect(redirect) = &snapshot.routes.get(route)?.action else { return None };
    // An example would have to meet these.
    if !(written.headers.is_empty() && written.query.is_empty() && written.sources.is_empty()) {
        return None;
    }
    let is_own = |listener: &Listener| written.listeners.is_empty() || written.listeners.contains(&listener.name);
    let listeners = snapshot.listeners.iter().filter(|(_, listener)| listener.enabled && is_own(listener));
    let method = written.methods.first().map_or(Method::GET, |method| method.0.clone());
    let (hosts, paths) = (hosts(written), paths(written));
    for (slot, listener) in listeners.take(SAMPLES) {
        let port = written.redirect.as_ref().and_then(|redirect| redirect.port);
        let method = method.clone();
        let example = Example { snapshot, route, redirect, port, listener: (slot, listener), method };
        for (host, path) in hosts.iter().flat_map(|host| paths.iter().map(move |path| (host, path))) {
            if example.is_endless(host, path) {
                let scheme = example.scheme().as_str();
                let message = format!(
                    "clients are sent back to this route for ever: it is asked for {scheme}://{host}{path} on `{}`, for one",
                    listener.name
                );
                let fault = Fault::new("/redirect", "endless-redirect", message);
                return Some(fault.hint("leave out of the route where it leads, by `listeners`, `hosts` or `paths`"));
            }
        }
    }
    None
}

impl Example<'_> {
    fn scheme(&self) -> Scheme {
        if self.listener.1.tls.is_some() { Scheme::Https } else { Scheme::Http }
    }

    fn is_endless(&self, host: &str, path: &str) -> bool {
        let (mut host, mut path) = (host.to_owned(), path.to_owned());
        (0..HOPS).all(|_| match self.next(&host, &path) {
            Some(next) => {
                (host, path) = next;
                true
            }
            None => false,
        })
    }

    /// Host and path that a client is sent to by the route, if it will ask the same listener for them.
    fn next(&self, host: &str, path: &str) -> Option<(String, String)> {
        let (slot, listener) = self.listener;
        let (scheme, port) = (self.scheme(), listener.bind.port());
        let headers = Fields::default();
        let (listener, source, method, query) = (Some(slot), None, &self.method, None);
        let asked = router::Request { listener, source, host, path, method, headers: &headers, query };
        let found = self.snapshot.router.find(&asked).filter(|found| found.route == self.route)?;
        let origin = Origin { scheme, host, port: Some(port), path, query };
        let location: Uri = self.redirect.location(&origin, &found.captures(path)).ok()?.to_str().ok()?.parse().ok()?;
        // Without a port, clients ask for the one by which they know the listener, whatever its own is.
        if location.scheme_str() != Some(scheme.as_str()) || self.port.is_some_and(|other| other != port) {
            return None;
        }
        Some((host::canonical(location.authority()?.as_str()).ok()?.into_owned(), location.path().to_owned()))
    }
}

fn hosts(written: &Route) -> Vec<String> {
    let example = |pattern: &crate::value::HostPattern| match pattern.wildcard_suffix() {
        Some(suffix) => format!("any.{suffix}"),
        None => pattern.as_str().to_owned(),
    };
    if written.hosts.is_empty() {
        return vec!["any.example".to_owned()];
    }
    written.hosts.iter().take(SAMPLES).map(example).collect()
}

/// Of a regular expression there is no example.
fn paths(written: &Route) -> Vec<String> {
    let below = |prefix: &str| format!("{}/any", prefix.trim_end_matches('/'));
    if written.paths.is_empty() {
        return vec![below("/")];
    }
    let examples = |pattern: &PathPattern| match pattern {
        PathPattern::Prefix(prefix) => vec![prefix.clone(), below(prefix)],
        PathPattern::Exact(path) => vec![path.clone()],
        PathPattern::Template(text) => template::sample(text).into_iter().collect(),
        PathPattern::Regex(_) => Vec::new(),
    };
    written.paths.iter().take(SAMPLES).flat_map(examples).collect()
}
