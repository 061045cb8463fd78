//! A body that can be sent more than once, as long as it is short: what its receivers take is kept within a bound.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body as _, Frame, SizeHint};

use super::{Body, Failure, Room, Source};

/// A body from which others are made that are all the same.
pub struct Replay(Rc<RefCell<Kept>>);

/// One of them, to be read.
pub(super) struct Replayed {
    kept: Rc<RefCell<Kept>>,
    /// How much of what is kept it has passed on.
    place: usize,
    is_over: bool,
}

struct Kept {
    source: Body,
    /// Bytes of its own: a part of another's buffer would keep all of it alive.
    bytes: BytesMut,
    trailers: Option<HeaderMap>,
    /// All of the source was taken.
    is_whole: bool,
    /// How much may be kept. Nothing when the beginning is gone.
    limit: Option<usize>,
    room: Room,
}

impl Replay {
    /// Nothing if the body is known to be longer than the limit: then it stays what it was.
    pub fn of(body: Body, limit: usize, room: &Room) -> Result<Self, Body> {
        if body.size_hint().lower() > limit as u64 {
            return Err(body);
        }
        let kept = Kept {
            source: body,
            bytes: BytesMut::new(),
            trailers: None,
            is_whole: false,
            limit: Some(limit),
            room: room.clone(),
        };
        Ok(Self(Rc::new(RefCell::new(kept))))
    }

    /// The body from its beginning, if that is still there.
    pub fn body(&self) -> Option<Body> {
        self.0.borrow().limit?;
        let (kept, place, is_over) = (Rc::clone(&self.0), 0, false);
        Some(Body::of(Source::Replayed(Replayed { kept, place, is_over })))
    }

    /// Whether all of it is kept, so that several may read it at a time.
    pub fn is_whole(&self) -> bool {
        let kept = self.0.borrow();
        kept.is_whole && kept.limit.is_some()
    }
}

impl Drop for Replay {
    /// No other will be made of it: what is yet to come is not kept.
    fn drop(&mut self) {
        self.0.borrow_mut().limit = None;
    }
}

impl Kept {
    fn keep(&mut self, data: &[u8]) -> bool {
        let Some(limit) = self.limit else { return false };
        if self.bytes.len() + data.len() <= limit && self.room.take(data.len()) {
            self.bytes.extend_from_slice(data);
            return true;
        }
        self.limit = None;
        self.room.give_back(self.bytes.len());
        self.bytes = BytesMut::new();
        false
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.room.give_back(self.bytes.len());
    }
}

