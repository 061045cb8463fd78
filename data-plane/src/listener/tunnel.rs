//! A connection after a protocol switch (RFC 9110 section 7.8): bytes both ways until one side ends.

use std::rc::Rc;
use std::time::Duration;

use tokio::io::copy_bidirectional_with_sizes;

use super::connection::Connection;
use crate::http1::{SharedWire, Switched};
use crate::proxy::record::Record;
use crate::upstream::Upgraded;

/// Enough for most messages; more of them pass in turns.
const BUFFER_BYTES: usize = 16 * 1024;

/// What a connection becomes when the service has switched protocols.
pub struct Tunnel {
    pub service: Upgraded,
    /// Without any byte in either direction.
    pub idle: Duration,
    /// Ends with the tunnel.
    pub record: Box<Record>,
}

impl Tunnel {
    /// Passes bytes both ways, first those that came behind the request and the answer.
    pub async fn run(self, connection: &Rc<Connection>, client: SharedWire) {
        let Self { mut service, idle, mut record } = self;
        let traffic = connection.traffic.clone();
        let early = client.borrow().input_length();
        let (bytes_in, bytes_out) = (traffic.bytes_in.get() - early as u64, traffic.bytes_out.get());
        let mut client = Switched(client);
        let pass = async {
            // How it ended is for the two ends to know.
            let _ = copy_bidirectional_with_sizes(&mut client, &mut service.stream, BUFFER_BYTES, BUFFER_BYTES).await;
        };
        tokio::select! {
            () = pass => {}
            () = idles(connection, idle) => {}
        }
        record.bytes_in = traffic.bytes_in.get() - bytes_in;
        record.bytes_out = traffic.bytes_out.get() - bytes_out;
    }
}

/// Ends when nothing has passed for `span`, within half of it.
async fn idles(connection: &Rc<Connection>, span: Duration) {
    let passed = || (connection.traffic.bytes_in.get(), connection.traffic.bytes_out.get());
    let (mut before, mut quiet) = (passed(), Duration::ZERO);
    while quiet < span {
        connection.core.clock.deadline(span / 2).await;
        let now = passed();
        quiet = if now == before { quiet + span / 2 } else { Duration::ZERO };
        before = now;
    }
}
