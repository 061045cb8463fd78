use std::io;
use std::path::Path;

use serde_json::json;

use super::*;

fn env(name: &str) -> Option<String> {
    (name == "ACME_KEY").then(|| "0123456789abcdef".to_owned())
}

fn file(path: &Path) -> io::Result<Vec<u8>> {
    match path.to_str() {
        Some("conf/certs/a.pem") => Ok(b"a chain".to_vec()),
        Some("conf/certs/staple.der") => Ok(vec![0x30, 0x82, 0x01, 0xff]),
        _ => Err(io::Error::from(io::ErrorKind::NotFound)),
    }
}

fn read(texts: &[&str]) -> Parsed {
    let source =
        |(index, text): (usize, &&str)| Source { path: format!("conf/{index}.yaml"), text: (*text).to_owned() };
    parse(texts.iter().enumerate().map(source).collect(), &Surroundings { env: &env, file: &file })
}

/// The snapshot that files make, or every problem with them.
fn apply(texts: &[&str]) -> Result<Snapshot, Problems> {
    let parsed = read(texts);
    let edits = parsed.edits_on(&Snapshot::default(), Others::Keep)?;
    let applied = Snapshot::default().apply(1, edits);
    applied.map(|(snapshot, _)| snapshot).map_err(|mut problems| {
        parsed.locate(&mut problems);
        problems
    })
}

/// `line:column code pointer`, in the order of the file.
fn found(texts: &[&str]) -> Vec<String> {
    let mut found: Vec<_> = apply(texts)
        .err()
        .unwrap_or_else(|| panic!("there are faults in {texts:?}"))
        .into_iter()
        .map(|problem| {
            let location = problem.location.expect("a location");
            (location.line, location.column, format!("{} {}", problem.code, problem.pointer))
        })
        .collect();
    found.sort();
    found.into_iter().map(|(line, column, what)| format!("{line}:{column} {what}")).collect()
}

const GOOD: &str = r#"# yaml-language-server: $schema=sluice.schema.json
version: 1

listeners:
  - { name: web, bind: "0.0.0.0:8080" }
services:
  - name: orders
    url: http://10.0.0.11:9000
routes:
  - name: orders-api
    paths: [/orders, { exact: /o }]
    service: orders
    policies: [auth]
  - name: ping
    respond: { body: "pong\n" }
policies:
  - { name: auth, type: key-auth }
  - { name: shape, type: headers, config: { request: { set: { X-Text: "$${env:HOME}" } } } }
consumers:
  - name: acme
    credentials:
      - { type: key-auth, name: main, key: "${env:ACME_KEY}" }
certificates:
"#;

