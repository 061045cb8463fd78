//! The data plane: forwards traffic by the snapshot that it holds.

pub mod body;
pub mod clock;
pub mod cores;
pub mod current;
mod last_good;
mod listener;
pub mod port_holder;
mod proxy;
pub mod settings;
pub mod sync;
pub mod telemetry;
pub mod upstream;
