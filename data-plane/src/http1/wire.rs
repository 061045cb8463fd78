//! One connection: what was read and not yet understood, what was said and not yet sent, and where in which message
//! the peer is.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, Method};
use http_body::Frame;
use tokio::io::AsyncWrite;

use super::buffers::{READ_BYTES, leave_input, leave_output, take_input, take_output};
use super::encode;
use super::framing::{Decoder, Length, Part};
use super::head::{Bounds, Fault, RequestHead, ResponseHead};
use super::lines::Reader;
use super::stream::Stream;
use crate::body::Failure;

/// What is read at once, at most: a body that fills what it is given gets more.
const MAX_READ_BYTES: usize = 64 * 1024;

/// Unsent bytes from which on a body has to wait.
const OUTPUT_BYTES: usize = 16 * 1024;

/// Data of at least this length is sent from where it lies, less is copied to what goes before it.
const COPY_BYTES: usize = 4 * 1024;

/// Interim responses to one request (RFC 9110 section 15.2): enough for any use, and not without end.
pub const MAX_INTERIM: u8 = 16;

/// What has passed on a connection, for who looks at it from outside.
#[derive(Debug, Default)]
pub struct Traffic {
    pub bytes_in: Cell<u64>,
    pub bytes_out: Cell<u64>,
    /// The last attempt to write found the peer's buffers full.
    pub is_write_blocked: Cell<bool>,
}

impl Traffic {
    pub fn received(&self, count: usize) {
        self.bytes_in.set(self.bytes_in.get() + count as u64);
    }

    /// Counts what an attempt to write came to.
    pub fn written(&self, written: &Poll<io::Result<usize>>) {
        self.is_write_blocked.set(written.is_pending());
        if let Poll::Ready(Ok(count)) = written {
            self.bytes_out.set(self.bytes_out.get() + *count as u64);
        }
    }
}

/// Why no message came.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    /// The peer ended the connection before a message began.
    #[error("the connection was closed")]
    Closed,
    #[error("the connection was closed within a message")]
    Torn,
    #[error("{0}")]
    Io(io::Error),
    #[error("{0}")]
    Fault(#[from] Fault),
}

/// One connection.
#[derive(Debug)]
pub struct Wire {
    pub(super) stream: Stream,
    pub(super) traffic: Rc<Traffic>,
    bounds: Bounds,
    pub(super) input: BytesMut,
    read_bytes: usize,
    /// The peer sends nothing more.
    is_ended: bool,
    reader: Reader,
    pub(super) decoder: Decoder,
    /// Counts the messages of the peer.
    pub(super) message: u64,
    interim: u8,
    output: Vec<u8>,
    /// Behind `output`, and what ends it.
    tail: Bytes,
    tail_end: &'static [u8],
    /// TLS may hold a part of what was written.
    owes_flush: bool,
    released: Option<Waker>,
}

/// A connection that is shared between who runs it and who reads the body on it; all on one core.
pub type SharedWire = Rc<RefCell<Wire>>;

impl Wire {
    /// `input` was read from the stream before.
    pub fn new(stream: Stream, input: BytesMut, bounds: Bounds, traffic: Rc<Traffic>) -> Self {
        traffic.received(input.len());
        Self {
            stream,
            traffic,
            bounds,
            input,
            read_bytes: READ_BYTES,
            is_ended: false,
            reader: Reader::default(),
            decoder: Decoder::Done,
            message: 0,
            interim: 0,
            output: Vec::new(),
            tail: Bytes::new(),
            tail_end: b"",
            owes_flush: false,
            released: None,
        }
    }

    /// The next request. An empty line before it is passed over (RFC 9112 section 2.2).
    pub fn poll_request(&mut self, context: &mut Context<'_>) -> Poll<Result<RequestHead, Lost>> {
        loop {
            if !self.reader.has_begun() && self.input.starts_with(b"\r\n") {
                self.input.advance(2);
                self.reader = Reader::default();
            }
            if let Some(lines) = self.reader.read(&mut self.input, &self.bounds)? {
                let head = RequestHead::parse(lines)?;
                self.begin(head.length);
                return Poll::Ready(Ok(head));
            }
            ready!(self.poll_more(context))?;
        }
    }

