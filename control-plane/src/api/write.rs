//! How every write goes: derive the edits from the head, publish or only check, wait for the nodes if asked, answer.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use model::config::Edit;
use model::file::Parsed;
use model::resource::{Key, Kind, Name};
use model::snapshot::Snapshot;
use model::value::Span;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use tokio::time::Instant;

use super::ApiState;
use super::conditions;
use super::envelope::Identity;
use super::error::{
    Error, FORGOTTEN_REVISION, GATEWAY_NOT_EMPTY, INVALID_PARAMETERS, MASS_DELETE, REFUSED_BY_NODE, REVISION_CONFLICT,
    ROLLED_BACK, ROLLOUT_UNDER_WAY, UNKNOWN_GATEWAY, UNKNOWN_RESOURCE, UNKNOWN_REVISION, fault,
};
use super::json::Json;
use super::rollouts::{self, RolloutParam};
use super::view::{AppliedView, DiffView, WaitState, WaitView};
use crate::nodes::{Goal, Quorum, Selector, WaitOutcome};
use crate::publish::{Change, PublishError, Published, Refused};
use crate::rollout::State;
use crate::rollout::strategy::OnChange;
use crate::store::StoreError;

/// The revision that an answer is about.
pub const REVISION: HeaderName = HeaderName::from_static("sluice-revision");
/// What the author of a write hardly means: see [`model::lint`].
const WARNING: HeaderName = HeaderName::from_static("sluice-warning");
/// More of them stand in the body, where there is one about the write.
const MAX_WARNING_FIELDS: usize = 10;
const MESSAGE: &str = "sluice-message";
/// A message is a line or two, not a document.
const MAX_MESSAGE_BYTES: usize = 4096;
const DEFAULT_TIMEOUT: Span = Span::from_secs(10);
/// Connections are not held open for longer.
const MAX_TIMEOUT: Duration = Duration::from_secs(300);

/// What every write understands.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WriteParams {
    /// `true`: checks everything and writes nothing; the answer shows what would change.
    #[serde(default)]
    pub dry_run: bool,
    /// The revision that the change is based on: if another one is the newest by now, the answer is 409.
    pub base: Option<u64>,
    /// `serving`: the answer comes when the nodes serve the change. 409 if a node refuses it, 202 if the time is over first.
    pub wait: Option<WaitFor>,
    /// How long to wait, `10s` for example. Default: 10s. At most 5m.
    pub timeout: Option<Span>,
    /// For which share of the connected nodes to wait. Default: 100%.
    pub share: Option<Share>,
    /// Wait only for nodes with this label, `key=value` or `key`. Given several times, all must hold.
    #[serde(default)]
    pub label: Selector,
    /// How it goes out: `skip` gives it to all nodes at once, past a rollout that is under way; or a strategy as JSON. Default: as
    /// the gateway's `rollout-strategy` says, or to all nodes at once without one.
    pub rollout: Option<RolloutParam>,
    /// Why: kept with the revision.
    pub message: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum WaitFor {
    Serving,
}

/// A share of the nodes: `1%` to `100%`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share(u8);

impl Default for Share {
    fn default() -> Self {
        Self(100)
    }
}

impl Share {
    /// From 0 to 1.
    #[must_use]
    pub fn of_all(self) -> f64 {
        f64::from(self.0) / 100.0
    }
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let percent = text.strip_suffix('%').and_then(|number| number.parse::<u8>().ok());
        percent
            .filter(|percent| (1..=100).contains(percent))
            .map(Self)
            .ok_or_else(|| format!("`{text}` is no share: write `1%` to `100%` (`%25` stands for `%` in an address)"))
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl JsonSchema for Share {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Share".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^([1-9][0-9]?|100)%$", "description": "A share of the nodes." })
    }
}

/// Who writes, and what they say about it.
#[derive(Clone, Debug)]
pub struct Author {
    name: String,
    message: Option<String>,
}

