//! A second receiver of a body, who may lose it but never holds it up: what the first receiver takes is kept for the
//! second within a bound, and beyond that the copy breaks off.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use smallvec::SmallVec;

use super::{Ending, Failure};

/// How far a single copy may be behind.
const MAX_BEHIND_BYTES: usize = 1024 * 1024;

/// A copy that is further behind gets a turn of the runtime before more is taken.
const TURN_BYTES: usize = 64 * 1024;

/// What all copies that are made with it may hold together. Clones are the same.
#[derive(Clone)]
pub struct Room(Rc<Cell<usize>>);

/// Who gets copies of a body.
#[derive(Default)]
pub(super) struct Copies {
    queues: SmallVec<[Weak<RefCell<Queue>>; 1]>,
    /// Since more was taken, they have had a turn.
    had_turn: bool,
}

/// The copy, to be read.
pub(super) struct Copy(Rc<RefCell<Queue>>);

/// What was taken by the first receiver and not yet by the second.
struct Queue {
    room: Room,
    /// Bytes of its own: a part of another's buffer would keep all of it alive.
    bytes: BytesMut,
    trailers: Option<HeaderMap>,
    /// How much is still to come into the queue, where that is known.
    to_come: Option<u64>,
    end: Option<Result<(), Failure>>,
    reader: Option<Waker>,
}

impl Room {
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        Self(Rc::new(Cell::new(bytes)))
    }

    pub(super) fn take(&self, bytes: usize) -> bool {
        let rest = self.0.get().checked_sub(bytes);
        self.0.set(rest.unwrap_or_else(|| self.0.get()));
        rest.is_some()
    }

    pub(super) fn give_back(&self, bytes: usize) {
        self.0.set(self.0.get() + bytes);
    }
}

impl Copies {
    /// One more copy of a body of which nothing has been taken.
    pub(super) fn add(&mut self, length: Option<u64>, room: &Room) -> Copy {
        let (bytes, trailers, end, reader) = Default::default();
        let queue = Queue { room: room.clone(), bytes, trailers, to_come: length, end, reader };
        let queue = Rc::new(RefCell::new(queue));
        self.queues.push(Rc::downgrade(&queue));
        Copy(queue)
    }

    /// Whether a copy should get a turn of the runtime before more is taken. It gets one and no more: whether it used it is
    /// its own affair.
    pub(super) fn want_turn(&mut self) -> bool {
        let is_behind =
            |queue: &Weak<RefCell<Queue>>| queue.upgrade().is_some_and(|queue| queue.borrow().bytes.len() > TURN_BYTES);
        !std::mem::replace(&mut self.had_turn, true) && self.queues.iter().any(is_behind)
    }

    pub(super) fn took(&mut self, frame: &Frame<Bytes>) {
        self.had_turn = false;
        self.queues.retain(|queue| queue.upgrade().is_some_and(|queue| queue.borrow_mut().put(frame)));
    }

    pub(super) fn ended(&mut self, ending: Ending) {
        let end = match ending {
            Ending::Complete => Ok(()),
            Ending::Failed(failure) => Err(failure),
            Ending::Dropped => Err(Failure::Broken),
        };
        for queue in self.queues.drain(..).filter_map(|queue| queue.upgrade()) {
            queue.borrow_mut().finish(end);
        }
    }
}

impl Queue {
    /// Whether there is more to put.
    fn put(&mut self, frame: &Frame<Bytes>) -> bool {
        if let Some(data) = frame.data_ref() {
            if self.bytes.len() + data.len() > MAX_BEHIND_BYTES || !self.room.take(data.len()) {
                self.take();
                self.finish(Err(Failure::Behind));
                return false;
            }
            self.bytes.extend_from_slice(data);
            self.to_come = self.to_come.map(|rest| rest.saturating_sub(data.len() as u64));
        } else if let Some(trailers) = frame.trailers_ref() {
            self.trailers = Some(trailers.clone());
        }
        self.wake();
        true
    }

    fn take(&mut self) -> Bytes {
        self.room.give_back(self.bytes.len());
        std::mem::take(&mut self.bytes).freeze()
    }

    fn finish(&mut self, end: Result<(), Failure>) {
        self.end = Some(end);
        self.wake();
    }

    fn wake(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.room.give_back(self.bytes.len());
    }
}

