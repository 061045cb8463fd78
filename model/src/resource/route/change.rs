//! How a route changes where a request goes: redirects, and rewrites of host and path, as they are written.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::PathPattern;
use super::path::MAX_PATH_BYTES;
use crate::filter::path::Substitution;
use crate::pattern;
use crate::problem::Fault;
use crate::resource::is_default;
use crate::router::path::canonical;
use crate::router::template;
use crate::value::HostPattern;

/// An answer that sends the client elsewhere (RFC 9110 section 15.4). What is not said stays as it is in the request; the
/// query always does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Redirect {
    /// Default: that of the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheme: Option<UrlScheme>,
    /// A host name. Default: that of the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<HostPattern>,
    /// 1 to 65535. Default: with `scheme`, or behind a trusted proxy, the usual port of the scheme, else the port of the
    /// listener. The usual port is not written out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Default: that of the request.
    #[serde(skip_serializing_if = "is_default")]
    pub path: PathRewrite,
    /// 301, 302, 303, 307 or 308. Clients repeat the request with its method and body for 307 and 308; for 303, and
    /// mostly for 301 and 302, they send a GET. Default: 302.
    #[serde(default = "found", skip_serializing_if = "is_found")]
    pub status: u16,
}

/// The scheme of a URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum UrlScheme {
    Http,
    Https,
}

/// What a service gets in place of the host and the path that the route was found by. The query stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Rewrite {
    /// The `Host` that the service gets; what the client sent is in `X-Forwarded-Host`. Default: that of the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<HostPattern>,
    /// Default: the path of the request.
    #[serde(skip_serializing_if = "is_default")]
    pub path: PathRewrite,
}

/// A new path: at most one of these. The result is canonical like the path of a request, and lies below what the text in
/// front of the first `{name}` fixes; a request for which it would not is refused with 400.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PathRewrite {
    /// In place of the prefix of the route that matched: with `/v2` in place of `/orders`, `/orders/7` becomes `/v2/7`.
    /// `/` takes the prefix off. All paths of the route must be prefixes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replace_prefix: Option<String>,
    /// In place of the whole path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replace_full: Option<String>,
    /// In place of the whole path, with what the names of the route's own template, or the named groups of its own regular
    /// expression, stand for: `/v2/items/{id}`. All paths of the route must have the names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// In place of the whole path, where a regular expression matches all of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub regex: Option<RegexRewrite>,
}

/// A new path for paths that a regular expression matches as a whole; others stay as they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RegexRewrite {
    /// With named groups: `/(?<kind>[a-z]+)/(?<rest>.*)`.
    pub pattern: String,
    /// With the names of groups in braces: `/{kind}/v2/{rest}`.
    pub substitution: String,
}

fn found() -> u16 {
    302
}

fn is_found(status: &u16) -> bool {
    *status == 302
}

impl Redirect {
    pub(super) fn check(&self, paths: &[PathPattern], faults: &mut Vec<Fault>) {
        let Self { scheme, host, port, path, status } = self;
        if scheme.is_none() && host.is_none() && port.is_none() && path.is_default() {
            let fault = Fault::new("/redirect", "missing-value", "the redirect leads back to where it came from");
            faults.push(fault.hint("write one of `scheme`, `host`, `port` and `path`"));
        }
        check_host("/redirect/host", host.as_ref(), faults);
        if *port == Some(0) {
            let fault = Fault::new("/redirect/port", "invalid-value", "0 is no port");
            faults.push(fault.hint("write 1 to 65535"));
        }
        if ![301, 302, 303, 307, 308].contains(status) {
            let message = format!("{status} is no status of a redirect");
            let fault = Fault::new("/redirect/status", "invalid-value", message);
            faults.push(fault.hint("use 301, 302, 303, 307 or 308"));
        }
        faults.extend(path.check(paths).map(|fault| fault.below("/redirect/path")));
    }
}

impl Rewrite {
    pub(super) fn check(&self, pointer: &str, paths: &[PathPattern], faults: &mut Vec<Fault>) {
        check_host(&format!("{pointer}/host"), self.host.as_ref(), faults);
        faults.extend(self.path.check(paths).map(|fault| fault.below(&format!("{pointer}/path"))));
    }
}

fn check_host(pointer: &str, host: Option<&HostPattern>, faults: &mut Vec<Fault>) {
    if let Some(host) = host.filter(|host| host.wildcard_suffix().is_some()) {
        let message = format!("`{host}` stands for many hosts");
        faults.push(Fault::new(pointer, "invalid-value", message).hint("write one host name"));
    }
}

