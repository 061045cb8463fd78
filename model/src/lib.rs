//! What a configuration means.
//!
//! A user writes *resources*; together they parse into a [`config::Config`]; a config compiles into
//! a [`snapshot::Snapshot`]; every request is served by exactly one snapshot. The control plane runs
//! this code before it publishes, the node runs the same code before it swaps, the CLI runs it offline.
//!
//! Nothing here does I/O, reads a clock or knows a runtime: time and randomness arrive in the
//! [`exchange::Exchange`].

pub mod config;
pub mod digest;
pub mod exchange;
pub mod explain;
pub mod fields;
pub mod file;
pub mod filter;
pub mod hashing;
mod index;
pub mod lint;
pub mod membership;
pub mod networks;
pub mod pattern;
pub mod policy;
pub mod problem;
pub mod rejection;
pub mod resource;
pub mod router;
pub mod schema;
pub mod sealing;
pub mod secret;
pub mod slots;
pub mod snapshot;
mod sorted;
mod text;
pub mod value;
pub mod wire;
pub mod written;
