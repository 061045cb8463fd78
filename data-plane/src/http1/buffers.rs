//! The buffers of connections. One that has nothing to say holds none, and whoever has something takes that which was
//! used last on this core.

use std::cell::RefCell;
use std::thread::LocalKey;

use bytes::BytesMut;

/// What is read at once, at least.
pub(super) const READ_BYTES: usize = 8 * 1024;

/// Buffers that a core keeps for the next connection that has something to read or to say: those that were used last are
/// still in the cache of the processor.
const SPARE_BUFFERS: usize = 64;

thread_local! {
    static SPARE_INPUT: RefCell<Vec<BytesMut>> = const { RefCell::new(Vec::new()) };
    static SPARE_OUTPUT: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer with room to read this much.
pub(super) fn take_input(room: usize) -> BytesMut {
    let mut buffer = SPARE_INPUT.with_borrow_mut(Vec::pop).unwrap_or_default();
    buffer.reserve(room);
    buffer
}

/// An empty buffer with room for a head.
pub(super) fn take_output() -> Vec<u8> {
    SPARE_OUTPUT.with_borrow_mut(Vec::pop).unwrap_or_else(|| Vec::with_capacity(READ_BYTES))
}

/// Gives a buffer up that holds nothing, unless it has grown large or messages still hold something of it.
pub(super) fn leave_input(buffer: &mut BytesMut) {
    let mut buffer = std::mem::take(buffer);
    if buffer.try_reclaim(READ_BYTES) && buffer.capacity() <= 2 * READ_BYTES {
        keep(&SPARE_INPUT, buffer);
    }
}

/// Gives a buffer up with what it holds, unless it has grown large.
pub(super) fn leave_output(buffer: &mut Vec<u8>) {
    let mut buffer = std::mem::take(buffer);
    buffer.clear();
    if (READ_BYTES..=2 * READ_BYTES).contains(&buffer.capacity()) {
        keep(&SPARE_OUTPUT, buffer);
    }
}

fn keep<T>(spare: &'static LocalKey<RefCell<Vec<T>>>, buffer: T) {
    spare.with_borrow_mut(|spare| {
        if spare.len() < SPARE_BUFFERS {
            spare.push(buffer);
        }
    });
}
