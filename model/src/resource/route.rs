//! Route: which requests go where, under which policies.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Kind, Labels, Name, Reference, Resource, Written, is_default, is_true, yes};
use crate::problem::Fault;
use crate::value::{HostPattern, Network, Span};

mod change;
mod condition;
mod importance;
mod mirror;
mod path;
mod retries;

pub use crate::policy::headers::FieldEdits;
pub use change::{PathRewrite, Redirect, RegexRewrite, Rewrite, UrlScheme};
pub use condition::{Condition, HeaderCondition, HeaderField, MethodName, QueryCondition, ValueMatch};
pub use importance::Importance;
pub use mirror::Mirror;
pub use path::PathPattern;
pub use retries::RouteRetries;

/// Which requests go where. A request belongs to a route if one of the hosts, one of the paths, one of the methods,
/// all header conditions, all query conditions, one of the sources and one of the listeners match; what is absent
/// matches everything. Of several routes the most specific wins, by the precedence of Gateway API's HTTPRoute:
/// exact host, longer wildcard, any host; exact path; the longer fixed beginning of a path, and with the same one a
/// regular expression before a template before a prefix; a method; more header conditions; more query conditions;
/// sources; listeners; then the higher `priority`; then age. Two routes that nothing of this tells apart are refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Host names and wildcards (`*.example.com` is one or more labels in front). Default: every host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<HostPattern>,
    /// A method of gRPC is the path `/package.Service/Method`: `exact` for one, a prefix for all of a service.
    /// Default: every path.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<PathPattern>,
    /// Default: every method.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<MethodName>,
    /// Conditions on header fields; all must hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<HeaderCondition>,
    /// Conditions on query parameters; all must hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub query: Vec<QueryCondition>,
    /// Only requests from addresses in one of these networks, such as `10.0.0.0/8`, `2001:db8::/32` or a single
    /// address. Default: every address.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<Network>,
    /// Only requests that came in there. Default: every listener.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub listeners: Vec<Name>,
    /// `false`: the path counts as it came, for matching, policies, the log and the service, and nothing in it is refused: for
    /// services that tell apart what the canonical path does not, such as `a%2Fb`. A request whose path has a canonical
    /// form must match by that as well, so that what another route gets in one spelling it gets in all of them.
    /// Default: true, the canonical path (RFC 3986 section 6.2.2) counts.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub normalize_path: bool,
    /// Decides between routes that are equally specific: the higher wins. Default: 0.
    #[serde(default, skip_serializing_if = "is_default")]
    pub priority: i32,
    /// Short for a single backend.
    #[serde(default, skip_serializing)]
    pub service: Option<Name>,
    /// Where matching requests go, shared out by weight. Where there are none, and no answer of the gateway in their place,
    /// requests are answered with 500.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backends: Vec<Backend>,
    /// A fixed answer, instead of backends. `response_headers` adds fields to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub respond: Option<FixedResponse>,
    /// An answer that sends the client elsewhere, instead of backends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redirect: Option<Redirect>,
    /// Another host or path for the service.
    #[serde(default, skip_serializing_if = "is_default")]
    pub rewrite: Rewrite,
    /// Fields that the service gets, edited behind all policies.
    #[serde(default, skip_serializing_if = "is_default")]
    pub request_headers: FieldEdits,
    /// Fields that the client gets, from the service or from the gateway in its place; edited before all policies.
    #[serde(default, skip_serializing_if = "is_default")]
    pub response_headers: FieldEdits,
    /// Other services that get copies of requests. At most 8.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mirrors: Vec<Mirror>,
    /// How long its requests may take, in place of what the service says.
    #[serde(default, skip_serializing_if = "is_default")]
    pub timeouts: RouteTimeouts,
    /// When its requests are tried again, in place of what the service says. Default: as the service says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retries: Option<RouteRetries>,
    /// How much its requests matter when a service has too many. Default: normal.
    #[serde(default, skip_serializing_if = "is_default")]
    pub importance: Importance,
    /// Policies for these requests. The running order is that of the types, not of this list.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<Name>,
    /// What it is for, in words: for people alone. Default: empty.
    #[serde(default, skip_serializing_if = "is_default")]
    pub description: String,
    /// Keys with values, to find it by in lists: `team: payments`. They change nothing else. Default: none.
    #[serde(default, skip_serializing_if = "is_default")]
    pub labels: Labels,
    /// `false`: requests are matched as if the route did not exist. Default: true.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub enabled: bool,
}

