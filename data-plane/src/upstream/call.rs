//! What a call of gRPC says about its target: by its code, which comes in the head of an answer without messages, and else in
//! its trailers (gRPC over HTTP/2, Responses).

use std::rc::Rc;

use http::HeaderMap;
use model::exchange::ResponseHead;

use super::backend::Backend;
use crate::body::{Ending, Failure};

const STATUS: &str = "grpc-status";

const DEADLINE_EXCEEDED: u8 = 4;

/// A call of which the code is yet to come.
pub(super) struct Call {
    pub(super) backend: Rc<Backend>,
    pub(super) target: usize,
    pub(super) head_ns: u64,
    pub(super) is_deadline_of_client: bool,
    pub(super) code: Option<u8>,
}

impl Call {
    pub(super) fn heard(&mut self, trailers: &HeaderMap) {
        self.code = trailers.get(STATUS).and_then(|code| code.to_str().ok()?.parse().ok());
    }

    pub(super) fn ended(self, ending: Ending) {
        match (self.code, ending) {
            (Some(code), _) => self.backend.called(self.target, code, self.head_ns, self.is_deadline_of_client),
            // An answer that ends without a code is none.
            (None, Ending::Complete | Ending::Failed(Failure::Broken)) => self.backend.fell_short(self.target),
            (None, Ending::Failed(_) | Ending::Dropped) => {}
        }
    }
}

/// The code in the head of an answer.
pub(super) fn code_of(head: &ResponseHead) -> Option<u8> {
    head.headers.get_str(STATUS).and_then(|code| code.parse().ok())
}

/// Whether it is the target that is at fault: codes that stand for a 5xx status, besides those that the call itself, or a
/// deadline that the client has set, may be to blame for.
pub(super) fn speaks_against_target(code: u8, is_deadline_of_client: bool) -> bool {
    const UNKNOWN: u8 = 2;
    const INTERNAL: u8 = 13;
    const UNAVAILABLE: u8 = 14;
    const DATA_LOSS: u8 = 15;
    match code {
        UNKNOWN | INTERNAL | UNAVAILABLE | DATA_LOSS => true,
        DEADLINE_EXCEEDED => !is_deadline_of_client,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_is_at_fault_for_what_would_be_a_5xx_status() {
        let against: Vec<u8> = (0..20).filter(|code| speaks_against_target(*code, false)).collect();
        assert_eq!(against, [2, 4, 13, 14, 15]);
        assert!(!speaks_against_target(DEADLINE_EXCEEDED, true));
    }
}
