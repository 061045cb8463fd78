//! Sending a body on a stream: no more is taken from its source than the peer has opened its window for, so that a
//! stream that is not read holds one piece of it.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http_body::Body as _;

use super::poll_room;
use crate::body::Body;
use crate::http1::Broken;

/// A body on its way out.
pub struct Pump {
    stream: SendStream<Bytes>,
    body: Body,
    /// A piece of the body that has not been sent.
    rest: Bytes,
}

impl Pump {
    pub fn new(body: Body, stream: SendStream<Bytes>) -> Self {
        Self { stream, body, rest: Bytes::new() }
    }

    /// Sends what there is. Ready when all of it is with the codec, or the stream has ended.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        // Whoever waits for the body, or for room, hears of a reset.
        if self.stream.poll_reset(context).is_ready() {
            return Poll::Ready(Err(Broken::Peer));
        }
        loop {
            while !self.rest.is_empty() {
                let room = ready!(poll_room(&mut self.stream, self.rest.len(), context))?;
                let data = self.rest.split_to(room);
                let is_end = self.rest.is_empty() && self.body.is_end_stream();
                self.stream.send_data(data, is_end).map_err(|_| Broken::Peer)?;
                if is_end {
                    return Poll::Ready(Ok(()));
                }
            }
            let Some(frame) = ready!(Pin::new(&mut self.body).poll_frame(context)) else {
                return Poll::Ready(self.stream.send_data(Bytes::new(), true).map_err(|_| Broken::Peer));
            };
            match frame.map_err(Broken::Source)?.into_data() {
                Ok(data) if data.is_empty() => {
                    if self.body.is_end_stream() {
                        return Poll::Ready(self.stream.send_data(data, true).map_err(|_| Broken::Peer));
                    }
                }
                Ok(data) => {
                    // Room is asked for what is at hand and never ahead of it: what one stream holds others go without.
                    self.stream.reserve_capacity(data.len());
                    self.rest = data;
                }
                Err(frame) => {
                    let trailers = frame.into_trailers().unwrap_or_default();
                    return Poll::Ready(self.stream.send_trailers(trailers).map_err(|_| Broken::Peer));
                }
            }
        }
    }

    /// Whether there is something that the peer does not take.
    pub fn is_held_up(&self) -> bool {
        !self.rest.is_empty()
    }

    /// Ends the stream in the midst of the body.
    pub fn reset(&mut self, reason: Reason) {
        self.stream.send_reset(reason);
    }
}
