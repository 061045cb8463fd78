//! What happens in a gateway as server-sent events (HTML Standard, section 9.2).

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream::{self, Stream};
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Method};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use super::ApiState;
use super::error::{Error, INVALID_PARAMETERS, TOO_MANY_WATCHERS, fault};
use super::gateways::AtGateway;
use super::json;
use super::table::{HeaderField, Operation};
use super::write::{at_revision, store_error, unknown_gateway};
use crate::events::{Told, Watcher};

/// Streams at the same time: each of them looks at all nodes whenever something changes.
pub const MAX_WATCHERS: usize = 32;
const LAST_EVENT_ID: &str = "last-event-id";
/// A comment, which clients pass over: the stream is alive.
const HEARTBEAT: &[u8] = b": nothing new\n\n";

pub fn operations() -> Vec<Operation> {
    vec![
        Operation::new(Method::GET, "/v1/gateways/{gateway}/events", "watchGateway", watch)
            .about("nodes", "What happens: revisions, nodes that come, go and get further, targets")
            .description(
                "A stream of server-sent events. The `data` of each is one object; its `type` says what happened, and there is \
                 no other field `event`. The first event is `status`: how things are. Events are made from what this control \
                 plane sees, which is the same on all replicas: whichever is asked, it tells of all nodes and revisions.\n\n\
                 The `id` is the newest revision that was told of. A client that comes back with it in `Last-Event-ID`, to \
                 whichever replica, gets every revision after it; a revision may come twice, and does not get lost without \
                 `missed`. Nodes are told of as they are then. A client that reads slowly is told of each node the newest, and \
                 `missed` before it. While nothing happens there is a comment every 15 seconds.",
            )
            .headers(&[HeaderField {
                name: "Last-Event-ID",
                description: "The last id that was read: revisions after it come first.",
            }])
            .answers_with(200, "the events", &["text/event-stream"], |generator| generator.subschema_for::<Told>())
            .errors(&[&INVALID_PARAMETERS, &TOO_MANY_WATCHERS]),
    ]
}

async fn watch(State(state): State<ApiState>, gateway: AtGateway, headers: HeaderMap) -> Result<Response, Error> {
    let after = last_event_id(&headers)?;
    let place = Arc::clone(&state.watchers).try_acquire_owned().map_err(|_| {
        Error::new(&TOO_MANY_WATCHERS, format!("{MAX_WATCHERS} clients watch gateways already"))
            .header(RETRY_AFTER, HeaderValue::from_static("10"))
    })?;
    let (publisher, nodes) = (state.publisher.clone(), state.nodes.clone());
    let watcher = Watcher::start(publisher, nodes, &state.lanes, &gateway.name, after).await.map_err(store_error)?;
    let watcher = watcher.ok_or_else(|| unknown_gateway(&gateway.name))?;
    let body = Body::from_stream(events(Watching { watcher, ending: state.ending.clone(), _place: place }));
    let content_type = [(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"))];
    Ok(at_revision(gateway.head.revision, (content_type, body).into_response()))
}

fn last_event_id(headers: &HeaderMap) -> Result<Option<u64>, Error> {
    let Some(sent) = headers.get(LAST_EVENT_ID).filter(|sent| !sent.is_empty()) else { return Ok(None) };
    let number = sent.to_str().ok().and_then(|sent| sent.parse().ok());
    number.map(Some).ok_or_else(|| {
        let text = "`Last-Event-ID` is no number of a revision".to_owned();
        Error::new(&INVALID_PARAMETERS, text.clone()).errors(vec![fault("/Last-Event-ID", "invalid-parameter", text)])
    })
}

/// A stream to somebody.
struct Watching {
    watcher: Watcher,
    ending: CancellationToken,
    _place: OwnedSemaphorePermit,
}

/// Pieces of the stream. The next is made when the one before is written: what a client does not read is not made.
fn events(watching: Watching) -> impl Stream<Item = Result<Bytes, std::convert::Infallible>> {
    stream::unfold(watching, async |mut watching| {
        let told = tokio::select! {
            told = watching.watcher.next() => told?,
            () = watching.ending.cancelled() => return None,
        };
        Some((Ok(lines(&told)), watching))
    })
}

fn lines(told: &[Told]) -> Bytes {
    if told.is_empty() {
        return Bytes::from_static(HEARTBEAT);
    }
    let mut lines = Vec::new();
    for told in told {
        lines.extend_from_slice(format!("id: {}\ndata: ", told.id).as_bytes());
        lines.extend(json::line(told).expect("texts, numbers and times are JSON"));
        lines.push(b'\n');
    }
    lines.into()
}
