//! The header of the PROXY protocol: it is decided once, whatever comes behind it, and what it says can be written.

#![no_main]

use data_plane::proxy_protocol::{Beginning, MAX_BYTES, read, write_v1, write_v2};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let whole = read(bytes);
    for end in 0..bytes.len().min(MAX_BYTES) {
        match read(&bytes[..end]) {
            Ok(Beginning::Part) => {}
            decided => {
                assert_eq!(decided, whole);
                break;
            }
        }
    }
    assert!(whole != Ok(Beginning::Part) || bytes.len() < MAX_BYTES);
    let Ok(Beginning::Header { length, addresses }) = whole else { return };
    assert!(length <= bytes.len() && length <= MAX_BYTES);
    let Some(addresses) = addresses else { return };
    for write in [write_v1, write_v2] {
        let mut written = Vec::new();
        write(&mut written, addresses);
        let length = written.len();
        assert_eq!(read(&written), Ok(Beginning::Header { length, addresses: Some(addresses) }));
    }
});
