//! Copies of requests for other services, as they are written.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::problem::Fault;
use crate::resource::Name;
use crate::value::Percentage;

/// Most services that get copies from one route.
const MAX_MIRRORS: usize = 8;

/// A service that gets copies of requests, as the backend gets them. Its answers are read and dropped, and clients do not
/// notice it: a copy is given up when the service takes it more slowly than the backend does, or when too many are under
/// way. Requests to switch protocols are not copied.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Mirror {
    pub service: Name,
    /// Which part of the requests. Default: `100%`.
    #[serde(default = "all", skip_serializing_if = "is_all")]
    pub fraction: Percentage,
}

fn all() -> Percentage {
    Percentage::ALL
}

fn is_all(fraction: &Percentage) -> bool {
    *fraction == Percentage::ALL
}

pub(super) fn check(mirrors: &[Mirror], faults: &mut Vec<Fault>) {
    if mirrors.len() > MAX_MIRRORS {
        let message = format!("{} copies of each request are too many", mirrors.len());
        let fault = Fault::new("/mirrors", "invalid-value", message);
        faults.push(fault.hint(format!("use {MAX_MIRRORS} mirrors at most")));
    }
}
