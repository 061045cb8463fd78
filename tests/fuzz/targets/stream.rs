//! What the planes send each other: messages, and bodies of revisions, raw or compressed by whoever sent them.

#![no_main]

use std::io::Write;

use libfuzzer_sys::fuzz_target;
use model::config::Edit;
use prost::Message;
use proto::{ControlMessage, Envelope, NodeMessage};

/// How much the envelopes of a body may come to.
const MAX_BYTES: u64 = 64 * 1024;

fuzz_target!(|bytes: &[u8]| {
    let Some((form, bytes)) = bytes.split_first() else { return };
    match form % 4 {
        0 => message::<ControlMessage>(bytes),
        1 => message::<NodeMessage>(bytes),
        2 => body(bytes),
        _ => body(&compressed(bytes)),
    }
});

fn message<M: Message + Default + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    let Ok(message) = M::decode(bytes) else { return };
    assert_eq!(M::decode(&*message.encode_to_vec()).as_ref(), Ok(&message));
}

fn body(bytes: &[u8]) {
    let Ok(envelopes) = proto::body::decode(bytes, MAX_BYTES) else { return };
    let envelopes: Vec<Envelope> = envelopes.map_while(Result::ok).collect();
    let held: usize = envelopes.iter().map(|envelope| envelope.name.len() + envelope.spec.len()).sum();
    assert!(held as u64 <= MAX_BYTES, "{held} bytes");
    let again = proto::body::encode(envelopes.clone());
    let again: Result<Vec<_>, _> = proto::body::decode(&again, MAX_BYTES).expect("a body").collect();
    assert_eq!(again.expect("whole"), envelopes);
    for envelope in &envelopes {
        let Ok(Edit::Restore { key, document }) = model::wire::edit(envelope) else { continue };
        let again = model::wire::envelope(&key, &document);
        assert_eq!((&again.name, again.created, &again.spec), (&envelope.name, envelope.created, &envelope.spec));
    }
}

fn compressed(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).expect("a level that there is");
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("memory")
}
