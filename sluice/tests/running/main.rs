//! A running gateway, used as a newcomer and as a pipeline use it.

use std::net::TcpListener;
use std::process::Command;

use serde_json::Value;

mod gateway;

use gateway::{Gateway, run, stderr, stdout, wait_until};

/// The commands that the welcome proposes, each on one line as a shell takes them.
fn proposed(welcome: &str) -> Vec<String> {
    let joined = welcome.replace("\\\n", " ");
    joined.lines().map(str::trim).filter(|line| line.starts_with("curl")).map(str::to_owned).collect()
}

#[test]
fn the_demo_does_what_it_says() {
    let mut gateway = Gateway::start(&["--demo"]);
    let welcome = gateway.said();
    assert!(welcome.contains(&format!("http://{}", gateway.traffic)), "{welcome}");
    assert!(welcome.contains(&format!("http://{}", gateway.admin)), "{welcome}");
    assert!(welcome.contains("sluice-data/admin-token"), "{welcome}");

    let commands = proposed(&welcome);
    assert_eq!(commands.len(), 3, "{welcome}");
    let paste = |line: &str| stdout(&run(Command::new("bash").args(["-c", line]).current_dir(gateway.folder.path())));
    let order: Value = serde_json::from_str(&paste(&commands[0])).expect("an order");
    assert_eq!(order["id"], 1);
    let changed = paste(&commands[1]);
    assert!(changed.ends_with("hello\n"), "{changed}");
    let refused: Value = serde_json::from_str(&paste(&commands[2])).expect("a refusal");
    assert_eq!(refused["status"], 422);
    assert_eq!(refused["errors"][0]["hint"], "did you mean `orders`?");
    assert_eq!(gateway.get("/hello"), "hello\n", "a refused change changes nothing");

    // The routes that the example explains.
    assert_eq!(gateway.get("/ping"), "pong\n");
    let echoed: Value = serde_json::from_str(&gateway.get("/echo/x?y=1")).expect("an echo");
    assert_eq!(echoed["headers"]["x-greeting"], "hello from sluice");
    let partners: Value = serde_json::from_str(&gateway.get("/partners")).expect("a refusal");
    assert_eq!(partners["status"], 401);

    // Streams: events as they come, and a WebSocket, with a frame of two letters under a mask of zeros.
    let events = gateway.exchange("/echo/events", &[], b"", b"data: event 2\n\n");
    assert!(events.contains("text/event-stream") && events.contains("data: event 1\n\n"), "{events}");
    let asking =
        ["Connection: upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: bm9uY2U="];
    let opened = gateway.exchange("/echo", &asking, b"\x81\x82\0\0\0\0hi", b"\x81\x02hi");
    assert!(opened.starts_with("HTTP/1.1 101 "), "{opened}");

    assert_eq!(gateway.interrupt(), Some(0));
    gateway.start_again(&["--demo"]);
    assert_eq!(gateway.get("/hello"), "hello\n", "the second start finds everything again");
    let order: Value = serde_json::from_str(&gateway.get("/orders/2")).expect("the sample services are there");
    assert_eq!(order["id"], 2);
    assert_eq!(gateway.interrupt(), Some(0));
}

#[test]
fn proxies_to_an_address() {
    let target = Gateway::start(&["--demo"]);
    let gateway = Gateway::start(&["--to", &format!("http://{}", target.traffic)]);
    assert_eq!(gateway.get("/ping"), "pong\n");
}

#[test]
fn follows_a_file() {
    let mut gateway = Gateway::new();
    let answer = |body: &str| format!("version: 1\nroutes:\n  - name: hello\n    respond: {{ body: {body} }}\n");
    let file = gateway.write("gateway.yaml", &answer("one"));
    gateway.start_again(&["-f", &file]);
    assert_eq!(gateway.get("/"), "one");

    gateway.write("gateway.yaml", &answer("two"));
    wait_until(|| gateway.get("/") == "two");

    gateway.write("gateway.yaml", &format!("{}    service: nobody\n", answer("three")));
    gateway.wait_for(&format!("{file}:5:14: route `hello`"));
    assert_eq!(gateway.get("/"), "two", "what was there stays");

    gateway.write("gateway.yaml", &answer("four"));
    wait_until(|| gateway.get("/") == "four");
}

