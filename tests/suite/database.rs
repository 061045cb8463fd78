//! The database fails over, has no room, answers a commit to nobody: nothing acknowledged is lost, nodes serve on, and
//! operators are told.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tests::gateway::{revision_of, wait_until};
use tests::postgres::Postgres;
use tests::relay::Fault;
use tests::traffic::Traffic;

use crate::fleet::Fleet;

/// A listener, and a route that answers with a word.
fn file(fleet: &Fleet, body: &str) -> String {
    json!({
        "version": 1,
        "listeners": [{ "name": "web", "bind": fleet.bind() }],
        "routes": [{ "name": "word", "paths": ["/word"], "respond": { "body": body } }],
    })
    .to_string()
}

fn word(fleet: &Fleet, node: usize) -> String {
    fleet.get(node, "any", "/word").map_or_else(|error| error.to_string(), |answer| answer.text())
}

fn route(body: &str) -> String {
    json!({ "paths": ["/word"], "respond": { "body": body } }).to_string()
}

#[test]
fn a_database_that_fails_over_loses_nothing_that_was_acknowledged() -> Result<()> {
    let mut fleet = Fleet::start(2, 2)?;
    fleet.admin(0).apply(&file(&fleet, "one"))?;
    let standby = fleet.postgres.standby();
    let traffic = Traffic::start(fleet.listener(0), "any", "/word");
    let mut acknowledged = 0;
    for change in 0..10 {
        acknowledged = revision_of(&fleet.admin(change % 2).succeed(
            "PUT",
            "routes/word",
            &route(&format!("change {change}")),
        )?)?;
    }

    fleet.postgres.stop();
    let refused = fleet.admin(0).call("PUT", "routes/word", &route("meanwhile"))?;
    assert_eq!(refused.status, 503, "{}", refused.text());
    standby.promote();
    for relay in &fleet.to_database {
        relay.lead_to(&[standby.address()]);
    }
    for control in 0..2 {
        wait_until("it is written to the one that took over", || {
            let written = fleet.admin(control).call("PUT", "routes/word", &route(&format!("after {control}")));
            written.is_ok_and(|answer| answer.status < 300)
        })?;
    }
    fleet.wait_until_converged()?;
    let kept = fleet.admin(1).get(&format!("revisions/{acknowledged}"))?;
    assert_eq!(kept["changes"][0]["after"]["respond"]["body"], "change 9", "{kept:#}");
    assert_eq!((word(&fleet, 0).as_str(), word(&fleet, 1).as_str()), ("after 1", "after 1"));
    let (sent, failures) = traffic.stop();
    assert!(sent > 0 && failures.is_empty(), "{} of {sent}: {:?}", failures.len(), failures.first());
    // The old one does not come back as a second truth.
    drop(std::mem::replace(&mut fleet.postgres, standby));
    Ok(())
}

/// Files of the server that may not grow are to it what a disk without room is: `could not extend file`.
#[test]
fn a_database_without_room_refuses_writes_and_takes_them_again_when_there_is_some() -> Result<()> {
    let fleet = Fleet::start_on(Postgres::start_with(&["--wal-segsize=1"]), 1, 1, &[])?;
    let admin = fleet.admin(0);
    admin.apply(&file(&fleet, "one"))?;
    let mut rng = fastrand::Rng::with_seed(7);
    // Nothing that compresses.
    let mut large = || -> String { (0..60_000).map(|_| rng.alphanumeric()).collect() };
    let put = |number: usize, body: &str| {
        let spec = json!({ "paths": [format!("/large/{number}")], "respond": { "body": body } });
        admin.call("PUT", &format!("routes/large-{number}"), &spec.to_string())
    };
    fleet.postgres.limit_files(Some(2 * 1024 * 1024));
    let mut written = Vec::new();
    let refused = loop {
        let answer = put(written.len(), &large())?;
        match answer.status {
            201 => written.push(revision_of(&answer)?),
            _ => break answer,
        }
        anyhow::ensure!(written.len() < 100, "it never becomes full");
    };
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert_eq!(refused.field("content-type"), Some("application/problem+json"));
    let log = fleet.controls[0].process.output();
    assert!(log.contains("could not extend file"), "it says why: {log}");
    // Reading works, traffic flows, and what was acknowledged is there.
    wait_until("the history can be read", || admin.head().is_ok_and(|head| Some(&head) == written.last()))?;
    assert_eq!(word(&fleet, 0), "one");

    fleet.postgres.limit_files(None);
    let next = written.len();
    wait_until("there is room again", || put(next, "small").is_ok_and(|answer| answer.status == 201))?;
    fleet.wait_until_converged()?;
    let routes = admin.get("routes?limit=1000")?;
    assert_eq!(routes["items"].as_array().map(Vec::len), Some(1 + written.len() + 1));
    assert_eq!(fleet.get(0, "any", &format!("/large/{next}"))?.text(), "small");
    Ok(())
}

