pub mod sync;

pub mod telemetry;
pub mod upstream;
