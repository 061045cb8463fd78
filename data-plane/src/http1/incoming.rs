//! The body of the message that is being read on a connection.

use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::Frame;

use super::wire::SharedWire;
use crate::body::Failure;

/// It knows the number of its message, and gets nothing of another.
#[derive(Debug)]
pub struct Incoming {
    wire: SharedWire,
    message: u64,
}

impl Incoming {
    pub fn new(wire: &SharedWire) -> Self {
        Self { wire: Rc::clone(wire), message: wire.borrow().message }
    }

    pub fn is_end(&self) -> bool {
        let wire = self.wire.borrow();
        wire.message == self.message && wire.decoder.is_done()
    }

    /// How many bytes are left, where that is known.
    pub fn remaining(&self) -> Option<u64> {
        self.wire.borrow().decoder.remaining()
    }

    pub fn poll_frame(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        self.wire.borrow_mut().poll_frame(self.message, context)
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.wire.borrow_mut().release();
    }
}
