//! What RFC 9113 and RFC 9110 require of a server, each case with its section. Nothing that is refused reaches a
//! service.
//!
//! Where the fault of a stream ends its connection (section 5.4.1 lets it), and where the codec says `PROTOCOL_ERROR`
//! for a fault with a more exact name, the cases say so. Two faults are not told from good requests, because the codec
//! drops what is wrong before anybody sees it: a fragment in a path, and a pseudo-header among trailers. What becomes of
//! those stands in `downgrade.rs`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http_body_util::BodyExt;
use hyper::Response;
use model::resource::Kind;
use serde_json::json;

use crate::frames::*;
use crate::support::backend::{self, full};
use crate::support::{Node, put};

/// One thing that a client may not do, or may.
struct Case {
    section: &'static str,
    what: &'static str,
    /// What follows a good beginning.
    sends: Vec<u8>,
    /// What may become of stream 1 or the connection.
    allowed: &'static [Outcome],
}

fn case(section: &'static str, what: &'static str, sends: &[Vec<u8>], allowed: &'static [Outcome]) -> Case {
    Case { section, what, sends: sends.concat(), allowed }
}

/// A node before a service that counts the requests that it read to their end.
async fn node() -> (Node, Arc<AtomicU64>) {
    let whole = Arc::new(AtomicU64::new(0));
    let count = whole.clone();
    let address = backend::http(move |request| {
        let count = count.clone();
        async move {
            if request.into_body().collect().await.is_ok() {
                count.fetch_add(1, Ordering::Relaxed);
            }
            Response::new(full("ok"))
        }
    })
    .await;
    let node = Node::start(vec![
        put(Kind::Service, "backend", json!({ "url": format!("http://{address}") })),
        put(Kind::Route, "all", json!({ "service": "backend" })),
    ])
    .await;
    (node, whole)
}

