//! What names are known for, against a name server that behaves, and against those that do not.

use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::RecordType::{A, AAAA, SRV};

use super::name_server::{NameServer, Say, address, alias, name, service};
use super::*;

const ORDERS: &str = "orders.test.";

/// Names whose name servers are these.
fn names(servers: &[SocketAddr]) -> Names {
    let nowhere = || PathBuf::from("/nonexistent");
    let naming = Naming::of(servers.iter().copied());
    Names::new(Handle::current(), System::new(nowhere(), nowhere()), Some(Arc::new(naming)))
}

async fn know(names: &Names, of: &str, types: &'static [RecordType]) -> Known {
    names.know(&Wanted { name: name(of), types, servers: None }).await
}

fn records(addresses: &[&str]) -> Vec<Record> {
    addresses.iter().map(|address| Record::Address(address.parse().expect("an address"))).collect()
}

fn left(known: &Known) -> Duration {
    known.ask_at.saturating_duration_since(Instant::now())
}

fn failure(known: &Known) -> &str {
    match &known.trouble {
        Some(Trouble::Failed(reason)) => reason,
        other => panic!("it has not failed: {other:?}"),
    }
}

#[tokio::test]
async fn one_answer_serves_everybody_until_its_time_is_over() {
    let server = NameServer::start().await;
    server.say_records(ORDERS, A, vec![address(ORDERS, 300, "10.0.0.2"), address(ORDERS, 60, "10.0.0.1")]);
    server.say_records(ORDERS, AAAA, vec![address(ORDERS, 300, "::1")]);
    let names = names(&[server.address]);
    let all = futures_util::future::join_all((0..50).map(|_| names.addresses("Orders.test", None))).await;
    for found in all {
        let Addresses { addresses, ttl } = found.expect("it is known");
        assert_eq!(addresses[..], ["10.0.0.1", "10.0.0.2", "::1"].map(|text| text.parse::<IpAddr>().expect("one")));
        assert!(ttl > Duration::from_secs(50) && ttl <= Duration::from_secs(60), "{ttl:?}");
    }
    assert_eq!(server.asked(), 2, "once for each type");
}

#[tokio::test]
async fn records_that_are_over_at_once_are_good_for_a_second() {
    let server = NameServer::start().await;
    server.say_records(ORDERS, A, vec![address(ORDERS, 0, "10.0.0.1")]);
    let names = names(&[server.address]);
    let known = know(&names, ORDERS, &[A]).await;
    assert!(left(&known) > Duration::ZERO && left(&known) <= Duration::from_secs(1), "{known:?}");
    server.say_records(ORDERS, A, vec![address(ORDERS, 300, "10.0.0.2")]);
    assert_eq!(know(&names, ORDERS, &[A]).await.records[..], records(&["10.0.0.1"]));
    tokio::time::sleep_until(known.ask_at).await;
    let known = know(&names, ORDERS, &[A]).await;
    assert_eq!((&known.records[..], server.asked()), (&records(&["10.0.0.2"])[..], 2));
}

#[tokio::test]
async fn an_answer_that_was_cut_off_is_asked_for_over_tcp() {
    let server = NameServer::start().await;
    let many = (0..1500_u16).map(|host| address(ORDERS, 60, &format!("10.0.{}.{}", host / 256, host % 256)));
    server.say(ORDERS, A, Say::Long(many.collect()));
    let known = know(&names(&[server.address]), ORDERS, &[A]).await;
    // And is too large: what counts is bounded.
    assert_eq!((known.records.len(), server.asked_over_tcp()), (ask::MAX_RECORDS, 1));
    assert_eq!(known.records.last(), records(&["10.0.3.255"]).last());
}

#[tokio::test]
async fn srv_records_keep_all_that_they_say() {
    let server = NameServer::start().await;
    let owner = "_http._tcp.orders.test.";
    let said = vec![
        service(owner, 60, (10, 5, 8080), "One.orders.test."),
        service(owner, 30, (0, 0, 80), "two.orders.test."),
        service(owner, 30, (0, 0, 0), "."),
        // What comes beside is not believed.
        address("one.orders.test.", 60, "10.6.6.6"),
    ];
    server.say_records(owner, SRV, said);
    let known = know(&names(&[server.address]), owner, &[SRV]).await;
    let record = |priority, weight, port, host: &str| Record::Service { priority, weight, port, host: host.to_owned() };
    assert_eq!(known.records[..], [record(0, 0, 80, "two.orders.test"), record(10, 5, 8080, "one.orders.test")]);
}