impl PathRewrite {
    fn is_default(&self) -> bool {
        is_default(self)
    }

    /// What is wrong with it for a route with these paths.
    fn check(&self, paths: &[PathPattern]) -> Option<Fault> {
        let Self { replace_prefix, replace_full, template, regex } = self;
        let said = [replace_prefix.is_some(), replace_full.is_some(), template.is_some(), regex.is_some()];
        if said.iter().filter(|is_said| **is_said).count() > 1 {
            let message =
                "`replace_prefix`, `replace_full`, `template` and `regex` exclude each other: write one of them";
            return Some(Fault::new("", "conflicting-fields", message));
        }
        if let Some(text) = replace_full {
            return check_text(text).map(|fault| fault.below("/replace_full"));
        }
        if let Some(text) = replace_prefix {
            let fault = check_text(text).or_else(|| only_prefixes(paths));
            return fault.map(|fault| fault.below("/replace_prefix"));
        }
        if let Some(text) = template {
            let names = |name: &str| names_of(paths, name);
            return check_substitution(text, &names).map(|fault| fault.below("/template"));
        }
        let RegexRewrite { pattern, substitution } = regex.as_ref()?;
        if let Some(fault) = pattern::check(pattern) {
            return Some(fault.below("/regex/pattern"));
        }
        let names = pattern::names(pattern);
        let knows = |name: &str| {
            (!names.iter().any(|known| known == name)).then(|| format!("`{pattern}` has no group of that name"))
        };
        check_substitution(substitution, &knows).map(|fault| fault.below("/regex/substitution"))
    }
}

/// A prefix can be replaced only where one matched.
fn only_prefixes(paths: &[PathPattern]) -> Option<Fault> {
    let other = paths.iter().find(|path| !matches!(path, PathPattern::Prefix(_)))?;
    let message = format!("the path `{}` of the route is of form `{}` and has no prefix", other.as_str(), other.form());
    Some(Fault::new("", "no-prefix", message).hint("write `replace_full` or `template`, or make two routes of it"))
}

/// Why a name means nothing in one of the paths.
fn names_of(paths: &[PathPattern], name: &str) -> Option<String> {
    let has_name = |path: &&PathPattern| match path {
        PathPattern::Prefix(_) | PathPattern::Exact(_) => false,
        PathPattern::Template(text) => template::names(text).any(|known| known == name),
        PathPattern::Regex(text) => pattern::names(text).iter().any(|known| known == name),
    };
    match paths.iter().find(|path| !has_name(path)) {
        Some(path) => Some(format!("the path `{}` of the route has no such name", path.as_str())),
        None if paths.is_empty() => Some("the route has no path with such a name".to_owned()),
        None => None,
    }
}

/// A path as a service gets it.
fn check_text(text: &str) -> Option<Fault> {
    let wrong = |why: String, hint: &str| Some(Fault::new("", "invalid-path", format!("`{text}` {why}")).hint(hint));
    if text.len() > MAX_PATH_BYTES {
        return wrong("is longer than any path may be".to_owned(), "use 8 KiB at most");
    }
    match canonical(text) {
        Ok(canonical) if canonical == text => None,
        Ok(canonical) => wrong("is not canonical".to_owned(), &format!("write it as `{canonical}`")),
        Err(fault) => wrong(
            format!("cannot be a path: {fault}"),
            "begin with a slash, leave query and fragment away, and write a space as `%20`",
        ),
    }
}

/// A path with names, of which `unknown` tells what is wrong with one.
fn check_substitution(text: &str, unknown: &dyn Fn(&str) -> Option<String>) -> Option<Fault> {
    let parsed = match Substitution::parse(text) {
        Ok(parsed) => parsed,
        Err(why) => {
            let fault = Fault::new("", "invalid-path", format!("`{text}` {why}"));
            return Some(fault.hint("write names in braces: `/v2/items/{id}`"));
        }
    };
    for name in parsed.names() {
        if let Some(why) = unknown(name) {
            let fault = Fault::new("", "unknown-name", format!("`{{{name}}}` stands for nothing: {why}"));
            return Some(fault.hint("names come from the template or the regular expression that matched"));
        }
    }
    // Any name may stand for a text like this.
    let sample: String = parsed.with(|_| "x");
    check_text(&sample).map(|fault| Fault { message: format!("`{text}` is no path: {}", fault.message), ..fault })
}
