//! A cookie by which clients come back to the target that they had.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::problem::Fault;
use crate::resource::{is_default, is_true, yes};
use crate::value::Span;

/// A cookie by which clients come back to the target that they had (RFC 6265). Its value says nothing, and nobody can make one:
/// it follows from the target and from a secret that all nodes of a gateway share and keep. `policy` chooses for a client
/// without it, and whenever its own target is not there any more, drains, is unhealthy, is as full as `limits` allow, or could
/// not be reached: then the cookie is set anew. A target of weight 0 keeps the clients that it has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StickyCookie {
    /// Its name. Default: `sluice-` with eight digits that follow from the name of the service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The paths that clients send it for: this one and all below it. Default: `/`.
    #[serde(default = "root", skip_serializing_if = "is_root")]
    pub path: String,
    /// How long clients keep it from when it was set, in whole seconds. Default: as long as their session lasts. 1s to 365d.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_age: Option<Span>,
    /// Scripts of a page do not see it. Default: true.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub http_only: bool,
    /// Whether it comes with requests that other sites make. Default: lax.
    #[serde(default, skip_serializing_if = "is_default")]
    pub same_site: SameSite,
}

/// Which requests that other sites make have a cookie (RFC 6265bis section 5.6.7). Over TLS, as the client sees it, it is
/// `Secure`; with `none` it always is, as clients demand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SameSite {
    /// None of them.
    Strict,
    /// When one follows a link.
    #[default]
    Lax,
    /// All of them.
    None,
}

impl StickyCookie {
    pub(super) fn check(&self, faults: &mut Vec<Fault>) {
        let mut wrong = |field: &str, message: String, hint: &str| {
            let pointer = format!("/load_balancing/sticky_cookie/{field}");
            faults.push(Fault::new(pointer, "invalid-value", message).hint(hint));
        };
        let is_of_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        if let Some(name) = self.name.as_ref().filter(|name| name.is_empty() || !name.bytes().all(is_of_token)) {
            wrong("name", format!("`{name}` is no name of a cookie"), "letters, digits, `-` and `_` will do");
        }
        let is_of_path = |byte: u8| byte.is_ascii_graphic() && byte != b';';
        if !self.path.starts_with('/') || !self.path.bytes().all(is_of_path) {
            wrong("path", format!("`{}` is no path", self.path), "begin with `/`, as in `/shop`");
        }
        // No duration that can be written is longer than clients may keep a cookie (RFC 6265bis section 5.5).
        if let Some(age) = self.max_age.filter(|age| age.as_millis() == 0 || age.as_millis() % 1000 != 0) {
            wrong("max_age", format!("{age} is out of range"), "write whole seconds, 1s or more");
        }
    }
}

fn root() -> String {
    "/".to_owned()
}

fn is_root(path: &String) -> bool {
    path == "/"
}