#[tokio::test]
async fn aliases_are_followed_and_nothing_else_is_believed() {
    let server = NameServer::start().await;
    let names = names(&[server.address]);
    let said = vec![
        alias(ORDERS, 30, "b.test."),
        address("evil.test.", 60, "10.6.6.6"),
        alias("b.test.", 60, "c.test."),
        address("c.test.", 60, "10.0.0.3"),
    ];
    server.say_records(ORDERS, A, said);
    let known = know(&names, ORDERS, &[A]).await;
    assert_eq!(known.records[..], records(&["10.0.0.3"]));
    assert!(left(&known) <= Duration::from_secs(30), "the alias is over before the address");

    // A server that does not follow itself.
    server.say_records("x.test.", A, vec![alias("x.test.", 60, "y.test.")]);
    server.say_records("y.test.", A, vec![address("y.test.", 60, "10.0.0.4")]);
    assert_eq!(know(&names, "x.test.", &[A]).await.records[..], records(&["10.0.0.4"]));

    // A circle, at once and step by step; and an address of a name that nobody asked for.
    server.say_records("r.test.", A, vec![alias("r.test.", 60, "s.test."), alias("s.test.", 60, "r.test.")]);
    assert!(failure(&know(&names, "r.test.", &[A]).await).contains("aliases"));
    server.say_records("t.test.", A, vec![alias("t.test.", 60, "u.test.")]);
    server.say_records("u.test.", A, vec![alias("u.test.", 60, "t.test.")]);
    assert!(failure(&know(&names, "t.test.", &[A]).await).contains("aliases"));
    server.say_records("v.test.", A, vec![address("evil.test.", 60, "10.6.6.6")]);
    assert_eq!(know(&names, "v.test.", &[A]).await.trouble, Some(Trouble::Nothing));
}

#[tokio::test]
async fn an_answer_to_another_question_is_none() {
    let server = NameServer::start().await;
    server.say(ORDERS, A, Say::Forged(vec![address(ORDERS, 60, "10.6.6.6")]));
    let known = know(&names(&[server.address]), ORDERS, &[A]).await;
    assert!(failure(&known).contains("no answer") && known.records.is_empty(), "{known:?}");
}

#[tokio::test]
async fn the_next_server_is_asked_where_one_fails() {
    let (silent, broken, good) = (NameServer::start().await, NameServer::start().await, NameServer::start().await);
    silent.say(ORDERS, A, Say::Silence);
    broken.say(ORDERS, A, Say::This(ResponseCode::ServFail, vec![]));
    good.say_records(ORDERS, A, vec![address(ORDERS, 60, "10.0.0.1")]);
    good.say_records("more.test.", A, vec![address("more.test.", 60, "10.0.0.2")]);
    let all = names(&[silent.address, broken.address, good.address]);
    assert_eq!(know(&all, ORDERS, &[A]).await.records[..], records(&["10.0.0.1"]));
    let asked = silent.asked();
    assert_eq!(know(&all, "more.test.", &[A]).await.records[..], records(&["10.0.0.2"]));
    assert_eq!(silent.asked(), asked, "the one that answered is asked first");

    let known = know(&names(&[silent.address, broken.address]), ORDERS, &[A]).await;
    assert_eq!(known.trouble, Some(Trouble::Failed(format!("{}: Server Failure", broken.address))));
}

#[tokio::test]
async fn while_servers_fail_the_last_answer_counts_at_once() {
    let server = NameServer::start().await;
    server.say_records(ORDERS, A, vec![address(ORDERS, 1, "10.0.0.1")]);
    let names = names(&[server.address]);
    tokio::time::sleep_until(know(&names, ORDERS, &[A]).await.ask_at).await;
    server.say(ORDERS, A, Say::Silence);
    // A server that says nothing is waited for longer than this takes.
    let known = tokio::time::timeout(Duration::from_secs(1), know(&names, ORDERS, &[A])).await.expect("in time");
    assert_eq!(known.records[..], records(&["10.0.0.1"]));
}

#[tokio::test]
async fn a_name_that_is_gone_is_gone_after_three_answers() {
    let server = NameServer::start().await;
    server.say_records(ORDERS, A, vec![address(ORDERS, 1, "10.0.0.1")]);
    let names = names(&[server.address]);
    let mut known = know(&names, ORDERS, &[A]).await;
    server.say(ORDERS, A, Say::This(ResponseCode::NXDomain, vec![]));
    for is_there in [true, true, false] {
        tokio::time::sleep_until(known.ask_at).await;
        known = know(&names, ORDERS, &[A]).await;
        assert_eq!((known.records.is_empty(), &known.trouble), (!is_there, &Some(Trouble::Nothing)));
    }
    assert_eq!(names.addresses(ORDERS, None).await, Err("DNS knows none".to_owned()));
    assert_eq!(names.addresses("local host", None).await.map_err(|_| ()), Err(()));
}
