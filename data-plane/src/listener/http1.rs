//! HTTP/1.1 with a client: one request after the other, until one side wants no more.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::CONNECTION;
use http::{Method, StatusCode, Version};
use model::exchange::ResponseHead;

use super::connection::Connection;
use super::watch::{Protocol, Verdict, Watch};
use crate::body::Body;
use crate::http1::{
    Announced, Incoming, Length, Lost, Pump, RequestHead, SharedWire, Stream, Wire, interim_head, response_head,
};
use crate::interim::SharedInterim;
use crate::proxy::intake::Received;
use crate::proxy::{self, Reply};

/// How long a client that was told to go may take to read that, while what it still sends is thrown away: closing at
/// once would reset the connection and take the answer with it (RFC 9112 section 9.6).
pub const LINGER: Duration = Duration::from_secs(2);

/// What comes after a request.
enum Next {
    Request,
    /// Nothing, and nothing is left to read.
    Close,
    /// Nothing, though the client may still be sending.
    Linger,
    /// Another protocol.
    Switch,
}

/// Serves a connection until its end. `input` has been read from it already.
pub async fn serve(connection: Rc<Connection>, stream: Stream, input: BytesMut) {
    let bounds = connection.terms.bounds;
    let wire = Rc::new(RefCell::new(Wire::new(stream, input, bounds, connection.traffic.clone())));
    let end = {
        let mut requests = pin!(requests(&connection, &wire));
        let mut watch = Watch::new(connection.clone(), Protocol::Http1);
        poll_fn(|context| {
            let _hold = connection.core.clock.hold();
            loop {
                if let Poll::Ready(next) = requests.as_mut().poll(context) {
                    return Poll::Ready(Ok(next));
                }
                match watch.poll(context) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Verdict::Leave) if connection.in_flight.get() > 0 => {}
                    // The head that is coming gets its answer.
                    Poll::Ready(Verdict::Leave) if wire.borrow().input_length() > 0 => {}
                    Poll::Ready(verdict) => return Poll::Ready(Err(verdict)),
                }
            }
        })
        .await
    };
    match end {
        Ok(Next::Switch) => {
            let tunnel = connection.tunnel.take();
            if let Some(tunnel) = tunnel {
                tokio::select! {
                    () = tunnel.run(&connection, wire) => {}
                    () = connection.reset_as_tunnel() => {}
                }
            }
        }
        Ok(Next::Linger) => linger(&connection, &wire).await,
        Err(Verdict::SlowHead) => {
            connection.refused("header-too-slow");
            say(&connection, &wire, &proxy::reject::slow_head()).await;
        }
        Ok(Next::Close) | Err(Verdict::Leave) => {
            // Whoever is gone does not hear it.
            let _ = poll_fn(|context| Poll::Ready(wire.borrow_mut().poll_shutdown(context))).await;
        }
        Ok(Next::Request) | Err(Verdict::Close) => {}
    }
    // However it ended: a tunnel that is left there would keep the connection alive.
    drop(connection.tunnel.take());
}

async fn requests(connection: &Rc<Connection>, wire: &SharedWire) -> Next {
    let interim = SharedInterim::default();
    loop {
        let head = match poll_fn(|context| wire.borrow_mut().poll_request(context)).await {
            Ok(head) => head,
            Err(Lost::Fault(fault)) => {
                connection.refused(fault.code());
                wire.borrow_mut().output().extend_from_slice(&proxy::reject::unreadable(fault));
                let flushed = poll_fn(|context| wire.borrow_mut().poll_flush(context)).await;
                return if flushed.is_ok() { Next::Linger } else { Next::Close };
            }
            Err(error) => {
                if !matches!(error, Lost::Closed) {
                    tracing::debug!(client.address = %connection.client.address, %error, "a connection broke");
                }
                return Next::Close;
            }
        };
        let mut turn = pin!(turn(connection, wire, &interim, head));
        let next = poll_fn(|context| match turn.as_mut().poll(context) {
            Poll::Ready(next) => Poll::Ready(next),
            Poll::Pending => {
                let mut wire = wire.borrow_mut();
                if put_interim(&interim, &mut wire) {
                    // What cannot be sent at once goes out before the answer; that the client is gone is found there.
                    let _ = wire.poll_flush(context);
                }
                wire.poll_gone(context).map(|()| Next::Close)
            }
        });
        match next.await {
            Next::Request => {}
            other => return other,
        }
    }
}

/// Queues what the service says before its answer; whether there is anything.
fn put_interim(interim: &SharedInterim, wire: &mut Wire) -> bool {
    let said = interim.take();
    let has_some = !said.is_empty();
    for mut head in said {
        proxy::fields::clean_response(&mut head.headers);
        interim_head(wire.output(), head.status, &head.headers);
    }
    has_some
}