#[test]
fn a_bad_file_is_told_before_anything_is_started() {
    let mut gateway = Gateway::new();
    let file = gateway.write("gateway.yaml", "version: 1\nrotues: []\n");
    gateway.spawn(&["-f", &file]);
    assert_eq!(gateway.wait(), Some(1));
    wait_until(|| gateway.said().contains("did you mean `routes`?"));
    assert!(!gateway.folder.path().join("sluice-data").exists());
}

#[test]
fn taken_ports_are_named_with_their_holder() {
    for port in ["traffic", "admin"] {
        let mut gateway = Gateway::new();
        let address = if port == "admin" { gateway.admin } else { gateway.traffic };
        let _holder = TcpListener::bind(address).unwrap();
        gateway.spawn(&[]);
        assert_eq!(gateway.wait(), Some(1), "{port}");
        let me = format!("(process {})", std::process::id());
        wait_until(|| gateway.said().contains(&me));
        assert!(gateway.said().contains(&address.to_string()), "{}", gateway.said());
    }
}

#[test]
fn a_second_start_on_the_same_folder_changes_nothing_of_the_first() {
    let first = Gateway::start(&["--demo"]);
    let before = stdout(&first.command(&["export"]));
    let mut second = Gateway::new();
    let folder = first.folder.path().join("sluice-data");
    second.spawn(&["--to", "http://127.0.0.1:9", "--data-dir", &folder.to_string_lossy()]);
    assert_eq!(second.wait(), Some(1));
    wait_until(|| second.said().contains("another control plane uses the data folder"));
    assert_eq!(second.said().matches("another control plane").count(), 1, "{}", second.said());
    assert_eq!(stdout(&first.command(&["export"])), before);
    assert_eq!(first.get("/ping"), "pong\n");
}

#[test]
fn a_listener_of_the_last_start_can_be_moved_when_its_port_is_taken() {
    let mut gateway = Gateway::start(&["--demo"]);
    assert_eq!(gateway.interrupt(), Some(0));
    let holder = TcpListener::bind(gateway.traffic).unwrap();
    gateway.spawn(&["--demo"]);
    assert_eq!(gateway.wait(), Some(1));
    wait_until(|| gateway.said().contains("choose another address with --listen"));
    gateway.choose_another_traffic_address();
    gateway.start_again(&["--demo"]);
    assert_eq!(gateway.get("/ping"), "pong\n");
    drop(holder);
}

#[test]
fn a_pipeline_gets_its_change_served_and_undone() {
    let gateway = Gateway::start(&["--demo"]);
    let file = gateway.write(
        "change.yaml",
        "version: 1\nroutes:\n  - name: pipeline\n    paths: [/pipeline]\n    respond: { body: live }\n",
    );
    let different = gateway.command(&["diff", "-f", &file]);
    assert_eq!(different.status.code(), Some(2), "{}", stderr(&different));
    assert!(stdout(&different).contains("+ route pipeline"), "{}", stdout(&different));

    let dry = gateway.command(&["apply", "-f", &file, "--dry-run"]);
    assert_eq!(dry.status.code(), Some(0));
    assert_eq!(gateway.command(&["diff", "-f", &file]).status.code(), Some(2), "a dry run changes nothing");

    let applied = gateway.command(&["apply", "-f", &file, "--wait", "--message", "from a test"]);
    assert_eq!(applied.status.code(), Some(0), "{}", stderr(&applied));
    assert_eq!(stdout(&applied), "+ route pipeline\n");
    assert!(stderr(&applied).contains("1/1 "), "{}", stderr(&applied));
    assert_eq!(gateway.get("/pipeline"), "live");
    assert_eq!(gateway.command(&["diff", "-f", &file]).status.code(), Some(0));

    let history = gateway.command(&["revisions", "-o", "json"]);
    let history: Value = serde_json::from_slice(&history.stdout).unwrap();
    assert_eq!(history[0]["message"], "from a test");
    let before = (history[0]["number"].as_u64().unwrap() - 1).to_string();

    let undone = gateway.command(&["rollback", &before, "--wait"]);
    assert_eq!(undone.status.code(), Some(0), "{}", stderr(&undone));
    assert!(gateway.get("/pipeline").contains("404"));
}

