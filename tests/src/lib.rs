//! What tests of the whole system share: throw-away servers that they start for themselves.

pub mod postgres;
