//! The target of a request, in every form (RFC 9112 section 3.2): what is sent to the service is read there as what was
//! routed here, and the query is not touched.

#![no_main]

use http::Uri;
use http::uri::PathAndQuery;
use libfuzzer_sys::fuzz_target;
use model::router::{host, path};

fuzz_target!(|bytes: &[u8]| {
    let Ok(uri) = Uri::try_from(bytes) else { return };
    if let Some(authority) = uri.authority()
        && let Ok(host) = host::canonical(authority.as_str())
    {
        assert!(!host.contains(['@', '/', '?', '#']), "{host}");
    }
    let Ok(path) = path::canonical(uri.path()) else { return };
    let sent = match uri.query() {
        Some(query) => PathAndQuery::try_from(format!("{path}?{query}")),
        None => PathAndQuery::try_from(&*path),
    };
    let sent = sent.expect("it can be sent");
    let read = Uri::try_from(sent.as_str()).expect("it can be read");
    assert_eq!((read.path(), read.query()), (&*path, uri.query()));
    assert_eq!(path::canonical(read.path()).as_deref(), Ok(&*path));
});
