//! However a message is cut into pieces, it is read as the same message or refused for the same reason.

use bytes::BytesMut;
use http::{HeaderMap, Method, StatusCode, Version};
use proptest::prelude::*;

use super::encode::{chunk_size, last_chunk};
use super::framing::{Decoder, Part};
use super::lines::{Lines, Reader};
use super::*;

const BOUNDS: Bounds = Bounds { head_bytes: 1024, target_bytes: 256, fields: 8 };

/// Reads a head that comes in pieces, as a connection does; with what comes behind it.
fn find(pieces: &[&[u8]]) -> Result<Option<(Lines, BytesMut)>, Fault> {
    let (mut input, mut reader) = (BytesMut::new(), Reader::default());
    for (number, piece) in pieces.iter().enumerate() {
        input.extend_from_slice(piece);
        if let Some(lines) = reader.read(&mut input, &BOUNDS)? {
            pieces[number + 1..].iter().for_each(|piece| input.extend_from_slice(piece));
            return Ok(Some((lines, input)));
        }
    }
    Ok(None)
}

fn request(head: &str) -> Result<RequestHead, Fault> {
    let (lines, _) = find(&[head.as_bytes()])?.expect("a whole head");
    RequestHead::parse(lines)
}

fn response(method: &Method, head: &str) -> Result<ResponseHead, Fault> {
    let (lines, _) = find(&[head.as_bytes()])?.expect("a whole head");
    ResponseHead::parse(lines, method)
}

/// A body: its data, its trailers, and what came behind it.
type Read = (Vec<u8>, Option<HeaderMap>, BytesMut);

/// Reads a body that comes in pieces.
fn read(length: Length, pieces: &[&[u8]]) -> Result<Option<Read>, Fault> {
    let (mut decoder, mut input) = (Decoder::new(length, 256), BytesMut::new());
    let (mut data, mut trailers) = (Vec::new(), None);
    for piece in pieces {
        input.extend_from_slice(piece);
        while !decoder.is_done() {
            match decoder.next(&mut input)? {
                Some(Part::Data(part)) => data.extend_from_slice(&part),
                Some(Part::Trailers(fields)) => trailers = Some(fields),
                Some(Part::End) => {}
                None => break,
            }
        }
    }
    Ok(decoder.is_done().then_some((data, trailers, input)))
}

/// Cuts at the places, in any order.
fn cut<'a>(bytes: &'a [u8], places: &[prop::sample::Index]) -> Vec<&'a [u8]> {
    let mut places: Vec<usize> = places.iter().map(|place| place.index(bytes.len() + 1)).collect();
    places.sort_unstable();
    let mut pieces = Vec::new();
    let mut begin = 0;
    for place in places {
        pieces.push(&bytes[begin..place]);
        begin = place;
    }
    pieces.push(&bytes[begin..]);
    pieces
}

fn places() -> impl Strategy<Value = Vec<prop::sample::Index>> {
    prop::collection::vec(any::<prop::sample::Index>(), 0..12)
}

/// Bytes out of which heads and chunks are made, so that many of them nearly are one.
fn message_bytes() -> impl Strategy<Value = Vec<u8>> {
    let words: [&[u8]; 22] = [
        b"GET / HTTP/1.1\r\n",
        b"HTTP/1.1 200 OK\r\n",
        b"host: x\r\n",
        b"\r\n",
        b"\n",
        b"\r",
        b" ",
        b":",
        b"5\r\n",
        b"0\r\n",
        b"hello",
        b"content-length: 5\r\n",
        b"transfer-encoding: chunked\r\n",
        b"a: b\r\n",
        b";x=y",
        b"\0",
        b"\xff",
        b"ffffffffffffffff",
        b"/",
        b"HTTP/1.0",
        b"\t",
        b"x",
    ];
    prop::collection::vec(prop::sample::select(words.to_vec()), 0..12).prop_map(|words| words.concat())
}

