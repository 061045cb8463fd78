//! Where a redirect leads (RFC 9110 section 10.2.2), by the rules of Gateway API's HTTPRequestRedirectFilter.

use http::{HeaderValue, StatusCode};

use super::in_url;
use super::path::{Captures, PathRewrite, Refused};
use crate::exchange::Scheme;
use crate::problem::Fault;
use crate::resource::route::{self, PathPattern, UrlScheme};

/// A compiled redirect.
#[derive(Debug)]
pub struct Redirect {
    pub status: StatusCode,
    scheme: Option<Scheme>,
    host: Option<Box<str>>,
    port: Option<u16>,
    path: Option<PathRewrite>,
}

/// What of a request counts for where its client is sent.
pub struct Origin<'a> {
    pub scheme: Scheme,
    /// Canonical; empty if the client named none.
    pub host: &'a str,
    /// The port of the listener, if one is known.
    pub port: Option<u16>,
    pub path: &'a str,
    /// Without the question mark.
    pub query: Option<&'a str>,
}

/// Why a client cannot be sent on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    #[error("The request names no host.")]
    Host,
    #[error(transparent)]
    Path(#[from] Refused),
}

impl Redirect {
    pub(crate) fn compile(written: &route::Redirect, paths: &[PathPattern]) -> Result<Self, Vec<Fault>> {
        let path = PathRewrite::compile(&written.path, paths).map_err(|fault| vec![fault.below("/redirect/path")])?;
        Ok(Self {
            status: StatusCode::from_u16(written.status).expect("the status was checked"),
            scheme: written.scheme.map(|scheme| match scheme {
                UrlScheme::Http => Scheme::Http,
                UrlScheme::Https => Scheme::Https,
            }),
            host: written.host.as_ref().map(|host| in_url(host.as_str()).into()),
            port: written.port,
            path,
        })
    }

    /// The value of `Location`.
    pub fn location(&self, origin: &Origin<'_>, captures: &Captures<'_>) -> Result<HeaderValue, Unknown> {
        let scheme = self.scheme.unwrap_or(origin.scheme);
        let host = match &self.host {
            Some(host) => host.to_string(),
            None if origin.host.is_empty() => return Err(Unknown::Host),
            None => in_url(origin.host),
        };
        let usual = match scheme {
            Scheme::Http => 80,
            Scheme::Https => 443,
        };
        // Another scheme is served on another port than this one; the same scheme on the port that this request came to.
        let port = self.port.unwrap_or(if self.scheme.is_some() { usual } else { origin.port.unwrap_or(usual) });
        let mut location = format!("{}://{host}", scheme.as_str());
        if port != usual {
            location.push_str(&format!(":{port}"));
        }
        match &self.path {
            Some(path) => location.push_str(&path.apply(origin.path, captures)?),
            None => location.push_str(origin.path),
        }
        if let Some(query) = origin.query {
            location.push('?');
            location.push_str(query);
        }
        Ok(HeaderValue::try_from(location).expect("the parts of a target are visible characters"))
    }
}
