//! The canonical path: it is its own canonical form, a service can be sent it, and whoever decodes it once more sees the
//! same segments.

#![no_main]

use http::uri::PathAndQuery;
use libfuzzer_sys::fuzz_target;
use model::router::path::canonical;
use percent_encoding::percent_decode;

fuzz_target!(|text: &str| {
    let Ok(path) = canonical(text) else { return };
    assert_eq!(canonical(&path).as_deref(), Ok(&*path));
    let target = PathAndQuery::try_from(&*path).expect("it can stand in a request");
    assert_eq!((target.path(), target.query()), (&*path, None));
    let once: Vec<u8> = percent_decode(path.as_bytes()).collect();
    let twice: Vec<u8> = percent_decode(&once).collect();
    let segments = |path: &[u8]| path.split(|byte| *byte == b'/').map(<[u8]>::to_vec).collect::<Vec<_>>();
    assert_eq!(segments(&once), segments(&twice), "an escape within an escape");
    assert_eq!(segments(&once).len(), path.split('/').count(), "a hidden slash");
    let inner = &segments(&once)[1..];
    assert!(inner.iter().all(|segment| segment != b"." && segment != b".."), "a hidden dot segment");
    assert!(inner.iter().rev().skip(1).all(|segment| !segment.is_empty()), "an empty segment");
    assert!(!once.iter().any(|byte| *byte < b' ' || *byte == 0x7f || *byte == b'\\'), "a hidden control character");
});
