//! How a connection to the control plane ended, in words for who runs the node.

use std::error::Error;
use std::io;

use rustls::{CertificateError, OtherError};
use tonic::{Code, Status};

/// How a connection ended.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    #[error("cannot read the token in {path}: {reason}")]
    Token { path: String, reason: String },
    #[error(
        "it has not joined yet: give it a join token, which `sluice join-token create` makes, with --join-token-file"
    )]
    NoJoinToken,
    #[error("cannot use the join token: {0}")]
    JoinToken(String),
    #[error("the join token is for the gateway `{token}`, and this node is of the gateway `{node}`")]
    OtherGateway { token: String, node: String },
    /// What it showed is not taken any more, and its join token neither.
    #[error("{refused}; and with its join token it cannot join again: {}", status.message())]
    Outside { refused: String, status: Status },
    #[error("cannot keep its certificate on disk: {0}")]
    Disk(String),
    #[error("cannot connect: {0}")]
    Unreachable(String),
    #[error("the control plane refuses this node: {}", .0.message())]
    Rejected(Status),
    #[error(
        "the connection ended before the stream began; plain text is for loopback alone, elsewhere the URL is https"
    )]
    Unopened,
    #[error("the connection broke: {}", .0.message())]
    Broken(Status),
    #[error("the control plane ended the stream")]
    Closed,
    #[error("the control plane was silent for too long")]
    Silent,
    #[error("the control plane does not keep to the protocol: {0}")]
    Protocol(&'static str),
}

impl Lost {
    /// It will stay so until somebody does something.
    pub fn is_lasting(&self) -> bool {
        match self {
            Self::Token { .. }
            | Self::NoJoinToken
            | Self::JoinToken(_)
            | Self::OtherGateway { .. }
            | Self::Outside { .. }
            | Self::Rejected(_)
            | Self::Protocol(_) => true,
            Self::Disk(_) | Self::Unreachable(_) | Self::Unopened | Self::Broken(_) | Self::Closed | Self::Silent => {
                false
            }
        }
    }
}

impl From<Status> for Lost {
    fn from(status: Status) -> Self {
        match status.code() {
            Code::Unauthenticated
            | Code::PermissionDenied
            | Code::NotFound
            | Code::InvalidArgument
            | Code::FailedPrecondition => Self::Rejected(status),
            _ => Self::Broken(status),
        }
    }
}

/// What tonic wraps says more than what it says itself.
pub fn why_unreachable(error: &(dyn Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    // What is no TLS at all begins with a record of an unknown type.
    let inside = innermost.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    match inside.and_then(|error| error.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType)) => {
            "no TLS is spoken there".to_owned()
        }
        Some(rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(why)))) => why.to_string(),
        Some(rustls::Error::InvalidCertificate(
            CertificateError::ExpiredContext { .. } | CertificateError::NotValidYetContext { .. },
        )) => format!("{innermost}; is the clock of this machine right?"),
        _ => innermost.to_string(),
    }
}
