//! The configuration on a node's disk, damaged: what is read is a revision that was written, or nothing.
//!
//! The input is a series of four bytes each: which file, where, what is done there, and with which byte.

#![no_main]

use std::sync::LazyLock;

use bytes::Bytes;
use data_plane::last_good::{MAGIC, Position, Record, reader};
use libfuzzer_sys::fuzz_target;
use model::config::Edit;
use model::resource::{Key, Kind};
use model::snapshot::Snapshot;

/// A snapshot and a journal of four changes, and every position that they lead through.
struct Written {
    snapshot: Vec<u8>,
    journal: Vec<u8>,
    positions: Vec<Position>,
}

static WRITTEN: LazyLock<Written> = LazyLock::new(written);

fuzz_target!(|bytes: &[u8]| {
    let (mut snapshot, mut journal) = (WRITTEN.snapshot.clone(), WRITTEN.journal.clone());
    for damage in bytes.chunks_exact(4) {
        let &[file, place, action, byte] = damage else { unreachable!() };
        let file = if file % 8 == 0 { &mut snapshot } else { &mut journal };
        spoil(file, usize::from(place), action, byte);
    }
    // One that is the writer's own, around a body that is not: the digest has to find that.
    let forged =
        Record { base: WRITTEN.positions[4], reached: WRITTEN.positions[2], body: Bytes::copy_from_slice(bytes) };
    let intact = [&WRITTEN.journal[..], &forged.encode()].concat();
    for (snapshot, journal) in [(snapshot, journal), (WRITTEN.snapshot.clone(), intact)] {
        if let Ok(loaded) = reader::read(snapshot.into(), Some(journal.into())) {
            assert!(WRITTEN.positions.contains(&Position::of(&loaded.snapshot)));
        }
    }
});

fn spoil(file: &mut Vec<u8>, place: usize, action: u8, byte: u8) {
    let place = place * file.len() / 256;
    match action % 6 {
        0 => file.truncate(place),
        1 => file.insert(place, byte),
        2 => file.extend_from_within(place..),
        3 => file.rotate_left(place),
        4 => drop(file.drain(place..(place + usize::from(byte)).min(file.len()))),
        _ if place < file.len() => file[place] ^= byte,
        _ => {}
    }
}

fn written() -> Written {
    let put = |name: &str, status: u16| {
        let spec = serde_json::json!({ "paths": [format!("/{name}")], "respond": { "status": status } });
        Edit::Put { kind: Kind::Route, name: name.to_owned(), spec }
    };
    let remove = |name: &str| Edit::Remove { key: Key::new(Kind::Route, name.parse().expect("a name")) };
    let (mut held, _) = Snapshot::default().apply(1, vec![put("a", 200), put("b", 200)]).expect("good edits");
    let mut written = Written {
        snapshot: [&MAGIC[..], &Record::whole(&held).encode()].concat(),
        journal: MAGIC.to_vec(),
        positions: vec![Position::of(&held)],
    };
    for edits in [vec![put("c", 201)], vec![put("a", 202)], vec![remove("b")], vec![put("b", 203), remove("c")]] {
        let (next, changes) = held.apply(held.revision + 1, edits).expect("good edits");
        let body = proto::body::encode(changes.iter().map(model::wire::envelope_of_change));
        let record = Record { base: Position::of(&held), reached: Position::of(&next), body };
        written.journal.extend_from_slice(&record.encode());
        written.positions.push(record.reached);
        held = next;
    }
    written
}