proptest! {
    #[test]
    fn a_head_is_the_same_however_it_is_cut(bytes in message_bytes(), places in places()) {
        type Told = (String, BytesMut);
        type Parse = fn(Lines) -> String;
        let read = |pieces: &[&[u8]], parse: Parse| {
            Ok::<Option<Told>, Fault>(find(pieces)?.map(|(lines, rest)| (parse(lines), rest)))
        };
        let request: Parse = |lines| format!("{:?}", RequestHead::parse(lines));
        let response: Parse = |lines| format!("{:?}", ResponseHead::parse(lines, &Method::GET));
        for parse in [request, response] {
            prop_assert_eq!(read(&[&bytes], parse), read(&cut(&bytes, &places), parse));
        }
    }

    #[test]
    fn a_head_that_is_taken_is_what_another_parser_finds(bytes in message_bytes()) {
        let Ok(Some((lines, _))) = find(&[&bytes]) else { return Ok(()) };
        let head = lines.head.clone();
        let Ok(request) = RequestHead::parse(lines) else { return Ok(()) };
        let mut places = [httparse::EMPTY_HEADER; BOUNDS.fields];
        let mut other = httparse::Request::new(&mut places);
        prop_assert_eq!(other.parse(&head), Ok(httparse::Status::Complete(head.len())));
        prop_assert_eq!(Some(request.method.as_str()), other.method);
        let target = request.uri.to_string();
        prop_assert_eq!(Some(target.as_str()), other.path);
        let fields: Vec<_> = request.fields.iter().collect();
        let others: Vec<_> = other.headers.iter().map(|field| (field.name.as_bytes(), field.value)).collect();
        prop_assert_eq!(fields, others);
    }

    #[test]
    fn chunks_are_the_same_body_however_they_are_cut(
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..6),
        trailer in prop::option::of("[a-z]{1,8}"),
        behind in prop::collection::vec(any::<u8>(), 0..20),
        places in places(),
    ) {
        let trailers = trailer.map(|value| {
            let mut trailers = HeaderMap::new();
            trailers.insert("x-checksum", value.parse().expect("a value"));
            trailers
        });
        let mut sent = Vec::new();
        for chunk in &chunks {
            chunk_size(&mut sent, chunk.len());
            sent.extend_from_slice(chunk);
            sent.extend_from_slice(b"\r\n");
        }
        last_chunk(&mut sent, trailers.as_ref());
        sent.extend_from_slice(&behind);
        let (data, came, rest) = read(Length::Chunked, &cut(&sent, &places)).expect("it is valid").expect("it is whole");
        prop_assert_eq!(data, chunks.concat());
        prop_assert_eq!(came, trailers);
        // Not a byte of what follows was taken for a part of it.
        prop_assert_eq!(&rest[..], &behind[..]);
    }

    #[test]
    fn a_body_is_the_same_or_refused_however_it_is_cut(bytes in message_bytes(), places in places()) {
        for length in [Length::Exact(5), Length::Chunked] {
            prop_assert_eq!(read(length, &[&bytes]), read(length, &cut(&bytes, &places)));
        }
    }
}

/// RFC 9112 section 7.1.
#[test]
fn chunks_that_two_servers_could_read_differently_are_refused() {
    for chunks in [
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\rhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "5 \r\nhello\r\n0\r\n\r\n",
        "5 ;a\r\nhello\r\n0\r\n\r\n",
        "5;a\nb\r\nhello\r\n0\r\n\r\n",
        "5;\0\r\nhello\r\n0\r\n\r\n",
        "\r\nhello\r\n0\r\n\r\n",
        "g\r\nhello\r\n0\r\n\r\n",
        "10000000000000005\r\nhello\r\n0\r\n\r\n",
        "00000000000000005\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\n0\r\na: b\nc: d\r\n\r\n",
        "5\r\nhello\r\n0\r\na : b\r\n\r\n",
        "5\r\nhello\r\n0\r\n folded\r\n\r\n",
        "5\r\nhello\r\n0\r\ncontent-length: 7\r\n\r\n",
        "5\r\nhello\r\n0\r\ntransfer-encoding: chunked\r\n\r\n",
        "5\r\nhello\r\n0\r\nhost: elsewhere\r\n\r\n",
        "5\r\nhello\r\n0\r\nauthorization: me\r\n\r\n",
    ] {
        assert!(read(Length::Chunked, &[chunks.as_bytes()]).is_err(), "{chunks:?}");
    }
    let extensions = format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(20_000));
    assert!(read(Length::Chunked, &[extensions.as_bytes()]).is_err());
    let trailers = format!("0\r\na: {}", "x".repeat(300));
    assert_eq!(read(Length::Chunked, &[trailers.as_bytes()]), Err(Fault::HeadTooLarge));
    assert!(read(Length::Chunked, &[b"5;a=\"b c\"\r\nhello\r\n000\r\n\r\n"]).expect("it is valid").is_some());
}

