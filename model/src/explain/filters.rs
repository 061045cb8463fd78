//! What the filters of a route and of a backend would make of a request.

use super::{Origin, Setting};
use crate::exchange::Scheme;
use crate::filter::Filters;
use crate::filter::path::Captures;
use crate::filter::redirect::{self, Redirect};
use crate::snapshot::{Listener, Mirror, Route, Snapshot};

/// What of the request filters look at.
pub(super) struct Asked<'a> {
    pub scheme: Scheme,
    pub host: &'a str,
    pub port: Option<u16>,
    pub path: &'a str,
    pub query: Option<&'a str>,
    pub captures: &'a Captures<'a>,
}

impl Asked<'_> {
    /// Where a redirect leads.
    pub(super) fn redirect(&self, redirect: &Redirect) -> Setting {
        let Self { scheme, host, port, path, query, captures } = *self;
        let location = redirect.location(&redirect::Origin { scheme, host, port, path, query }, captures);
        let value = match location {
            Ok(location) => String::from_utf8_lossy(location.as_bytes()).into_owned(),
            Err(unknown) => format!("refused with 400: {unknown}"),
        };
        Setting { name: "redirect".to_owned(), value, from: Origin::Route }
    }

    /// What is changed for the backend at this place of the route's list, in the order in which it is done.
    pub(super) fn filters(&self, snapshot: &Snapshot, route: &Route, backend: usize) -> Vec<Setting> {
        let each = [(Origin::Route, route.filters()), (Origin::Backend, route.backend_filters(backend))];
        let each = || each.iter().filter_map(|(from, filters)| Some((*from, (*filters)?)));
        let set = |name: &str, value: String, from| Setting { name: name.to_owned(), value, from };
        let mut told = Vec::new();
        // Of two hosts, or two paths, that of the backend is the one.
        let host = each().filter_map(|(from, filters)| Some((from, filters.host.as_ref()?))).next_back();
        told.extend(
            host.map(|(from, host)| set("rewrite.host", String::from_utf8_lossy(host.as_bytes()).into(), from)),
        );
        let path = each().filter_map(|(from, filters)| Some((from, filters.path.as_ref()?))).next_back();
        told.extend(path.map(|(from, path)| {
            let made = path.apply(self.path, self.captures);
            set("rewrite.path", made.unwrap_or_else(|refused| format!("refused with 400: {refused}")), from)
        }));
        let edits = |field: &'static str, from, filters: &Filters| -> Vec<Setting> {
            let edits = if field == "request_headers" { &filters.request } else { &filters.response };
            edits.iter().map(|(what, value)| set(&format!("{field}.{what}"), value, from)).collect()
        };
        told.extend(each().flat_map(|(from, filters)| edits("request_headers", from, filters)));
        told.extend(
            each()
                .collect::<Vec<_>>()
                .into_iter()
                .rev()
                .flat_map(|(from, filters)| edits("response_headers", from, filters)),
        );
        let each = [(Origin::Route, route.mirrors()), (Origin::Backend, route.backend_mirrors(backend))];
        let mirrors = each.iter().flat_map(|(from, mirrors)| mirrors.iter().map(|mirror| (*from, mirror)));
        told.extend(mirrors.filter_map(|(from, mirror): (Origin, &Mirror)| {
            let service = snapshot.services.get(mirror.service)?;
            Some(set("mirrors", format!("{} {}", service.name, mirror.fraction), from))
        }));
        told
    }
}

/// The scheme and the port that a request comes in by, as far as they are known.
pub(super) fn entry(listener: Option<&Listener>, is_https: bool, port: Option<u16>) -> (Scheme, Option<u16>) {
    let is_https = listener.map_or(is_https, |listener| listener.tls.is_some());
    let port = listener.map(|listener| listener.bind.port()).or(port);
    (if is_https { Scheme::Https } else { Scheme::Http }, port)
}
