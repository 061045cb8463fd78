//! A change is live when the writer is told so, and no request notices.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use tests::gateway::{revision_of, wait_until};
use tests::http;
use tests::traffic::{Backend, Traffic};

use crate::{Gateway, listener_address, simple_file};

#[test]
fn a_route_is_created_changed_and_deleted_while_traffic_flows() -> Result<()> {
    let gateway = Gateway::start()?;
    let (first, second) = (Backend::start("first"), Backend::start("second"));
    let listener = listener_address();
    gateway.control.admin.apply(&simple_file(listener, &first.url()))?;
    let traffic = Traffic::start(listener, "shop.example", "/orders/7");
    let admin = &gateway.control.admin;
    let wait = "?wait=serving&timeout=20s";

    let body = format!(r#"{{"url":"{}"}}"#, second.url());
    let created = admin.succeed("PUT", &format!("services/users{wait}"), &body)?;
    assert_eq!(created.status, 201);
    let route = r#"{"hosts":["shop.example"],"paths":["/users"],"service":"users"}"#;
    admin.succeed("PUT", &format!("routes/users{wait}"), route)?;
    let answer = http::get(listener, "shop.example", "/users/1")?;
    assert_eq!((answer.status, answer.field("x-backend")), (200, Some("second")));

    admin.succeed("PATCH", &format!("routes/users{wait}"), r#"{"paths":["/people"]}"#)?;
    assert_eq!(http::get(listener, "shop.example", "/users/1")?.status, 404);
    assert_eq!(http::get(listener, "shop.example", "/people/1")?.status, 200);

    admin.succeed("DELETE", &format!("routes/users{wait}"), "")?;
    let gone = http::get(listener, "shop.example", "/people/1")?;
    assert_eq!((gone.status, gone.field("content-type")), (404, Some("application/problem+json")));
    assert_eq!(gone.json()?["status"], 404);

    let (sent, failures) = traffic.stop();
    assert!(sent > 0 && failures.is_empty(), "{} of {sent}: {:?}", failures.len(), failures.first());
    Ok(())
}

#[test]
fn a_thousand_changes_in_a_row_disturb_no_request() -> Result<()> {
    let gateway = Gateway::start()?;
    let backend = Backend::start("orders");
    let listener = listener_address();
    gateway.control.admin.apply(&simple_file(listener, &backend.url()))?;
    let traffic = Traffic::start(listener, "shop.example", "/orders/7");
    let mut last = 0;
    for change in 0..1000 {
        let name = format!("routes/r{}", change % 50);
        let answer = if change % 7 == 6 {
            gateway.control.admin.call("DELETE", &name, "")?
        } else {
            let body = format!(r#"{{"hosts":["h{}.example"],"paths":["/p{change}"],"service":"orders"}}"#, change % 5);
            gateway.control.admin.call("PUT", &name, &body)?
        };
        assert!(answer.status < 300 || answer.status == 404, "{}: {}", answer.status, answer.text());
        if answer.status < 300 {
            last = revision_of(&answer)?;
        }
    }
    // The last change is waited for; the ones before it may have been passed over, which is the point.
    let answer = gateway.control.admin.succeed(
        "PUT",
        "routes/last?wait=serving&timeout=20s",
        r#"{"hosts":["last.example"],"service":"orders"}"#,
    )?;
    assert!(revision_of(&answer)? > last);
    assert_eq!(http::get(listener, "last.example", "/x")?.status, 200);
    let (sent, failures) = traffic.stop();
    assert!(sent > 0 && failures.is_empty(), "{} of {sent}: {:?}", failures.len(), failures.first());
    Ok(())
}

#[test]
fn a_bad_change_is_refused_whole_with_every_problem_and_traffic_does_not_notice() -> Result<()> {
    let gateway = Gateway::start()?;
    let backend = Backend::start("orders");
    let listener = listener_address();
    let admin = &gateway.control.admin;
    let good = simple_file(listener, &backend.url());
    let revision = admin.apply(&good)?;
    let traffic = Traffic::start(listener, "shop.example", "/orders/7");

    let bad = good.replace("service: orders", "service: order").replace("paths:", "pahts:")
        + "policies: [{ name: p, type: rate-limt }]\n";
    let answer = admin.call_as("POST", "config:apply?prune=true", "application/yaml", &bad)?;
    assert_eq!((answer.status, answer.field("content-type")), (422, Some("application/problem+json")));
    let problem = answer.json()?;
    let errors = problem["errors"].as_array().expect("a list of errors").clone();
    let hints: Vec<&str> = errors.iter().filter_map(|error| error["hint"].as_str()).collect();
    assert!(hints.contains(&"did you mean `paths`?"), "{problem:#}");
    assert!(hints.contains(&"did you mean `rate-limit`?"), "{problem:#}");
    assert_eq!(admin.head()?, revision);

    let dangling = r#"{"hosts":["x.example"],"service":"order"}"#;
    let answer = admin.call("PUT", "routes/x", dangling)?;
    assert_eq!(answer.status, 422);
    let error = &answer.json()?["errors"][0];
    assert_eq!((&error["pointer"], &error["hint"]), (&"/service".into(), &"did you mean `orders`?".into()));

    let (_, failures) = traffic.stop();
    assert!(failures.is_empty(), "{:?}", failures.first());
    Ok(())
}

#[test]
fn a_rollback_brings_the_old_behaviour_back_as_a_new_revision() -> Result<()> {
    let gateway = Gateway::start()?;
    let (first, second) = (Backend::start("first"), Backend::start("second"));
    let listener = listener_address();
    let admin = &gateway.control.admin;
    let before = admin.apply(&simple_file(listener, &first.url()))?;
    let digest = admin.get(&format!("revisions/{before}"))?["digest"].clone();
    admin.apply(&simple_file(listener, &second.url()))?;
    assert_eq!(http::get(listener, "shop.example", "/orders")?.field("x-backend"), Some("second"));

    let answer = admin.succeed("POST", &format!("revisions/{before}:rollback?wait=serving&timeout=20s"), "")?;
    let after = revision_of(&answer)?;
    assert!(after > before + 1);
    assert_eq!(admin.get(&format!("revisions/{after}"))?["digest"], digest);
    assert_eq!(http::get(listener, "shop.example", "/orders")?.field("x-backend"), Some("first"));
    Ok(())
}

#[test]
fn a_listener_that_cannot_be_opened_is_refused_by_the_node_with_the_reason() -> Result<()> {
    let gateway = Gateway::start()?;
    let backend = Backend::start("orders");
    let listener = listener_address();
    let admin = &gateway.control.admin;
    admin.apply(&simple_file(listener, &backend.url()))?;

    // The backend's port is taken, by this very process.
    let body = format!(r#"{{"bind":"{}"}}"#, backend.address);
    let answer = admin.call("PUT", "listeners/taken?wait=serving&timeout=20s", &body)?;
    let problem = answer.json()?;
    assert_eq!(answer.status, 409, "{problem:#}");
    let error = &problem["errors"][0];
    assert_eq!(
        (&error["kind"], &error["name"], &error["pointer"]),
        (&"listener".into(), &"taken".into(), &"/bind".into())
    );
    let text = error.to_string();
    assert!(text.contains(&std::process::id().to_string()), "the holder is named: {text}");

    assert_eq!(http::get(listener, "shop.example", "/orders")?.status, 200);
    admin.succeed("DELETE", "listeners/taken?wait=serving&timeout=20s", "")?;
    Ok(())
}

#[test]
fn each_answer_and_its_log_line_name_the_one_revision_that_served_it() -> Result<()> {
    let gateway = Gateway::start()?;
    let listener = listener_address();
    let listeners = format!("listeners: [{{ name: web, bind: \"{listener}\", revision_header: true }}]");
    let first = gateway.control.admin.apply(&format!(
        "version: 1\n{listeners}\nroutes: [{{ name: all, paths: [/], respond: {{ body: \"1\" }} }}]\n"
    ))?;
    assert_eq!(first, 1);
    let is_done = AtomicBool::new(false);
    let seen = std::thread::scope(|scope| {
        let reader = scope.spawn(|| -> Result<Vec<u64>> {
            let mut seen = Vec::new();
            while !is_done.load(Ordering::Relaxed) {
                let answer = http::get(listener, "x.example", &format!("/r/{}", seen.len()))?;
                let named = answer.field("sluice-revision").map(str::to_owned);
                assert_eq!(named.as_deref(), Some(&*answer.text()), "the body is what that revision says");
                seen.push(answer.text().parse()?);
            }
            Ok(seen)
        });
        let changes = (|| {
            for next in first + 1..first + 100 {
                let route = format!(r#"{{"paths":["/"],"respond":{{"body":"{next}"}}}}"#);
                let answer = gateway.control.admin.succeed("PUT", "routes/all?wait=serving&timeout=20s", &route)?;
                assert_eq!(revision_of(&answer)?, next);
            }
            anyhow::Ok(())
        })();
        is_done.store(true, Ordering::Relaxed);
        changes.and(reader.join().expect("the reader did not panic"))
    })?;
    assert!(seen.len() > 10, "{seen:?}");
    let logged = || -> Vec<(String, u64)> {
        let output = gateway.node.process.output();
        let lines = output.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let of_interest =
            lines.filter_map(|line| Some((line["path"].as_str()?.to_owned(), line["revision"].as_u64()?)));
        of_interest.filter(|(path, _)| path.starts_with("/r/")).collect()
    };
    wait_until("every request is in the log", || logged().len() >= seen.len())?;
    let mut logged = logged();
    logged.sort_by_key(|(path, _)| path["/r/".len()..].parse::<usize>().unwrap_or(usize::MAX));
    let expected: Vec<(String, u64)> =
        seen.iter().enumerate().map(|(i, revision)| (format!("/r/{i}"), *revision)).collect();
    assert_eq!(logged, expected);

    // Off, as it is unless somebody wants it.
    gateway.control.admin.succeed("PATCH", "listeners/web?wait=serving&timeout=20s", r#"{"revision_header":false}"#)?;
    assert_eq!(http::get(listener, "x.example", "/")?.field("sluice-revision"), None);
    Ok(())
}