    /// The next response to a request of the method: the answer, a switch of protocols, or what comes before it.
    pub fn poll_response(&mut self, context: &mut Context<'_>, method: &Method) -> Poll<Result<ResponseHead, Lost>> {
        loop {
            if let Some(lines) = self.reader.read(&mut self.input, &self.bounds)? {
                let head = ResponseHead::parse(lines, method)?;
                if !head.is_interim() {
                    self.begin(head.length);
                    return Poll::Ready(Ok(head));
                }
                self.interim += 1;
                return Poll::Ready(match self.interim > MAX_INTERIM {
                    true => Err(Fault::Malformed("There are too many interim responses.").into()),
                    false => Ok(head),
                });
            }
            ready!(self.poll_more(context))?;
        }
    }

    fn begin(&mut self, length: Length) {
        self.decoder = Decoder::new(length, self.bounds.head_bytes);
        self.message += 1;
        self.interim = 0;
        self.read_bytes = READ_BYTES;
    }

    /// Reads more of a message that has not ended.
    fn poll_more(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Lost>> {
        match ready!(self.poll_fill(context)) {
            Ok(0) if self.input.is_empty() && self.interim == 0 => Poll::Ready(Err(Lost::Closed)),
            Ok(0) => Poll::Ready(Err(Lost::Torn)),
            Ok(_) => Poll::Ready(Ok(())),
            Err(error) if self.input.is_empty() && self.interim == 0 && is_closing(&error) => {
                Poll::Ready(Err(Lost::Closed))
            }
            Err(error) => Poll::Ready(Err(Lost::Io(error))),
        }
    }

    /// Reads what there is, and holds no memory when there is nothing.
    fn poll_fill(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let filled = self.poll_read(context);
        if filled.is_pending() && self.input.is_empty() {
            leave_input(&mut self.input);
        }
        filled
    }

    fn poll_read(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.is_ended {
            return Poll::Ready(Ok(0));
        }
        // Without traffic there is nothing to hold memory for.
        ready!(self.stream.poll_read_ready(context))?;
        if self.input.capacity() == self.input.len() {
            match self.input.is_empty() {
                true => self.input = take_input(self.read_bytes),
                false => self.input.reserve(self.read_bytes),
            }
        }
        let room = self.input.capacity() - self.input.len();
        let count = ready!(self.stream.poll_read_ahead(context, &mut self.input))?;
        self.is_ended = count == 0;
        if count == room {
            self.read_bytes = (self.read_bytes * 2).min(MAX_READ_BYTES);
        }
        self.traffic.received(count);
        Poll::Ready(Ok(count))
    }

    /// Ready when the peer has gone while it is our turn. What it sends ahead of its turn is kept, and no more is read
    /// than once. The memory stays: the message that came in it is still there.
    pub fn poll_gone(&mut self, context: &mut Context<'_>) -> Poll<()> {
        while self.decoder.is_done() && self.input.is_empty() {
            match ready!(self.poll_read(context)) {
                Ok(0) | Err(_) => return Poll::Ready(()),
                Ok(_) => {}
            }
        }
        Poll::Pending
    }

    /// Whether the peer is silent and there, as far as can be told without asking the kernel.
    pub fn is_at_rest(&mut self) -> bool {
        let context = &mut Context::from_waker(Waker::noop());
        // What comes unasked may be a word of TLS about itself.
        self.is_between_messages()
            && (self.stream.is_quiet() || (self.poll_fill(context).is_pending() && self.input.is_empty()))
    }

    /// Whether the peer has closed the connection or says something, as the kernel knows it at this moment.
    pub fn is_left(&self) -> bool {
        let mut byte = [std::mem::MaybeUninit::uninit()];
        let peeked = self.stream.socket().peek(&mut byte);
        !peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Whether everything that began has ended, in both directions.
    pub fn is_between_messages(&self) -> bool {
        self.decoder.is_done() && self.input.is_empty() && self.is_flushed() && !self.owes_flush && !self.is_ended
    }

    /// Whether the message of the peer has been read to its end.
    pub fn is_read(&self) -> bool {
        self.decoder.is_done()
    }

    /// How much has come that belongs to no message yet.
    pub fn input_length(&self) -> usize {
        self.input.len()
    }

    /// Passes over the rest of the body as far as it is there.
    pub fn skip_body(&mut self) {
        while !self.decoder.is_done() {
            match self.decoder.next(&mut self.input) {
                Ok(Some(_)) => {}
                // What is wrong with it is found again by who reads it.
                Ok(None) | Err(_) => return,
            }
        }
    }

    /// Ready when the body was read to its end, or nobody is there to read it.
    pub fn poll_released(wire: &SharedWire, context: &mut Context<'_>) -> Poll<()> {
        let is_read = Rc::strong_count(wire) > 1 && !wire.borrow().is_read();
        wire.borrow_mut().released = is_read.then(|| context.waker().clone());
        if is_read { Poll::Pending } else { Poll::Ready(()) }
    }

    pub(super) fn release(&mut self) {
        if let Some(waker) = self.released.take() {
            waker.wake();
        }
    }

    /// Reads and forgets until the peer ends.
    pub fn poll_drain(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            self.input.clear();
            match ready!(self.poll_fill(context)) {
                Ok(0) | Err(_) => return Poll::Ready(()),
                Ok(_) => {}
            }
        }
    }

    /// Where heads are written.
    pub fn output(&mut self) -> &mut Vec<u8> {
        if self.output.capacity() == 0 {
            self.output = take_output();
        }
        &mut self.output
    }

    /// Whether a body may go on. What is in the way has to be flushed.
    pub fn has_room(&self) -> bool {
        self.output.len() < OUTPUT_BYTES && self.tail.is_empty() && self.tail_end.is_empty()
    }

    /// Whether the peer has taken all that was for it.
    pub fn is_flushed(&self) -> bool {
        self.output.is_empty() && self.tail.is_empty() && self.tail_end.is_empty()
    }

    /// Queues data of a body; there must be room.
    pub fn put_data(&mut self, data: Bytes, is_chunked: bool) {
        if is_chunked {
            encode::chunk_size(&mut self.output, data.len());
        }
        let end: &[u8] = if is_chunked { b"\r\n" } else { b"" };
        if data.len() < COPY_BYTES {
            self.output.extend_from_slice(&data);
            self.output.extend_from_slice(end);
        } else {
            (self.tail, self.tail_end) = (data, end);
        }
    }

    pub fn put_last_chunk(&mut self, trailers: Option<&HeaderMap>) {
        encode::last_chunk(&mut self.output, trailers);
    }

    /// Sends what is queued.
    pub fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_flushed() && !self.owes_flush {
            return Poll::Ready(Ok(()));
        }
        while !self.is_flushed() {
            let stream = Pin::new(&mut self.stream);
            let written = if self.tail.is_empty() && self.tail_end.is_empty() {
                stream.poll_write(context, &self.output)
            } else {
                let pieces = [&self.output[..], &self.tail[..], self.tail_end];
                stream.poll_write_vectored(context, &pieces.map(IoSlice::new))
            };
            self.traffic.written(&written);
            let count = ready!(written)?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            if count == self.output.len() + self.tail.len() + self.tail_end.len() {
                break;
            }
            let of_output = count.min(self.output.len());
            let of_tail = (count - of_output).min(self.tail.len());
            self.output.drain(..of_output);
            self.tail.advance(of_tail);
            self.tail_end = &self.tail_end[count - of_output - of_tail..];
        }
        leave_output(&mut self.output);
        self.tail = Bytes::new();
        self.tail_end = b"";
        self.owes_flush = true;
        ready!(Pin::new(&mut self.stream).poll_flush(context))?;
        self.owes_flush = false;
        Poll::Ready(Ok(()))
    }

    pub fn poll_shutdown(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    /// The next frame of the body of a message.
    pub(super) fn poll_frame(
        &mut self,
        message: u64,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Failure>>> {
        if self.message != message {
            return Poll::Ready(Some(Err(Failure::Broken)));
        }
        loop {
            match self.decoder.next(&mut self.input) {
                Ok(Some(part)) => {
                    if self.decoder.is_done() {
                        self.release();
                    }
                    return Poll::Ready(match part {
                        Part::Data(data) => Some(Ok(Frame::data(data))),
                        Part::Trailers(trailers) => Some(Ok(Frame::trailers(trailers))),
                        Part::End => None,
                    });
                }
                Ok(None) => {}
                Err(_) => return Poll::Ready(Some(Err(Failure::Broken))),
            }
            match ready!(self.poll_fill(context)) {
                Ok(0) if self.decoder.ended() => return Poll::Ready(None),
                Ok(0) | Err(_) => return Poll::Ready(Some(Err(Failure::Broken))),
                Ok(_) => {}
            }
        }
    }
}

fn is_closing(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), ConnectionReset | BrokenPipe | ConnectionAborted | UnexpectedEof)
}
