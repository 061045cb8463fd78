//! How a target is named in addresses and bodies, and which one is meant.

use axum::extract::FromRequestParts;
use http::request::Parts;
use model::membership::Membership;
use model::problem::Fault;
use model::resource::Name;
use model::resource::service::TargetUrl;
use model::snapshot::Snapshot;

use crate::api::ApiState;
use crate::api::error::{Error, INVALID_PARAMETERS, fault};
use crate::api::request::path_parameter;
use crate::targets::WriteError;

/// A target as it is named in an address or a body.
#[derive(Clone, Debug)]
pub struct TargetName {
    pub text: String,
    /// What it may stand for: itself, or the two schemes.
    urls: Vec<TargetUrl>,
}

impl TargetName {
    pub fn parse(text: &str) -> Result<Self, String> {
        let parse = |url: String| url.parse::<TargetUrl>();
        let urls = if text.contains("://") {
            vec![parse(text.to_owned())?]
        } else {
            let http = parse(format!("http://{text}"))?;
            let is_with_port = text.rsplit_once(':').is_some_and(|(_, port)| !port.is_empty() && !port.ends_with(']'));
            if !is_with_port {
                return Err(format!("`{text}` is no target: write host and port, `10.0.0.11:9000`, or the whole URL"));
            }
            vec![http, parse(format!("https://{text}"))?]
        };
        Ok(Self { text: text.to_owned(), urls })
    }

    /// The target that is meant, and whether it is there.
    pub fn find(&self, service: &Name, head: &Snapshot, said: &Membership) -> Result<(TargetUrl, bool), WriteError> {
        let written = head.services.find(service).map(|service| service.targets.clone()).unwrap_or_default();
        let is_there = |url: &&TargetUrl| {
            said.get(service, url).is_some() || written.iter().any(|target| target.endpoint.url == **url)
        };
        let there: Vec<&TargetUrl> = self.urls.iter().filter(is_there).collect();
        match there[..] {
            [one] => Ok((one.clone(), true)),
            [] => Ok((self.urls[0].clone(), false)),
            _ => {
                let message = format!("the service has `{}` with `http` and with `https`", self.text);
                let fault = Fault::new("", "ambiguous-target", message).hint("name it by its whole URL");
                Err(WriteError::Invalid { service: service.clone(), faults: vec![fault] })
            }
        }
    }
}

impl FromRequestParts<ApiState> for TargetName {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Error> {
        let text = path_parameter(parts, state, "target").await?;
        Self::parse(&text).map_err(|reason| {
            Error::new(&INVALID_PARAMETERS, reason.clone()).errors(vec![fault("/target", "invalid-parameter", reason)])
        })
    }
}