#[test]
fn a_good_file_is_applied() {
    let snapshot = apply(&[GOOD]).unwrap_or_else(|problems| panic!("{problems:?}"));
    assert_eq!(snapshot.config.len(), 7);
    let key = crate::resource::consumer::KeyHash::of(b"0123456789abcdef");
    assert!(snapshot.consumer_of_key(&key).is_some());
    let shape = Key::new(Kind::Policy, "shape".parse().expect("a name"));
    assert!(snapshot.config.get(&shape).expect("it is there").spec.contains(r#""X-Text":"${env:HOME}""#));
}

#[test]
fn json_is_read_too_and_several_files_are_one() {
    let services = json!({"version": 1, "services": [{"name": "orders", "url": "http://a:1"}]}).to_string();
    let routes = "version: 1\nroutes: [{name: r, service: orders}]";
    let snapshot = apply(&[&services, routes]).unwrap_or_else(|problems| panic!("{problems:?}"));
    assert_eq!(snapshot.config.len(), 2);
}

#[test]
fn every_fault_is_found_at_its_place() {
    let text = "\
servics:
  - name: lost
route: []
services:
  - name: orders
    url: http://10.0.0.11:9000
    weihgt: 1
  - name: down
    url: ${env:DOWN_URL}
  - url: ftp://x
  - name: 7
    url: http://a:1
  - just text
routes:
  - name: a
    paths: [/a]
    service: oders
    timeouts:
      request: 5 parsecs
  - name: b
    hosts: [ok.example, \"a b\"]
    backends:
      - {weight: 2}
      - service: nowhere
  - name: a
    service: down
consumers: {}
";
    assert_eq!(
        found(&[text]),
        [
            "1:1 missing-field /version",
            "1:1 unknown-kind /servics",
            "3:1 unknown-kind /route",
            "7:5 unknown-field /weihgt",
            "9:10 unknown-variable /url",
            "10:5 missing-field /name",
            "10:10 invalid-value /url",
            "11:11 invalid-name /name",
            "13:5 invalid-value ",
            "17:14 unknown-reference /service",
            "19:16 invalid-value /timeouts/request",
            "21:25 invalid-value /hosts/1",
            "23:9 missing-field /backends/0/service",
            "24:18 unknown-reference /backends/1/service",
            "25:11 duplicate-name /name",
            "27:12 invalid-value /consumers",
        ]
    );
}

#[test]
fn references_are_located_also_where_they_were_written_in_short() {
    let text = "\
version: 1
services:
  - { name: orders, url: 'http://a:1' }
routes:
  - { name: a, paths: [/a], service: oders }
  - name: b
    backends:
      - service: orders
      - service: order
    policies: [none]
";
    let problems = apply(&[text]).err().expect("problems");
    let shown: Vec<_> = problems
        .iter()
        .map(|problem| {
            let location = problem.location.as_ref().expect("a location");
            format!("{} {}", location.excerpt, problem.hint.as_deref().unwrap_or_default())
        })
        .collect();
    assert_eq!(
        shown,
        [
            "5 |   - { name: a, paths: [/a], service: oders }\n  |                                      ^^^^^ did you mean `orders`?",
            "9 |       - service: order\n  |                  ^^^^^ did you mean `orders`?",
            "10 |     policies: [none]\n   |                ^^^^ create the policy in the same change, or before it",
        ]
    );
}

#[test]
fn a_name_in_two_files_is_told_with_both_places() {
    let text = "version: 1\nservices:\n  - { name: a, url: 'http://a:1' }\n";
    let problems = apply(&[text, text]).err().expect("a problem");
    let [problem] = &problems[..] else { panic!("{problems:?}") };
    assert_eq!(problem.message, "another service has this name, at conf/0.yaml:3:13");
    assert_eq!(problem.location.as_ref().expect("a location").file, "conf/1.yaml");
}

#[test]
fn keys_and_certificates_may_be_in_files_of_their_own() {
    let text = "\
version: 1
certificates:
  - name: a
    cert_file: certs/a.pem
    key_file: ../none.pem
  - { name: b, cert: x, cert_file: certs/a.pem, key: y }
";
    let parsed = read(&[text]);
    assert_eq!(parsed.resources[0].spec, json!({"cert": "a chain"}));
    assert_eq!(found(&[text]), ["5:15 unreadable-file /key_file", "6:36 conflicting-fields /cert_file"]);
    assert!(parsed.problems()[0].message.contains("`conf/../none.pem` cannot be read"), "{:?}", parsed.problems());
}

#[test]
fn what_cannot_be_read_at_all_is_one_problem_with_a_place() {
    for (text, place) in [
        ("version: 1\nroutes: [\n", "invalid-syntax"),
        ("version: 1\nversion: 1\n", "2:1 invalid-syntax"),
        ("version: 1\n---\nversion: 1\n", "3:1 invalid-syntax"),
        ("a: *b\n", "1:4 invalid-syntax"),
        ("", "1:1 invalid-value"),
        ("- a\n", "1:1 invalid-value"),
        ("version: 2\n", "1:10 invalid-value"),
    ] {
        let found = found(&[text]);
        assert!(found.len() == 1 && found[0].contains(place), "{text:?}: {found:?}");
    }
}

#[test]
fn a_text_that_unfolds_to_something_huge_is_refused() {
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let list = vec![format!("*a{}", level - 1); 10].join(", ");
        bomb.push_str(&format!("a{level}: &a{level} [{list}]\n"));
    }
    let found = found(&[&bomb]);
    assert!(found.len() == 1 && found[0].contains("invalid-syntax"), "{found:?}");
    let deep = "[".repeat(100_000);
    assert_eq!(apply(&[&deep]).err().expect("a problem").len(), 1);
}

#[test]
fn others_are_removed_if_asked_for() {
    let before = apply(&[GOOD]).unwrap_or_else(|problems| panic!("{problems:?}"));
    let fewer = read(&["version: 1\nservices: [{ name: orders, url: 'http://a:1' }]\n"]);
    let after = |others| {
        let edits = fewer.edits_on(&before, others).expect("edits");
        before.apply(2, edits).unwrap_or_else(|problems| panic!("{problems:?}")).0.config.len()
    };
    assert_eq!((after(Others::Keep), after(Others::Remove)), (7, 1));
}

#[test]
fn an_export_reads_as_people_write() {
    let snapshot = apply(&[GOOD]).unwrap_or_else(|problems| panic!("{problems:?}"));
    let yaml = to_yaml(&export(snapshot.config.iter(), Secrets::Redacted));
    let expected = "\
version: 1

listeners:
  - name: web
    bind: 0.0.0.0:8080
";
    assert!(yaml.starts_with(expected), "{yaml}");
    for text in [&yaml, &to_json(&export(snapshot.config.iter(), Secrets::Plain))] {
        let edits = read(&[text]).edits_on(&snapshot, Others::Remove).expect("edits");
        let (after, changes) = snapshot.apply(2, edits).unwrap_or_else(|problems| panic!("{problems:?}"));
        assert!(changes.is_empty() && after.config.digest() == snapshot.config.digest());
    }
    let sent = read(&[GOOD]).to_value();
    assert_eq!(apply(&[&sent.to_string()]).map(|after| after.config.digest()).ok(), Some(snapshot.config.digest()));
}

/// As `openssl ocsp -respout` leaves it.
#[test]
fn a_staple_in_der_is_taken_as_it_is() {
    let certificate = "{name: a, cert: x, key: x, ocsp_staple_file: certs/staple.der}";
    let parsed = read(&[&format!("version: 1\ncertificates:\n  - {certificate}\n")]);
    assert_eq!((parsed.problems(), &parsed.resources[0].spec["ocsp_staple"]), (&[][..], &"MIIB/w==".into()));
}
