//! The form of one revision on disk: where it starts, where it leads, and the body that came over the stream.
//!
//! ```text
//! length   4 bytes   of all that follows the check
//! check   16 bytes   start of the SHA-256 of all that follows
//! base    40 bytes   revision and digest that the body builds on; all zero: nothing
//! reached 40 bytes   revision and digest that it leads to
//! body               see proto::body
//! ```

use bytes::Bytes;
use model::digest::{Digest, sha256};
use model::snapshot::Snapshot;

/// First bytes of every file; the last of them is the version of the format.
pub const MAGIC: [u8; 8] = *b"sluice\0\x01";

const CHECK: usize = 16;
const POSITION: usize = 8 + 32;
const HEAD: usize = 4 + CHECK;

/// A point in the history of a gateway: a revision by number and by content. The default is the empty start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    pub revision: u64,
    pub digest: Digest,
}

/// What leads from one position to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub base: Position,
    pub reached: Position,
    pub body: Bytes,
}

impl Position {
    #[must_use]
    pub fn of(snapshot: &Snapshot) -> Self {
        Self { revision: snapshot.revision, digest: snapshot.config.digest() }
    }

    fn to_bytes(self) -> [u8; POSITION] {
        let mut bytes = [0; POSITION];
        bytes[..8].copy_from_slice(&self.revision.to_be_bytes());
        bytes[8..].copy_from_slice(&self.digest.to_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (revision, digest) = bytes.split_first_chunk()?;
        Some(Self { revision: u64::from_be_bytes(*revision), digest: Digest::from_bytes(digest.first_chunk()?) })
    }
}

impl Record {
    /// Everything that `snapshot` holds, from nothing.
    #[must_use]
    pub fn whole(snapshot: &Snapshot) -> Self {
        let envelopes = snapshot.config.iter().map(|(key, document)| model::wire::envelope(key, document));
        Self { base: Position::default(), reached: Position::of(snapshot), body: proto::body::encode(envelopes) }
    }

    /// It needs nothing before it.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.base == Position::default()
    }

    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let length = 2 * POSITION + self.body.len();
        let mut bytes = Vec::with_capacity(HEAD + length);
        bytes.extend_from_slice(&u32::try_from(length).expect("bodies are bounded far below 4 GiB").to_be_bytes());
        bytes.extend_from_slice(&[0; CHECK]);
        bytes.extend_from_slice(&self.base.to_bytes());
        bytes.extend_from_slice(&self.reached.to_bytes());
        bytes.extend_from_slice(&self.body);
        let check = sha256(&bytes[HEAD..]);
        bytes[4..HEAD].copy_from_slice(&check[..CHECK]);
        bytes
    }

    /// Takes one record off the front. Nothing if it is not all there or not what was written; then `bytes`
    /// stays as it is.
    pub fn take(bytes: &mut Bytes) -> Option<Self> {
        let length = u32::from_be_bytes(*bytes.first_chunk()?) as usize;
        let end = HEAD.checked_add(length).filter(|end| *end <= bytes.len() && length >= 2 * POSITION)?;
        if sha256(&bytes[HEAD..end])[..CHECK] != bytes[4..HEAD] {
            return None;
        }
        let base = Position::from_bytes(&bytes[HEAD..])?;
        let reached = Position::from_bytes(&bytes[HEAD + POSITION..])?;
        let body = bytes.slice(HEAD + 2 * POSITION..end);
        *bytes = bytes.slice(end..);
        Some(Self { base, reached, body })
    }
}
