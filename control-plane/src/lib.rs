//! The control plane keeps the truth and publishes it.

pub mod distribution;
pub mod nodes;
pub mod publish;
pub mod store;
pub mod token;
