//! An API to call, with a client that reads answers.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt;
use model::digest::sha256;
use model::sealing::{KEY_BYTES, SealingKey};
use serde_json::Value;
use tower::ServiceExt;

use crate::api::{ApiState, router};
use crate::nodes::Nodes;
use crate::publish::Publisher;
use crate::store::{self, Store, StoredToken};
use crate::targets::Lanes;
use crate::token::{Role, Tokens};
use crate::trust::{CERTIFICATE_LIFETIME, Trust};

pub const ADMIN: &str = "admin-token-of-the-tests";
pub const NODE: &str = "node-token-of-the-tests";
pub const GATEWAY: &str = "/v1/gateways/default";

pub struct Api {
    pub state: ApiState,
    router: Router,
    _folder: tempfile::TempDir,
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub bytes: Bytes,
}

/// An answer whose body is read piece by piece.
pub struct Streaming {
    pub status: StatusCode,
    pub headers: HeaderMap,
    body: Body,
}

/// A request in the making: as the admin, unless something else is said.
pub struct Call<'a> {
    api: &'a Api,
    request: http::request::Builder,
    body: Body,
}

impl Api {
    pub async fn start() -> Self {
        Self::start_with(|store| store).await
    }

    /// With something between the API and its store.
    pub async fn start_with(wrap: impl FnOnce(Arc<dyn Store>) -> Arc<dyn Store>) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let place = folder.path().join("sluice.db");
        let store = store::open(place.to_str().expect("UTF-8")).await.expect("a store");
        for (token, role) in [(ADMIN, Role::Admin), (NODE, Role::Node)] {
            let token = StoredToken { hash: sha256(token.as_bytes()), role, name: format!("test-{role}") };
            store.add_token(&token).await.expect("a token");
        }
        let seal = Arc::new(SealingKey::new(&[7; KEY_BYTES]));
        store.seal_with(seal.clone());
        let store = wrap(store);
        let publisher = Publisher::start(store.clone()).await.expect("a publisher");
        let tokens = Tokens::new(store.clone());
        let lanes = Lanes::start(publisher.clone()).await.expect("lanes");
        let trust = Trust::start(store.clone(), seal.clone(), None, CERTIFICATE_LIFETIME).await.expect("an authority");
        let state = ApiState::new(publisher, store, tokens, Nodes::new(), lanes, trust);
        Self { router: router(state.clone()), state, _folder: folder }
    }

    pub fn call(&self, method: Method, address: &str) -> Call<'_> {
        let request = Request::builder().method(method).uri(address);
        Call { api: self, request, body: Body::empty() }.header("authorization", &format!("Bearer {ADMIN}"))
    }

    /// GET something of the default gateway.
    pub async fn get(&self, address: &str) -> Answer {
        self.call(Method::GET, &format!("{GATEWAY}/{address}")).send().await
    }

    pub async fn put(&self, address: &str, body: Value) -> Answer {
        self.call(Method::PUT, &format!("{GATEWAY}/{address}")).json(&body).send().await
    }

    pub async fn patch(&self, address: &str, body: Value) -> Answer {
        self.call(Method::PATCH, &format!("{GATEWAY}/{address}")).json(&body).send().await
    }

    pub async fn delete(&self, address: &str) -> Answer {
        self.call(Method::DELETE, &format!("{GATEWAY}/{address}")).send().await
    }

    pub async fn post(&self, address: &str) -> Answer {
        self.call(Method::POST, &format!("{GATEWAY}/{address}")).send().await
    }

    /// POST a YAML file.
    pub async fn file(&self, address: &str, text: &str) -> Answer {
        let call = self.call(Method::POST, &format!("{GATEWAY}/{address}"));
        call.header("content-type", "application/yaml").body(text.to_owned()).send().await
    }

    /// The number of the newest revision.
    pub fn revision(&self) -> u64 {
        self.state.publisher.head("default").expect("the default gateway").revision
    }

    /// The body of a service, at an address that nobody uses.
    pub async fn put_service(&self, name: &str) {
        self.put(&format!("services/{name}"), serde_json::json!({ "url": "http://127.0.0.1:9" })).await.expect(201);
    }
}

impl Call<'_> {
    /// Replaces a header field; an empty value removes it.
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        if let Some(headers) = self.request.headers_mut() {
            headers.remove(name);
            if !value.is_empty() {
                headers.insert(name, http::HeaderValue::from_bytes(value.as_bytes()).expect("a field value"));
            }
        }
        self
    }

    pub fn json(self, body: &Value) -> Self {
        self.header("content-type", "application/json").body(body.to_string())
    }

    pub fn body(mut self, body: impl Into<Body>) -> Self {
        self.body = body.into();
        self
    }

    pub async fn send(self) -> Answer {
        self.begin().await.finish().await
    }

    /// For an answer that does not end by itself.
    pub async fn begin(self) -> Streaming {
        let request = self.request.body(self.body).expect("a request");
        let response = self.api.router.clone().oneshot(request).await.expect("services never fail");
        let (head, body) = response.into_parts();
        Streaming { status: head.status, headers: head.headers, body }
    }
}

impl Streaming {
    pub async fn finish(self) -> Answer {
        let bytes = self.body.collect().await.expect("a body").to_bytes();
        Answer { status: self.status, headers: self.headers, bytes }
    }

    /// The next piece of the body; nothing at its end.
    pub async fn piece(&mut self) -> Option<Bytes> {
        let frame = self.body.frame().await?.expect("a body");
        Some(frame.into_data().expect("a body has no trailers here"))
    }
}

impl Answer {
    /// Panics, showing the answer, unless it has this status.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status.as_u16(), status, "{}", String::from_utf8_lossy(&self.bytes));
        self
    }

    /// The same for an error of a sort; all that every error promises is checked.
    #[track_caller]
    pub fn expect_error(self, status: u16, code: &str) -> Self {
        let answer = self.expect(status);
        assert_eq!(answer.header("content-type"), "application/problem+json");
        let body = answer.json();
        assert_eq!(body["type"], format!("/docs/errors/{code}"), "{body}");
        assert_eq!(body["status"], status);
        assert_eq!(body["request_id"], answer.header("x-request-id"));
        assert!(body["title"].as_str().is_some_and(|title| !title.is_empty()));
        answer
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).expect("JSON")
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.bytes.to_vec()).expect("UTF-8")
    }

    #[track_caller]
    pub fn header(&self, name: &str) -> &str {
        let value = self.headers.get(name).unwrap_or_else(|| panic!("no field {name}: {self:?}"));
        value.to_str().expect("ASCII")
    }

    pub fn revision(&self) -> u64 {
        self.header("sluice-revision").parse().expect("a number")
    }

    /// `kind name pointer code` of each fault.
    pub fn faults(&self) -> Vec<String> {
        let body = self.json();
        let errors = body["errors"].as_array().cloned().unwrap_or_default();
        let word = |value: &Value| value.as_str().unwrap_or("-").to_owned();
        let line = |error: &Value| ["kind", "name", "pointer", "code"].map(|field| word(&error[field])).join(" ");
        errors.iter().map(line).collect()
    }
}
