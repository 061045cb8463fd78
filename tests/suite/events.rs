//! What happens, as `sluice watch` shows it, whichever control plane it asks.

use std::path::Path;

use anyhow::Result;
use serde_json::Value;
use tests::gateway::{ControlPlane, Node, Process, revision_of, wait_until};
use tests::postgres::Postgres;

use crate::replicas::two_replicas;

/// `sluice watch -o json`, in a process of its own.
struct Watch(Process);

impl Watch {
    fn start(control: &ControlPlane, folder: &Path) -> Result<Self> {
        let (server, token) = (format!("http://{}", control.admin.address), control.data.join("admin-token"));
        let arguments = ["watch", "-o", "json", "--server", &server, "--token-file", &token.to_string_lossy()];
        Ok(Self(Process::start(&arguments, folder.join("watch.log"))?))
    }

    /// The events until now; messages are no JSON.
    fn events(&self) -> Vec<Value> {
        self.0.output().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    fn wait_for(&self, what: &str, is_it: impl Fn(&Value) -> bool) -> Result<()> {
        wait_until(what, || self.events().iter().any(&is_it))
    }

    fn revisions(&self) -> Vec<u64> {
        let events = self.events();
        let of_revisions = events.iter().filter(|event| event["type"] == "revision");
        of_revisions.filter_map(|event| event["revision"].as_u64()).collect()
    }
}

#[test]
fn whoever_watches_one_replica_sees_what_happens_through_the_other() -> Result<()> {
    let postgres = Postgres::start();
    let folder = tempfile::tempdir()?;
    let (one, mut two) = two_replicas(&postgres, folder.path())?;
    let watch = Watch::start(&two, folder.path())?;
    watch.wait_for("it is told how things are", |event| event["type"] == "status" && event["total"] == 0)?;

    let node = Node::start(one.stream, &one.node_token(), &folder.path().join("node"))?;
    let body = r#"{"url":"http://127.0.0.1:9"}"#;
    let published = one.admin.succeed("PUT", "services/web?message=first", body)?;
    let first = revision_of(&published)?;
    watch.wait_for("the revision is told", |event| event["revision"] == first && event["message"] == "first")?;
    watch.wait_for("the node is told", |event| event["type"] == "node-joined")?;
    node.wait_until_ready()?;
    // A revision that the node gets while it is known to be there, in all stages.
    let second = revision_of(&one.admin.succeed("PUT", "services/more", body)?)?;
    for stage in ["node-received", "node-compiled", "node-serving"] {
        watch.wait_for(stage, |event| event["type"] == stage && event["revision"] == second)?;
    }

    // What is published while it has no connection comes when it has one again, each revision once.
    two.process.kill();
    for index in 0..5 {
        one.admin.succeed("PUT", &format!("services/away-{index}"), body)?;
    }
    two.start_again()?;
    let last = second + 5;
    watch.wait_for("the newest revision is told", |event| event["type"] == "revision" && event["revision"] == last)?;
    assert_eq!(watch.revisions(), (first..=last).collect::<Vec<_>>());

    drop(node);
    watch.wait_for("the node is gone", |event| event["type"] == "node-left")?;
    // A control plane that stops does not wait for those who watch.
    two.process.signal("TERM")?;
    assert_eq!(two.process.wait()?, 0);
    assert!(!two.process.output().contains("stops with requests still in flight"));
    Ok(())
}
