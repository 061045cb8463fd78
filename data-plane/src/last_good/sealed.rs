//! The form of the files on disk: each record sealed with a key of this node, so that whoever finds the files and not the
//! key has nothing.
//!
//! ```text
//! length   4 bytes   of what follows
//! sealed             see model::sealing; inside is a record
//! ```

use bytes::{Buf, Bytes};
use model::sealing::SealingKey;

use super::record::{self, Record};

/// First bytes of every file; the last of them is the version of the format. Before it, records were not sealed.
pub const MAGIC: [u8; 8] = *b"sluice\0\x02";

/// What stands for the rest of a file that cannot be opened: no record, so that a reader finds damage.
const DAMAGE: &[u8] = &[0];

/// A file as [`super::reader`] reads it.
pub struct Opened {
    pub bytes: Bytes,
    /// It has the form of before, in which nothing more is to be written.
    pub is_old: bool,
}

/// A record as it lies in a file. `place` says which: in another one it does not open.
pub fn frame(key: &SealingKey, place: &str, record: &Record) -> Vec<u8> {
    let sealed = key.seal(place.as_bytes(), &record.encode());
    let length = u32::try_from(sealed.len()).expect("bodies are bounded far below 4 GiB");
    [&length.to_be_bytes()[..], &sealed].concat()
}

/// Opens what is whole of a file.
pub fn open(key: &SealingKey, place: &str, mut bytes: Bytes) -> Opened {
    if !bytes.starts_with(&MAGIC) {
        let is_old = bytes.starts_with(&record::MAGIC);
        return Opened { bytes, is_old };
    }
    bytes.advance(MAGIC.len());
    let mut opened = record::MAGIC.to_vec();
    while let Some(record) = take(key, place, &mut bytes) {
        opened.extend_from_slice(&record);
    }
    if !bytes.is_empty() {
        opened.extend_from_slice(DAMAGE);
    }
    Opened { bytes: opened.into(), is_old: false }
}

/// Takes one frame off the front. Nothing if it is not all there or does not open; then `bytes` stays as it is.
fn take(key: &SealingKey, place: &str, bytes: &mut Bytes) -> Option<Vec<u8>> {
    let (length, rest) = bytes.split_first_chunk()?;
    let length = u32::from_be_bytes(*length) as usize;
    let record = key.open(place.as_bytes(), rest.get(..length)?)?;
    bytes.advance(size_of::<u32>() + length);
    Some(record)
}
