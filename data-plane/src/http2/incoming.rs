//! The body of a message that comes on a stream.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use http_body::Frame;

use crate::body::Failure;

/// A body on its way in. The window of the stream opens again as it is taken.
pub struct Incoming {
    stream: RecvStream,
    /// How many bytes are left, where that is known.
    remaining: Option<u64>,
    is_data_over: bool,
}

impl Incoming {
    /// The body that comes behind these fields. The codec holds it to the length that they say.
    pub fn new(stream: RecvStream, headers: &HeaderMap) -> Self {
        let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        Self { stream, remaining: length, is_data_over: false }
    }

    pub fn is_end(&self) -> bool {
        self.stream.is_end_stream()
    }

    pub fn remaining(&self) -> Option<u64> {
        if self.is_end() { Some(0) } else { self.remaining }
    }

    pub fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        if !self.is_data_over {
            match ready!(self.stream.poll_data(context)) {
                Some(Ok(data)) => {
                    // It fails only where nothing more comes.
                    let _ = self.stream.flow_control().release_capacity(data.len());
                    self.remaining = self.remaining.map(|left| left.saturating_sub(data.len() as u64));
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(_)) => return Poll::Ready(Some(Err(Failure::Broken))),
                None => self.is_data_over = true,
            }
        }
        let trailers = ready!(self.stream.poll_trailers(context)).map_err(|_| Failure::Broken);
        Poll::Ready(trailers.transpose().map(|trailers| trailers.map(Frame::trailers)))
    }
}
