//! The conversation between the planes: a real control plane over SQLite, real nodes but for the cores.

mod convergence;
mod disk;
mod faults;
mod planes;
mod protocol;
mod targets;
mod tickets;
