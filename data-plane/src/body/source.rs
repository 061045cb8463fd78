//! Where the frames of a body come from.

use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::Failure;
use super::copy::Copy;
use super::replay::Replayed;
use super::translated::Translated;
use crate::{http1, http2};

pub(super) enum Source {
    Empty,
    Full(Bytes),
    Http1(http1::Incoming),
    Http2(http2::Incoming),
    Copy(Copy),
    Translated(Translated),
    Replayed(Replayed),
}

impl Source {
    pub(super) fn is_end(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(_) => false,
            Self::Http1(incoming) => incoming.is_end(),
            Self::Http2(incoming) => incoming.is_end(),
            Self::Copy(copy) => copy.is_end(),
            Self::Translated(translated) => translated.is_end(),
            Self::Replayed(replayed) => replayed.is_end(),
        }
    }

    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        match self {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => {
                let frame = Frame::data(std::mem::take(bytes));
                *self = Self::Empty;
                Poll::Ready(Some(Ok(frame)))
            }
            Self::Http1(incoming) => incoming.poll_frame(context),
            Self::Http2(incoming) => incoming.poll_frame(context),
            Self::Copy(copy) => copy.poll_frame(context),
            Self::Translated(translated) => translated.poll(context),
            Self::Replayed(replayed) => replayed.poll_frame(context),
        }
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Http1(incoming) => incoming.remaining().map_or_else(SizeHint::default, SizeHint::with_exact),
            Self::Http2(incoming) => incoming.remaining().map_or_else(SizeHint::default, SizeHint::with_exact),
            Self::Copy(copy) => copy.size_hint(),
            Self::Translated(_) => SizeHint::default(),
            Self::Replayed(replayed) => replayed.size_hint(),
        }
    }
}
