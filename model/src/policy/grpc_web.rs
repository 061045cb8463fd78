//! `grpc-web`: browsers call services of gRPC.
//!
//! ```yaml
//! services:
//!   - { name: chat, url: "http://10.0.0.11:50051", protocol: http2 }
//! routes:
//!   - { name: chat, paths: [/chat.Chat], service: chat, policies: [browsers] }
//! policies:
//!   - { name: browsers, type: grpc-web }
//! ```
//!
//! A call of gRPC-Web, binary (`application/grpc-web`) or as text (`application/grpc-web-text`), over HTTP/1.1 or HTTP/2,
//! goes to the service as a call of gRPC, and its answer comes back as one of gRPC-Web, message by message. Errors of the
//! gateway are told in the same way. All other requests pass as they are. Pages of another origin need CORS as well,
//! which this does not do.

use http::header::{ACCEPT, CONTENT_LENGTH, CONTENT_TYPE, TE};
use http::{HeaderName, HeaderValue};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Outcome, Policy, PolicySpec};
use crate::exchange::{Exchange, ResponseHead};
use crate::problem::Fault;

const GRPC: &str = "application/grpc";
const WEB: &str = "application/grpc-web";
const TEXT: &str = "-text";
const X_GRPC_WEB: HeaderName = HeaderName::from_static("x-grpc-web");

/// Takes calls of gRPC-Web to services of gRPC.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GrpcWeb {}

/// The compiled form.
pub struct Compiled;

/// How a call of gRPC-Web is written in each direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    pub request: Form,
    pub response: Form,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Binary,
    /// In base64.
    Text,
}

impl PolicySpec for GrpcWeb {
    const NAME: &'static str = "grpc-web";
    const SUMMARY: &'static str = "takes calls of gRPC-Web to services of gRPC";
    type Compiled = Compiled;

    fn compile(&self, _: Option<&Compiled>) -> Result<Compiled, Vec<Fault>> {
        Ok(Compiled)
    }
}

impl Policy for Compiled {
    fn on_request<'a>(&'a self, exchange: &'a mut Exchange) -> Outcome<'a> {
        let headers = &mut exchange.request.headers;
        let Some((request, format)) = headers.get_str(CONTENT_TYPE).and_then(read) else { return Outcome::Continue };
        let accepted = headers.get_str(ACCEPT).and_then(read).map(|(form, _)| form);
        let Ok(content_type) = HeaderValue::from_str(&format!("{GRPC}{format}")) else { return Outcome::Continue };
        headers.insert(&CONTENT_TYPE, &content_type);
        headers.insert(&TE, &HeaderValue::from_static("trailers"));
        headers.remove(X_GRPC_WEB);
        headers.remove(ACCEPT);
        if request == Form::Text {
            headers.remove(CONTENT_LENGTH);
        }
        exchange.grpc_web = Some(Call { request, response: accepted.unwrap_or(request) });
        Outcome::Continue
    }

    fn on_response(&self, exchange: &mut Exchange, head: &mut ResponseHead) {
        let Some(call) = exchange.grpc_web else { return };
        let Some(format) = head.headers.get_str(CONTENT_TYPE).and_then(format_of_grpc) else { return };
        let form = if call.response == Form::Text { TEXT } else { "" };
        if let Ok(content_type) = HeaderValue::from_str(&format!("{WEB}{form}{format}")) {
            head.headers.insert(&CONTENT_TYPE, &content_type);
        }
        head.headers.remove(CONTENT_LENGTH);
    }
}

/// The form, and the format of messages with what follows: `+proto` for example.
fn read(content_type: &str) -> Option<(Form, &str)> {
    let rest = content_type.strip_prefix(WEB)?;
    let (form, rest) = rest.strip_prefix(TEXT).map_or((Form::Binary, rest), |rest| (Form::Text, rest));
    is_format(rest).then_some((form, rest))
}

/// The format of messages, if the type is that of gRPC.
#[must_use]
pub fn format_of_grpc(content_type: &str) -> Option<&str> {
    content_type.strip_prefix(GRPC).filter(|rest| is_format(rest))
}

fn is_format(rest: &str) -> bool {
    rest.is_empty() || rest.starts_with('+') || rest.starts_with(';')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::check;
    use crate::snapshot::Snapshot;

    /// What becomes of a call, the type that the service sees, and the type of an answer of gRPC for the client.
    fn call(fields: &[(&'static str, &str)]) -> (Option<Call>, String, String) {
        let policy = GrpcWeb::default().compile(None).expect("a policy");
        let mut exchange = Exchange::sample(Snapshot::default(), "/", fields);
        let (_, rejection) = check(&policy, &mut exchange);
        assert!(rejection.is_none());
        let mut head = ResponseHead { status: http::StatusCode::OK, headers: crate::fields::Fields::default() };
        head.headers.append(&CONTENT_TYPE, &HeaderValue::from_static("application/grpc+proto"));
        policy.on_response(&mut exchange, &mut head);
        let text = |headers: &crate::fields::Fields| headers.get_str(CONTENT_TYPE).unwrap_or_default().to_owned();
        (exchange.grpc_web, text(&exchange.request.headers), text(&head.headers))
    }

    #[test]
    fn types_are_those_of_grpc_for_the_service_and_of_grpc_web_for_the_client() {
        let binary = Call { request: Form::Binary, response: Form::Binary };
        let text = Call { request: Form::Text, response: Form::Text };
        for (fields, called, service, client) in [
            (&[("content-type", "application/grpc-web")][..], binary, "", "+proto"),
            (&[("content-type", "application/grpc-web+proto")], binary, "+proto", "+proto"),
            (&[("content-type", "application/grpc-web-text+proto")], text, "+proto", "-text+proto"),
            (&[("content-type", "application/grpc-web-text; a=b")], text, "; a=b", "-text+proto"),
            (
                &[("content-type", "application/grpc-web"), ("accept", "application/grpc-web-text")],
                Call { request: Form::Binary, response: Form::Text },
                "",
                "-text+proto",
            ),
        ] {
            let expected = (Some(called), format!("{GRPC}{service}"), format!("{WEB}{client}"));
            assert_eq!(call(fields), expected, "{fields:?}");
        }
    }

    #[test]
    fn other_requests_pass_as_they_are() {
        for other in ["application/grpc", "application/grpc+proto", "application/grpc-website", "text/plain"] {
            let expected = (None, other.to_owned(), "application/grpc+proto".to_owned());
            assert_eq!(call(&[("content-type", other)]), expected);
        }
        assert_eq!(call(&[]).0, None);
    }

    #[test]
    fn what_does_not_hold_any_more_is_taken_out() {
        let policy = GrpcWeb::default().compile(None).expect("a policy");
        let fields = [
            ("content-type", "application/grpc-web-text"),
            ("content-length", "8"),
            ("x-grpc-web", "1"),
            ("accept", "application/grpc-web-text"),
            ("x-user-agent", "grpc-web-javascript/0.1"),
        ];
        let mut exchange = Exchange::sample(Snapshot::default(), "/", &fields);
        check(&policy, &mut exchange);
        let mut names: Vec<_> = exchange.request.headers.iter().map(|(name, _)| name).collect();
        names.sort_unstable();
        assert_eq!(names, [&b"content-type"[..], b"te", b"x-user-agent"]);
    }
}