/// RFC 9112 sections 3 and 9.3.
#[test]
fn a_request_says_what_it_is_and_whether_another_follows() {
    let head =
        request("POST /a?b HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-Continue\r\n\r\n").expect("valid");
    assert_eq!((head.method, head.uri.path(), head.uri.query()), (Method::POST, "/a", Some("b")));
    assert_eq!((head.length, head.is_persistent, head.expects_continue), (Length::Exact(5), true, true));
    for (version, connection, is_persistent) in [
        ("1.1", "close", false),
        ("1.1", "x, Close", false),
        ("1.1", "keep-alive", true),
        ("1.1", "closed", true),
        ("1.0", "x", false),
        ("1.0", "Keep-Alive", true),
        ("1.0", "keep-alive, close", false),
    ] {
        let head = request(&format!("GET / HTTP/{version}\r\nconnection: {connection}\r\n\r\n")).expect("valid");
        assert_eq!((head.is_persistent, head.length), (is_persistent, Length::Exact(0)), "{version} {connection}");
    }
    assert_eq!(request("GET http://x/y HTTP/1.1\r\n\r\n").expect("valid").uri.host(), Some("x"));
    assert_eq!(request("OPTIONS * HTTP/1.1\r\n\r\n").expect("valid").uri.path(), "*");
}

#[test]
fn a_head_that_is_none_is_refused_with_the_status_that_fits() {
    let long = |text: String| request(&text).expect_err("it is too long").status().as_u16();
    assert_eq!(long(format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(300))), 414);
    assert_eq!(long(format!("GET / HTTP/1.1\r\na: {}\r\n\r\n", "x".repeat(1100))), 431);
    assert_eq!(long(format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(9))), 431);
    for (line, status) in [
        ("GET / HTTP/2.0", 505),
        ("GET / HTTP/1.2", 505),
        ("GET / http/1.1", 400),
        ("GET / HTTP/1.1 ", 400),
        ("GET  / HTTP/1.1", 400),
        ("GET /", 400),
        ("GET /a#b HTTP/1.1", 400),
        ("GET a HTTP/1.1", 400),
        ("G(T / HTTP/1.1", 400),
        ("GET /\u{7f} HTTP/1.1", 400),
        ("hello", 400),
    ] {
        let fault = request(&format!("{line}\r\nhost: x\r\n\r\n")).map(|head| head.uri);
        assert_eq!(fault.map_err(|fault| fault.status().as_u16()), Err(status), "{line}");
    }
}

/// RFC 9112 section 6.3.
#[test]
fn a_response_is_as_long_as_its_request_and_status_allow() {
    let length = |method: &Method, status: u16, fields: &str| {
        response(method, &format!("HTTP/1.1 {status} X\r\n{fields}\r\n")).map(|head| (head.length, head.is_persistent))
    };
    let get = &Method::GET;
    assert_eq!(length(get, 200, "content-length: 7\r\n"), Ok((Length::Exact(7), true)));
    assert_eq!(length(get, 200, "transfer-encoding: Chunked\r\n"), Ok((Length::Chunked, true)));
    assert_eq!(length(get, 200, ""), Ok((Length::UntilClose, false)));
    assert_eq!(length(&Method::HEAD, 200, "content-length: 7\r\n"), Ok((Length::Exact(0), true)));
    for status in [100, 101, 204, 304] {
        assert_eq!(length(get, status, "content-length: 7\r\n"), Ok((Length::Exact(0), true)));
    }
    for fields in [
        "content-length: 7\r\ntransfer-encoding: chunked\r\n",
        "content-length: 7\r\ncontent-length: 7\r\n",
        "transfer-encoding: gzip\r\n",
        "content-length: 7x\r\n",
        "folded: a\r\n b\r\n",
    ] {
        assert!(length(get, 200, fields).is_err(), "{fields:?}");
    }
    let old = response(get, "HTTP/1.0 200 OK\r\ncontent-length: 7\r\n\r\n").expect("valid");
    assert_eq!((old.status, old.is_persistent), (StatusCode::OK, false));
    assert!(response(get, "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").is_err());
    assert!(response(get, "HTTP/1.1 99 X\r\n\r\n").is_err());
    assert_eq!(request("GET / HTTP/1.0\r\n\r\n").expect("valid").version, Version::HTTP_10);
}
