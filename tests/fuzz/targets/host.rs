//! The canonical host: it is its own canonical form, with a port or without.

#![no_main]

use libfuzzer_sys::fuzz_target;
use model::router::host::canonical;

fuzz_target!(|text: &str| {
    let Ok(host) = canonical(text) else { return };
    assert!(!host.bytes().any(|byte| byte.is_ascii_uppercase() || byte.is_ascii_control() || !byte.is_ascii()));
    if host.is_empty() {
        assert!(text.is_empty());
        return;
    }
    let written = if host.contains(':') { format!("[{host}]") } else { host.to_string() };
    assert_eq!(canonical(&written).as_deref(), Ok(&*host));
    assert_eq!(canonical(&format!("{written}:8080")).as_deref(), Ok(&*host));
});
