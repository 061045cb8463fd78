//! The JSON Schema of the file format agrees with what reading a file accepts.

use jsonschema::Validator;
use model::file::{self, Secrets};
use model::policy::PolicyKind;
use model::resource::KINDS;
use model::schema;
use model::snapshot::Snapshot;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::universe;

/// It resolves references inside of a schema alone; nothing is fetched.
fn validator() -> Validator {
    jsonschema::draft202012::new(&schema::file()).expect("a schema that holds")
}

#[test]
fn every_kind_and_every_type_of_policy_is_in_it() {
    let schema = schema::file();
    for info in KINDS {
        assert!(schema["properties"][info.plural]["description"].is_string(), "{}", info.plural);
    }
    let types: Vec<_> = PolicyKind::names().collect();
    assert_eq!(schema["$defs"]["Policy"]["properties"]["type"]["enum"], json!(types));
    assert_eq!(schema["$defs"]["Policy"]["allOf"].as_array().map(Vec::len), Some(types.len()));
}

#[test]
fn mistakes_are_found_by_it() {
    let schema = validator();
    let good = json!({
        "version": 1,
        "services": [{"name": "a", "url": "http://a:1", "timeouts": {"connect": "1s"}}],
        "certificates": [{"name": "a", "cert_file": "a.pem", "key": "x"}],
        "ca_bundles": [{"name": "a", "certs_file": "a.pem"}],
        "policies": [{"name": "a", "type": "rate-limit", "config": {"limit": 1, "per": "1m"}}, {"name": "b", "type": "key-auth"}],
    });
    assert!(schema.is_valid(&good));
    for (pointer, wrong) in [
        ("/version", json!(2)),
        ("/services/0/name", json!(7)),
        ("/services/0/timeouts", json!({"conect": "1s"})),
        ("/services/0", json!({"url": "http://a:1"})),
        ("/certificates/0", json!({"name": "a", "cert_file": "a.pem", "cert": "x", "key": "x"})),
        ("/certificates/0", json!({"name": "a", "cert_file": "a.pem"})),
        ("/certificates/0", json!({"name": "a", "cert": "x", "key": "x", "ocsp_staple": "x", "ocsp_staple_file": "x"})),
        ("/ca_bundles/0", json!({"name": "a"})),
        ("/ca_bundles/0", json!({"name": "a", "certs": "x", "certs_file": "a.pem"})),
        ("/services/0/name", json!("Orders")),
        ("/services/0/timeouts/connect", json!("soon")),
        ("/services/0/timeouts/connect", json!(1)),
        ("/services", json!({"a": {"url": "http://a:1"}})),
        ("/policies/0/type", json!("rate-limits")),
        ("/policies/0/type", json!("key-auth")),
        ("/policies/0/config", json!({"limit": 1, "per": "1m", "by": "hand"})),
        ("/policies/0/config", json!({"limit": 1})),
        ("/policies/0", json!({"name": "a", "type": "rate-limit"})),
    ] {
        let mut bad = good.clone();
        *bad.pointer_mut(pointer).expect("a place") = wrong;
        assert!(!schema.is_valid(&bad), "{bad}");
    }
}

/// An editor shows it, and it is the reference manual.
#[test]
fn every_field_is_described() {
    let schema = schema::file();
    let mut missing = Vec::new();
    look_for_fields(&schema, "", &mut |pointer, field| {
        let target = field["$ref"].as_str().and_then(|path| schema.pointer(path.strip_prefix('#')?));
        let is_described = |schema: &Value| schema["description"].as_str().is_some_and(|text| text.ends_with('.'));
        // What only says which of several forms is meant has the description of the form.
        if field.get("const").is_none() && !is_described(field) && !target.is_some_and(is_described) {
            missing.push(pointer.to_owned());
        }
    });
    assert!(missing.is_empty(), "without a description: {missing:#?}");
}

fn look_for_fields(schema: &Value, pointer: &str, look: &mut impl FnMut(&str, &Value)) {
    let below: Vec<(String, &Value)> = match schema {
        Value::Object(map) => map.iter().map(|(key, value)| (format!("{pointer}/{key}"), value)).collect(),
        Value::Array(list) => list.iter().enumerate().map(|(at, value)| (format!("{pointer}/{at}"), value)).collect(),
        _ => return,
    };
    for (pointer, value) in &below {
        if let (true, Value::Object(fields)) = (pointer.ends_with("/properties"), value) {
            // In front of `then` a field is only named.
            for (name, field) in fields.iter().filter(|_| !pointer.ends_with("/if/properties")) {
                look(&format!("{pointer}/{name}"), field);
            }
        }
        look_for_fields(value, pointer, look);
    }
}

/// The files that people start from.
#[test]
fn examples_hold_and_are_valid() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/examples");
    let schema = validator();
    let mut count = 0;
    for entry in std::fs::read_dir(folder).expect("there are examples") {
        let path = entry.expect("an entry").path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        count += 1;
        let text = std::fs::read_to_string(&path).expect("a file");
        let made = rcgen::generate_simple_self_signed(vec!["a.test".to_owned()]).expect("a certificate");
        let surroundings = file::Surroundings {
            // Good as a target, and as a key.
            env: &|_| Some("http://service.test:9000".to_owned()),
            file: &|path| {
                let is_key = path.extension().is_some_and(|extension| extension == "key");
                Ok(if is_key { made.signing_key.serialize_pem() } else { made.cert.pem() }.into_bytes())
            },
        };
        let parsed = file::parse(vec![file::Source { path: path.display().to_string(), text }], &surroundings);
        let edits = parsed.edits_on(&Snapshot::default(), file::Others::Keep);
        let applied = edits.and_then(|edits| Snapshot::default().apply(1, edits));
        assert!(applied.is_ok(), "{}: {:?}", path.display(), applied.as_ref().err());
        for written in [parsed.to_value(), file::export(applied.expect("it holds").0.config.iter(), Secrets::Plain)] {
            let faults: Vec<_> =
                schema.iter_errors(&written).map(|fault| format!("{}: {fault}", fault.instance_path())).collect();
            assert!(faults.is_empty(), "{}: {faults:#?}", path.display());
        }
    }
    assert!(count > 0, "there are no examples in {folder}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn what_is_accepted_is_valid(changes in universe::changes(16)) {
        let schema = validator();
        let mut head = Snapshot::default();
        for change in &changes {
            let edits = universe::edits(&head.config, change);
            head = head.apply(1, edits).map_or(head, |(next, _)| next);
        }
        let file = file::export(head.config.iter(), Secrets::Plain);
        prop_assert!(schema.is_valid(&file), "{file}");
    }
}
