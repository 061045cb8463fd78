//! What the counts of durations mean that a node tells of.

/// Upper bounds of the buckets, in seconds. There is one more bucket than bounds, for what is above them all.
pub const BOUNDS_SECONDS: [f64; 15] =
    [0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0];
