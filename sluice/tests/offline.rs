//! The commands that need no server, run as a user runs them.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn sluice(arguments: &[&str]) -> Output {
    command(arguments).output().expect("the program can be run")
}

/// Without whatever the environment of the test says about Sluice.
fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluice"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SLUICE_")) {
        command.env_remove(name);
    }
    command.args(arguments);
    command
}

fn example(name: &str) -> String {
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "..", "deploy", "examples", name].iter().collect();
    path.to_str().expect("paths here are UTF-8").to_owned()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("output is UTF-8")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("messages are UTF-8")
}

#[test]
fn the_examples_are_valid() {
    let output = sluice(&["validate", "-f", &example("minimal.yaml")]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(stdout(&output), "", "messages do not go to stdout");

    let mut demo = command(&["validate", "-f", &example("demo.yaml")]);
    demo.env("SLUICE_DEMO_ORDERS", "http://127.0.0.1:1").env("SLUICE_DEMO_ECHO", "http://127.0.0.1:2");
    let output = demo.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

#[test]
fn what_is_hardly_meant_is_valid_with_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.yaml");
    let route = "{ name: r, headers: [{ name: a, exact: b }, { name: a, present: false }], respond: {} }";
    std::fs::write(&file, format!("version: 1\nroutes:\n  - {route}\n")).unwrap();
    let output = sluice(&["validate", "-f", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let told = stderr(&output);
    assert!(told.starts_with("warning[contradicting-conditions]: "), "{told}");
    assert!(told.contains("gateway.yaml:3:") && told.contains("valid: 1 resources"), "{told}");
    let output = sluice(&["validate", "-f", file.to_str().unwrap(), "-o", "json"]);
    let json: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!((&json["valid"], &json["warnings"][0]["code"]), (&true.into(), &"contradicting-conditions".into()));
}

#[test]
fn a_request_is_explained_without_a_server() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.yaml");
    let routes =
        "  - { name: order, paths: [{ template: \"/orders/{id}\" }], respond: {} }\n  - { name: any, respond: {} }\n";
    std::fs::write(&file, format!("version: 1\nroutes:\n{routes}")).unwrap();
    let file = file.to_str().unwrap();
    let output = sluice(&["explain", "GET", "http://shop.example//orders/7", "-H", "X-A: 1", "-f", file]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    for expected in ["path      /orders/7", "route     order", "capture   id = 7", "lost: its path is less specific"] {
        assert!(stdout(&output).contains(expected), "{expected} in {}", stdout(&output));
    }
    let output = sluice(&["explain", "GET", "/x", "-f", file, "-o", "json"]);
    let json: Value = serde_json::from_str(&stdout(&output)).unwrap();
    assert_eq!((&json["route"], &json["outcomes"][0]["status"]), (&"any".into(), &200.into()));
    let output = sluice(&["explain", "GET", "shop", "-f", file]);
    assert!(output.status.code() == Some(1) && stderr(&output).contains("is no URL"), "{}", stderr(&output));
}

#[test]
fn the_full_example_is_valid_with_the_certificates_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["api.shop.example".to_owned()]).unwrap();
    for name in ["shop.crt", "gateway.crt", "partners.crt", "internal.crt"] {
        std::fs::write(folder.path().join(name), made.cert.pem()).unwrap();
    }
    for name in ["shop.key", "gateway.key"] {
        std::fs::write(folder.path().join(name), made.signing_key.serialize_pem()).unwrap();
    }
    let file = folder.path().join("full.yaml");
    std::fs::copy(example("full.yaml"), &file).unwrap();
    let mut validate = command(&["validate", "-f", file.to_str().unwrap()]);
    let output = validate.env("ACME_KEY", "0123456789abcdef").output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

#[test]
fn every_fault_is_shown_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("gateway.yaml");
    std::fs::write(
        &file,
        "\
version: 1
services:
  - name: orders
    url: http://127.0.0.1:9000
routes:
  - name: orders
    path: [/orders]
    service: orders
  - name: bills
    service: order
",
    )
    .unwrap();
    let output = sluice(&["validate", "-f", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stdout(&output), "");
    let said = stderr(&output);
    let path = file.to_str().unwrap();
    assert!(said.contains(&format!("{path}:7:5: route `orders` at /path")), "{said}");
    assert!(said.contains("did you mean `paths`?"), "{said}");
    assert!(said.contains(&format!("{path}:10:14: route `bills` at /")), "{said}");
    assert!(said.contains("    service: order\n"), "the line is shown: {said}");
    assert!(said.contains("did you mean `orders`?"), "{said}");
    assert!(said.contains("2 problems"), "{said}");

    let output = sluice(&["validate", "-f", file.to_str().unwrap(), "-o", "json"]);
    assert_eq!(output.status.code(), Some(1));
    let found: Value = serde_json::from_slice(&output.stdout).expect("JSON on stdout");
    let lines: Vec<_> = found["problems"].as_array().unwrap().iter().map(|p| p["location"]["line"].as_u64()).collect();
    assert_eq!(lines, [Some(7), Some(10)]);
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let output = sluice(&["validate", "-f", "/nonexistent/gateway.yaml"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("/nonexistent/gateway.yaml"), "{}", stderr(&output));
}

#[test]
fn the_schema_is_json_schema() {
    let output = sluice(&["schema"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let schema: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    assert!(schema["properties"]["routes"].is_object());
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let mut child =
        command(&["schema"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program can be run");
    // As `sluice schema | head -0` does.
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(stderr(&output), "");
}

#[test]
fn shells_get_their_completion() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = sluice(&["completion", shell]);
        assert_eq!(output.status.code(), Some(0));
        assert!(stdout(&output).contains("data-plane"), "{shell}");
    }
}

#[test]
fn wrong_usage_ends_with_1() {
    for arguments in [&["frobnicate"][..], &["get", "rotues"], &["apply"], &["run", "--demo", "--to", "http://a:1"]] {
        let output = sluice(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        assert_eq!(stdout(&output), "");
    }
    assert!(stderr(&sluice(&["get", "rotues"])).contains("did you mean `routes`?"));
}

#[test]
fn help_lists_every_command_and_the_exit_codes() {
    let output = sluice(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    let help = stdout(&output);
    for command in [
        "run",
        "control-plane",
        "data-plane",
        "validate",
        "diff",
        "apply",
        "export",
        "get",
        "delete",
        "nodes",
        "status",
        "revisions",
        "rollback",
        "schema",
        "completion",
    ] {
        assert!(help.lines().any(|line| line.trim_start().starts_with(command)), "{command} is missing: {help}");
    }
    assert!(help.contains("Exit codes:"), "{help}");
}

#[test]
fn a_control_plane_that_is_not_there_is_said_so() {
    // Bound and not listening: nobody else can take it, and nobody answers.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    let output = sluice(&["nodes", "--server", &format!("http://{address}")]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains(&format!("cannot reach the control plane at http://{address}")));
}
