//! What is said to a client before the answer to its request (RFC 9110 section 15.2), and whether the client waits for
//! leave to send the body (section 10.1.1).
//!
//! The service says it, the codec of the client passes it on; both run in the task of the request.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use http::StatusCode;
use model::exchange::ResponseHead;

/// What is said before one answer.
#[derive(Default)]
pub struct Interim {
    heads: RefCell<Vec<ResponseHead>>,
    awaits_leave: Cell<bool>,
}

impl Interim {
    /// The client sends no more of its request until it is told to, or has waited long enough.
    pub fn expect_leave(&self) {
        self.awaits_leave.set(true);
    }

    /// Whether the client still waits.
    pub fn awaits_leave(&self) -> bool {
        self.awaits_leave.get()
    }

    /// The client does not wait any longer: it sends, or the answer is there.
    pub fn forget_leave(&self) {
        self.awaits_leave.set(false);
    }

    /// Says something. Leave to send is passed on only to who waits for it.
    pub fn say(&self, head: ResponseHead) {
        if head.status != StatusCode::CONTINUE || self.awaits_leave.take() {
            self.heads.borrow_mut().push(head);
        }
    }

    /// Takes what was said and not passed on.
    pub fn take(&self) -> Vec<ResponseHead> {
        if self.heads.borrow().is_empty() { Vec::new() } else { self.heads.take() }
    }
}

/// Shared by those who say it, those who pass it on, and the body that is waited for.
pub type SharedInterim = Rc<Interim>;
