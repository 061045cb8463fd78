//! Bodies as the gateway passes them: frames with their trailers, counted, bounded in size and patience.
//!
//! A body is pulled by its receiver, which makes backpressure: nothing is read from one side that the
//! other side does not take.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use model::resource::listener::Limits;
use smallvec::SmallVec;

use crate::clock::{Clock, Deadline};
use crate::http1;
use copy::{Copies, Copy};
use replay::Replayed;
use translated::Translated;

pub use copy::Room;
pub use replay::Replay;
pub use translated::Translate;

mod copy;
mod replay;
mod translated;

/// A request or response body on its way through the gateway. Nothing stands for a body of which nothing is to come and
/// nobody waits for the end; the rest lies elsewhere, because heads are moved about with their bodies many times.
pub struct Body(Option<Box<Passage>>);

/// A body with all that hangs on it.
struct Passage {
    source: Source,
    patience: Patience,
    /// When all of it must have come.
    deadline: Option<Deadline>,
    /// How many bytes may still come.
    allowance: u64,
    bytes: u64,
    tally: Option<Rc<Tally>>,
    pace: Option<Pace>,
    copies: Option<Box<Copies>>,
    strainer: Option<Box<Strainer>>,
    farewell: Option<Farewell>,
    ends: SmallVec<[Box<dyn End>; 2]>,
}

enum Source {
    Empty,
    Full(Bytes),
    Http1(http1::Incoming),
    Http2(Incoming),
    Copy(Copy),
    Translated(Translated),
    Replayed(Replayed),
}

/// Takes out of trailers what may not pass.
type Strainer = dyn Fn(&mut HeaderMap);

/// Trailers that say why a body broke off.
type Farewell = fn(Failure) -> HeaderMap;

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

    /// How many bytes were taken of it, told just before the end.
    fn taken(&mut self, bytes: u64) {
        let _ = bytes;
    }
}

/// Whether the receiver of a body has what came and has not asked for more.
struct Pace {
    withheld: Rc<Cell<u32>>,
    is_counted: bool,
}

/// How long to wait for the next frame.
enum Patience {
    Endless,
    Idle { clock: Clock, span: Duration, deadline: Option<Deadline> },
    Rate(Box<Rate>),
}

/// Counts only the time in which the gateway waits, so that a slow service is not the client's fault.
struct Rate {
    clock: Clock,
    /// The rest of the time for all of the body.
    rest: Duration,
    bytes_per_second: u64,
    window: Duration,
    /// In this window: time waited and bytes that came.
    waited: Duration,
    bytes: u64,
    waiting: Option<(u64, Deadline)>,
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
    pub fn incoming(incoming: Incoming) -> Self {
        let is_empty = http_body::Body::is_end_stream(&incoming);
        if is_empty { Self::empty() } else { Self::of(Source::Http2(incoming)) }
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
        Self(Some(Box::new(Passage {
            source,
            patience: Patience::Endless,
            deadline: None,
            allowance: u64::MAX,
            bytes: 0,
            tally: None,
            pace: None,
            copies: None,
            strainer: None,
            farewell: None,
            ends: SmallVec::new(),
        })))
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
            passage.patience = Patience::Idle { clock: clock.clone(), span, deadline: None };
        }
        self
    }

    /// Fails with [`Failure::TooSlow`] when less comes in any stretch of waiting than the limits ask for, or when all
    /// of it takes too long.
    #[must_use]
    pub fn with_pace_of_client(mut self, clock: &Clock, limits: &Limits) -> Self {
        if let Some(passage) = self.coming() {
            passage.patience = Patience::Rate(Box::new(Rate {
                clock: clock.clone(),
                rest: limits.body_time.get(),
                bytes_per_second: limits.body_rate.into(),
                window: limits.body_grace.get(),
                waited: Duration::ZERO,
                bytes: 0,
                waiting: None,
            }));
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
    pub fn with_farewell(mut self, farewell: fn(Failure) -> HeaderMap) -> Self {
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
            passage.pace = Some(Pace { withheld, is_counted: false });
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

impl Passage {
    fn poll_or_part(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        let frame = ready!(self.poll_frame(context));
        Poll::Ready(match (frame, self.farewell) {
            (Some(Err(failure)), Some(farewell)) => Some(Ok(Frame::trailers(farewell(failure)))),
            (frame, _) => frame,
        })
    }

    fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        if let Some(pace) = &mut self.pace {
            pace.set(false);
        }
        if self.deadline.as_mut().is_some_and(|deadline| Pin::new(deadline).poll(context).is_ready()) {
            return Poll::Ready(Some(Err(self.fail(Failure::Late))));
        }
        if self.copies.as_mut().is_some_and(|copies| copies.want_turn()) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let frame = match self.source.poll(context) {
            Poll::Ready(frame) => self.strain(frame),
            Poll::Pending => {
                let failure = ready!(self.patience.poll(context));
                return Poll::Ready(Some(Err(self.fail(failure))));
            }
        };
        Poll::Ready(match frame {
            Some(Ok(frame)) => match self.account(&frame) {
                Ok(()) => {
                    if let Some(copies) = &mut self.copies {
                        copies.took(&frame);
                    }
                    // Behind trailers comes nothing, and who took them does not ask again.
                    if frame.is_trailers() || self.source.is_end() {
                        self.finish(Ending::Complete);
                    } else if let Some(pace) = &mut self.pace {
                        pace.set(true);
                    }
                    Some(Ok(frame))
                }
                Err(failure) => Some(Err(self.fail(failure))),
            },
            Some(Err(failure)) => Some(Err(self.fail(failure))),
            None => {
                self.finish(Ending::Complete);
                None
            }
        })
    }

    fn strain(&self, mut frame: Option<Result<Frame<Bytes>, Failure>>) -> Option<Result<Frame<Bytes>, Failure>> {
        if let (Some(strainer), Some(Ok(passing))) = (&self.strainer, &mut frame)
            && let Some(trailers) = passing.trailers_mut()
        {
            strainer(trailers);
            if trailers.is_empty() {
                return None;
            }
        }
        frame
    }

    fn finish(&mut self, ending: Ending) {
        // Gives up its hold of the connection before the connection is used for something else.
        self.source = Source::Empty;
        if let Some(mut copies) = self.copies.take() {
            copies.ended(ending);
        }
        while let Some(mut end) = self.ends.pop() {
            end.taken(self.bytes);
            end.end(ending);
        }
    }

    fn fail(&mut self, failure: Failure) -> Failure {
        if let Some(tally) = &self.tally {
            tally.failure.set(Some(failure));
        }
        self.finish(Ending::Failed(failure));
        failure
    }

    fn account(&mut self, frame: &Frame<Bytes>) -> Result<(), Failure> {
        let Some(bytes) = frame.data_ref().map(|data| data.len() as u64) else { return Ok(()) };
        self.allowance = self.allowance.checked_sub(bytes).ok_or(Failure::TooLarge)?;
        self.bytes += bytes;
        if let Some(tally) = &self.tally {
            tally.bytes.set(self.bytes);
        }
        self.patience.came(bytes)
    }
}

impl Source {
    fn is_end(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(_) => false,
            Self::Http1(incoming) => incoming.is_end(),
            Self::Http2(incoming) => http_body::Body::is_end_stream(incoming),
            Self::Copy(copy) => copy.is_end(),
            Self::Translated(translated) => translated.is_end(),
            Self::Replayed(replayed) => replayed.is_end(),
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        let incoming = match self {
            Self::Empty => return Poll::Ready(None),
            Self::Full(bytes) => {
                let frame = Frame::data(std::mem::take(bytes));
                *self = Self::Empty;
                return Poll::Ready(Some(Ok(frame)));
            }
            Self::Http1(incoming) => return incoming.poll_frame(context),
            Self::Copy(copy) => return copy.poll_frame(context),
            Self::Translated(translated) => return translated.poll(context),
            Self::Replayed(replayed) => return replayed.poll_frame(context),
            Self::Http2(incoming) => Pin::new(incoming),
        };
        let frame = ready!(http_body::Body::poll_frame(incoming, context));
        Poll::Ready(frame.map(|frame| frame.map_err(|_| Failure::Broken)))
    }
}

impl Source {
    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Http1(incoming) => incoming.remaining().map_or_else(SizeHint::default, SizeHint::with_exact),
            Self::Http2(incoming) => http_body::Body::size_hint(incoming),
            Self::Copy(copy) => copy.size_hint(),
            Self::Translated(_) => SizeHint::default(),
            Self::Replayed(replayed) => replayed.size_hint(),
        }
    }
}

