//! A body that is made of another, frame by frame.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::Frame;

use super::{Body, Failure};

/// Makes other frames of those of a body.
pub trait Translate {
    /// What becomes of a frame, if anything does yet. Behind trailers comes nothing.
    fn translate(&mut self, frame: Frame<Bytes>) -> Result<Option<Frame<Bytes>>, Failure>;

    /// The body came to its end.
    fn finish(&mut self) -> Result<(), Failure> {
        Ok(())
    }
}

/// A body and what makes another of it.
pub struct Translated {
    body: Body,
    by: Box<dyn Translate>,
    is_over: bool,
}

impl Translated {
    pub fn new(body: Body, by: Box<dyn Translate>) -> Self {
        Self { body, by, is_over: false }
    }

    pub fn is_end(&self) -> bool {
        self.is_over
    }

    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        while !self.is_over {
            let frame = ready!(http_body::Body::poll_frame(Pin::new(&mut self.body), context));
            let made = match frame {
                Some(Ok(frame)) => {
                    self.is_over = frame.is_trailers();
                    self.by.translate(frame)
                }
                Some(Err(failure)) => Err(failure),
                None => {
                    self.is_over = true;
                    self.by.finish().map(|()| None)
                }
            };
            self.is_over |= made.is_err();
            if let Some(made) = made.transpose() {
                return Poll::Ready(Some(made));
            }
        }
        Poll::Ready(None)
    }
}