impl Replayed {
    pub(super) fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        let kept = &mut *self.kept.borrow_mut();
        if let Some(rest) = kept.bytes.get(self.place..).filter(|rest| !rest.is_empty()) {
            self.place = kept.bytes.len();
            return Poll::Ready(Some(Ok(Frame::data(Bytes::copy_from_slice(rest)))));
        }
        if self.is_over {
            return Poll::Ready(None);
        }
        if kept.is_whole {
            self.is_over = true;
            return Poll::Ready(kept.trailers.clone().map(|trailers| Ok(Frame::trailers(trailers))));
        }
        let frame = ready!(Pin::new(&mut kept.source).poll_frame(context));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    if kept.keep(data) {
                        self.place = kept.bytes.len();
                    }
                    kept.is_whole = kept.source.is_end_stream();
                    self.is_over = kept.is_whole;
                } else {
                    kept.trailers = frame.trailers_ref().cloned();
                    (kept.is_whole, self.is_over) = (true, true);
                }
            }
            Some(Err(_)) => kept.limit = None,
            None => (kept.is_whole, self.is_over) = (true, true),
        }
        Poll::Ready(frame)
    }

    pub(super) fn is_end(&self) -> bool {
        let kept = self.kept.borrow();
        let is_read = self.place >= kept.bytes.len();
        let has_more = if kept.is_whole { kept.trailers.is_some() } else { !kept.source.is_end_stream() };
        is_read && (self.is_over || !has_more)
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        let kept = self.kept.borrow();
        let rest = kept.bytes.len().saturating_sub(self.place) as u64;
        let to_come = if kept.is_whole { Some(0) } else { kept.source.size_hint().exact() };
        to_come.map_or_else(SizeHint::default, |to_come| SizeHint::with_exact(to_come + rest))
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use proptest::prelude::*;

    use super::*;

    fn source(pieces: &[Vec<u8>], trailers: bool) -> Body {
        let room = Room::new(usize::MAX / 2);
        let mut copies = super::super::copy::Copies::default();
        let body = Body::of(Source::Copy(copies.add(None, &room)));
        for piece in pieces {
            copies.took(&Frame::data(Bytes::copy_from_slice(piece)));
        }
        if trailers {
            let mut fields = HeaderMap::new();
            fields.insert("x-end", 1.into());
            copies.took(&Frame::trailers(fields));
        }
        copies.ended(super::super::Ending::Complete);
        body
    }

    /// Takes some bytes at least, and says whether it is at the end.
    fn take(body: &mut Body, bytes: usize, into: &mut Vec<u8>, trailers: &mut bool) -> bool {
        while into.len() < bytes {
            match Pin::new(&mut *body).poll_frame(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(Some(frame)) => match frame.expect("no failure").into_data() {
                    Ok(data) => into.extend_from_slice(&data),
                    Err(_) => *trailers = true,
                },
                Poll::Ready(None) => return true,
                Poll::Pending => panic!("all of it is there"),
            }
        }
        false
    }

    proptest! {
        /// Oracle: however far receivers before it came, the next gets the same body, unless more passed than may be kept.
        #[test]
        fn every_receiver_gets_the_same(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..8),
            has_trailers in any::<bool>(),
            breaks in prop::collection::vec(0usize..300, 0..4),
            limit in 0usize..300,
        ) {
            let (whole, room) = (pieces.concat(), Room::new(250));
            let mut replay = Replay::of(source(&pieces, has_trailers), limit, &room).ok();
            let mut furthest = 0;
            for at in breaks {
                let Some(body) = replay.as_ref().and_then(Replay::body) else { break };
                let (mut body, mut got, mut trailers) = (body, Vec::new(), false);
                take(&mut body, at, &mut got, &mut trailers);
                prop_assert!(whole.starts_with(&got));
                furthest = furthest.max(got.len());
            }
            let last = replay.as_ref().and_then(Replay::body);
            prop_assert_eq!(last.is_some(), replay.is_some() && furthest <= limit.min(250));
            if let Some(mut body) = last {
                // Whoever reads the last of them lets go of the rest.
                replay = replay.filter(|_| has_trailers);
                let (mut got, mut trailers) = (Vec::new(), false);
                prop_assert!(take(&mut body, usize::MAX, &mut got, &mut trailers));
                prop_assert_eq!((got, trailers), (whole, has_trailers));
            }
            drop(replay);
            prop_assert!(room.take(250), "all room is given back");
        }
    }

    #[test]
    fn a_body_that_is_known_to_be_too_long_stays_as_it_is() {
        let body = Body::full(Bytes::from(vec![0; 11]));
        assert!(Replay::of(body, 10, &Room::new(100)).is_err());
        let replay = Replay::of(Body::full(Bytes::from(vec![0; 10])), 10, &Room::new(100)).ok().expect("short enough");
        let mut body = replay.body().expect("nothing was taken");
        assert_eq!((body.size_hint().exact(), replay.is_whole()), (Some(10), false));
        let (mut got, mut trailers) = (Vec::new(), false);
        take(&mut body, 10, &mut got, &mut trailers);
        assert!(replay.is_whole() && body.is_end_stream());
        assert_eq!(replay.body().and_then(|body| body.size_hint().exact()), Some(10));
    }
}
