//! HTTP/2 with a client: each request in a task of its own, on the core that the connection is on.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use h2::server::{Builder, Handshake, SendResponse};
use h2::{Reason, RecvStream};
use http::header::{CONTENT_LENGTH, DATE, EXPECT};
use http::{Method, Request, Response, request};
use model::exchange::ResponseHead;
use model::fields::Fields;
use model::resource::listener::Limits;
use tokio::io::{AsyncRead, AsyncWrite};

use super::connection::Connection;
use super::frames::Frames;
use super::http::above;
use super::io::Observed;
use super::watch::{Protocol, Verdict, Watch};
use super::websocket::Opening;
use crate::body::Body;
use crate::http1::Broken;
use crate::http2::{Incoming, Pump, Switched};
use crate::interim::SharedInterim;
use crate::proxy::intake::Received;
use crate::proxy::{self, Reply};

/// What a client may send ahead on a stream, and on all of a connection (RFC 9113 section 5.2).
pub const STREAM_WINDOW: u32 = 64 * 1024;
pub const CONNECTION_WINDOW: u32 = 1024 * 1024;

/// The codec with its bounds.
#[must_use]
pub fn codec(limits: &Limits) -> Builder {
    let mut codec = Builder::new();
    codec
        .max_concurrent_streams(limits.streams)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(16 * 1024)
        .max_send_buffer_size(STREAM_WINDOW as usize)
        .header_table_size(4096)
        .max_header_list_size(above(limits.header_bytes))
        .max_pending_accept_reset_streams(20)
        .max_local_error_reset_streams(Some(128))
        .enable_connect_protocol();
    codec
}

/// Serves a connection until its end. `input` has been read from it already.
pub async fn serve<S>(connection: Rc<Connection>, stream: S, input: BytesMut)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let frames = Frames::new(connection.core.clock.clone());
    let observed = Observed::new(stream, input, connection.traffic.clone(), frames);
    let fault = observed.fault();
    let mut codec = Codec::Greeting { handshake: connection.terms.http2.handshake(observed), is_to_leave: false };
    let mut watch = Watch::new(connection.clone(), Protocol::Http2);
    let end = poll_fn(|context| {
        loop {
            if let Poll::Ready(end) = codec.poll(&connection, context) {
                return Poll::Ready(end);
            }
            match watch.poll(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Verdict::Leave) => codec.leave(),
                Poll::Ready(Verdict::Close | Verdict::SlowHead) => return Poll::Ready(Ok(())),
            }
        }
    });
    if let Err(error) = end.await {
        tracing::debug!(client.address = %connection.client.address, %error, "a connection broke");
        match fault.get() {
            Some(fault) => connection.refused(fault.code()),
            None if !error.is_io() => connection.refused("http2-error"),
            None => {}
        }
    }
}

/// A connection before and after the preface and the first settings (RFC 9113 section 3.4).
enum Codec<S> {
    Greeting { handshake: Handshake<Observed<S>, Bytes>, is_to_leave: bool },
    Open(h2::server::Connection<Observed<S>, Bytes>),
}

impl<S: AsyncRead + AsyncWrite + Unpin + 'static> Codec<S> {
    /// Begins the requests that come. Ready when no more will, and those that came are over.
    fn poll(&mut self, connection: &Rc<Connection>, context: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        loop {
            match self {
                Self::Greeting { handshake, is_to_leave } => {
                    let mut open = ready!(Pin::new(handshake).poll(context))?;
                    if *is_to_leave {
                        open.graceful_shutdown();
                    }
                    *self = Self::Open(open);
                }
                Self::Open(open) => match ready!(open.poll_accept(context)) {
                    Some(accepted) => {
                        let (request, respond) = accepted?;
                        tokio::task::spawn_local(stream(connection.clone(), request, respond));
                    }
                    None => return Poll::Ready(Ok(())),
                },
            }
        }
    }

    /// No further requests.
    fn leave(&mut self) {
        match self {
            Self::Greeting { is_to_leave, .. } => *is_to_leave = true,
            Self::Open(open) => open.graceful_shutdown(),
        }
    }
}

