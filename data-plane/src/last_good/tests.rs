use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::LazyLock;

use bytes::Bytes;
use model::config::{Changed, Edit};
use model::resource::Kind;
use proptest::prelude::*;
use serde_json::json;
use tempfile::TempDir;

use super::files::Files;
use super::*;

/// A record and the snapshot that it leads to.
type Step = (Record, Arc<Snapshot>);

fn put(name: &str, status: u16) -> Edit {
    let spec = json!({"hosts": ["a.test"], "paths": [format!("/{name}")], "respond": {"status": status}});
    Edit::Put { kind: Kind::Route, name: name.to_owned(), spec }
}

fn key() -> Arc<SealingKey> {
    Arc::new(SealingKey::new(&[7; 32]))
}

/// The next snapshot and the record that leads to it.
fn change(before: &Snapshot, edits: Vec<Edit>) -> Step {
    let (after, changes) = before.apply(before.revision + 1, edits).expect("good edits");
    let envelopes = changes.iter().map(|change: &Changed| model::wire::envelope_of_change(change));
    let body = proto::body::encode(envelopes);
    (Record { base: Position::of(before), reached: Position::of(&after), body }, Arc::new(after))
}

/// Eleven revisions that add, replace and remove; the first one stands on its own.
fn history() -> Vec<Step> {
    let mut history = vec![change(&Snapshot::default(), vec![put("first", 200)])];
    for number in 0..10_u16 {
        let before = Arc::clone(&history.last().expect("the first is there").1);
        let mut edits = vec![put(&format!("route-{}", number % 4), 200 + number)];
        if number % 4 == 3 {
            let name = "route-1".parse().expect("a name");
            edits.push(Edit::Remove { key: model::resource::Key::new(Kind::Route, name) });
        }
        history.push(change(&before, edits));
    }
    history
}

fn written(directory: &Path, history: &[Step]) {
    let (mut files, _) = Files::open(directory, key()).expect("a directory");
    for (record, snapshot) in history {
        files.write(std::slice::from_ref(record), snapshot).expect("a disk");
    }
}

fn read(directory: &Path) -> Option<Position> {
    Files::open(directory, key()).expect("a directory").1.as_deref().map(Position::of)
}

fn named(directory: &Path, ending: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry").path());
    let mut paths: Vec<_> = entries.filter(|path| path.extension().is_some_and(|found| found == ending)).collect();
    paths.sort();
    paths
}

#[test]
fn what_was_kept_last_is_there_after_a_restart() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("last-good").join("default");
    let (last_good, found) = LastGood::open(&path, key()).expect("a directory");
    assert!(found.is_none());
    let history = history();
    for (record, snapshot) in &history {
        last_good.keep(record.clone(), Arc::clone(snapshot));
    }
    last_good.close();
    let newest = &history.last().expect("ten revisions").1;
    let (last_good, found) = LastGood::open(&path, key()).expect("a directory");
    let found = found.expect("a snapshot");
    assert_eq!(Position::of(&found), Position::of(newest));
    assert_eq!(found.routes.len(), newest.routes.len());
    let (record, next) = change(&found, vec![put("route-9", 404)]);
    last_good.keep(record, Arc::clone(&next));
    last_good.close();
    assert_eq!(read(&path), Some(Position::of(&next)));
    for file in fs::read_dir(&path).expect("a directory") {
        let mode = file.expect("an entry").metadata().expect("metadata").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}

#[test]
fn two_nodes_cannot_share_a_directory() {
    let directory = tempfile::tempdir().expect("a directory");
    let _first = Files::open(directory.path(), key()).expect("a directory");
    let error = Files::open(directory.path(), key()).err().expect("it is taken");
    assert!(error.to_string().contains("another node"), "{error}");
}

#[test]
fn who_has_the_files_and_not_the_key_has_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let history = history();
    written(directory.path(), &history);
    // How a body begins.
    let zstd = [0x28, 0xb5, 0x2f, 0xfd];
    for path in named(directory.path(), "snapshot").iter().chain(&named(directory.path(), "journal")) {
        let bytes = fs::read(path).expect("a file");
        assert!(!bytes.windows(4).any(|window| window == zstd), "{} holds a body", path.display());
    }
    let (_, found) = Files::open(directory.path(), Arc::new(SealingKey::new(&[8; 32]))).expect("a directory");
    assert!(found.is_none());
}

#[test]
fn files_of_before_are_read_and_replaced() {
    let directory = tempfile::tempdir().expect("a directory");
    let history = history();
    let file = |records: &[Step]| -> Vec<u8> {
        let records = records.iter().map(|(record, _)| record.encode());
        std::iter::once(record::MAGIC.to_vec()).chain(records).flatten().collect()
    };
    fs::write(directory.path().join("1.snapshot"), file(&history[..1])).expect("a file");
    fs::write(directory.path().join("1.journal"), file(&history[1..4])).expect("a file");
    let (mut files, found) = Files::open(directory.path(), key()).expect("a directory");
    assert_eq!(found.as_deref().map(Position::of), Some(Position::of(&history[3].1)));
    files.write(std::slice::from_ref(&history[4].0), &history[4].1).expect("a disk");
    drop(files);
    assert_eq!(named(directory.path(), "snapshot").len(), 2, "nothing is added to files of before");
    assert_eq!(read(directory.path()), Some(Position::of(&history[4].1)));
}