impl<S: Sync> FromRequestParts<S> for Author {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Error> {
        let identity = parts.extensions.get::<Identity>();
        let name = identity.ok_or_else(|| Error::internal("a write without an identity"))?.0.clone();
        let message = parts.headers.get(MESSAGE).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        Ok(Self { name, message })
    }
}

impl Author {
    /// For what is checked and never written.
    #[must_use]
    pub fn nobody() -> Self {
        Self { name: String::new(), message: None }
    }

    /// The name of the token.
    #[must_use]
    pub fn into_name(self) -> String {
        self.name
    }

    /// What to keep with the revision when the author said nothing.
    #[must_use]
    pub fn default_message(&self, message: String) -> Option<String> {
        self.message.is_none().then_some(message)
    }
}

/// Derives the edits of a write; see [`Change::edits`].
pub type Edits = Arc<dyn Fn(&Snapshot) -> Result<Vec<Edit>, Refused> + Send + Sync>;

/// Everything about one write.
pub struct Write {
    pub gateway: String,
    pub author: Author,
    pub params: WriteParams,
    pub edits: Edits,
    /// Where the edits were written, to say where problems are.
    pub file: Option<Arc<Parsed>>,
}

/// Carries a write out. `answer` makes the response once it is done; a dry run and a wait that ended too early
/// have answers of their own.
pub async fn carry_out(
    state: &ApiState,
    write: Write,
    answer: impl FnOnce(&Published, Option<WaitView>) -> Response,
) -> Result<Response, Error> {
    if write.params.dry_run {
        let (checked, base) = check(state, write).await?;
        return Ok(at_revision(base, Json(DiffView::of_check(&checked, base))));
    }
    let Write { gateway, params, file, .. } = &write;
    let timeout = wait_timeout(params.timeout)?;
    let published =
        publish(state, gateway, write.change()?, timeout).await.map_err(|error| located(error, file.as_deref()))?;
    let published = with_places(published, file.as_deref());
    let mut wait = None;
    if params.wait.is_some() {
        let quorum = Quorum { labels: params.label.clone(), share: params.share.unwrap_or_default().of_all() };
        match state.nodes.wait_serving(gateway, Goal::Revision(published.revision), &quorum, timeout).await {
            WaitOutcome::Serving { nodes, total } => {
                wait = Some(WaitView { state: WaitState::Serving, serving: nodes, total });
            }
            WaitOutcome::Refused { node, problems } => {
                let detail = format!("node `{node}` refused revision {}", published.revision);
                let revision = HeaderValue::from(published.revision);
                let error = Error::new(&REFUSED_BY_NODE, detail).revision(published.revision).errors(problems);
                return Err(error.header(REVISION, revision));
            }
            WaitOutcome::TimedOut { serving, total } => {
                return Ok(too_early(&published, WaitView { state: WaitState::TimedOut, serving, total }));
            }
            WaitOutcome::NoNodes => {
                return Ok(too_early(&published, WaitView { state: WaitState::NoNodes, serving: 0, total: 0 }));
            }
        }
    }
    if wait.is_some() && published.is_staged {
        not_rolled_back(state, gateway, published.revision).await?;
    }
    let mut response = at_revision(published.revision, answer(&published, wait));
    for warning in published.warnings.iter().take(MAX_WARNING_FIELDS) {
        let name = warning.name.as_deref().unwrap_or_default();
        let text = format!("{} {name}: {}", warning.code, warning.message);
        // The write is done: no character of a warning may make a failure of it.
        let text: String = text.chars().map(|c| if c == ' ' || c.is_ascii_graphic() { c } else { '?' }).collect();
        response.headers_mut().append(WARNING, HeaderValue::from_str(&text).map_err(Error::internal)?);
    }
    Ok(response)
}

/// The revision after one that was rolled back is newer, and so is served, but not what was waited for.
async fn not_rolled_back(state: &ApiState, gateway: &str, revision: u64) -> Result<(), Error> {
    for row in state.store.rollouts_at(gateway, revision).await.map_err(store_error)? {
        let rollout = rollouts::read(row)?;
        if rollout.revision == revision && matches!(rollout.state, State::RollingBack | State::RolledBack) {
            let reason = rollout.reason.unwrap_or_default();
            let error = Error::new(&ROLLED_BACK, format!("revision {revision} was rolled back: {reason}"));
            return Err(error.revision(revision).header(REVISION, HeaderValue::from(revision)));
        }
    }
    Ok(())
}