/// Runs cases, each on a connection of its own. Where only a stream may end, its connection serves on.
async fn run(cases: Vec<Case>) {
    let (node, whole) = node().await;
    let mut wrong = Vec::new();
    for Case { section, what, sends, allowed } in cases {
        let before = whole.load(Ordering::Relaxed);
        let mut client = Client::connect(node.address).await;
        client.send(sends).await;
        let outcome = client.outcome(1).await;
        let is_good = outcome == Outcome::Status(200);
        let is_served = whole.load(Ordering::Relaxed) != before;
        if !allowed.contains(&outcome) || is_good != is_served {
            wrong.push(format!("section {section}, {what}: {outcome:?}, not {allowed:?}; served: {is_served}"));
        }
        if matches!(outcome, Outcome::Status(_) | Outcome::Reset(_)) {
            client.send(head(101, END_STREAM, GET)).await;
            let next = client.outcome(101).await;
            if next != Outcome::Status(200) {
                wrong.push(format!("section {section}, {what}: the connection serves no more: {next:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "RFC 9113\n{}", wrong.join("\n"));
    let mut other = Client::connect(node.address).await;
    other.send(head(1, END_STREAM, GET)).await;
    assert_eq!(other.outcome(1).await, Outcome::Status(200), "another client is served");
}

const OK: &[Outcome] = &[Outcome::Status(200)];
/// A malformed request may be answered or reset (section 8.1.1).
const MALFORMED: &[Outcome] = &[Outcome::Status(400), Outcome::Reset(PROTOCOL_ERROR)];
/// A field that is none ends the connection, for all its streams share the state of the compression.
const NO_FIELD: &[Outcome] = PROTOCOL;
const PROTOCOL: &[Outcome] = &[Outcome::Goaway(PROTOCOL_ERROR)];
const SIZE: &[Outcome] = &[Outcome::Goaway(FRAME_SIZE_ERROR), Outcome::Goaway(PROTOCOL_ERROR)];
const CLOSED: &[Outcome] = &[Outcome::Goaway(STREAM_CLOSED), Outcome::Goaway(PROTOCOL_ERROR)];

fn get(more: &[(&str, &str)]) -> Vec<u8> {
    head(1, END_STREAM, &with(GET, more))
}

fn post(more: &[(&str, &str)]) -> Vec<u8> {
    head(1, 0, &with(POST, more))
}

fn data(flags: u8, payload: &[u8]) -> Vec<u8> {
    frame(DATA, flags, 1, payload)
}

#[tokio::test]
async fn connections_begin_with_the_preface_and_settings() {
    let (node, _) = node().await;
    for (section, begins, allowed) in [
        ("3.4", [PREFACE, &frame(PING, 0, 0, &[0; 8])].concat(), PROTOCOL),
        ("3.4", [PREFACE, &get(&[])].concat(), PROTOCOL),
        ("6.5", [PREFACE, &frame(SETTINGS, ACK, 0, &[])].concat(), PROTOCOL),
    ] {
        let mut client = Client::silent(node.address).await;
        client.send(begins).await;
        let outcome = client.outcome(1).await;
        assert!(allowed.contains(&outcome), "RFC 9113 section {section}: {outcome:?}");
    }
    // What only begins like the preface is a request of HTTP/1.1 that cannot be read.
    let answer = node.raw("PRI * HTTP/2.0\r\n\r\nSM\r\n\rX").await;
    assert!(answer.starts_with("HTTP/1.1 4") || answer.starts_with("HTTP/1.1 5"), "{answer}");
}

#[tokio::test]
async fn requests_of_every_good_form_are_served() {
    let padded = [&[3][..], &block(GET), &[0; 3]].concat();
    let weighted = [&[0, 0, 0, 0, 200][..], &block(GET)].concat();
    let first = block(&GET[..2]);
    let rest = block(&GET[2..]);
    run(vec![
        case("8.1", "a request without a body", &[get(&[])], OK),
        case("8.1", "a request with a body", &[post(&[("content-length", "3")]), data(END_STREAM, b"abc")], OK),
        case("8.1", "trailers", &[post(&[]), data(0, b"abc"), head(1, END_STREAM, &[("t", "1")])], OK),
        case("8.1", "a body that ends in an empty frame", &[post(&[]), data(0, b"abc"), data(END_STREAM, b"")], OK),
        case("6.1", "padded data", &[post(&[]), data(PADDED | END_STREAM, &[2, b'a', 0, 0])], OK),
        case("6.1", "data of nothing but padding", &[post(&[]), data(PADDED | END_STREAM, &[2, 0, 0])], OK),
        case("6.2", "a padded head", &[frame(HEADERS, END_HEADERS | END_STREAM | PADDED, 1, &padded)], OK),
        case("5.3.2", "a head with a priority", &[frame(HEADERS, END_HEADERS | END_STREAM | 0x20, 1, &weighted)], OK),
        case("5.3.2", "a priority of an idle stream", &[frame(PRIORITY, 0, 9, &[0, 0, 0, 0, 1]), get(&[])], OK),
        case(
            "6.10",
            "a head in three frames",
            &[
                frame(HEADERS, END_STREAM, 1, &first),
                frame(CONTINUATION, 0, 1, &[]),
                frame(CONTINUATION, END_HEADERS, 1, &rest),
            ],
            OK,
        ),
        case("5.5", "an unknown frame", &[frame(0xbe, 0xff, 0, b"what"), get(&[])], OK),
        case("6.5.2", "an unknown setting", &[settings(&[(0xface, 7)]), get(&[])], OK),
        case("4.1", "an unknown flag", &[frame(PING, 0xf0, 0, &[0; 8]), get(&[])], OK),
        case("4.1", "the reserved bit", &[frame(HEADERS, END_HEADERS | END_STREAM, 1 | 1 << 31, &block(GET))], OK),
        case("8.2.3", "a cookie in pieces", &[get(&[("cookie", "a=1"), ("cookie", "b=2")])], OK),
        case("8.2.2", "TE with trailers", &[get(&[("te", "trailers")])], OK),
        case("6.9", "a window that grows", &[window_update(0, 1000), get(&[]), window_update(1, 1000)], OK),
        case(
            "8.3.1",
            "a Host in place of the authority",
            &[head(1, END_STREAM, &[GET[0], GET[1], GET[3], ("host", "x")])],
            OK,
        ),
    ])
    .await;
}

#[tokio::test]
async fn pseudo_headers_are_there_once_known_and_first() {
    let without = |name: &str| {
        let fields: Vec<_> = GET.iter().copied().filter(|field| field.0 != name).collect();
        head(1, END_STREAM, &fields)
    };
    let with_path = |path| head(1, END_STREAM, &[GET[0], GET[1], GET[2], (":path", path)]);
    let (first, rest) = GET.split_at(3);
    run(vec![
        case("8.3.1", "no method", &[without(":method")], MALFORMED),
        case("8.3.1", "no scheme", &[without(":scheme")], MALFORMED),
        case("8.3.1", "no path", &[without(":path")], MALFORMED),
        case("8.3.1", "no authority and no Host", &[without(":authority")], MALFORMED),
        case("8.3.1", "an empty path", &[with_path("")], MALFORMED),
        case("8.3.1", "a path that is none", &[with_path("x")], MALFORMED),
        case("8.3.1", "a path with a space", &[with_path("/a b")], MALFORMED),
        case("8.3.1", "a Host that disagrees", &[get(&[("host", "y")])], MALFORMED),
        case(
            "8.3.1",
            "an authority with user information",
            &[head(1, END_STREAM, &[GET[0], GET[1], (":authority", "u@x"), GET[3]])],
            MALFORMED,
        ),
        case("8.3", "two methods", &[get(&[(":method", "GET")])], MALFORMED),
        case("8.3", "two paths", &[head(1, END_STREAM, &with(&[(":path", "/")], GET))], MALFORMED),
        case("8.3", "two schemes", &[head(1, END_STREAM, &with(&[(":scheme", "http")], GET))], MALFORMED),
        case("8.3", "two authorities", &[head(1, END_STREAM, &with(&[(":authority", "x")], GET))], MALFORMED),
        case("8.3", "one behind a field", &[head(1, END_STREAM, &[first, &[("a", "b")], rest].concat())], MALFORMED),
        case("8.3", "an unknown one", &[head(1, END_STREAM, &with(&[(":what", "x")], GET))], NO_FIELD),
        case("8.3", "one of a response", &[head(1, END_STREAM, &with(&[(":status", "200")], GET))], MALFORMED),
        case(
            "8.5",
            "CONNECT with a path",
            &[head(1, END_STREAM, &with(&[(":method", "CONNECT")], &GET[1..]))],
            &[Outcome::Status(400), Outcome::Status(501), Outcome::Reset(PROTOCOL_ERROR)],
        ),
    ])
    .await;
}

#[tokio::test]
async fn fields_are_lower_case_and_none_of_the_connection() {
    let mut cases = vec![
        case("8.2.1", "an upper-case name", &[get(&[("X-Upper", "1")])], NO_FIELD),
        case("8.2.1", "an empty name", &[get(&[("", "1")])], NO_FIELD),
        case("8.2.1", "a name with a colon", &[get(&[("a:b", "1")])], NO_FIELD),
        case("8.2.1", "a name with a space", &[get(&[("a b", "1")])], NO_FIELD),
        case("8.2.1", "a name with a line break", &[get(&[("a\r\nb", "1")])], NO_FIELD),
        case("8.2.1", "a name beyond ASCII", &[get(&[("\u{e4}", "1")])], NO_FIELD),
        case("8.2.2", "TE with more than trailers", &[get(&[("te", "gzip")])], MALFORMED),
    ];
    for name in ["connection", "proxy-connection", "keep-alive", "transfer-encoding", "upgrade"] {
        cases.push(case("8.2.2", name, &[get(&[(name, "x")])], MALFORMED));
    }
    for value in ["a\r\nb", "a\rb", "a\nb", "a\0b", "\na", "a\0"] {
        cases.push(case("8.2.1", "a value with CR, LF or NUL", &[get(&[("a", value)])], NO_FIELD));
    }
    for value in [" a", "a ", "\ta", "a\t", " "] {
        cases.push(case("8.2.1", "a value with space around it", &[get(&[("a", value)])], MALFORMED));
    }
    run(cases).await;
}

#[tokio::test]
async fn bodies_are_as_long_as_announced() {
    run(vec![
        case("8.1.1", "less", &[post(&[("content-length", "5")]), data(END_STREAM, b"abc")], MALFORMED),
        case("8.1.1", "more", &[post(&[("content-length", "2")]), data(END_STREAM, b"abc")], MALFORMED),
        case("8.1.1", "none", &[head(1, END_STREAM, &with(POST, &[("content-length", "5")]))], MALFORMED),
        case(
            "8.1.1",
            "less before trailers",
            &[post(&[("content-length", "5")]), data(0, b"abc"), head(1, END_STREAM, &[("t", "1")])],
            MALFORMED,
        ),
        case(
            "8.1.1",
            "two lengths",
            &[post(&[("content-length", "3"), ("content-length", "4")]), data(END_STREAM, b"abc")],
            MALFORMED,
        ),
        case("8.1.1", "no number", &[post(&[("content-length", "+3")]), data(END_STREAM, b"abc")], MALFORMED),
        case("8.1.1", "a list", &[post(&[("content-length", "3, 3")]), data(END_STREAM, b"abc")], MALFORMED),
    ])
    .await;
}

#[tokio::test]
async fn streams_go_through_their_states() {
    const RESET: &[Outcome] =
        &[Outcome::Reset(STREAM_CLOSED), Outcome::Goaway(STREAM_CLOSED), Outcome::Goaway(PROTOCOL_ERROR)];
    run(vec![
        case("5.1", "data on an idle stream", &[data(END_STREAM, b"a")], CLOSED),
        case("5.1", "a reset of an idle stream", &[reset(1, CANCEL)], PROTOCOL),
        case("5.1", "a window for an idle stream", &[window_update(1, 1)], PROTOCOL),
        case("5.1", "a continuation of nothing", &[frame(CONTINUATION, END_HEADERS, 1, &[])], PROTOCOL),
        case("5.1.1", "an even stream", &[head(2, END_STREAM, GET)], PROTOCOL),
        case("5.1.1", "a lower stream", &[head(5, 0, POST), get(&[])], CLOSED),
        case("8.1", "a second head", &[post(&[]), data(0, b"a"), head(1, 0, &[("t", "1")])], MALFORMED),
        case("5.1", "data behind the end", &[post(&[]), data(END_STREAM, b"a"), data(END_STREAM, b"b")], RESET),
        case("5.1", "a head behind the end", &[get(&[]), get(&[])], RESET),
        case("8.4", "a push of a client", &[frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2])], PROTOCOL),
    ])
    .await;
}

#[tokio::test]
async fn a_stream_that_was_reset_leaves_the_others() {
    let (node, _) = node().await;
    let mut client = Client::connect(node.address).await;
    client.send([post(&[]), reset(1, CANCEL), head(3, END_STREAM, GET)].concat()).await;
    assert_eq!(client.outcome(3).await, Outcome::Status(200));
}

#[tokio::test]
async fn frames_have_their_size_and_their_stream() {
    const LARGEST: &[Outcome] = &[Outcome::Goaway(FLOW_CONTROL_ERROR), Outcome::Goaway(PROTOCOL_ERROR)];
    let priority = |payload: &[u8]| frame(PRIORITY, 0, 1, payload);
    run(vec![
        case("4.2", "a frame above the limit", &[post(&[]), data(0, &vec![0; 16_385])], SIZE),
        case("4.2", "a head above the limit", &[frame(HEADERS, END_HEADERS | END_STREAM, 1, &vec![0; 16_385])], SIZE),
        case("6.1", "data on stream 0", &[frame(DATA, 0, 0, b"a")], PROTOCOL),
        case("6.1", "padding that is all and more", &[post(&[]), data(PADDED, &[3, 0, 0])], PROTOCOL),
        case(
            "6.1",
            "padding without its length",
            &[post(&[]), data(PADDED, &[])],
            &[Outcome::Goaway(PROTOCOL_ERROR), Outcome::Goaway(FRAME_SIZE_ERROR)],
        ),
        case("6.2", "a head on stream 0", &[frame(HEADERS, END_HEADERS, 0, &block(GET))], PROTOCOL),
        case("6.2", "a head of too much padding", &[frame(HEADERS, END_HEADERS | PADDED, 1, &[9, 0, 0])], PROTOCOL),
        case("6.3", "a priority on stream 0", &[frame(PRIORITY, 0, 0, &[0; 5])], PROTOCOL),
        case("6.3", "a priority of four octets", &[post(&[]), priority(&[0; 4])], SIZE),
        case("6.4", "a reset on stream 0", &[reset(0, CANCEL)], PROTOCOL),
        case("6.4", "a reset of five octets", &[post(&[]), frame(RST_STREAM, 0, 1, &[0; 5])], SIZE),
        case("6.5", "settings on a stream", &[frame(SETTINGS, 0, 1, &[])], PROTOCOL),
        case("6.5", "settings of five octets", &[frame(SETTINGS, 0, 0, &[0; 5])], SIZE),
        case("6.5", "an acknowledgement with content", &[frame(SETTINGS, ACK, 0, &[0; 6])], SIZE),
        case("6.5.2", "a push setting of 2", &[settings(&[(2, 2)])], PROTOCOL),
        case("6.5.2", "a window above the largest", &[settings(&[(INITIAL_WINDOW_SIZE, 1 << 31)])], LARGEST),
        case("6.5.2", "a frame size below the least", &[settings(&[(5, 16_383)])], PROTOCOL),
        case("6.5.2", "a frame size above the largest", &[settings(&[(5, 1 << 24)])], PROTOCOL),
        case("6.7", "a ping on a stream", &[frame(PING, 0, 1, &[0; 8])], PROTOCOL),
        case("6.7", "a ping of seven octets", &[frame(PING, 0, 0, &[0; 7])], SIZE),
        case("6.8", "a GOAWAY on a stream", &[frame(GOAWAY, 0, 1, &[0; 8])], PROTOCOL),
        case("6.9", "a window update of three octets", &[frame(WINDOW_UPDATE, 0, 0, &[0; 3])], SIZE),
    ])
    .await;
}

#[tokio::test]
async fn windows_grow_by_something_and_not_beyond_the_largest() {
    const FLOW: &[Outcome] = &[Outcome::Goaway(FLOW_CONTROL_ERROR), Outcome::Reset(FLOW_CONTROL_ERROR)];
    let largest = settings(&[(INITIAL_WINDOW_SIZE, (1 << 31) - 1)]);
    run(vec![
        case("6.9", "by nothing", &[window_update(0, 0)], PROTOCOL),
        case(
            "6.9",
            "a stream by nothing",
            &[post(&[]), window_update(1, 0)],
            &[Outcome::Reset(PROTOCOL_ERROR), Outcome::Goaway(PROTOCOL_ERROR)],
        ),
        case("6.9.1", "the connection beyond", &[window_update(0, (1 << 31) - 1)], FLOW),
        case("6.9.1", "a stream beyond", &[post(&[]), window_update(1, (1 << 31) - 1)], FLOW),
        case("6.9.2", "all streams beyond", &[post(&[]), window_update(1, 1), largest], FLOW),
    ])
    .await;
}

/// Sections 5.2.1 and 6.9.1: more than the window of a stream that nobody reads.
#[tokio::test]
async fn a_client_that_ignores_the_window_is_stopped() {
    let address = backend::sockets(|stream| async move {
        let _stream = stream;
        std::future::pending::<()>().await;
    })
    .await;
    let node = Node::start(vec![
        put(Kind::Service, "backend", json!({ "url": format!("http://{address}") })),
        put(Kind::Route, "all", json!({ "service": "backend" })),
    ])
    .await;
    let mut client = Client::connect(node.address).await;
    client.send(post(&[])).await;
    // The service takes what its socket holds; then the window stays closed.
    let chunk = data(0, &vec![0; 16_384]);
    for _ in 0..4096 {
        if !client.send(&chunk).await {
            break;
        }
    }
    let outcome = client.outcome(1).await;
    assert!(
        [Outcome::Reset(FLOW_CONTROL_ERROR), Outcome::Goaway(FLOW_CONTROL_ERROR), Outcome::Closed].contains(&outcome),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn nothing_comes_between_the_frames_of_a_head() {
    let begun = || frame(HEADERS, END_STREAM, 1, &block(GET));
    run(vec![
        case("6.10", "data", &[begun(), data(END_STREAM, b"a")], PROTOCOL),
        case("6.10", "another head", &[begun(), head(3, END_STREAM, GET)], PROTOCOL),
        case("6.10", "a ping", &[begun(), frame(PING, 0, 0, &[0; 8])], PROTOCOL),
        case("6.10", "an unknown frame", &[begun(), frame(0xbe, 0, 0, &[])], PROTOCOL),
        case("6.10", "the rest of another stream", &[begun(), frame(CONTINUATION, END_HEADERS, 3, &[])], PROTOCOL),
        case("6.10", "a rest on stream 0", &[begun(), frame(CONTINUATION, END_HEADERS, 0, &[])], PROTOCOL),
        case("6.10", "a rest behind the end", &[get(&[]), frame(CONTINUATION, END_HEADERS, 1, &[])], PROTOCOL),
    ])
    .await;
}

#[tokio::test]
async fn field_blocks_that_cannot_be_read_end_the_connection() {
    const COMPRESSION: &[Outcome] = &[Outcome::Goaway(COMPRESSION_ERROR), Outcome::Goaway(PROTOCOL_ERROR)];
    let raw = |block: &[u8]| frame(HEADERS, END_HEADERS | END_STREAM, 1, block);
    run(vec![
        case("4.3", "an index of nothing", &[raw(&[0xff, 0xff, 0x7f])], COMPRESSION),
        case("4.3", "index 0", &[raw(&[0x80])], COMPRESSION),
        case("4.3", "a literal without its end", &[raw(&[0x00, 0x05, b'a'])], COMPRESSION),
        case("4.3", "a table above the limit", &[raw(&[0x3f, 0xe1, 0xff, 0x03])], COMPRESSION),
        case("4.3", "an endless number", &[raw(&[0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff])], COMPRESSION),
        case("4.3", "Huffman code of the end", &[raw(&[0x00, 0x84, 0xff, 0xff, 0xff, 0xff, 0x01, b'a'])], COMPRESSION),
    ])
    .await;
}

#[tokio::test]
async fn more_streams_than_allowed_are_refused_and_the_others_served() {
    let (node, _) = node().await;
    let mut client = Client::connect(node.address).await;
    // They wait for their bodies.
    let open: Vec<u8> = (0..100).flat_map(|number| head(2 * number + 1, 0, POST)).collect();
    client.send(open).await;
    client.send(head(201, END_STREAM, GET)).await;
    let refused = client.outcome(201).await;
    assert_eq!(refused, Outcome::Reset(REFUSED_STREAM), "section 5.1.2");
    client.send(frame(DATA, END_STREAM, 1, b"a")).await;
    assert_eq!(client.outcome(1).await, Outcome::Status(200));
    client.send(head(203, END_STREAM, GET)).await;
    assert_eq!(client.outcome(203).await, Outcome::Status(200));
}

/// Section 6.8: a client that goes gets the answers to what it has asked.
#[tokio::test]
async fn a_client_that_says_goodbye_gets_its_answers() {
    let (node, _) = node().await;
    let mut client = Client::connect(node.address).await;
    client.send([post(&[]), frame(GOAWAY, 0, 0, &[0; 8]), data(END_STREAM, b"a")].concat()).await;
    assert_eq!(client.outcome(1).await, Outcome::Status(200));
    assert_eq!(client.outcome(3).await, Outcome::Closed);
}

/// Sections 6.5.3 and 6.7.
#[tokio::test]
async fn settings_and_pings_are_acknowledged() {
    let (node, _) = node().await;
    let mut client = Client::connect(node.address).await;
    client.send(frame(PING, 0, 0, b"12345678")).await;
    let (mut acknowledged, mut answered) = (false, false);
    while !(acknowledged && answered) {
        let frame = client.read().await.expect("the connection lives");
        acknowledged |= frame.kind == SETTINGS && frame.flags & ACK != 0;
        answered |= frame.kind == PING && frame.flags & ACK != 0 && frame.payload == b"12345678";
    }
}
