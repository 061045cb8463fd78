//! What a route, or a single backend of it, changes in requests and responses: compiled, so that a request that meets
//! none of it pays for one look.
//!
//! They act behind all policies on a request, and before them on its response: those of the route first, then those of the
//! backend, and in reverse.

use http::HeaderValue;

use crate::policy::headers::Edits;
use crate::problem::Fault;
use crate::resource::route::{self, Backend, PathPattern};
use crate::value::HostPattern;

pub mod path;
pub mod redirect;

use path::PathRewrite;

/// What one route or one backend changes.
#[derive(Debug, Default)]
pub struct Filters {
    /// The `Host` that the service gets.
    pub host: Option<HeaderValue>,
    pub path: Option<PathRewrite>,
    /// Fields that the service gets.
    pub request: Edits,
    /// Fields that the client gets.
    pub response: Edits,
}

impl Filters {
    pub(crate) fn of_route(written: &route::Route) -> Result<Option<Self>, Vec<Fault>> {
        Self::compile(&written.rewrite, (&written.request_headers, &written.response_headers), &written.paths)
    }

    /// Of a backend of a route with these paths.
    pub(crate) fn of_backend(written: &Backend, paths: &[PathPattern]) -> Result<Option<Self>, Vec<Fault>> {
        Self::compile(&written.rewrite, (&written.request_headers, &written.response_headers), paths)
    }

    fn compile(
        rewrite: &route::Rewrite,
        (request, response): (&route::FieldEdits, &route::FieldEdits),
        paths: &[PathPattern],
    ) -> Result<Option<Self>, Vec<Fault>> {
        let mut faults = Vec::new();
        let path = PathRewrite::compile(&rewrite.path, paths);
        let filters = Self {
            host: rewrite.host.as_ref().map(host_field),
            request: request.compile("/request_headers", &mut faults),
            response: response.compile("/response_headers", &mut faults),
            path: path.unwrap_or_else(|fault| {
                faults.push(fault.below("/rewrite/path"));
                None
            }),
        };
        if !faults.is_empty() {
            return Err(faults);
        }
        let is_nothing = filters.host.is_none()
            && filters.path.is_none()
            && filters.request.is_empty()
            && filters.response.is_empty();
        Ok((!is_nothing).then_some(filters))
    }
}

/// A host as `Host` and URLs have it (RFC 3986 section 3.2.2).
fn host_field(host: &HostPattern) -> HeaderValue {
    HeaderValue::from_str(&in_url(host.as_str())).expect("host names are ASCII")
}

fn in_url(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

#[cfg(test)]
mod tests;
