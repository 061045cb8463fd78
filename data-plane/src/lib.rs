//! The data plane: forwards traffic by the snapshot that it holds.

pub mod body;
pub mod clock;
pub mod cores;
pub mod current;
pub mod last_good;
pub mod port_holder;
pub mod settings;
pub mod sync;
pub mod telemetry;
pub mod upstream;
