//! The JSON Schema of the file format agrees with what reading a file accepts.

use model::file::{self, Secrets};
use model::policy::PolicyKind;
use model::resource::KINDS;
use model::schema;
use model::snapshot::Snapshot;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::universe;

/// Whether a value is what a schema asks for, as far as our schemas go; patterns and formats are not looked at.
fn is_valid(value: &Value, schema: &Value, root: &Value) -> bool {
    let Value::Object(rules) = schema else { return schema.as_bool().expect("a schema is a map or a boolean") };
    let all = |list: &Value| list.as_array().expect("a list").iter().all(|schema| is_valid(value, schema, root));
    let count =
        |list: &Value| list.as_array().expect("a list").iter().filter(|schema| is_valid(value, schema, root)).count();
    rules.iter().all(|(rule, operand)| match rule.as_str() {
        "$ref" => {
            let pointer = operand.as_str().and_then(|path| path.strip_prefix('#')).expect("a reference inside");
            is_valid(value, root.pointer(pointer).unwrap_or_else(|| panic!("{pointer} is missing")), root)
        }
        "type" => match operand {
            Value::Array(types) => types.iter().any(|name| is_of(value, name)),
            name => is_of(value, name),
        },
        "const" => value == operand,
        "enum" => operand.as_array().expect("a list").contains(value),
        "required" => {
            operand.as_array().expect("a list").iter().all(|field| value.get(field.as_str().expect("a name")).is_some())
        }
        "properties" => operand
            .as_object()
            .expect("a map")
            .iter()
            .all(|(field, schema)| value.get(field).is_none_or(|value| is_valid(value, schema, root))),
        "additionalProperties" => {
            let known = rules.get("properties");
            let others = value.as_object().into_iter().flatten();
            let mut others = others.filter(|(field, _)| known.and_then(|known| known.get(field)).is_none());
            others.all(|(_, value)| is_valid(value, operand, root))
        }
        "items" => value.as_array().into_iter().flatten().all(|entry| is_valid(entry, operand, root)),
        "allOf" => all(operand),
        "anyOf" => count(operand) > 0,
        "not" => !is_valid(value, operand, root),
        "oneOf" => count(operand) == 1,
        "if" => !is_valid(value, operand, root) || is_valid(value, &rules["then"], root),
        "minimum" => value.as_f64().is_none_or(|number| number >= operand.as_f64().expect("a number")),
        "maximum" => value.as_f64().is_none_or(|number| number <= operand.as_f64().expect("a number")),
        "then" | "description" | "title" | "default" | "pattern" | "format" | "writeOnly" | "$schema" | "$defs" => true,
        other => panic!("`{other}` is not looked at"),
    })
}

fn is_of(value: &Value, name: &Value) -> bool {
    match name.as_str().expect("the name of a type") {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "null" => value.is_null(),
        other => panic!("there is no type `{other}`"),
    }
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
    let schema = schema::file();
    let good = json!({
        "version": 1,
        "services": [{"name": "a", "url": "http://a:1", "timeouts": {"connect": "1s"}}],
        "certificates": [{"name": "a", "cert_file": "a.pem", "key": "x"}],
        "ca_bundles": [{"name": "a", "certs_file": "a.pem"}],
        "policies": [{"name": "a", "type": "rate-limit", "config": {"limit": 1, "per": "1m"}}, {"name": "b", "type": "key-auth"}],
    });
    assert!(is_valid(&good, &schema, &schema));
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
        ("/policies/0/type", json!("rate-limits")),
        ("/policies/0/type", json!("key-auth")),
        ("/policies/0/config", json!({"limit": 1, "per": "1m", "by": "hand"})),
        ("/policies/0/config", json!({"limit": 1})),
        ("/policies/0", json!({"name": "a", "type": "rate-limit"})),
    ] {
        let mut bad = good.clone();
        *bad.pointer_mut(pointer).expect("a place") = wrong;
        assert!(!is_valid(&bad, &schema, &schema), "{bad}");
    }
}

/// The files that people start from.
#[test]
fn examples_hold_and_are_valid() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/examples");
    let schema = schema::file();
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
                Ok(if is_key { made.signing_key.serialize_pem() } else { made.cert.pem() })
            },
        };
        let parsed = file::parse(vec![file::Source { path: path.display().to_string(), text }], &surroundings);
        let edits = parsed.edits_on(&Snapshot::default(), file::Others::Keep);
        let applied = edits.and_then(|edits| Snapshot::default().apply(1, edits));
        assert!(applied.is_ok(), "{}: {:?}", path.display(), applied.err());
        assert!(is_valid(&parsed.to_value(), &schema, &schema), "{}", path.display());
    }
    assert!(count > 0, "there are no examples in {folder}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn what_is_accepted_is_valid(changes in universe::changes(16)) {
        let schema = schema::file();
        let mut head = Snapshot::default();
        for change in &changes {
            let edits = universe::edits(&head.config, change);
            head = head.apply(1, edits).map_or(head, |(next, _)| next);
        }
        let file = file::export(head.config.iter(), Secrets::Plain);
        prop_assert!(is_valid(&file, &schema, &schema), "{file}");
    }
}
