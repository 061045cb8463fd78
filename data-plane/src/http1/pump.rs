//! Sending a body: frames of any source in, bytes of the connection out, no faster than the peer takes them.

use std::cell::RefCell;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body as _, Frame};

use super::framing::Length;
use super::wire::Wire;
use crate::body::{Body, Failure};

/// Why a body did not get out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// Its source failed.
    Source(Failure),
    /// It is longer or shorter than announced.
    Length,
    /// The peer takes nothing more.
    Peer,
}

/// A body on its way into a connection.
pub struct Pump {
    body: Body,
    length: Length,
    /// Whether the peer wants trailers. Only the chunked coding has a place for them.
    with_trailers: bool,
    /// Nothing of the body is left to queue: it has ended, or broken off.
    over: Option<Result<(), Broken>>,
}

impl Pump {
    pub fn new(body: Body, length: Length, with_trailers: bool) -> Self {
        let over = (length == Length::Exact(0) && body.is_empty()).then_some(Ok(()));
        Self { body, length, with_trailers, over }
    }

    /// Sends what there is. Ready when all of it, and what was in the wire before, has been written: of a body that
    /// breaks off the peer gets what came.
    pub fn poll(&mut self, wire: &RefCell<Wire>, context: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        loop {
            if self.over.is_some() || !wire.borrow().has_room() {
                ready!(wire.borrow_mut().poll_flush(context)).map_err(|_| Broken::Peer)?;
                if let Some(end) = self.over {
                    return Poll::Ready(end);
                }
            }
            // The wire is not borrowed here: the source may be any other connection.
            let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) else {
                ready!(wire.borrow_mut().poll_flush(context)).map_err(|_| Broken::Peer)?;
                return Poll::Pending;
            };
            let queued = self.queue(frame, &mut wire.borrow_mut());
            self.over = self.over.or(queued.err().map(Err));
        }
    }

    fn queue(&mut self, frame: Option<Result<Frame<Bytes>, Failure>>, wire: &mut Wire) -> Result<(), Broken> {
        let Some(frame) = frame.transpose().map_err(Broken::Source)? else { return self.end(wire, None) };
        match frame.into_data() {
            Ok(data) if data.is_empty() => Ok(()),
            Ok(data) => {
                if let Length::Exact(left) = &mut self.length {
                    *left = left.checked_sub(data.len() as u64).ok_or(Broken::Length)?;
                }
                wire.put_data(data, self.length == Length::Chunked);
                if self.body.is_end_stream() { self.end(wire, None) } else { Ok(()) }
            }
            Err(frame) => {
                let trailers = frame.into_trailers().ok().filter(|_| self.with_trailers);
                self.end(wire, trailers.as_ref())
            }
        }
    }

    fn end(&mut self, wire: &mut Wire, trailers: Option<&http::HeaderMap>) -> Result<(), Broken> {
        match self.length {
            Length::Exact(0) | Length::UntilClose => {}
            Length::Exact(_) => return Err(Broken::Length),
            Length::Chunked => wire.put_last_chunk(trailers),
        }
        self.over = Some(Ok(()));
        Ok(())
    }
}