impl Pace {
    fn set(&mut self, is_counted: bool) {
        if self.is_counted != is_counted {
            self.is_counted = is_counted;
            let count = self.withheld.get();
            self.withheld.set(if is_counted { count + 1 } else { count - 1 });
        }
    }
}

impl Drop for Pace {
    fn drop(&mut self) {
        self.set(false);
    }
}

impl Patience {
    fn came(&mut self, bytes: u64) -> Result<(), Failure> {
        match self {
            Self::Endless => {}
            Self::Idle { deadline, .. } => *deadline = None,
            Self::Rate(rate) => {
                rate.bytes += bytes;
                return rate.pause();
            }
        }
        Ok(())
    }

    /// The source has nothing yet.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Failure> {
        match self {
            Self::Endless => Poll::Pending,
            Self::Idle { clock, span, deadline } => {
                let deadline = deadline.get_or_insert_with(|| clock.deadline(*span));
                Pin::new(deadline).poll(context).map(|()| Failure::Idle)
            }
            Self::Rate(rate) => rate.poll(context),
        }
    }
}

impl Rate {
    /// Ends a wait and, when enough time was waited for, the window.
    fn pause(&mut self) -> Result<(), Failure> {
        let Some((since_ns, _)) = self.waiting.take() else { return Ok(()) };
        let wait = Duration::from_nanos(self.clock.now().monotonic_ns - since_ns);
        self.waited += wait;
        self.rest = self.rest.checked_sub(wait).filter(|rest| !rest.is_zero()).ok_or(Failure::TooSlow)?;
        if self.waited < self.window {
            return Ok(());
        }
        if self.bytes < self.bytes_per_second.saturating_mul(self.waited.as_secs()) {
            return Err(Failure::TooSlow);
        }
        (self.waited, self.bytes) = (Duration::ZERO, 0);
        Ok(())
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Failure> {
        loop {
            let rest = self.rest.min(self.window - self.waited);
            let (_, deadline) = self.waiting.get_or_insert_with(|| {
                let now = self.clock.now();
                (now.monotonic_ns, self.clock.deadline_from(now, rest))
            });
            ready!(Pin::new(deadline).poll(context));
            if let Err(failure) = self.pause() {
                return Poll::Ready(failure);
            }
        }
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

impl Drop for Passage {
    fn drop(&mut self) {
        let ending = if self.source.is_end() { Ending::Complete } else { Ending::Dropped };
        self.finish(ending);
    }
}
