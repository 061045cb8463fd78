//! The reader of files, which gets what people write: problems lie within the file, and what was read without one is read
//! again from either of the forms in which it can be written.

#![no_main]

use std::io;

use libfuzzer_sys::fuzz_target;
use model::file::{Others, Parsed, Secrets, Source, Surroundings, export, parse, to_json, to_yaml};
use model::snapshot::Snapshot;

fuzz_target!(|text: &str| {
    let parsed = read(text);
    // As YAML counts them.
    let lines = text.replace("\r\n", "\n").split(['\r', '\n']).count() + 1;
    for problem in parsed.problems() {
        let at = problem.location.as_ref().expect("problems of reading are located");
        assert!((1..=lines).contains(&(at.line as usize)) && at.column > 0, "{at:?}");
    }
    if !parsed.problems().is_empty() {
        return;
    }
    let value = parsed.to_value();
    for written in [to_json(&value), to_yaml(&value)] {
        let again = read(&written);
        assert!(again.problems().is_empty(), "{written}\n{:?}", again.problems());
        assert_eq!(again.to_value(), value, "{written}");
    }
    let empty = Snapshot::default();
    let edits = parsed.edits_on(&empty, Others::Remove).expect("there was no problem");
    let Ok((snapshot, _)) = empty.apply(1, edits) else { return };
    for secrets in [Secrets::Plain, Secrets::Redacted] {
        let exported = read(&to_yaml(&export(snapshot.config.iter(), secrets)));
        let edits = exported.edits_on(&snapshot, Others::Remove).expect("an export can be read");
        let (_, changes) = snapshot.apply(2, edits).expect("an export can be applied");
        assert!(changes.is_empty(), "applying an export changed {:?}", changes.first());
    }
});

fn read(text: &str) -> Parsed {
    let source = Source { path: "gateway.yaml".to_owned(), text: text.to_owned() };
    let nothing = || io::Error::from(io::ErrorKind::NotFound);
    let env = |name: &str| (name == "KEY").then(|| "a value with ${env:KEY} in it".to_owned());
    parse(vec![source], &Surroundings { env: &env, file: &|_| Err(nothing()) })
}
