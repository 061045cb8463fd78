//! What is in the program and what is not: one TLS stack, and no part that knows more than it should.

use std::process::Command;

/// The lines of `cargo tree` about what depends on `on`, from the packages that `scope` names.
fn dependants(scope: &[&str], on: &str) -> Vec<String> {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["tree", "--offline", "--locked", "--all-features", "--edges", "normal,build", "--prefix", "none"])
        .args(scope)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()
        .expect("cargo runs the tests, so it can be run");
    assert!(output.status.success(), "cargo tree failed: {}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8(output.stdout).expect("cargo prints UTF-8");
    tree.lines().filter(|line| line.split(' ').next() == Some(on)).map(str::to_owned).collect()
}

#[test]
fn there_is_one_tls_stack_and_one_of_everything_else() {
    for unwanted in ["ring", "openssl-sys", "native-tls", "rsa", "reqwest", "chrono"] {
        assert_eq!(dependants(&["--workspace"], unwanted), Vec::<String>::new(), "{unwanted} came in");
    }
    assert!(!dependants(&["--workspace"], "aws-lc-rs").is_empty(), "the check looks at nothing");
}

#[test]
fn the_data_plane_links_neither_a_database_nor_an_admin_framework() {
    for unwanted in ["sqlx", "sqlx-core", "axum", "control-plane", "clap"] {
        assert!(dependants(&["--package", "data-plane"], unwanted).is_empty(), "{unwanted} came in");
    }
}

#[test]
fn the_planes_and_the_model_do_not_see_each_other() {
    assert!(dependants(&["--package", "control-plane"], "data-plane").is_empty(), "the planes meet on the stream");
    for above in ["control-plane", "data-plane"] {
        assert!(dependants(&["--package", "model"], above).is_empty(), "the model knows {above}");
    }
    // It shares the messages of the stream with the planes; a runtime of its own it has not.
    for runtime in ["tokio", "hyper"] {
        assert!(dependants(&["--package", "model", "--depth", "1"], runtime).is_empty(), "the model knows {runtime}");
    }
    assert!(dependants(&["--package", "proto"], "model").is_empty(), "the stream knows nothing of its content");
}

/// The README's first command names no binary.
#[test]
fn cargo_run_runs_the_gateway() {
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["metadata", "--offline", "--locked", "--no-deps", "--format-version", "1"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()
        .expect("cargo runs the tests, so it can be run");
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let default: Vec<_> = metadata["workspace_default_members"].as_array().expect("a list").iter().collect();
    assert_eq!(default.len(), 1);
    let is_default = |package: &&serde_json::Value| &package["id"] == default[0];
    let package = metadata["packages"].as_array().expect("a list").iter().find(is_default).expect("a member");
    assert_eq!(package["name"], "sluice");
}