/// One request and its answer.
async fn turn(connection: &Rc<Connection>, wire: &SharedWire, interim: &SharedInterim, request: RequestHead) -> Next {
    let RequestHead { method, uri, version, fields, length, is_persistent, expects_continue } = request;
    let asked = Asked {
        version,
        is_head: method == Method::HEAD,
        wants_trailers: proxy::fields::wants_trailers(&fields),
        is_persistent,
    };
    let mut body = match length {
        Length::Exact(0) => Body::empty(),
        _ => Body::http1(Incoming::new(wire)),
    };
    if expects_continue {
        interim.expect_leave();
        body = body.with_leave(interim);
    }
    // A client of HTTP/1.0 knows of no answer but the one.
    let interim_for_it = (version == Version::HTTP_11).then(|| SharedInterim::clone(interim));
    let received = Received { method, uri, version, headers: fields, interim: interim_for_it };
    let Reply { head, body } = proxy::answer(connection, received, body).await;
    let (mut pump, stays) = begin_answer(connection, wire, interim, &asked, &head, body);
    if let Err(broken) = poll_fn(|context| pump.poll(wire, context)).await {
        tracing::debug!(client.address = %connection.client.address, ?broken, "an answer broke off");
        return Next::Close;
    }
    if head.status == StatusCode::SWITCHING_PROTOCOLS {
        return Next::Switch;
    }
    // Whoever answers before the whole request is there may go on reading it.
    poll_fn(|context| Wire::poll_released(wire, context)).await;
    let wire = wire.borrow();
    match (wire.is_read(), stays) {
        (true, true) => Next::Request,
        (true, false) if wire.input_length() == 0 => Next::Close,
        _ => Next::Linger,
    }
}

/// What of a request its answer depends on.
struct Asked {
    version: Version,
    is_head: bool,
    wants_trailers: bool,
    is_persistent: bool,
}

/// Writes the head of the answer; gives what sends its body, and whether the connection stays.
fn begin_answer(
    connection: &Rc<Connection>,
    wire: &SharedWire,
    interim: &SharedInterim,
    asked: &Asked,
    head: &ResponseHead,
    body: Body,
) -> (Pump, bool) {
    let is_read_by_somebody = Rc::strong_count(wire) > 1;
    let mut wire = wire.borrow_mut();
    put_interim(interim, &mut wire);
    interim.forget_leave();
    if !is_read_by_somebody {
        wire.skip_body();
    }
    let announced = announced(asked, head.status, &body);
    let (body, length) = match announced {
        Announced::Length(length) => (body, length),
        Announced::AsFielded | Announced::Nothing => (Body::empty(), Length::Exact(0)),
    };
    let says_close = head.headers.get(CONNECTION).is_some_and(|value| value.eq_ignore_ascii_case(b"close"));
    let stays = asked.is_persistent
        && !says_close
        && !connection.is_leaving()
        && length != Length::UntilClose
        && (wire.is_read() || is_read_by_somebody);
    let word = match (stays, asked.version) {
        (false, _) => Some("close"),
        (true, Version::HTTP_10) => Some("keep-alive"),
        (true, _) => None,
    };
    let (core, output) = (&connection.core, wire.output());
    let unix_ms = core.clock.recent_unix_ms();
    response_head(output, head.status, &head.headers, announced, word, &core.date, unix_ms);
    (Pump::new(body, length, asked.wants_trailers), stays)
}

/// How the length of the body is told (RFC 9112 section 6.3, RFC 9110 section 8.6).
fn announced(asked: &Asked, status: StatusCode, body: &Body) -> Announced {
    if status.is_informational() || status == StatusCode::NO_CONTENT {
        Announced::Nothing
    } else if asked.is_head || status == StatusCode::NOT_MODIFIED {
        Announced::AsFielded
    } else {
        Announced::Length(match http_body::Body::size_hint(body).exact() {
            Some(length) => Length::Exact(length),
            None if asked.version == Version::HTTP_11 => Length::Chunked,
            None => Length::UntilClose,
        })
    }
}

/// Sends a message of the gateway's own, and lingers.
async fn say(connection: &Rc<Connection>, wire: &SharedWire, message: &Bytes) {
    wire.borrow_mut().output().extend_from_slice(message);
    let sent = async {
        let flushed = poll_fn(|context| wire.borrow_mut().poll_flush(context)).await;
        flushed.is_ok()
    };
    let is_sent = tokio::select! {
        is_sent = sent => is_sent,
        () = connection.core.clock.deadline(LINGER) => false,
    };
    if is_sent {
        linger(connection, wire).await;
    }
}

/// Sends no more, and takes what still comes for a moment.
async fn linger(connection: &Rc<Connection>, wire: &SharedWire) {
    let drained = async {
        if poll_fn(|context| wire.borrow_mut().poll_shutdown(context)).await.is_ok() {
            poll_fn(|context| wire.borrow_mut().poll_drain(context)).await;
        }
    };
    tokio::select! {
        () = drained => {}
        () = connection.core.clock.deadline(LINGER) => {}
    }
}
