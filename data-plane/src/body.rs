//! Bodies as the gateway passes them: frames with their trailers, counted, bounded in size and patience.
//!
//! A body is pulled by its receiver, which makes backpressure: nothing is read from one side that the
//! other side does not take.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use model::resource::listener::Limits;

use crate::clock::{Clock, Deadline};
use crate::interim::SharedInterim;
use crate::{http1, http2};
use passage::{Farewell, Passage, Strainer};
use patience::{Pace, Patience};
use source::Source;
use translated::Translated;

pub use copy::Room;
pub use replay::Replay;
pub use translated::Translate;

mod copy;
mod passage;
mod patience;
mod replay;
mod source;
mod translated;

/// A request or response body on its way through the gateway. Nothing stands for a body of which nothing is to come and
/// nobody waits for the end; the rest lies elsewhere, because heads are moved about with their bodies many times.
pub struct Body(Option<Box<Passage>>);

/// How much of a body has passed, for who looks at it from outside.
#[derive(Debug, Default)]
pub struct Tally {
    pub bytes: Cell<u64>,
    /// The reason why it ended before its end.
    pub failure: Cell<Option<Failure>>,
}

/// Why a body ended before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    #[error("the body is larger than allowed")]
    TooLarge,
    #[error("the body comes too slowly")]
    TooSlow,
    #[error("nothing of the body came for too long")]
    Idle,
    /// See [`Body::with_deadline`].
    #[error("the body was not complete in time")]
    Late,
    /// A copy of a body whose receiver was slower than that of the body itself.
    #[error("the body was taken too slowly")]
    Behind,
    #[error("the connection that the body came from broke")]
    Broken,
}

/// How the life of a body ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// All of it was taken, with trailers.
    Complete,
    Failed(Failure),
    /// Its receiver lost interest.
    Dropped,
}

/// Something that happens when the life of a body ends, exactly once: a connection goes back to its
/// pool, a line goes to the access log.
pub trait End {
    fn end(self: Box<Self>, ending: Ending);

    /// Trailers have come, behind which comes nothing.
    fn trailers(&mut self, trailers: &HeaderMap) {
        let _ = trailers;
    }

    /// How many bytes were taken of it, told just before the end.
    fn taken(&mut self, bytes: u64) {
        let _ = bytes;
    }
}

impl Body {
    #[must_use]
    pub fn empty() -> Self {
        Self(None)
    }

    #[must_use]
    pub fn full(bytes: Bytes) -> Self {
        if bytes.is_empty() { Self::empty() } else { Self::of(Source::Full(bytes)) }
    }

    /// A body that comes over HTTP/2.
    #[must_use]
    pub(crate) fn http2(incoming: http2::Incoming) -> Self {
        if incoming.is_end() { Self::empty() } else { Self::of(Source::Http2(incoming)) }
    }

    /// A body that comes over HTTP/1.1.
    #[must_use]
    pub(crate) fn http1(incoming: http1::Incoming) -> Self {
        Self::of(Source::Http1(incoming))
    }

    /// The body that `by` makes of this one.
    #[must_use]
    pub fn translated(self, by: Box<dyn Translate>) -> Self {
        if self.is_empty() { self } else { Self::of(Source::Translated(Translated::new(self, by))) }
    }

    fn of(source: Source) -> Self {
        Self(Some(Box::new(Passage::new(source))))
    }

    fn passage(&mut self) -> &mut Passage {
        if self.0.is_none() {
            *self = Self::of(Source::Empty);
        }
        self.0.as_mut().expect("there is one now")
    }

    /// What waits and limits concerns a body only of which something comes from outside.
    fn coming(&mut self) -> Option<&mut Passage> {
        self.0.as_deref_mut().filter(|passage| !matches!(passage.source, Source::Empty | Source::Full(_)))
    }

    /// Fails with [`Failure::Idle`] when no frame comes for `span`.
    #[must_use]
    pub fn with_idle_timeout(mut self, clock: &Clock, span: Duration) -> Self {
        if let Some(passage) = self.coming() {
            passage.patience = Patience::idle(clock, span);
        }
        self
    }

    /// Fails with [`Failure::TooSlow`] when less comes in any stretch of waiting than the limits ask for, or when all
    /// of it takes too long.
    #[must_use]
    pub fn with_pace_of_client(mut self, clock: &Clock, limits: &Limits) -> Self {
        if let Some(passage) = self.coming() {
            passage.patience = Patience::of_client(clock, limits);
        }
        self
    }

    /// Is not waited for with impatience as long as its sender waits for leave.
    #[must_use]
    pub(crate) fn with_leave(mut self, interim: &SharedInterim) -> Self {
        if let Some(passage) = self.coming() {
            passage.leave = Some(SharedInterim::clone(interim));
        }
        self
    }

    /// Fails with [`Failure::Late`] when it has not come to its end by then.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Deadline) -> Self {
        if let Some(passage) = self.coming() {
            passage.deadline = Some(deadline);
        }
        self
    }

    /// Ends in trailers in place of a failure, for receivers that are told that way.
    #[must_use]
    pub fn with_farewell(mut self, farewell: Farewell) -> Self {
        if let Some(passage) = self.coming() {
            passage.farewell = Some(farewell);
        }
        self
    }

    /// Has its trailers looked over; without any left it ends as if there had been none.
    #[must_use]
    pub fn with_strained_trailers(mut self, strainer: Box<Strainer>) -> Self {
        if let Some(passage) = self.coming() {
            passage.strainer = Some(strainer);
        }
        self
    }

    /// Fails with [`Failure::TooLarge`] when more than `bytes` come.
    #[must_use]
    pub fn with_limit(mut self, bytes: u64) -> Self {
        if let Some(passage) = &mut self.0 {
            passage.allowance = bytes;
        }
        self
    }

    #[must_use]
    pub fn with_tally(mut self, tally: Rc<Tally>) -> Self {
        self.passage().tally = Some(tally);
        self
    }

    /// What counts it; whoever asks first begins the count.
    pub fn tally(&mut self) -> Rc<Tally> {
        Rc::clone(self.passage().tally.get_or_insert_with(Rc::default))
    }

    /// Counts itself in `withheld` while its receiver takes no more.
    #[must_use]
    pub fn with_pace(mut self, withheld: Rc<Cell<u32>>) -> Self {
        if let Some(passage) = self.0.as_deref_mut().filter(|passage| !passage.source.is_end()) {
            passage.pace = Some(Pace::new(withheld));
        }
        self
    }

    /// Adds what happens when it ends. What was added last happens first.
    #[must_use]
    pub fn with_end(mut self, end: Box<dyn End>) -> Self {
        self.passage().ends.push(end);
        self
    }

    /// A copy of what its receiver will take, for another who must not hold it up: one that takes it more slowly loses it
    /// ([`Failure::Behind`]). If the body does not come to its end, neither does the copy.
    pub fn copy(&mut self, room: &Room) -> Self {
        let length = http_body::Body::size_hint(self).exact();
        match &mut self.0 {
            Some(passage) if !passage.source.is_end() => {
                Self::of(Source::Copy(passage.copies.get_or_insert_default().add(length, room)))
            }
            _ => Self::empty(),
        }
    }

    /// Whether there is nothing to come, known without waiting.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.as_ref().is_none_or(|passage| passage.source.is_end())
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Failure;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        self.0.as_mut().map_or(Poll::Ready(None), |passage| passage.poll_or_part(context))
    }

    fn is_end_stream(&self) -> bool {
        self.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or(SizeHint::with_exact(0), |passage| passage.source.size_hint())
    }
}