/// A service that gets a share of a route's requests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Backend {
    /// The name of the service.
    pub service: Name,
    /// Share of the requests, relative to the other backends; 0 sends none. Default: 1. At most 1000000.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub weight: u32,
    /// Only targets of the service with all of these labels get its requests. Default: every target.
    #[serde(default, skip_serializing_if = "is_default")]
    pub labels: Labels,
    /// Another host or path for this service, each in place of what the route says.
    #[serde(default, skip_serializing_if = "is_default")]
    pub rewrite: Rewrite,
    /// Fields that this service gets, edited behind those of the route.
    #[serde(default, skip_serializing_if = "is_default")]
    pub request_headers: FieldEdits,
    /// Fields that the client gets from this service, edited before those of the route.
    #[serde(default, skip_serializing_if = "is_default")]
    pub response_headers: FieldEdits,
    /// Other services that get copies of what this service gets, besides those of the route. At most 8.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mirrors: Vec<Mirror>,
}

/// An answer of the gateway itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FixedResponse {
    /// 200 to 599. Default: 200.
    #[serde(default = "ok_status", skip_serializing_if = "is_ok_status")]
    pub status: u16,
    /// Default: empty. At most 64 KiB.
    #[serde(default, skip_serializing_if = "is_default")]
    pub body: String,
    /// Default: `text/plain; charset=utf-8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_type: Option<String>,
}

/// How long a route waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RouteTimeouts {
    /// From the head of the request until the end of the response, with all that is tried for it. Then the client gets 504,
    /// or, if the response has begun, it is broken off. A protocol that the service switches to is bound by `idle` alone.
    /// Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request: Option<Span>,
    /// For one exchange with a target: from sending the request to it until the end of its response; at most `request`. It
    /// stands in place of `request` of the service. What takes longer is answered or broken off in the same way. Default:
    /// none, and `request` of the service bounds the wait for the head of the response.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend_request: Option<Span>,
    /// Without any byte in either direction. Default: that of the service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle: Option<Span>,
}

fn one() -> u32 {
    1
}

fn is_one(weight: &u32) -> bool {
    *weight == 1
}

fn ok_status() -> u16 {
    200
}

fn is_ok_status(status: &u16) -> bool {
    *status == 200
}

impl Written for Route {
    const KIND: Kind = Kind::Route;
    const SHORT_FORMS: &'static [(&'static str, &'static str)] = &[("/service", "/backends/0/service")];

    fn check(&self, faults: &mut Vec<Fault>) {
        self.check_destination(faults);
        self.check_changes(faults);
        for (index, pattern) in self.paths.iter().enumerate() {
            if let Some(fault) = pattern.check(self.normalize_path) {
                faults.push(fault.below(&format!("/paths/{index}")));
            }
        }
        check_duplicates("/hosts", &self.hosts, faults);
        check_duplicates("/paths", &self.paths, faults);
        condition::check_headers(&self.headers, faults);
        condition::check_query(&self.query, faults);
        check_duplicates("/sources", &self.sources, faults);
        self.timeouts.check(faults);
        if let Some(retries) = &self.retries {
            retries.check(faults);
        }
    }

    fn references(&self, visit: &mut dyn FnMut(Reference<'_>)) {
        for (index, backend) in self.backends.iter().enumerate() {
            let pointer = format!("/backends/{index}/service");
            visit(Reference { kind: Kind::Service, name: &backend.service, pointer });
            mirror::references(&format!("/backends/{index}/mirrors"), &backend.mirrors, visit);
        }
        mirror::references("/mirrors", &self.mirrors, visit);
        for (index, name) in self.listeners.iter().enumerate() {
            let pointer = format!("/listeners/{index}");
            visit(Reference { kind: Kind::Listener, name, pointer });
        }
        super::policy::references(&self.policies, visit);
    }

    fn into_resource(mut self) -> Resource {
        if let Some(service) = self.service.take() {
            self.backends = vec![Backend::of(service)];
        }
        Resource::Route(Box::new(self))
    }
}

impl RouteTimeouts {
    fn check(&self, faults: &mut Vec<Fault>) {
        let Self { request, backend_request, idle } = *self;
        let each = [("request", request), ("backend_request", backend_request), ("idle", idle)];
        for (field, _) in each.iter().filter(|(_, span)| span.is_some_and(|span| span.as_millis() == 0)) {
            let fault =
                Fault::new(format!("/timeouts/{field}"), "invalid-value", "a timeout of zero lets nothing through");
            faults.push(fault.hint("leave it away for the default"));
        }
        if let (Some(request), Some(part)) = (request, backend_request)
            && part > request
        {
            let message = format!("{part} for a part of the time is more than {request} for all of it");
            let fault = Fault::new("/timeouts/backend_request", "conflicting-fields", message);
            faults.push(fault.hint("write `request` or less"));
        }
    }
}

impl Backend {
    /// All that it gets goes there unchanged.
    #[must_use]
    pub fn of(service: Name) -> Self {
        let (request_headers, response_headers, mirrors) = Default::default();
        Self {
            service,
            weight: 1,
            labels: Labels::new(),
            rewrite: Rewrite::default(),
            request_headers,
            response_headers,
            mirrors,
        }
    }
}

impl Route {
    /// What requests and responses are changed to.
    fn check_changes(&self, faults: &mut Vec<Fault>) {
        if let Some(redirect) = &self.redirect {
            redirect.check(&self.paths, faults);
        }
        self.rewrite.check("/rewrite", &self.paths, faults);
        for (index, backend) in self.backends.iter().enumerate() {
            backend.rewrite.check(&format!("/backends/{index}/rewrite"), &self.paths, faults);
            mirror::check(&format!("/backends/{index}/mirrors"), &backend.mirrors, faults);
        }
        mirror::check("/mirrors", &self.mirrors, faults);
        if !self.normalize_path {
            self.check_kept_path(faults);
        }
        let answers = match (&self.respond, &self.redirect) {
            (Some(_), _) => "respond",
            (_, Some(_)) => "redirect",
            _ => return,
        };
        let forwards = [
            ("rewrite", is_default(&self.rewrite)),
            ("request_headers", is_default(&self.request_headers)),
            ("mirrors", self.mirrors.is_empty()),
            ("retries", self.retries.is_none()),
        ];
        for (field, _) in forwards.iter().filter(|(_, is_default)| !is_default) {
            let message = format!("`{field}` is for a service, and `{answers}` lets no request go to one");
            faults.push(Fault::new(format!("/{field}"), "conflicting-fields", message).hint("write one of the two"));
        }
    }

