//! Properties that hold in every small world: random configurations over a handful of names.

mod behaviour;
mod deltas;
mod schema;
mod universe;
