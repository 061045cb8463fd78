//! A path that did not come in its canonical spelling: it counts as it came where its route keeps it.

use http::StatusCode;
use http::uri::PathAndQuery;
use model::exchange::Exchange;
use model::rejection::Rejection;
use model::router::Found;
use model::router::path::PathFault;
use model::snapshot::{Snapshot, Spelling};

/// The target of a question about the server as a whole (RFC 9110 section 7.1).
pub const ASTERISK: &str = "*";

/// A target as it came, where that is not how it counts.
pub struct Received {
    pub target: PathAndQuery,
    /// Why its path has no canonical form. What stands in the head is then not the path.
    pub fault: Option<PathFault>,
}

impl Received {
    /// The route of the request, which gets the target that counts.
    pub fn find<'s>(self, snapshot: &'s Snapshot, exchange: &mut Exchange) -> Result<Option<Found<'s>>, Rejection> {
        // Of no route, whatever paths it takes.
        if exchange.request.target.path() == ASTERISK {
            return Ok(None);
        }
        let canonical = self.fault.map_or(Ok(exchange.request.target.path()), Err);
        let (found, spelling) =
            snapshot.find_spelled(&exchange.asks(), self.target.path(), canonical).map_err(refused)?;
        if spelling == Spelling::Received {
            exchange.request.target = self.target;
        }
        Ok(found)
    }
}

/// What a client gets whose path is not taken.
pub fn refused(fault: PathFault) -> Rejection {
    Rejection::new(StatusCode::BAD_REQUEST, fault.code(), fault.detail())
}
