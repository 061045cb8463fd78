//! The whole API in one process, on a real store and a real publisher.

mod conflicts;
mod events;
mod faults;
mod files;
mod gateways;
mod harness;
mod metrics;
mod nodes;
mod operations;
mod outages;
mod reads;
mod rollouts;
mod secrets;
mod sockets;
mod targets;
mod writes;
