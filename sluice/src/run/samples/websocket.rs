//! A WebSocket (RFC 6455) that sends back what it gets, frame by frame.

use std::io;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::{SEC_WEBSOCKET_KEY, UPGRADE};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::MAX_BODY_BYTES;

/// What a server puts behind the key (RFC 6455 section 1.3).
const SUFFIX: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xa;

/// The value of `Sec-WebSocket-Accept` for a request that asks for a WebSocket.
pub fn accept(headers: &HeaderMap) -> Option<String> {
    let wants_websocket = headers.get(UPGRADE)?.as_bytes().eq_ignore_ascii_case(b"websocket");
    let key = headers.get(SEC_WEBSOCKET_KEY).filter(|_| wants_websocket)?.to_str().ok()?;
    Some(STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, format!("{key}{SUFFIX}").as_bytes())))
}

/// Sends back every frame (RFC 6455 section 5.2) until one of both sides closes. Frames that are too large, or not masked
/// as those of a client must be, end it.
pub async fn echo<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) -> io::Result<()> {
    loop {
        let [first, second] = read(&mut stream).await?;
        let len = match second & 0x7f {
            126 => u64::from(u16::from_be_bytes(read(&mut stream).await?)),
            127 => u64::from_be_bytes(read(&mut stream).await?),
            len => u64::from(len),
        };
        let is_masked = second & 0x80 != 0;
        let Some(len) = usize::try_from(len).ok().filter(|len| is_masked && *len <= MAX_BODY_BYTES) else {
            return Ok(());
        };
        let mask: [u8; 4] = read(&mut stream).await?;
        let mut payload = vec![0; len];
        stream.read_exact(&mut payload).await?;
        payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
        let opcode = first & 0x0f;
        if opcode == PONG {
            continue;
        }
        let first = if opcode == PING { first & 0xf0 | PONG } else { first };
        stream.write_all(&frame(first, &payload)).await?;
        if opcode == CLOSE {
            return stream.shutdown().await;
        }
    }
}

async fn read<const N: usize>(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        len @ ..126 => frame.push(len as u8),
        len @ ..=0xffff => {
            frame.push(126);
            frame.extend((len as u16).to_be_bytes());
        }
        len => {
            frame.push(127);
            frame.extend((len as u64).to_be_bytes());
        }
    }
    frame.extend(payload);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_the_specification_is_accepted_as_it_says() {
        let mut headers = HeaderMap::new();
        headers.insert(SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ==".parse().expect("a value"));
        assert_eq!(accept(&headers), None);
        headers.insert(UPGRADE, "WebSocket".parse().expect("a value"));
        assert_eq!(accept(&headers).as_deref(), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    }

    #[tokio::test]
    async fn frames_of_every_length_come_back() {
        let (mut client, server) = tokio::io::duplex(1 << 20);
        let echoing = tokio::spawn(echo(server));
        for len in [0, 1, 125, 126, 127, 0xffff, MAX_BODY_BYTES] {
            let payload: Vec<u8> = (0..len).map(|at| at as u8).collect();
            client.write_all(&masked(0x82, &payload)).await.expect("it reads");
            let expected = frame(0x82, &payload);
            let mut answer = vec![0; expected.len()];
            client.read_exact(&mut answer).await.expect("it answers");
            assert_eq!(answer, expected, "{len}");
        }
        client.write_all(&masked(0x80 | PING, b"?")).await.expect("it reads");
        client.write_all(&masked(0x80 | CLOSE, &[3, 232])).await.expect("it reads");
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).await.expect("it ends");
        assert_eq!(rest, [0x80 | PONG, 1, b'?', 0x80 | CLOSE, 2, 3, 232]);
        echoing.await.expect("no panic").expect("it ended well");
    }

    /// What a client sends: the payload under a mask, behind a length that a mask bit goes with.
    fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
        let mask = [1, 2, 3, 4];
        let mut plain = frame(first, payload);
        plain[1] |= 0x80;
        let at = plain.len() - payload.len();
        let covered = payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect::<Vec<_>>();
        plain.splice(at.., mask.into_iter().chain(covered));
        plain
    }

    #[tokio::test]
    async fn what_is_not_masked_or_too_large_ends_it() {
        for wrong in [&[0x81, 0][..], &[0x82, 0xff, 0, 0, 0, 1, 0, 0, 0, 0]] {
            let (mut client, server) = tokio::io::duplex(64);
            client.write_all(wrong).await.expect("there is room");
            echo(server).await.expect("it ends");
        }
    }
}
