//! The body of a revision: envelopes, each with its length in front, in one zstd stream.
//!
//! The same bytes travel over the stream and lie on a node's disk.

use std::io::{self, BufRead, BufReader, Read, Write};

use bytes::{Bytes, BytesMut};
use prost::Message;

use crate::Envelope;

/// Higher levels take far longer for a few percent.
const LEVEL: i32 = 3;

/// The longest envelope, in bytes.
const MAX_ENVELOPE: u64 = 64 * 1024 * 1024;

/// Bytes that are no body of a revision.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    #[error("the body does not decompress: {0}")]
    Compression(#[from] io::Error),
    #[error("the body holds no envelopes: {0}")]
    Envelope(#[from] prost::DecodeError),
    #[error("the body decompresses to more than {0} bytes")]
    TooLong(u64),
}

/// Encodes and compresses, without ever holding all that is not compressed yet.
#[must_use]
pub fn encode(envelopes: impl IntoIterator<Item = Envelope>) -> Bytes {
    const INTO_MEMORY: &str = "writing into memory does not fail";
    let mut encoder = zstd::Encoder::new(Vec::new(), LEVEL).expect("the level is one that zstd has");
    let mut buffer = BytesMut::new();
    for envelope in envelopes {
        buffer.clear();
        envelope.encode_length_delimited(&mut buffer).expect("the buffer grows");
        encoder.write_all(&buffer).expect(INTO_MEMORY);
    }
    encoder.finish().expect(INTO_MEMORY).into()
}

/// The envelopes of a body, one by one; ends at the first error. `max` bounds the sum of their lengths.
pub fn decode(body: &[u8], max: u64) -> Result<impl Iterator<Item = Result<Envelope, BodyError>>, BodyError> {
    Ok(Envelopes { source: BufReader::new(zstd::Decoder::with_buffer(body)?), left: max, max, is_over: false })
}

struct Envelopes<R> {
    source: R,
    left: u64,
    max: u64,
    is_over: bool,
}

impl<R: BufRead> Iterator for Envelopes<R> {
    type Item = Result<Envelope, BodyError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        let next = self.read().transpose();
        self.is_over = !matches!(next, Some(Ok(_)));
        next
    }
}

impl<R: BufRead> Envelopes<R> {
    fn read(&mut self) -> Result<Option<Envelope>, BodyError> {
        if self.source.fill_buf()?.is_empty() {
            return Ok(None);
        }
        let length = self.length()?;
        if length > self.left || length > MAX_ENVELOPE {
            return Err(BodyError::TooLong(self.max.min(MAX_ENVELOPE)));
        }
        self.left -= length;
        // Grows with what arrives: the length alone reserves nothing.
        let mut bytes = Vec::new();
        (&mut self.source).take(length).read_to_end(&mut bytes)?;
        if (bytes.len() as u64) < length {
            return Err(BodyError::Compression(io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(Some(Envelope::decode(Bytes::from(bytes))?))
    }

    /// A variable-length integer of at most five bytes.
    fn length(&mut self) -> Result<u64, BodyError> {
        let mut length = 0;
        for shift in (0..35).step_by(7) {
            let mut byte = [0];
            self.source.read_exact(&mut byte)?;
            length |= u64::from(byte[0] & 0x7f) << shift;
            if byte[0] < 0x80 {
                return Ok(length);
            }
        }
        Err(BodyError::TooLong(MAX_ENVELOPE))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn envelope() -> impl Strategy<Value = Envelope> {
        let spec = prop::collection::vec(any::<u8>(), 0..300);
        ("[a-z]{1,9}", "[a-z0-9-]{1,63}", any::<bool>(), any::<u64>(), spec).prop_map(
            |(kind, name, removed, created, spec)| Envelope { kind, name, removed, created, spec: spec.into() },
        )
    }

    proptest! {
        #[test]
        fn what_was_encoded_is_decoded(envelopes in prop::collection::vec(envelope(), 0..20)) {
            let body = encode(envelopes.clone());
            let decoded: Result<Vec<_>, _> = decode(&body, 1 << 20).expect("a decoder").collect();
            prop_assert_eq!(decoded.expect("whole"), envelopes);
        }

        #[test]
        fn a_body_that_was_cut_is_an_error(envelopes in prop::collection::vec(envelope(), 1..20), cut in any::<prop::sample::Index>()) {
            let body = encode(envelopes);
            let cut = cut.index(body.len());
            let decoded: Result<Vec<_>, _> = decode(&body[..cut], 1 << 20).expect("a decoder").collect();
            // Nothing at all is a body without envelopes: the digest finds that.
            prop_assert!(cut == 0 || decoded.is_err());
        }

        #[test]
        fn any_bytes_end_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..500)) {
            let _ = decode(&bytes, 1 << 20).expect("a decoder").count();
        }
    }

    #[test]
    fn a_body_that_grows_too_long_is_refused() {
        let long = Envelope { spec: vec![b'x'; 1 << 20].into(), ..Envelope::default() };
        let body = encode([long.clone(), long]);
        assert!(body.len() < 1000);
        let decoded: Vec<_> = decode(&body, 3 << 19).expect("a decoder").collect();
        assert!(matches!(decoded[..], [Ok(_), Err(BodyError::TooLong(_))]));
    }
}
