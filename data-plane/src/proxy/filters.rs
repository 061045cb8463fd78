//! What the filters of a route and of its backend do to a request that passed all policies, and to what is answered.

use http::StatusCode;
use http::header::{HOST, LOCATION};
use http::uri::PathAndQuery;
use model::exchange::{Exchange, ResponseHead};
use model::fields::Fields;
use model::filter::Filters;
use model::filter::redirect::{Origin, Redirect, Unknown};
use model::rejection::Rejection;
use model::router::Found;

use super::Reply;
use super::record::Record;
use crate::body::Body;

/// Changes the request for its service; the path that the route was found by stays in the exchange.
pub fn change_request<'f>(
    record: &mut Record,
    found: &Found<'_>,
    filters: impl Iterator<Item = &'f Filters>,
) -> Result<(), Rejection> {
    let exchange = &mut record.exchange;
    let mut path = None;
    for filters in filters {
        filters.request.apply(&mut exchange.request.headers);
        if let Some(host) = &filters.host {
            exchange.request.headers.insert(&HOST, host);
        }
        path = filters.path.as_ref().or(path);
    }
    let Some(path) = path else { return Ok(()) };
    let target = &exchange.request.target;
    let captures = found.captures(target.path());
    let made = path.apply(target.path(), &captures).map_err(|refused| cannot_rewrite(refused.to_string()))?;
    let made = match target.query() {
        Some(query) => PathAndQuery::try_from(format!("{made}?{query}")),
        None => PathAndQuery::try_from(made),
    };
    record.rewritten = Some(made.map_err(|_| cannot_rewrite("It is no valid path.".to_owned()))?);
    Ok(())
}

/// Changes what the client gets, in the reverse order.
pub fn change_response(exchange: &Exchange, head: &mut ResponseHead) {
    let filters = exchange.route().into_iter().flat_map(|route| route.filters_of(exchange.backend).rev());
    for filters in filters {
        filters.response.apply(&mut head.headers);
    }
}

/// Sends the client elsewhere.
pub fn redirect(record: &Record, found: &Found<'_>, redirect: &Redirect) -> Result<Reply, Rejection> {
    let exchange = &record.exchange;
    // Which port clients know of a proxy in front is not said.
    let own = exchange.listener.filter(|_| !record.connection.is_from_proxy);
    let listener = own.and_then(|slot| exchange.snapshot.listeners.get(slot));
    let target = &exchange.request.target;
    let origin = Origin {
        scheme: exchange.client.scheme,
        host: &exchange.request.host,
        port: listener.map(|listener| listener.bind.port()),
        path: target.path(),
        query: target.query(),
    };
    let location = redirect.location(&origin, &found.captures(target.path())).map_err(|unknown| match unknown {
        Unknown::Host => Rejection::new(StatusCode::BAD_REQUEST, "host-missing", unknown.to_string()),
        Unknown::Path(refused) => cannot_rewrite(refused.to_string()),
    })?;
    let mut headers = Fields::default();
    headers.append(&LOCATION, &location);
    Ok(Reply { head: ResponseHead { status: redirect.status, headers }, body: Body::empty() })
}

fn cannot_rewrite(why: String) -> Rejection {
    Rejection::new(StatusCode::BAD_REQUEST, "path-not-rewritable", why)
}