#[test]
fn a_change_writes_what_it_touches_and_the_journal_is_compacted() {
    let directory = tempfile::tempdir().expect("a directory");
    let (mut files, _) = Files::open(directory.path(), key()).expect("a directory");
    let empty = Snapshot::default();
    let edits = (0..2_000).map(|number| put(&format!("route-{number}"), 200)).collect();
    let (record, mut snapshot) = change(&empty, edits);
    files.write(&[record], &snapshot).expect("a disk");
    let mut written = 0;
    let mut generations = std::collections::BTreeSet::new();
    for number in 0..40_u16 {
        let (mut record, next) = change(&snapshot, vec![put("route-7", 300 + number)]);
        assert!(record.body.len() < 400);
        // As large as a change with a long certificate; the format does not care what a body holds.
        record.body = Bytes::from(vec![b'x'; 100_000]);
        files.write(&[record.clone()], &next).expect("a disk");
        written += record.body.len();
        generations.extend(named(directory.path(), "snapshot"));
        snapshot = next;
    }
    let on_disk: u64 = named(directory.path(), "journal")
        .iter()
        .chain(&named(directory.path(), "snapshot"))
        .map(|path| path.metadata().expect("metadata").len())
        .sum();
    assert!(written == 4_000_000 && on_disk < 2_200_000, "{on_disk} bytes on disk");
    assert_eq!(generations.len(), 4);
    assert!(named(directory.path(), "snapshot").len() <= 2);
}

#[test]
fn a_way_that_became_too_long_is_replaced_by_the_whole() {
    let directory = tempfile::tempdir().expect("a directory");
    let history = history();
    written(directory.path(), &history[..3]);
    let (mut files, _) = Files::open(directory.path(), key()).expect("a directory");
    files.write(&[], &history[8].1).expect("a disk");
    files.write(&[history[9].0.clone(), history[10].0.clone()], &history[10].1).expect("a disk");
    drop(files);
    assert_eq!(read(directory.path()), Some(Position::of(&history[10].1)));
}

#[test]
fn a_damaged_snapshot_falls_back_to_the_generation_before() {
    let directory = tempfile::tempdir().expect("a directory");
    let history = history();
    written(directory.path(), &history[..8]);
    let (mut files, _) = Files::open(directory.path(), key()).expect("a directory");
    files.write(&[], &history[9].1).expect("a disk");
    drop(files);
    let newest = named(directory.path(), "snapshot").pop().expect("two generations");
    let mut bytes = fs::read(&newest).expect("a file");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&newest, bytes).expect("a file");
    let (mut files, found) = Files::open(directory.path(), key()).expect("a directory");
    assert_eq!(found.as_deref().map(Position::of), Some(Position::of(&history[7].1)));
    files.write(std::slice::from_ref(&history[10].0), &history[10].1).expect("a disk");
    drop(files);
    assert_eq!(read(directory.path()), Some(Position::of(&history[10].1)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Whatever happens to the end of the journal or in the middle of it, some whole revision is read, never
    /// a mixture; and writing goes on from there.
    #[test]
    fn a_damaged_journal_gives_an_earlier_whole_revision(
        place in any::<prop::sample::Index>(), flip in 0..=255_u8, is_cut in any::<bool>(),
    ) {
        static WRITTEN: LazyLock<(TempDir, Vec<Step>)> = LazyLock::new(|| {
            let (directory, history) = (tempfile::tempdir().expect("a directory"), history());
            written(directory.path(), &history);
            (directory, history)
        });
        let (intact, history) = &*WRITTEN;
        let directory = tempfile::tempdir().expect("a directory");
        for name in ["1.snapshot", "1.journal"] {
            fs::copy(intact.path().join(name), directory.path().join(name)).expect("a file");
        }
        let journal = named(directory.path(), "journal").pop().expect("a journal");
        let mut bytes = fs::read(&journal).expect("a file");
        let place = place.index(bytes.len());
        let is_same = !is_cut && flip == 0;
        if is_cut { bytes.truncate(place) } else { bytes[place] ^= flip }
        fs::write(&journal, &bytes).expect("a file");

        // Exactly the records before the damage survive.
        let mut end = sealed::MAGIC.len();
        let mut survivors = 1;
        for (record, _) in &history[1..] {
            end += sealed::frame(&key(), "", record).len();
            if !is_same && end > place { break }
            survivors += 1;
        }
        if !is_same && place < sealed::MAGIC.len() { survivors = 1; }
        let found = read(directory.path());
        prop_assert_eq!(found, Some(Position::of(&history[survivors - 1].1)));

        let (mut files, found) = Files::open(directory.path(), key()).expect("a directory");
        let (record, next) = change(&found.expect("a snapshot"), vec![put("after", 200)]);
        files.write(&[record], &next).expect("a disk");
        drop(files);
        prop_assert_eq!(read(directory.path()), Some(Position::of(&next)));
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), is_ours in any::<bool>()) {
        let directory = tempfile::tempdir().expect("a directory");
        let magic = if is_ours { &sealed::MAGIC[..] } else { &[] };
        fs::write(directory.path().join("3.snapshot"), [magic, &bytes].concat()).expect("a file");
        prop_assert_eq!(read(directory.path()), None);
    }
}
