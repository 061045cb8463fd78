//! What a connection runs on: TCP, or TLS on it.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use rustix::net::{RecvFlags, SendFlags};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;
use tokio_util::io::poll_read_buf;

use super::buffers::READ_BYTES;

/// What a connection runs on.
#[derive(Debug)]
pub enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    /// Whether there may be something to read. It spares a connection without traffic the memory to read into.
    pub fn poll_read_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(stream) => stream.poll_read_ready(context),
            Self::Tls(_) => Poll::Ready(Ok(())),
        }
    }

    /// Reads what there is room for behind what was read already, after [`Self::poll_read_ready`] had its say.
    pub fn poll_read_ahead(&mut self, context: &mut Context<'_>, input: &mut BytesMut) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(stream) => loop {
                match read_ready(stream, input) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready!(stream.poll_read_ready(context))?,
                    read => return Poll::Ready(read),
                }
            },
            Self::Tls(stream) => poll_read_buf(Pin::new(stream), context, input),
        }
    }

    /// Whether nothing has come that was not read, as far as the runtime knows.
    pub fn is_quiet(&self) -> bool {
        self.tcp().try_io(Interest::READABLE, || Ok(())).is_err()
    }

    fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }

    pub fn socket(&self) -> SockRef<'_> {
        SockRef::from(self.tcp())
    }
}

// Reading and writing go past the C library: in a process with threads it makes every call a point at which the thread may
// be cancelled, for which it synchronises twice.

thread_local! {
    /// Where most of what comes is put at first.
    static ARRIVED: RefCell<[u8; READ_BYTES]> = const { RefCell::new([0; READ_BYTES]) };
}

/// Reads if the runtime knows of something to read.
fn read_ready(stream: &TcpStream, input: &mut BytesMut) -> io::Result<usize> {
    let room = input.capacity() - input.len();
    let mut count = 0;
    let tried = stream.try_io(Interest::READABLE, || {
        count = if room > READ_BYTES { stream.try_read_buf(input)? } else { receive(stream, input, room)? };
        // Less than there was room for is all there was: another read waits for more, and does not ask the kernel.
        if (1..room).contains(&count) { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
    });
    if count > 0 { Ok(count) } else { tried.map(|()| 0) }
}

fn receive(stream: &TcpStream, input: &mut BytesMut, room: usize) -> io::Result<usize> {
    ARRIVED.with_borrow_mut(|arrived| {
        let (count, _) = rustix::net::recv(stream, &mut arrived[..room], RecvFlags::empty())?;
        input.extend_from_slice(&arrived[..count]);
        Ok(count)
    })
}

/// Writes if the runtime knows of nothing against it.
fn write_ready(stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    stream.try_io(Interest::WRITABLE, || Ok(rustix::net::send(stream, bytes, SendFlags::NOSIGNAL)?))
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            // There is nearly always room, and asking for it first costs more than trying.
            Self::Plain(stream) => match write_ready(stream, bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Pin::new(stream).poll_write(context, bytes),
                written => Poll::Ready(written),
            },
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(context, pieces),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(context, pieces),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(_) => Poll::Ready(Ok(())),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