#[test]
fn what_was_committed_and_never_answered_is_served_by_all_nodes() -> Result<()> {
    let mut fleet = Fleet::start(2, 2)?;
    fleet.admin(0).apply(&file(&fleet, "one"))?;
    let before = fleet.admin(0).head()?;
    fleet.to_database[0].set(Some(Fault::MuteAfter("COMMIT")));
    let struck = fleet.to_database[0].struck();
    std::thread::scope(|scope| {
        let admin = fleet.admin(0).clone();
        let unanswered = scope.spawn(move || admin.call("PUT", "routes/word", &route("two")));
        wait_until("it is committed", || fleet.to_database[0].struck() > struck)?;
        wait_until("the other control plane knows", || fleet.admin(1).head().is_ok_and(|head| head == before + 1))?;
        fleet.controls[0].process.kill();
        let answer = unanswered.join().expect("it does not panic");
        assert!(answer.as_ref().map_or(true, |answer| answer.status >= 500), "nobody can know: {answer:?}");
        anyhow::Ok(())
    })?;
    fleet.to_database[0].set(None);
    // The node of the one that is gone too.
    for node in 0..2 {
        wait_until("the node serves it", || word(&fleet, node) == "two")?;
    }
    fleet.controls[0].start_again()?;
    fleet.wait_until_converged()?;
    assert_eq!(fleet.admin(0).head()?, before + 1, "it is there once");
    Ok(())
}

#[test]
fn of_two_operators_who_write_at_once_one_is_told_that_the_other_was_first() -> Result<()> {
    let fleet = Fleet::start(2, 1)?;
    fleet.admin(0).apply(&file(&fleet, "one"))?;
    for round in 0..5 {
        let base = fleet.admin(0).head()?;
        wait_until("both know the head", || fleet.admin(1).get("status").is_ok_and(|told| told["revision"] == base))?;
        let path = format!("config:apply?base={base}");
        let answers: Vec<Result<tests::http::Answer>> = std::thread::scope(|scope| {
            let write = |operator: usize| {
                let (admin, path) = (fleet.admin(operator).clone(), &path);
                let file = file(&fleet, &format!("operator {operator} in round {round}"));
                scope.spawn(move || admin.call("POST", path, &file))
            };
            [write(0), write(1)].map(|writing| writing.join().expect("it does not panic")).into()
        });
        let answers = answers.into_iter().collect::<Result<Vec<_>>>()?;
        let winner = answers.iter().position(|answer| answer.status == 200).context("nobody wins")?;
        let loser = &answers[1 - winner];
        assert_eq!(loser.status, 409, "{}", loser.text());
        let problem = loser.json()?;
        assert!(
            problem["detail"].as_str().is_some_and(|detail| detail.contains(&(base + 1).to_string())),
            "{problem:#}"
        );
        fleet.wait_until_converged()?;
        assert_eq!(word(&fleet, 0), format!("operator {winner} in round {round}"));
        assert_eq!(fleet.admin(0).head()?, base + 1);
    }
    let history: Value = fleet.admin(1).get("revisions?limit=1000")?;
    assert_eq!(history["items"].as_array().map(Vec::len), Some(6));
    Ok(())
}