/// One request and its answer.
async fn stream(connection: Rc<Connection>, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let interim = SharedInterim::default();
    let (received, body, opening) = receive(request, &interim);
    let Some(mut reply) = answer(&connection, received, body, &interim, &mut respond).await else { return };
    let mut tunnel = None;
    if let Some(opening) = opening {
        (reply, tunnel) = opening.answered(&connection, reply);
    }
    let Reply { head, body } = reply;
    let is_end = body.is_empty() && tunnel.is_none();
    let Ok(outgoing) = respond.send_response(response(&connection, &head, &body), is_end) else {
        return respond.send_reset(Reason::INTERNAL_ERROR);
    };
    if let Some((tunnel, incoming)) = tunnel {
        tunnel.run_on_stream(&connection, Switched::new(incoming, outgoing)).await;
    } else if !is_end {
        let mut pump = Pump::new(body, outgoing);
        if let Err(Broken::Source(_)) = poll_fn(|context| pump.poll(context)).await {
            pump.reset(Reason::INTERNAL_ERROR);
        }
    }
}

/// A request in the form that all protocols share.
fn receive(request: Request<RecvStream>, interim: &SharedInterim) -> (Received, Body, Option<Opening>) {
    let (mut parts, incoming) = request.into_parts();
    let (mut opening, mut body) = (None, Body::empty());
    if parts.method == Method::CONNECT {
        opening = Opening::of(&mut parts, incoming);
    } else if !incoming.is_end_stream() {
        body = Body::http2(Incoming::new(incoming, &parts.headers));
        if parts.headers.get(EXPECT).is_some_and(|what| what.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
            interim.expect_leave();
            body = body.with_leave(interim);
        }
    }
    let request::Parts { method, uri, version, headers, .. } = parts;
    let (headers, interim) = (Fields::from(&headers), Some(SharedInterim::clone(interim)));
    (Received { method, uri, version, headers, interim }, body, opening)
}

/// Gets the answer to a request; nothing if the client gives up its stream before that.
async fn answer(
    connection: &Rc<Connection>,
    received: Received,
    body: Body,
    interim: &SharedInterim,
    respond: &mut SendResponse<Bytes>,
) -> Option<Reply> {
    let mut answer = pin!(proxy::answer(connection, received, body));
    let reply = poll_fn(|context| match answer.as_mut().poll(context) {
        Poll::Ready(reply) => Poll::Ready(Some(reply)),
        Poll::Pending => {
            pass_on(interim, respond);
            respond.poll_reset(context).map(|_| None)
        }
    });
    let reply = reply.await?;
    pass_on(interim, respond);
    interim.forget_leave();
    Some(reply)
}

/// An answer as the codec takes it, with the length of a body that has one, and a date.
fn response(connection: &Connection, head: &ResponseHead, body: &Body) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = head.status;
    let mut headers = head.headers.to_map();
    if !body.is_empty()
        && let Some(length) = http_body::Body::size_hint(body).exact()
    {
        headers.entry(CONTENT_LENGTH).or_insert_with(|| length.into());
    }
    let core = &connection.core;
    headers.entry(DATE).or_insert_with(|| core.date.value(core.clock.recent_unix_ms()));
    *response.headers_mut() = headers;
    response
}

/// Sends what the service says before its answer (RFC 9113 section 8.1).
fn pass_on(interim: &SharedInterim, respond: &mut SendResponse<Bytes>) {
    for mut head in interim.take() {
        proxy::fields::clean_response(&mut head.headers);
        let mut response = Response::new(());
        *response.status_mut() = head.status;
        *response.headers_mut() = head.headers.to_map();
        // A stream that has ended takes none, which is found when it gets its answer.
        let _ = respond.send_informational(response);
    }
}
