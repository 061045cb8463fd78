//! The framing of gRPC-Web (gRPC's PROTOCOL-WEB): what bodies of its calls are for a service of gRPC, and what the
//! answers are for its clients. Messages pass as they come; nothing is held but the rest of a group of base64.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use http::HeaderMap;
use http_body::Frame;
use model::policy::grpc_web::{Call, Form};

use crate::body::{Body, Failure, Translate};

/// Marks a frame of trailers where others have one of gRPC's flags.
const TRAILERS: u8 = 0x80;

/// Characters that stand for three bytes.
const GROUP: usize = 4;

/// The body of a call as a service of gRPC takes it.
#[must_use]
pub fn request(body: Body, call: Call) -> Body {
    match call.request {
        // Frames of messages are the same, and a client sends no trailers.
        Form::Binary => body,
        Form::Text => body.translated(Box::new(FromText::default())),
    }
}

/// The body of an answer of gRPC as a client of gRPC-Web takes it.
#[must_use]
pub fn response(body: Body, call: Call) -> Body {
    body.translated(Box::new(ToWeb(call.response)))
}

/// What is not base64, or not all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is not base64")]
pub struct NotBase64;

/// Reads base64 that comes in pieces. Its sender may have encoded pieces of its own, each with padding at its end.
#[derive(Debug, Default)]
pub struct FromText {
    /// The beginning of a group.
    held: [u8; GROUP],
    length: usize,
}

impl FromText {
    /// What the groups say that are whole now.
    pub fn decode(&mut self, piece: &[u8]) -> Result<Bytes, NotBase64> {
        let text = [&self.held[..self.length], piece].concat();
        let (whole, rest) = text.split_at(text.len() / GROUP * GROUP);
        self.held[..rest.len()].copy_from_slice(rest);
        self.length = rest.len();
        let mut decoded = Vec::with_capacity(whole.len() / GROUP * 3);
        let mut begin = 0;
        for end in (GROUP..=whole.len()).step_by(GROUP) {
            if whole[end - 1] == b'=' || end == whole.len() {
                STANDARD.decode_vec(&whole[begin..end], &mut decoded).map_err(|_| NotBase64)?;
                begin = end;
            }
        }
        Ok(decoded.into())
    }

    /// Whether all of it was said.
    pub fn finish(&self) -> Result<(), NotBase64> {
        if self.length == 0 { Ok(()) } else { Err(NotBase64) }
    }
}

/// Trailers as the last frame of a body: their lines, without an empty one behind.
#[must_use]
pub fn trailers_frame(trailers: &HeaderMap) -> Bytes {
    let length = trailers.iter().map(|(name, value)| name.as_str().len() + value.len() + 3).sum::<usize>();
    let mut frame = BytesMut::with_capacity(5 + length);
    frame.put_u8(TRAILERS);
    frame.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    for (name, value) in trailers {
        frame.put_slice(name.as_str().as_bytes());
        frame.put_u8(b':');
        frame.put_slice(value.as_bytes());
        frame.put_slice(b"\r\n");
    }
    frame.freeze()
}

impl Translate for FromText {
    fn translate(&mut self, frame: Frame<Bytes>) -> Result<Option<Frame<Bytes>>, Failure> {
        let Ok(text) = frame.into_data() else { return Ok(None) };
        let bytes = self.decode(&text).map_err(|NotBase64| Failure::Broken)?;
        Ok((!bytes.is_empty()).then(|| Frame::data(bytes)))
    }

    fn finish(&mut self) -> Result<(), Failure> {
        Self::finish(self).map_err(|NotBase64| Failure::Broken)
    }
}

/// Puts trailers into the body, and all of it into base64 if that is asked for: each piece on its own, so that no
/// message waits for the next.
struct ToWeb(Form);

impl Translate for ToWeb {
    fn translate(&mut self, frame: Frame<Bytes>) -> Result<Option<Frame<Bytes>>, Failure> {
        let bytes = match frame.into_data() {
            Ok(data) => data,
            Err(frame) => frame.into_trailers().map_or_else(|_| Bytes::new(), |trailers| trailers_frame(&trailers)),
        };
        Ok((!bytes.is_empty()).then(|| {
            Frame::data(match self.0 {
                Form::Binary => bytes,
                Form::Text => STANDARD.encode(bytes).into(),
            })
        }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As a client reads it: groups of its own length, all of them at once.
    fn naive(text: &str) -> Option<Vec<u8>> {
        let groups = text.as_bytes().chunks(GROUP).map(|group| STANDARD.decode(group).ok());
        groups.collect::<Option<Vec<_>>>().map(|groups| groups.concat())
    }

    fn in_pieces(text: &[u8], cuts: &[usize]) -> Option<Vec<u8>> {
        let (mut decoder, mut decoded, mut rest) = (FromText::default(), Vec::new(), text);
        for cut in cuts.iter().copied().chain([usize::MAX]) {
            let (piece, behind) = rest.split_at(cut.min(rest.len()));
            decoded.extend_from_slice(&decoder.decode(piece).ok()?);
            rest = behind;
        }
        decoder.finish().ok()?;
        Some(decoded)
    }

    proptest! {
        #[test]
        fn text_is_read_however_it_is_cut(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..6),
            cuts in prop::collection::vec(0usize..12, 0..40),
        ) {
            let text: String = pieces.iter().map(|piece| STANDARD.encode(piece)).collect();
            prop_assert_eq!(in_pieces(text.as_bytes(), &cuts), Some(pieces.concat()));
        }

        #[test]
        fn what_is_no_base64_is_refused_however_it_is_cut(
            text in "[A-Za-c+/=!]{0,24}",
            cuts in prop::collection::vec(0usize..12, 0..40),
        ) {
            prop_assert_eq!(in_pieces(text.as_bytes(), &cuts), naive(&text));
        }
    }

    #[test]
    fn trailers_become_lines_behind_their_length() {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().expect("a value"));
        trailers.insert("grpc-message", "fine".parse().expect("a value"));
        assert_eq!(trailers_frame(&trailers), &b"\x80\x00\x00\x00\x22grpc-status:0\r\ngrpc-message:fine\r\n"[..]);
        assert_eq!(trailers_frame(&HeaderMap::new()), &b"\x80\x00\x00\x00\x00"[..]);
    }
}
