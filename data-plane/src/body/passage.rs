//! A body that passes: each frame is waited for, looked over, counted, copied, and its end told.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::Frame;
use smallvec::SmallVec;

use super::copy::Copies;
use super::patience::{Pace, Patience};
use super::source::Source;
use super::{End, Ending, Failure, Tally};
use crate::clock::Deadline;
use crate::interim::SharedInterim;

/// A body with all that hangs on it.
pub(super) struct Passage {
    pub(super) source: Source,
    pub(super) patience: Patience,
    /// Who sends it may wait for leave, which is not being slow.
    pub(super) leave: Option<SharedInterim>,
    /// When all of it must have come.
    pub(super) deadline: Option<Deadline>,
    /// How many bytes may still come.
    pub(super) allowance: u64,
    bytes: u64,
    pub(super) tally: Option<Rc<Tally>>,
    pub(super) pace: Option<Pace>,
    pub(super) copies: Option<Box<Copies>>,
    pub(super) strainer: Option<Box<Strainer>>,
    pub(super) farewell: Option<Farewell>,
    pub(super) ends: SmallVec<[Box<dyn End>; 2]>,
}

/// Takes out of trailers what may not pass.
pub(super) type Strainer = dyn Fn(&mut HeaderMap);

/// Trailers that say why a body broke off.
pub(super) type Farewell = fn(Failure) -> HeaderMap;

impl Passage {
    pub(super) fn new(source: Source) -> Self {
        Self {
            source,
            patience: Patience::Endless,
            leave: None,
            deadline: None,
            allowance: u64::MAX,
            bytes: 0,
            tally: None,
            pace: None,
            copies: None,
            strainer: None,
            farewell: None,
            ends: SmallVec::new(),
        }
    }

    pub(super) fn poll_or_part(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
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
            Poll::Ready(frame) => {
                if let Some(leave) = self.leave.take() {
                    leave.forget_leave();
                }
                self.strain(frame)
            }
            Poll::Pending if self.leave.as_ref().is_some_and(|leave| leave.awaits_leave()) => return Poll::Pending,
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

    fn strain(&mut self, mut frame: Option<Result<Frame<Bytes>, Failure>>) -> Option<Result<Frame<Bytes>, Failure>> {
        if let Some(Ok(passing)) = &mut frame
            && let Some(trailers) = passing.trailers_mut()
        {
            self.ends.iter_mut().for_each(|end| end.trailers(trailers));
            if let Some(strainer) = &self.strainer {
                strainer(trailers);
                if trailers.is_empty() {
                    return None;
                }
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

impl Drop for Passage {
    fn drop(&mut self) {
        let ending = if self.source.is_end() { Ending::Complete } else { Ending::Dropped };
        self.finish(ending);
    }
}