impl Copy {
    pub(super) fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        let mut queue = self.0.borrow_mut();
        if !queue.bytes.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(queue.take()))));
        }
        if let Some(trailers) = queue.trailers.take() {
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        match queue.end {
            Some(Ok(())) => Poll::Ready(None),
            Some(Err(failure)) => Poll::Ready(Some(Err(failure))),
            None => {
                queue.reader = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }

    pub(super) fn is_end(&self) -> bool {
        let queue = self.0.borrow();
        queue.end == Some(Ok(())) && queue.bytes.is_empty() && queue.trailers.is_none()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        let queue = self.0.borrow();
        let length = queue.to_come.map(|rest| rest + queue.bytes.len() as u64);
        length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::future::poll_fn;
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use http_body::Body as _;
    use proptest::prelude::*;

    use super::*;
    use crate::body::Body;

    /// The next frame, if it is there.
    fn next(body: &mut Body) -> Poll<Option<Result<Bytes, Failure>>> {
        let frame = Pin::new(body).poll_frame(&mut Context::from_waker(Waker::noop()));
        frame.map(|frame| frame.map(|frame| frame.map(|frame| frame.into_data().expect("no trailers"))))
    }

    /// The same when the copy had its turn.
    fn next_after_turn(body: &mut Body) -> Poll<Option<Result<Bytes, Failure>>> {
        match next(body) {
            Poll::Pending => next(body),
            frame => frame,
        }
    }

    /// A body that comes in these pieces: a copy of a copy, which is one that comes from outside.
    fn source(room: &Room) -> (RefCell<Copies>, Body) {
        let mut copies = Copies::default();
        let body = Body::of(super::super::Source::Copy(copies.add(None, room)));
        (RefCell::new(copies), body)
    }

    proptest! {
        /// Oracle: who reads in time gets the bytes, whatever the order of writing and reading; who does not gets the
        /// beginning of them and is told. The body itself comes whole, and all room is given back.
        #[test]
        fn a_copy_is_the_body_or_breaks_off(steps in prop::collection::vec(prop_oneof![3 => Just(true), 1 => Just(false)], 0..40)) {
            const PIECE: usize = 100 * 1024;
            let (feed, outer) = (Room::new(usize::MAX / 2), Room::new(5 * PIECE));
            let (copies, mut body) = source(&feed);
            let mut copy = body.copy(&outer);
            let (mut sent, mut got, mut failed) = (Vec::new(), Vec::new(), None);
            for (number, is_write) in steps.into_iter().enumerate() {
                if is_write {
                    let piece = vec![u8::try_from(number).expect("few"); PIECE];
                    sent.extend_from_slice(&piece);
                    copies.borrow_mut().took(&Frame::data(piece.into()));
                    let taken = next_after_turn(&mut body);
                    prop_assert!(matches!(taken, Poll::Ready(Some(Ok(taken))) if taken.len() == PIECE));
                } else {
                    while let Poll::Ready(Some(frame)) = next(&mut copy) {
                        match frame {
                            Ok(data) => got.extend_from_slice(&data),
                            Err(failure) => { failed = Some(failure); break }
                        }
                    }
                }
            }
            copies.borrow_mut().ended(Ending::Complete);
            prop_assert!(matches!(next_after_turn(&mut body), Poll::Ready(None)));
            while let Poll::Ready(Some(frame)) = next(&mut copy) {
                match frame {
                    Ok(data) => got.extend_from_slice(&data),
                    Err(failure) => { failed = Some(failure); break }
                }
            }
            prop_assert!(failed.is_none_or(|failure| failure == Failure::Behind));
            prop_assert!(sent.starts_with(&got) && (failed.is_some() || got.len() == sent.len()));
            prop_assert!(failed.is_none() || sent.len() > 5 * PIECE);
            drop(copy);
            prop_assert_eq!(outer.0.get(), 5 * PIECE);
        }
    }

    #[tokio::test]
    async fn a_body_that_is_given_up_takes_its_copy_along() {
        let room = Room::new(1024);
        let (copies, mut body) = source(&room);
        let mut copy = body.copy(&Room::new(1024));
        copies.borrow_mut().took(&Frame::data(Bytes::from_static(b"half")));
        assert!(matches!(next(&mut body), Poll::Ready(Some(Ok(_)))));
        drop(body);
        let first = poll_fn(|context| Pin::new(&mut copy).poll_frame(context)).await;
        assert_eq!(first.expect("a frame").expect("data").into_data().expect("data"), "half");
        assert!(matches!(next(&mut copy), Poll::Ready(Some(Err(Failure::Broken)))));
    }
}
