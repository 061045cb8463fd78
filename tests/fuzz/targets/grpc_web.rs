//! gRPC-Web as text: whatever comes, in whatever pieces, is read as what it says in one piece, or refused; and what the
//! gateway writes is read as what it is. The first byte says where to cut.

#![no_main]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use data_plane::grpc_web::{FromText, trailers_frame};
use http::{HeaderMap, HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((cut, text)) = bytes.split_first() else { return };
    let pieces = text.chunks(usize::from(*cut).max(1));
    assert_eq!(decoded([text].into_iter()), decoded(pieces.clone()));

    // A receiver of pieces that were encoded one by one.
    let encoded: String = pieces.clone().map(|piece| STANDARD.encode(piece)).collect();
    assert_eq!(decoded([encoded.as_bytes()].into_iter()).as_deref(), Some(text));

    let mut trailers = HeaderMap::new();
    for pair in text.split(|byte| *byte == b'\n').take(100) {
        let at = pair.iter().position(|byte| *byte == b':').unwrap_or(pair.len());
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(&pair[..at]), HeaderValue::from_bytes(&pair[at..])) {
            trailers.append(name, value);
        }
    }
    let frame = trailers_frame(&trailers);
    let (head, lines) = frame.split_at(5);
    assert_eq!((head[0], u32::from_be_bytes(head[1..].try_into().unwrap()) as usize), (0x80, lines.len()));
    let lines: Vec<&[u8]> = lines.split(|byte| *byte == b'\n').collect();
    assert_eq!(lines.len(), trailers.len() + 1);
    for (line, (name, value)) in lines.iter().zip(&trailers) {
        assert_eq!(**line, *[name.as_str().as_bytes(), b":", value.as_bytes(), b"\r"].concat());
    }
});

fn decoded<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> Option<Vec<u8>> {
    let (mut decoder, mut decoded) = (FromText::default(), Vec::new());
    for piece in pieces {
        decoded.extend_from_slice(&decoder.decode(piece).ok()?);
    }
    decoder.finish().ok().map(|()| decoded)
}
