//! Copies of requests for other services, as they are written.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::problem::Fault;
use crate::resource::{Kind, Name, Reference};
use crate::value::{Percentage, Span};

/// Most services that get copies from one route, and from one backend of it.
const MAX_MIRRORS: usize = 8;
const DEFAULT_TIMEOUT: Span = Span::from_secs(30);

/// A service that gets copies of requests, as the backend gets them. Its answers are read and dropped, and clients do not
/// notice it: a copy is given up when the service takes it more slowly than the backend does, or when too many are under
/// way. Requests to switch protocols are not copied.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Mirror {
    /// The name of the service.
    pub service: Name,
    /// Which part of the requests. Default: `100%`.
    #[serde(default = "all", skip_serializing_if = "is_all")]
    pub fraction: Percentage,
    /// For all of a copy, to the end of its answer. What takes longer is given up, and its place is free for another copy.
    /// Default: 30s.
    #[serde(default = "default_timeout", skip_serializing_if = "is_default_timeout")]
    pub timeout: Span,
}

fn all() -> Percentage {
    Percentage::ALL
}

fn is_all(fraction: &Percentage) -> bool {
    *fraction == Percentage::ALL
}

fn default_timeout() -> Span {
    DEFAULT_TIMEOUT
}

fn is_default_timeout(timeout: &Span) -> bool {
    *timeout == DEFAULT_TIMEOUT
}

/// Checks the list at this place.
pub(super) fn check(pointer: &str, mirrors: &[Mirror], faults: &mut Vec<Fault>) {
    if mirrors.len() > MAX_MIRRORS {
        let message = format!("{} copies of each request are too many", mirrors.len());
        let fault = Fault::new(pointer, "invalid-value", message);
        faults.push(fault.hint(format!("use {MAX_MIRRORS} mirrors at most")));
    }
    for (index, _) in mirrors.iter().enumerate().filter(|(_, mirror)| mirror.timeout.as_millis() == 0) {
        let message = "a timeout of zero lets no copy through";
        let fault = Fault::new(format!("{pointer}/{index}/timeout"), "invalid-value", message);
        faults.push(fault.hint("leave it away for the default"));
    }
}

/// The services in the list at this place.
pub(super) fn references(pointer: &str, mirrors: &[Mirror], visit: &mut dyn FnMut(Reference<'_>)) {
    for (index, mirror) in mirrors.iter().enumerate() {
        let pointer = format!("{pointer}/{index}/service");
        visit(Reference { kind: Kind::Service, name: &mirror.service, pointer });
    }
}