#[test]
fn an_export_is_a_file_without_a_difference() {
    let gateway = Gateway::start(&["--demo"]);
    for format in ["yaml", "json"] {
        let export = gateway.command(&["export", "-o", format]);
        assert_eq!(export.status.code(), Some(0), "{}", stderr(&export));
        let file = gateway.write(&format!("export.{format}"), &stdout(&export));
        let difference = gateway.command(&["diff", "-f", &file, "--prune"]);
        assert_eq!(difference.status.code(), Some(0), "{}{}", stdout(&difference), stderr(&difference));
    }
}

#[test]
fn a_refusal_of_a_node_is_shown_with_its_place() {
    let gateway = Gateway::start(&[]);
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap();
    let content = format!("version: 1\nlisteners:\n  - name: second\n    bind: {taken}\n");
    let file = gateway.write("listener.yaml", &content);
    let applied = gateway.command(&["apply", "-f", &file, "--wait"]);
    assert_eq!(applied.status.code(), Some(3), "{}", stderr(&applied));
    let said = stderr(&applied);
    assert!(said.contains(&format!("{file}:4:11: listener `second` at /bind")), "{said}");
    assert!(said.contains(&format!("process {}", std::process::id())), "{said}");
    let status = gateway.command(&["status"]);
    assert_eq!(status.status.code(), Some(3), "{}", stdout(&status));
    assert!(
        stdout(&status).starts_with("0/1 nodes serve ") && stdout(&status).contains("refused"),
        "{}",
        stdout(&status)
    );
    assert!(stderr(&status).contains("listener `second` at /bind"), "{}", stderr(&status));
}

#[test]
fn single_resources_can_be_looked_at_and_deleted() {
    let gateway = Gateway::start(&["--demo"]);
    let names = gateway.command(&["get", "services", "-o", "name"]);
    assert_eq!(stdout(&names), "echo\norders\n", "{}", stderr(&names));
    let table = stdout(&gateway.command(&["get", "routes"]));
    assert!(table.lines().next().unwrap().starts_with("NAME"), "{table}");
    assert!(table.contains("/orders"), "{table}");
    let one = gateway.command(&["get", "route", "ping", "-o", "json"]);
    let one: Value = serde_json::from_slice(&one.stdout).unwrap();
    assert_eq!(one["respond"]["body"], "pong\n");

    let needed = gateway.command(&["delete", "service", "orders"]);
    assert_eq!(needed.status.code(), Some(1));
    assert!(stderr(&needed).contains("route `orders`"), "{}", stderr(&needed));
    let deleted = gateway.command(&["delete", "route", "ping"]);
    assert_eq!(deleted.status.code(), Some(0), "{}", stderr(&deleted));
    let missing = gateway.command(&["get", "route", "ping"]);
    assert_eq!(missing.status.code(), Some(1));

    let nodes = gateway.command(&["nodes"]);
    assert_eq!(nodes.status.code(), Some(0), "{}", stderr(&nodes));
    assert!(stderr(&nodes).contains("nodes serve revision"), "{}", stderr(&nodes));
    wait_until(|| gateway.command(&["status"]).status.code() == Some(0));
    let status = gateway.command(&["status"]);
    assert!(stdout(&status).starts_with("1/1 nodes serve "), "{}", stdout(&status));
    let status: Value = serde_json::from_slice(&gateway.command(&["status", "-o", "json"]).stdout).unwrap();
    assert_eq!((&status["is_converged"], &status["serving"]), (&Value::Bool(true), &Value::from(1)));
}
