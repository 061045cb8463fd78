//! A connection after a protocol switch (RFC 9110 section 7.8): bytes both ways until one side ends.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, copy_bidirectional_with_sizes};

use super::connection::Connection;
use super::io::Observed;
use crate::proxy::record::Record;

/// Enough for most messages; more of them pass in turns.
const BUFFER_BYTES: usize = 16 * 1024;

/// What a connection becomes when the service has switched protocols.
pub struct Tunnel {
    pub service: OnUpgrade,
    /// Without any byte in either direction.
    pub idle: Duration,
    /// Ends with the tunnel.
    pub record: Box<Record>,
}

impl Tunnel {
    /// Passes bytes both ways. `early` came behind the request.
    pub async fn run<S>(self, connection: &Rc<Connection>, mut client: Observed<S>, early: Bytes)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let Self { service, idle, mut record } = self;
        let traffic = connection.traffic.clone();
        let (bytes_in, bytes_out) = (traffic.bytes_in.get() - early.len() as u64, traffic.bytes_out.get());
        let pass = async {
            let Ok(upgraded) = service.await else { return };
            let mut service = TokioIo::new(upgraded);
            if service.write_all(&early).await.is_ok() {
                let passed = copy_bidirectional_with_sizes(&mut client, &mut service, BUFFER_BYTES, BUFFER_BYTES);
                // How it ended is for the two ends to know.
                let _ = passed.await;
            }
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
