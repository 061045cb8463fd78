//! The streams of HTTP/2, on either side of the gateway (RFC 9113): what comes on them, what is sent on them, and what
//! they become after a switch of protocols. Frames, windows and HPACK are those of the codec, `h2`.

mod incoming;
mod pump;
mod switched;

pub use incoming::Incoming;
pub use pump::Pump;
pub use switched::Switched;

use bytes::Bytes;
use h2::SendStream;
use std::task::{Context, Poll, ready};

use crate::http1::Broken;

/// Waits until something of this length, or its beginning, may be sent, and tells how much.
fn poll_room(stream: &mut SendStream<Bytes>, length: usize, context: &mut Context<'_>) -> Poll<Result<usize, Broken>> {
    loop {
        let room = stream.capacity();
        if room > 0 {
            return Poll::Ready(Ok(room.min(length)));
        }
        match ready!(stream.poll_capacity(context)) {
            Some(Ok(_)) => {}
            // It was reset, or its connection is gone.
            Some(Err(_)) | None => return Poll::Ready(Err(Broken::Peer)),
        }
    }
}
