//! HTTP/1.1 on a connection, on either side of the gateway (RFC 9112).
//!
//! What could be read in two ways is refused and never repaired: two peers that read one message differently are
//! how one request gets into another. A message is framed anew from its parsed form, and a body knows the number of
//! its message, so that no byte of one exchange can reach another.

mod buffers;
mod chunked;
mod encode;
mod framing;
mod head;
mod incoming;
mod lines;
mod pump;
mod stream;
mod switched;
#[cfg(test)]
mod tests;
mod wire;

pub use chunked::is_forbidden_in_trailers;
pub use encode::{Announced, Date, interim_head, request_head, response_head};
pub use framing::Length;
pub use head::{Bounds, Fault, RequestHead, ResponseHead};
pub use incoming::Incoming;
pub use pump::{Broken, Pump};
pub use stream::Stream;
pub use switched::Switched;
pub use wire::{Lost, MAX_INTERIM, SharedWire, Traffic, Wire};