    /// A path that is kept as it came is not rewritten, which takes a canonical one.
    fn check_kept_path(&self, faults: &mut Vec<Fault>) {
        let mut conflict = |pointer: String, path: &PathRewrite| {
            if !is_default(path) {
                let message = "a path that counts as it came cannot be rewritten";
                let fault = Fault::new(pointer, "conflicting-fields", message);
                faults.push(fault.hint("leave `normalize_path: false` or the new path away"));
            }
        };
        conflict("/rewrite/path".to_owned(), &self.rewrite.path);
        if let Some(redirect) = &self.redirect {
            conflict("/redirect/path".to_owned(), &redirect.path);
        }
        for (index, backend) in self.backends.iter().enumerate() {
            conflict(format!("/backends/{index}/rewrite/path"), &backend.rewrite.path);
        }
    }

    fn check_destination(&self, faults: &mut Vec<Fault>) {
        let said = [
            ("service", self.service.is_some()),
            ("backends", !self.backends.is_empty()),
            ("respond", self.respond.is_some()),
            ("redirect", self.redirect.is_some()),
        ];
        let mut said = said.iter().filter(|(_, is_said)| *is_said);
        if let (Some((first, _)), Some((second, _))) = (said.next(), said.next()) {
            faults.push(Fault::new(
                format!("/{second}"),
                "conflicting-fields",
                format!("`{first}` and `{second}` exclude each other: write one of them"),
            ));
        }
        for (index, backend) in self.backends.iter().enumerate() {
            if backend.weight > 1_000_000 {
                let message = format!("a weight of {} is out of range", backend.weight);
                let fault = Fault::new(format!("/backends/{index}/weight"), "invalid-value", message);
                faults.push(fault.hint("weights are 0 to 1000000"));
            }
        }
        if let Some(respond) = &self.respond {
            if !(200..=599).contains(&respond.status) {
                let message = format!("{} is no final status", respond.status);
                faults.push(Fault::new("/respond/status", "invalid-value", message).hint("use 200 to 599"));
            }
            if matches!(respond.status, 204 | 205 | 304) && !respond.body.is_empty() {
                let message = format!("an answer of status {} has no body", respond.status);
                faults.push(Fault::new("/respond/body", "conflicting-fields", message).hint("leave `body` away"));
            }
            if respond.body.len() > 64 * 1024 {
                let message = format!("a body of {} bytes is too large", respond.body.len());
                faults.push(Fault::new("/respond/body", "invalid-value", message).hint("use 64 KiB at most"));
            }
            if respond.content_type.as_ref().is_some_and(|value| http::HeaderValue::from_str(value).is_err()) {
                let message = "this cannot be the value of a header field";
                faults.push(Fault::new("/respond/content_type", "invalid-value", message));
            }
        }
    }
}

fn check_duplicates<T: PartialEq>(pointer: &str, list: &[T], faults: &mut Vec<Fault>) {
    // Lists are short, but nothing keeps a person from writing a long one: beyond this the set would
    // be quicker, and a duplicate does no harm.
    const LOOKED_AT: usize = 256;
    for (index, entry) in list.iter().enumerate().take(LOOKED_AT) {
        if list[..index].contains(entry) {
            faults.push(Fault::new(format!("{pointer}/{index}"), "duplicate-value", "this is listed twice"));
        }
    }
}
