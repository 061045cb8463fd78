//! What the control plane counts.

use std::time::Duration;

use http::Method;
use model::digest::Digest;

use super::harness::Api;
use crate::nodes::{Introduction, Stage};

/// The value of a line; labels are part of its name.
fn value(text: &str, name: &str) -> f64 {
    let found = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
    found.unwrap_or_else(|| panic!("no {name}:\n{text}"))
}

#[tokio::test]
async fn prometheus_learns_how_the_fleet_is_without_a_token() {
    let api = Api::start().await;
    let read = async || api.call(Method::GET, "/metrics").header("authorization", "").send().await.expect(200).text();
    for name in ["a", "b"] {
        api.put_service(name).await;
    }
    api.get("services/missing").await.expect(404);
    let head = api.state.publisher.head("default").expect("a head").config.digest();
    let connect = |node_id: &str, digest| {
        let serving_for = Duration::from_secs(3600);
        let serving = Some((2, digest));
        let node_id = node_id.to_owned();
        api.state.nodes.connect("default", Introduction { node_id, serving, serving_for, ..Introduction::default() })
    };
    let (_good, strange) = (connect("good", head), connect("strange", Digest::default()));
    let text = read().await;
    assert!(text.ends_with("# EOF\n"), "{text}");
    assert_eq!(value(&text, "sluice_head_revision{gateway=\"default\"}"), 2.0);
    assert_eq!(value(&text, "sluice_nodes{gateway=\"default\",state=\"serving\"}"), 1.0);
    assert_eq!(value(&text, "sluice_nodes{gateway=\"default\",state=\"differs\"}"), 1.0);
    assert_eq!(value(&text, "sluice_nodes_behind{gateway=\"default\"}"), 1.0);
    assert!(value(&text, "sluice_node_lag_seconds{gateway=\"default\"}") >= 3600.0);
    assert_eq!(value(&text, "sluice_node_streams"), 2.0);
    assert_eq!(value(&text, "sluice_publish_duration_seconds_count"), 2.0);
    assert_eq!(value(&text, "sluice_admin_requests_total{code=\"201\"}"), 2.0);
    assert_eq!(value(&text, "sluice_admin_requests_total{code=\"404\"}"), 1.0);
    assert_eq!(value(&text, "sluice_event_streams"), 0.0);

    strange.resynchronises();
    strange.refused(2, Vec::new());
    let watching = api.call(Method::GET, "/v1/gateways/default/events").begin().await;
    let text = read().await;
    let counts = ["sluice_node_resyncs_total", "sluice_node_refusals_total", "sluice_event_streams"];
    assert_eq!(counts.map(|name| value(&text, name)), [1.0; 3]);
    drop(watching);
    strange.reached(Stage::Serving, 2, head);
    let text = read().await;
    assert_eq!(value(&text, "sluice_node_lag_seconds{gateway=\"default\"}"), 0.0);
    assert_eq!(value(&text, "sluice_event_streams"), 0.0);
}
