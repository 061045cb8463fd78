//! What tests of the whole system share: real processes, real databases and real sockets, all on loopback and
//! all thrown away at the end of a test.

pub mod address;
pub mod gateway;
pub mod history;
pub mod http;
pub mod postgres;
pub mod relay;
pub mod traffic;
