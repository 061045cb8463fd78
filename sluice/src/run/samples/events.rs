//! A stream of server-sent events, one a second for as long as the client listens.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame};
use tokio::time::{Interval, interval};

pub struct Events {
    pace: Interval,
    count: u64,
}

impl Events {
    pub fn new() -> Self {
        Self { pace: interval(Duration::from_secs(1)), count: 0 }
    }
}

impl Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        ready!(self.pace.poll_tick(cx));
        self.count += 1;
        let event = format!("id: {0}\ndata: event {0}\n\n", self.count);
        Poll::Ready(Some(Ok(Frame::data(event.into()))))
    }
}
