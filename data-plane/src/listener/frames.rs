//! What passes on a connection of HTTP/2, frame by frame, and how much of it leads to nothing.
//!
//! The codec bounds what a client may make it hold; what a client may make it do is bounded here. A frame that carries
//! no part of a request or an answer costs a credit. Credits come with time and with what is of use to anybody, so that
//! whoever uses the connection never runs out of them, however long it lives, and whoever floods it does at once.

use std::io;

use crate::clock::Clock;

/// Frames that may lead to nothing, one after the other.
const MOST: u32 = 2000;
/// How many more of them a second brings.
const PER_SECOND: u64 = 500;
/// What a piece of a body brings, and how many of its bytes bring one more: for what comes, a peer may open a window and
/// send a ping to measure the path.
const FOR_DATA: u32 = 2;
const BYTES_FOR_ONE: u32 = 512;
/// What the head of an answer brings.
const FOR_AN_ANSWER: u32 = 2;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;

/// `END_STREAM` of data, `ACK` of settings.
const FIRST_FLAG: u8 = 1;

const PREFACE_BYTES: u32 = 24;
const HEAD_BYTES: usize = 9;

/// What a client did wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("the connection did not begin with settings")]
    Preface,
    #[error("too many frames led to nothing")]
    Flood,
}

/// The frames of one connection, in both directions.
pub struct Frames {
    incoming: Walk,
    outgoing: Walk,
    clock: Clock,
    credit: u32,
    /// When time last brought some.
    credited_ns: u64,
    has_settings: bool,
    last_stream: u32,
    fault: Option<Fault>,
}

/// The beginning of a frame (RFC 9113 section 4.1).
struct Head {
    length: u32,
    kind: u8,
    flags: u8,
    stream: u32,
}

/// A place in a sequence of frames.
#[derive(Default)]
struct Walk {
    head: [u8; HEAD_BYTES],
    head_length: usize,
    /// Bytes until the next head.
    payload: u32,
}

impl Fault {
    /// The stable name, for metrics.
    pub fn code(self) -> &'static str {
        match self {
            Self::Preface => "http2-preface",
            Self::Flood => "http2-flood",
        }
    }

    /// RFC 9113 section 7.
    fn number(self) -> u8 {
        match self {
            Self::Preface => 1,
            Self::Flood => 11,
        }
    }
}

impl From<Fault> for io::Error {
    fn from(fault: Fault) -> Self {
        Self::other(fault)
    }
}

impl Frames {
    pub fn new(clock: Clock) -> Self {
        Self {
            incoming: Walk { payload: PREFACE_BYTES, ..Walk::default() },
            outgoing: Walk::default(),
            credited_ns: clock.now().monotonic_ns,
            clock,
            credit: MOST,
            has_settings: false,
            last_stream: 0,
            fault: None,
        }
    }

    /// Looks at what came; the codec must not see it if that is a fault.
    pub fn received(&mut self, mut bytes: &[u8]) -> Result<(), Fault> {
        while let Some(head) = self.incoming.next(&mut bytes) {
            if !std::mem::replace(&mut self.has_settings, true)
                && (head.kind != SETTINGS || head.flags & FIRST_FLAG != 0)
            {
                self.fault = Some(Fault::Preface);
            }
            match head.kind {
                DATA if head.length > 0 => self.earn(FOR_DATA + head.length / BYTES_FOR_ONE),
                DATA if head.flags & FIRST_FLAG != 0 => {}
                HEADERS => self.last_stream = self.last_stream.max(head.stream),
                CONTINUATION if head.length > 0 => {}
                _ => self.spend(),
            }
        }
        self.fault.map_or(Ok(()), Err)
    }

    /// Looks at what was sent. A fault is told with what comes next: nothing more is done for the client until then.
    pub fn sent(&mut self, mut bytes: &[u8]) {
        while let Some(head) = self.outgoing.next(&mut bytes) {
            match head.kind {
                DATA if head.length > 0 => self.earn(FOR_DATA + head.length / BYTES_FOR_ONE),
                HEADERS => self.earn(FOR_AN_ANSWER),
                // For what the client did to its own stream.
                RST_STREAM => self.spend(),
                _ => {}
            }
        }
    }

    /// What tells the client why it ends; nothing if that would get into the midst of another frame.
    pub fn goodbye(&self) -> Option<[u8; 17]> {
        let fault = self.fault.filter(|_| self.outgoing.is_between())?;
        let [a, b, c, d] = self.last_stream.to_be_bytes();
        Some([0, 0, 8, GOAWAY, 0, 0, 0, 0, 0, a, b, c, d, 0, 0, 0, fault.number()])
    }

    fn earn(&mut self, credit: u32) {
        self.credit = (self.credit + credit).min(MOST);
    }

