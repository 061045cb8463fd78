use model::networks::Networks;
use proptest::prelude::*;

use super::*;

fn rule(trusted: &[&str]) -> Forwarding {
    let trusted: Vec<_> = trusted.iter().map(|text| text.parse().expect(text)).collect();
    Forwarding { trusted: Networks::of(&trusted), ..Forwarding::default() }
}

fn peer() -> Client {
    Client { address: SocketAddr::from(([10, 0, 0, 1], 4000)), scheme: Scheme::Http }
}

fn hops(nodes: &[&str]) -> Way {
    Way { hops: nodes.iter().map(|node| Hop { node: (*node).to_owned(), ..Hop::default() }).collect() }
}

#[test]
fn the_client_is_the_right_most_hop_that_is_no_trusted_proxy() {
    let rule = rule(&["10.0.0.0/8", "2001:db8::/32"]);
    for (way, client, place) in [
        (&[][..], "10.0.0.1", None),
        (&["192.0.2.1"], "192.0.2.1", Some(0)),
        (&["6.6.6.6", "192.0.2.1"], "192.0.2.1", Some(1)),
        (&["6.6.6.6", "192.0.2.1:80", "10.2.2.2", "[2001:db8::7]:1"], "192.0.2.1", Some(1)),
        (&["10.3.3.3", "10.2.2.2"], "10.3.3.3", Some(0)),
        (&["6.6.6.6", "unknown"], "10.0.0.1", None),
        (&["6.6.6.6", "_hidden", "10.2.2.2"], "10.2.2.2", Some(2)),
        (&["6.6.6.6", "", "10.2.2.2"], "10.2.2.2", Some(2)),
        (&["::ffff:192.0.2.1"], "192.0.2.1", Some(0)),
    ] {
        let (found, at) = hops(way).client(peer(), &rule);
        assert_eq!((found.address.ip().to_string().as_str(), at), (client, place), "{way:?}");
    }
}

#[test]
fn nodes_are_read_with_ports_and_brackets() {
    for (node, address) in [
        ("192.0.2.1", Some("192.0.2.1:0")),
        ("192.0.2.1:8080", Some("192.0.2.1:8080")),
        ("192.0.2.1:_port", Some("192.0.2.1:0")),
        ("2001:db8::1", Some("[2001:db8::1]:0")),
        ("[2001:db8::1]", Some("[2001:db8::1]:0")),
        ("[2001:db8::1]:80", Some("[2001:db8::1]:80")),
        ("", None),
        ("unknown", None),
        ("_x", None),
        ("192.0.2.1:", None),
        ("192.0.2.1:+1", None),
        ("192.0.2.1:99999", None),
        ("[192.0.2.1]", None),
        ("[2001:db8::1", None),
        ("[2001:db8::1]80", None),
        ("example.com:80", None),
    ] {
        assert_eq!(address_of(node), address.map(|address| address.parse().expect(address)), "{node}");
    }
}

/// RFC 7239 sections 4 and 7.1.
#[test]
fn the_field_of_the_rfc_is_read() {
    let node = |text: &str| read_forwarded(text).map(|hops| hops.into_iter().map(|hop| hop.node).collect::<Vec<_>>());
    let nodes = |nodes: &[&str]| Some(nodes.iter().map(|node| (*node).to_owned()).collect::<Vec<_>>());
    assert_eq!(node("for=\"_gazonk\""), nodes(&["_gazonk"]));
    assert_eq!(node("For=\"[2001:db8:cafe::17]:4711\""), nodes(&["[2001:db8:cafe::17]:4711"]));
    assert_eq!(node("for=192.0.2.60;proto=http;by=203.0.113.43"), nodes(&["192.0.2.60"]));
    assert_eq!(node("for=192.0.2.43, for=198.51.100.17"), nodes(&["192.0.2.43", "198.51.100.17"]));
    assert_eq!(node("for=\"a\\\"b,;\" ; host=x ,, by=_y"), nodes(&["a\"b,;", ""]));
    let hops = read_forwarded("for=192.0.2.1;host=\"a.test:80\";proto=HTTPS").expect("it is well formed");
    assert_eq!((hops[0].host.as_deref(), hops[0].scheme), (Some("a.test:80"), Some(Scheme::Https)));
    for malformed in ["for", "for=", "for=\"x", "for=\"x\\", "for=a b", "=a", "f or=a", "for=a;for=b", "for=\"a\"b"] {
        assert_eq!(node(malformed), None, "{malformed}");
    }
}

#[test]
fn a_scheme_is_that_of_its_hop() {
    let mut headers = Fields::default();
    headers.append(&X_FORWARDED_FOR, &HeaderValue::from_static("192.0.2.1, 10.2.2.2"));
    headers.append(&X_FORWARDED_PROTO, &HeaderValue::from_static("https, http"));
    let way = Way::read(&headers, ForwardedField::XForwarded);
    assert_eq!(way.client(peer(), &rule(&["10.0.0.0/8"])).0.scheme, Scheme::Https);
    headers.append(&X_FORWARDED_PROTO, &HeaderValue::from_static("http"));
    let way = Way::read(&headers, ForwardedField::XForwarded);
    assert_eq!(way.client(peer(), &rule(&["10.0.0.0/8"])).0.scheme, Scheme::Http, "three for two hops tell nothing");
}

fn any_hop() -> impl Strategy<Value = Hop> {
    let node = prop_oneof![
        any::<IpAddr>().prop_map(|address| node_of(address.to_canonical())),
        "_[a-z]{1,8}",
        Just("unknown".to_owned()),
    ];
    let scheme = prop_oneof![Just(None), Just(Some(Scheme::Http)), Just(Some(Scheme::Https))];
    (node, scheme, proptest::option::of("[ -~]{1,12}")).prop_map(|(node, scheme, host)| Hop { node, scheme, host })
}

proptest! {
    /// What the gateway writes, the next one reads.
    #[test]
    fn what_is_written_is_read(hops in proptest::collection::vec(any_hop(), 0..6)) {
        let text = hops.iter().map(Hop::as_forwarded).collect::<Vec<_>>().join(", ");
        prop_assert_eq!(read_forwarded(&text), Some(hops));
    }

    /// Whatever a client writes to the left, it cannot choose who it is.
    #[test]
    fn a_client_cannot_speak_for_itself(claimed in "[ -~]{0,40}", proxies in 0_usize..3) {
        let mut nodes: Vec<&str> = claimed.split(',').map(str::trim).collect();
        nodes.push("192.0.2.7");
        nodes.extend(std::iter::repeat_n("10.1.1.1", proxies));
        let (client, _) = hops(&nodes).client(peer(), &rule(&["10.0.0.0/8"]));
        prop_assert_eq!(client.address.ip().to_string(), "192.0.2.7");
    }

    #[test]
    fn whatever_comes_is_read_or_not(text in any::<String>()) {
        let _ = (read_forwarded(&text), address_of(&text));
    }
}
