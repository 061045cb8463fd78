//! The conversation between the planes: generated from `sluice/v1/distribution.proto`.
//!
//! Nothing here knows what a resource means; `model::wire` is the one place that turns an
//! envelope into one.

pub mod body;
pub mod codec;
pub mod join;
pub mod signed;
pub mod traffic;

#[expect(
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::too_many_lines,
    reason = "generated code"
)]
mod generated {
    tonic::include_proto!("sluice.v1");
}

pub use generated::*;

/// Says how many there are, and nothing of what they are.
impl std::fmt::Debug for TicketKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TicketKeys({})", self.secrets.len())
    }
}

/// Without the secret.
impl std::fmt::Debug for EnrolRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EnrolRequest").field("node_id", &self.node_id).finish_non_exhaustive()
    }
}