/// What a write would do, and to which revision, without doing it.
pub async fn check(state: &ApiState, write: Write) -> Result<(Published, u64), Error> {
    wait_timeout(write.params.timeout)?;
    let checked = state.publisher.check(&write.gateway, &write.change()?).await;
    let checked = checked.map_err(|error| located(error, write.file.as_deref()))?;
    let checked = with_places(checked, write.file.as_deref());
    // A check numbers the revision that publishing would make.
    let base = checked.revision - u64::from(checked.is_new);
    Ok((checked, base))
}

impl Write {
    fn change(&self) -> Result<Change, Error> {
        let Self { author, params, edits, .. } = self;
        let message = params.message.clone().or_else(|| author.message.clone()).unwrap_or_default();
        check_message(&message)?;
        let staging = params.rollout.clone().map(RolloutParam::into_staging).unwrap_or_default();
        Ok(Change { author: author.name.clone(), message, base: params.base, edits: Arc::clone(edits), staging })
    }
}

/// Publishes. While a rollout is under way it waits for the end of that, if changes are to; nothing is written until then, and so
/// nothing that was acknowledged can be taken back with the rollout.
async fn publish(
    state: &ApiState,
    gateway: &str,
    change: Change,
    timeout: Duration,
) -> Result<Published, PublishError> {
    let end = Instant::now() + timeout;
    loop {
        let done = publish_now(state, gateway, change.clone()).await;
        let Err(PublishError::RolloutUnderWay { on_change: OnChange::Queue, .. }) = &done else { return done };
        let Some(mut offers) = state.publisher.watch(gateway) else { return done };
        let over = offers.wait_for(|offer| offer.staged.is_none());
        if !matches!(tokio::time::timeout_at(end, over).await, Ok(Ok(_))) {
            return done;
        }
    }
}