    fn spend(&mut self) {
        if self.credit == 0 {
            let now_ns = self.clock.now().monotonic_ns;
            let brought = (now_ns - self.credited_ns).saturating_mul(PER_SECOND) / 1_000_000_000;
            self.credit = u32::try_from(brought).unwrap_or(MOST).min(MOST);
            self.credited_ns = now_ns;
        }
        match self.credit.checked_sub(1) {
            Some(rest) => self.credit = rest,
            None => self.fault = self.fault.or(Some(Fault::Flood)),
        }
    }
}

impl Walk {
    /// The next head that is whole, and nothing when all bytes were walked over.
    fn next(&mut self, bytes: &mut &[u8]) -> Option<Head> {
        let skip = bytes.len().min(self.payload as usize);
        *bytes = &bytes[skip..];
        self.payload -= u32::try_from(skip).expect("it is no more than the payload");
        let take = bytes.len().min(HEAD_BYTES - self.head_length);
        self.head[self.head_length..][..take].copy_from_slice(&bytes[..take]);
        self.head_length += take;
        *bytes = &bytes[take..];
        if self.head_length < HEAD_BYTES {
            return None;
        }
        let [a, b, c, kind, flags, stream @ ..] = self.head;
        self.head_length = 0;
        self.payload = u32::from_be_bytes([0, a, b, c]);
        Some(Head { length: self.payload, kind, flags, stream: u32::from_be_bytes(stream) & 0x7fff_ffff })
    }

    fn is_between(&self) -> bool {
        self.payload == 0 && self.head_length == 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, flags: u8, length: u8) -> Vec<u8> {
        let mut bytes = vec![0, 0, length, kind, flags, 0, 0, 0, 1];
        bytes.resize(HEAD_BYTES + usize::from(length), 0xff);
        bytes
    }

    fn begun() -> Frames {
        let mut frames = Frames::new(Clock::new());
        frames.received(&[0; PREFACE_BYTES as usize]).expect("the preface");
        frames.received(&frame(SETTINGS, 0, 0)).expect("settings");
        frames
    }

    proptest! {
        /// Wherever reads and writes cut them.
        #[test]
        fn frames_are_found_however_they_are_cut(
            frames in prop::collection::vec((0u8..12, any::<u8>(), 0u8..40), 0..20),
            cuts in prop::collection::vec(0usize..30, 0..60),
        ) {
            let bytes: Vec<u8> = frames.iter().flat_map(|(kind, flags, length)| frame(*kind, *flags, *length)).collect();
            let (mut walk, mut found, mut rest) = (Walk::default(), Vec::new(), &bytes[..]);
            for cut in cuts.into_iter().chain([usize::MAX]) {
                let (mut piece, behind) = rest.split_at(cut.min(rest.len()));
                while let Some(head) = walk.next(&mut piece) {
                    found.push((head.kind, head.flags, u8::try_from(head.length).expect("short")));
                }
                rest = behind;
            }
            prop_assert_eq!(found, frames);
            prop_assert!(walk.is_between());
        }
    }

    #[test]
    fn what_is_of_use_never_runs_out() {
        let mut frames = begun();
        for _ in 0..10 * MOST {
            // A message, the window for it, and a ping; and the same for an answer.
            frames.sent(&frame(DATA, 0, 20));
            frames.received(&[frame(8, 0, 4), frame(6, 0, 8)].concat()).expect("no flood");
            frames.sent(&frame(HEADERS, 4, 10));
            frames.received(&[frame(6, 0, 8), frame(RST_STREAM, 0, 4)].concat()).expect("no flood");
        }
    }

    #[test]
    fn what_is_of_none_does() {
        for useless in [frame(DATA, 0, 0), frame(2, 0, 5), frame(RST_STREAM, 0, 4), frame(6, 0, 8), frame(0xbe, 0, 0)] {
            let mut frames = begun();
            let flood = useless.repeat(MOST as usize + 100);
            assert_eq!(frames.received(&flood), Err(Fault::Flood));
            assert_eq!(frames.goodbye().map(|goodbye| goodbye[16]), Some(11));
            frames.sent(&[0, 0, 3, DATA, 0]);
            assert_eq!(frames.goodbye(), None, "it is in the midst of a frame");
        }
    }

    #[test]
    fn a_connection_begins_with_settings() {
        for first in [frame(6, 0, 8), frame(HEADERS, 5, 9), frame(SETTINGS, FIRST_FLAG, 0)] {
            let mut frames = Frames::new(Clock::new());
            let begins = [vec![0; PREFACE_BYTES as usize], first].concat();
            assert_eq!(frames.received(&begins), Err(Fault::Preface));
        }
    }
}