/// Publishes, also when the client goes away in the middle: a write that has begun is finished.
async fn publish_now(state: &ApiState, gateway: &str, change: Change) -> Result<Published, PublishError> {
    let (publisher, gateway) = (Arc::clone(&state.publisher), gateway.to_owned());
    let task = state.writes.spawn(async move { publisher.publish(&gateway, change).await });
    match task.await {
        Ok(published) => published,
        // Tasks are not cancelled, so it panicked; so does this request, and answers 500.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// The error with the places in the file that the problems are at.
fn located(mut error: PublishError, file: Option<&Parsed>) -> Error {
    if let (Some(file), PublishError::Refused(Refused::Problems(problems)) | PublishError::Invalid(problems)) =
        (file, &mut error)
    {
        file.locate(problems);
    }
    publish_error(error)
}

/// The same, with the places in the file that the warnings are at.
fn with_places(mut published: Published, file: Option<&Parsed>) -> Published {
    if let Some(file) = file {
        file.locate(&mut published.warnings);
    }
    published
}

/// The write is done, but not everywhere.
fn too_early(published: &Published, wait: WaitView) -> Response {
    let body = AppliedView::new(published, Some(wait));
    at_revision(published.revision, (StatusCode::ACCEPTED, Json(body)))
}

/// An answer with the revision that it is about.
pub fn at_revision(revision: u64, answer: impl IntoResponse) -> Response {
    let mut response = answer.into_response();
    response.headers_mut().insert(REVISION, HeaderValue::from(revision));
    response
}

/// `answer` with more header fields.
pub fn with_headers(
    answer: impl IntoResponse,
    headers: impl IntoIterator<Item = (HeaderName, HeaderValue)>,
) -> Response {
    let mut response = answer.into_response();
    response.headers_mut().extend(headers.into_iter().collect::<HeaderMap>());
    response
}

fn check_message(message: &str) -> Result<(), Error> {
    if message.len() <= MAX_MESSAGE_BYTES && !message.contains('\0') {
        return Ok(());
    }
    let text = format!("parameter `message`: it may have {MAX_MESSAGE_BYTES} bytes and no NUL");
    Err(Error::new(&INVALID_PARAMETERS, text.clone()).errors(vec![fault("/message", "invalid-parameter", text)]))
}

pub fn wait_timeout(asked: Option<Span>) -> Result<Duration, Error> {
    let timeout = asked.unwrap_or(DEFAULT_TIMEOUT).get();
    if timeout <= MAX_TIMEOUT {
        return Ok(timeout);
    }
    let text = "parameter `timeout`: at most 5m";
    Err(Error::new(&INVALID_PARAMETERS, text).errors(vec![fault("/timeout", "invalid-parameter", text)]))
}

/// The only place that knows which status a refused change has.
pub fn publish_error(error: PublishError) -> Error {
    match error {
        PublishError::UnknownGateway(gateway) => unknown_gateway(&gateway),
        PublishError::NotEmpty(gateway) => {
            Error::new(&GATEWAY_NOT_EMPTY, format!("the gateway `{gateway}` has resources"))
        }
        PublishError::RolloutUnderWay { revision, .. } => {
            let detail = format!(
                "revision {revision} is being rolled out: `sluice rollout abort` takes it back, `promote` gives it to all nodes"
            );
            Error::new(&ROLLOUT_UNDER_WAY, detail).revision(revision)
        }
        PublishError::UnknownRevision(revision) => unknown_revision(revision),
        PublishError::Forgotten { .. } => Error::new(&FORGOTTEN_REVISION, error.to_string()),
        PublishError::Conflict { base, head } => {
            let detail = format!("the change is based on revision {base}, but revision {head} is the newest");
            Error::new(&REVISION_CONFLICT, detail).revision(head)
        }
        PublishError::Refused(Refused::Missing(key)) => unknown_resource(&key),
        PublishError::Refused(Refused::PreconditionFailed { key, current }) => {
            conditions::failed(&key, current.as_ref())
        }
        PublishError::Refused(Refused::MassDelete { removed, total }) => mass_delete(&removed, total),
        PublishError::Refused(Refused::Problems(problems)) | PublishError::Invalid(problems) => {
            Error::invalid(problems)
        }
        PublishError::Store(error) => store_error(error),
    }
}

fn mass_delete(removed: &[(Kind, usize)], total: usize) -> Error {
    let count: usize = removed.iter().map(|(_, count)| count).sum();
    let named = |(kind, count): &(Kind, usize)| match count {
        1 => format!("1 {kind}"),
        _ => format!("{count} {}", kind.plural()),
    };
    let kinds = removed.iter().map(named).collect::<Vec<_>>().join(", ");
    let detail =
        format!("this would remove {count} of {total} resources: {kinds}; if it is meant, allow a mass delete");
    Error::new(&MASS_DELETE, detail)
}

pub fn store_error(error: StoreError) -> Error {
    match error {
        StoreError::UnknownGateway(gateway) => unknown_gateway(&gateway),
        StoreError::Conflict { head } => {
            Error::new(&REVISION_CONFLICT, format!("revision {head} is the newest by now")).revision(head)
        }
        StoreError::Unreadable(_) => Error::internal(error),
        StoreError::Unavailable(_) => Error::store(error),
    }
}

pub fn unknown_gateway(gateway: &str) -> Error {
    let hint = match gateway.parse::<Name>() {
        Ok(name) => format!(": PUT /v1/gateways/{name} creates it"),
        Err(_) => String::new(),
    };
    Error::new(&UNKNOWN_GATEWAY, format!("there is no gateway `{gateway}`{hint}"))
}

pub fn unknown_revision(revision: u64) -> Error {
    Error::new(&UNKNOWN_REVISION, format!("there is no revision {revision}"))
}

pub fn unknown_resource(key: &Key) -> Error {
    Error::new(&UNKNOWN_RESOURCE, format!("there is no {key}"))
}
