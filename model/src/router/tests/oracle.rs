//! The router against a linear matcher written from the Gateway API's text.

use super::*;

fn segments(text: &str) -> Vec<&str> {
    text.split('/').skip(1).collect()
}

/// Whether a prefix matches, segment by segment.
fn is_below(path: &str, prefix: &str) -> bool {
    let whole = |text| segments(text).into_iter().filter(|segment| !segment.is_empty()).collect::<Vec<_>>();
    whole(path).starts_with(&whole(prefix))
}

fn is_name(segment: &str) -> bool {
    segment.starts_with('{')
}

fn fits(path: &str, template: &str) -> bool {
    let (path, template) = (segments(path), segments(template));
    let fits = |(segment, part): (&&str, &&str)| if is_name(part) { !segment.is_empty() } else { segment == part };
    path.len() == template.len() && path.iter().zip(&template).all(fits)
}

fn fully_matches(text: &str, regex: &str) -> bool {
    thread_local! {
        static COMPILED: RefCell<HashMap<String, regex::Regex>> = RefCell::default();
    }
    COMPILED.with_borrow_mut(|compiled| {
        let new = || regex::Regex::new(&format!("^(?:{regex})$")).expect("an expression");
        compiled.entry(regex.to_owned()).or_insert_with(new).is_match(text)
    })
}

/// With how many segments they begin that are fixed.
const REGEXES: [(&str, usize); 6] =
    [("/a/[bc]", 1), ("/a/.*", 1), (".*b", 0), ("/(?<first>[a-z]+)/?", 0), ("/a/b", 2), ("/[ab]", 0)];
/// More of them, at one place.
const ALIKE: [(&str, usize); 8] = [
    ("/a/[^/]*", 1),
    ("/a/[a-c]+", 1),
    ("/a/b?", 1),
    ("/a/.", 1),
    ("/a/(b|c)", 1),
    ("/a/(?<last>[b-x]{1,3})", 1),
    ("/a/.*.*.*b", 1),
    ("/a/[^b]+", 1),
];

/// How well a path matches, if it does: exactly; segments that are fixed; regex, template or prefix; where a template is
/// fixed.
fn path_rank(pattern: &PathPattern, path: &str) -> Option<(bool, usize, u8, Vec<bool>)> {
    match pattern {
        PathPattern::Exact(exact) => (exact == path).then_some((true, 0, 0, vec![])),
        PathPattern::Regex(regex) => {
            let (_, lead) = REGEXES.iter().chain(&ALIKE).find(|(known, _)| known == regex).expect("one of the above");
            fully_matches(path, regex).then_some((false, *lead, 2, vec![]))
        }
        PathPattern::Template(template) => {
            let fixed: Vec<bool> = segments(template).into_iter().map(|part| !is_name(part)).collect();
            let lead = fixed.iter().take_while(|is_fixed| **is_fixed).count();
            fits(path, template).then_some((false, lead, 1, fixed))
        }
        PathPattern::Prefix(prefix) => {
            let length = segments(prefix).into_iter().filter(|segment| !segment.is_empty()).count();
            is_below(path, prefix).then_some((false, length, 0, vec![]))
        }
    }
}

fn holds(asks: ValueMatch<'_>, values: &[String]) -> bool {
    match asks {
        ValueMatch::Exact(exact) => values.iter().any(|value| value == exact),
        ValueMatch::Regex(regex) => values.iter().any(|value| fully_matches(value, regex)),
        ValueMatch::Present => !values.is_empty(),
        ValueMatch::Absent => values.is_empty(),
    }
}

/// How well the best host and path of a route match, if they do and its conditions hold: the greater wins.
fn rank(route: &Route, ask: &Ask) -> Option<impl Ord + use<>> {
    let hosts = route.hosts.iter().filter_map(|pattern| match pattern.wildcard_suffix() {
        Some(suffix) => ask.host.ends_with(&format!(".{suffix}")).then_some((1, suffix.len())),
        None => (pattern.as_str() == ask.host).then_some((2, ask.host.len())),
    });
    let host = if route.hosts.is_empty() { Some((0, 0)) } else { hosts.max() }?;
    let paths = route.paths.iter().filter_map(|pattern| path_rank(pattern, ask.path));
    let path = if route.paths.is_empty() { Some((false, 0, 0, vec![])) } else { paths.max() }?;
    let fields = |name: &str| -> Vec<String> {
        ask.headers.iter().filter(|(other, _)| *other == name).map(|(_, value)| (*value).to_owned()).collect()
    };
    let query = ask.query.unwrap_or("").replace("%71", "q");
    let parameters = |name: &str| -> Vec<String> {
        let pairs = query.split('&').map(|part| part.split_once('=').unwrap_or((part, "")));
        pairs.filter(|(other, _)| *other == name && !name.is_empty()).map(|(_, value)| value.to_owned()).collect()
    };
    let is_from = |networks: &[Network]| ask.source.is_some_and(|ip| networks.iter().any(|net| net.0.contains(&ip)));
    let holds = (route.methods.is_empty() || route.methods.iter().any(|method| method.0 == ask.method))
        && route.headers.iter().all(|one| holds(one.asks(), &fields(one.name.0.as_str())))
        && route.query.iter().all(|one| holds(one.asks(), &parameters(&one.name)))
        && (route.sources.is_empty() || is_from(&route.sources))
        && (route.listeners.is_empty() || route.listeners.iter().any(|name| Some(name.as_str()) == ask.listener));
    let (methods, sources, listeners) =
        (!route.methods.is_empty(), !route.sources.is_empty(), !route.listeners.is_empty());
    let conditions = (methods, route.headers.len(), route.query.len(), sources, listeners, route.priority);
    holds.then_some((host, path, conditions))
}

/// The routes of a snapshot: age, name and written form.
fn written(snapshot: &Snapshot) -> Vec<(u64, String, Route)> {
    let parse = |document: &Document| match document.parse(Kind::Route) {
        Ok(Resource::Route(route)) => *route,
        other => panic!("no route: {other:?}"),
    };
    let routes = snapshot.config.of_kind(Kind::Route, None);
    routes.map(|(name, document)| (document.created, name.to_string(), parse(document))).collect()
}

/// The name of the route that a linear search finds.
fn naive<'r>(routes: &'r [(u64, String, Route)], ask: &Ask) -> Option<&'r str> {
    routes
        .iter()
        .filter(|(.., route)| route.enabled)
        .filter_map(|(created, name, route)| Some((rank(route, ask)?, Reverse((created, name)))))
        .max()
        .map(|(_, Reverse((_, name)))| name.as_str())
}

/// Whether the best two routes are as good and as old, and ask for the same.
fn is_left_to_chance(routes: &[(u64, String, Route)], ask: &Ask) -> bool {
    let matching = routes.iter().filter(|(.., route)| route.enabled);
    let mut ranked: Vec<_> =
        matching.filter_map(|(created, _, route)| Some((rank(route, ask)?, Reverse(*created), route))).collect();
    ranked.sort_by(|one, other| (&one.0, one.1).cmp(&(&other.0, other.1)));
    let [.., (other_rank, other_age, other), (rank, age, best)] = &ranked[..] else { return false };
    let has_regex = |route: &Route| route.paths.iter().any(|path| matches!(path, PathPattern::Regex(_)));
    let ask_the_same = best.headers.iter().all(|one| other.headers.contains(one))
        && best.query.iter().all(|one| other.query.contains(one));
    (other_rank, other_age) == (rank, age) && ask_the_same && !has_regex(best)
}

/// The explanation of a request names the route that it finds and every other that matches, and is right about each.
fn explains_what_is_found(
    snapshot: &Snapshot,
    routes: &[(u64, String, Route)],
    ask: &Ask,
) -> Result<(), TestCaseError> {
    let headers = ask.headers();
    let trace = snapshot.router.explain(&ask.request(snapshot, &headers));
    prop_assert_eq!(trace.found.map(|found| name_of(snapshot, found.route)), ask.route(snapshot));
    let mut won = Vec::new();
    let mut matching = BTreeSet::new();
    for Candidate { route, host, path, verdict } in &trace.candidates {
        let name = name_of(snapshot, *route);
        let (_, _, written) = routes.iter().find(|(_, other, _)| *other == name).expect("a route that is written");
        // The route as if it had this host and this path alone.
        let hosts = Some(host).filter(|host| !host.is_empty()).map(|host| host.parse().expect("a host"));
        let alone = Route { hosts: hosts.into_iter().collect(), paths: vec![path.clone()], ..written.clone() };
        prop_assert_eq!(rank(&alone, ask).is_some(), !matches!(verdict, Verdict::Failed(..)), "{} {:?}", name, verdict);
        if *verdict == Verdict::Won {
            won.push(name.clone());
        }
        if !matches!(verdict, Verdict::Failed(..)) {
            matching.insert(name);
        }
    }
    prop_assert_eq!(&won, &ask.route(snapshot).into_iter().collect::<Vec<_>>());
    let expected = routes.iter().filter(|(.., route)| route.enabled && rank(route, ask).is_some());
    prop_assert_eq!(matching, expected.map(|(_, name, _)| name.clone()).collect::<BTreeSet<_>>());
    Ok(())
}

fn some_hosts() -> impl Strategy<Value = Vec<&'static str>> {
    subsequence(vec!["a.x", "b.a.x", "*.x", "*.a.x", "c"], 0..=2)
}

fn some_paths() -> impl Strategy<Value = Vec<Value>> {
    let plain = ["/", "/a", "/a/b", "/ab"].map(Value::from);
    let exact = ["/a", "/a/"].map(|path| json!({"exact": path}));
    let templates =
        ["/{x}", "/{y}", "/a/{x}", "/{x}/b", "/{x}/{y}", "/a/{z}/", "/a/{x}/c"].map(|path| json!({"template": path}));
    let regexes = REGEXES.map(|(regex, _)| json!({"regex": regex}));
    let all: Vec<Value> = [&plain[..], &exact, &templates, &regexes].concat();
    subsequence(all, 0..=3)
}

fn some_route(
    hosts: impl Strategy<Value = Vec<&'static str>>,
    paths: impl Strategy<Value = Vec<Value>>,
) -> impl Strategy<Value = Value> {
    let methods = prop_oneof![1 => Just(vec![]), 1 => subsequence(vec!["GET", "POST"], 0..=2)];
    let conditions = |one: &'static str, other: &'static str| {
        let all = vec![
            json!({"name": one, "exact": "1"}),
            json!({"name": one, "exact": "2"}),
            json!({"name": one, "regex": "[12]"}),
            json!({"name": one, "present": true}),
            json!({"name": one, "present": false}),
            json!({"name": other, "exact": "1"}),
            json!({"name": other, "exact": "2"}),
        ];
        prop_oneof![1 => Just(vec![]), 2 => subsequence(all, 1..=2)]
    };
    let sources = prop_oneof![3 => Just(vec![]), 1 => subsequence(vec!["10.0.0.0/8", "10.1.0.0/16", "::/0"], 1..=2)];
    let listeners = prop_oneof![3 => Just(vec![]), 1 => subsequence(vec!["one", "two"], 1..=2)];
    let rest = (prop_oneof![2 => Just(0), 1 => -1..=1], prop::bool::weighted(0.9));
    (hosts, paths, methods, conditions("x-k", "x-j"), conditions("q", "p"), sources, listeners, rest).prop_map(
        |(hosts, paths, methods, headers, query, sources, listeners, (priority, enabled))| {
            json!({
                "hosts": hosts, "paths": paths, "methods": methods, "headers": headers, "query": query,
                "sources": sources, "listeners": listeners, "priority": priority, "enabled": enabled, "service": "s",
            })
        },
    )
}

fn some_ask() -> impl Strategy<Value = Ask> {
    let source = select(vec!["10.1.0.1", "10.2.0.1", "192.0.2.1", "2001:db8::1"]);
    (
        select(vec![None, Some("one"), Some("two")]),
        prop::option::of(source.prop_map(|address| address.parse().expect("an address"))),
        select(vec!["a.x", "b.a.x", "z.b.a.x", "q.x", "x", "c", "d", ""]),
        select(vec!["/", "/a", "/a/", "/a/b", "/a/b/", "/a/b/c", "/ab", "/b", "/b/b", "/a/c"]),
        select(vec![Method::GET, Method::POST, Method::PUT]),
        subsequence(vec![("x-k", "1"), ("x-k", "2"), ("x-k", "3"), ("x-j", "1"), ("x-j", "2")], 0..=5),
        select(vec![None, Some(""), Some("q=1"), Some("q=2&q=1"), Some("%71=1&&p=1"), Some("p=1&q"), Some("p=2&q=2")]),
    )
        .prop_map(|(listener, source, host, path, method, headers, query)| Ask {
            listener,
            source,
            host,
            path,
            method,
            headers,
            query,
        })
}

/// A revision: routes put (or removed) by number.
type Revision = BTreeMap<u8, Option<Value>>;

fn some_revision(route: impl Strategy<Value = Value>, names: u8, changes: usize) -> impl Strategy<Value = Revision> {
    prop::collection::btree_map(0..names, prop::option::weighted(0.8, route), 1..changes)
}

/// Follows the revisions and compares the answers to `asks` with a linear search after each; then those of the last one
/// compiled from nothing.
fn agrees_with_a_linear_search(revisions: Vec<Revision>, asks: &[Ask]) -> Result<(), TestCaseError> {
    let mut snapshot = gateway(&[]);
    for revision in revisions {
        let name = |number: u8| format!("r{number}");
        let edits = revision.into_iter().map(|(number, spec)| match spec {
            Some(spec) => Edit::Put { kind: Kind::Route, name: name(number), spec },
            None => Edit::Remove { key: Key::new(Kind::Route, name(number).parse().expect("a name")) },
        });
        let edits: Vec<Edit> = edits.collect();
        match snapshot.apply(snapshot.revision + 1, edits.clone()) {
            Ok((next, _)) => snapshot = next,
            Err(problems) => {
                prop_assert!(problems.iter().all(|problem| problem.code == "tied-routes"), "{:?}", problems);
                // One after the other most of them are not of one age.
                for edit in edits {
                    let applied = snapshot.apply(snapshot.revision + 1, vec![edit]);
                    snapshot = applied.map_or(snapshot, |(next, _)| next);
                }
            }
        }
        let routes = written(&snapshot);
        for ask in asks {
            prop_assert_eq!(ask.route(&snapshot), naive(&routes, ask).map(str::to_owned), "{:?}", ask);
            prop_assert!(!is_left_to_chance(&routes, ask), "{:?}", ask);
            explains_what_is_found(&snapshot, &routes, ask)?;
        }
    }
    let everything = Snapshot::default().config.edits_to(&snapshot.config);
    let fresh = Snapshot::default().apply(snapshot.revision, everything).expect("valid").0;
    for ask in asks {
        prop_assert_eq!(ask.route(&snapshot), ask.route(&fresh), "{:?}", ask);
    }
    // What is taken out leaves nothing behind.
    let routes = snapshot.config.of_kind(Kind::Route, None);
    let removals = routes.map(|(name, _)| Edit::Remove { key: Key::new(Kind::Route, name.clone()) }).collect();
    let empty = snapshot.apply(snapshot.revision + 1, removals).expect("valid").0;
    prop_assert!(empty.router.is_empty());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_series_of_changes_finds_what_a_linear_search_finds(
        revisions in prop::collection::vec(some_revision(some_route(some_hosts(), some_paths()), 12, 5), 1..8),
        asks in prop::collection::vec(some_ask(), 24),
    ) {
        agrees_with_a_linear_search(revisions, &asks)?;
    }

    /// So many routes at one place that they are not looked through one by one.
    #[test]
    fn crowded_places_find_what_a_linear_search_finds(
        revisions in prop::collection::vec(some_revision(
            some_route(Just(vec![]), select(vec![vec![json!("/a")], vec![json!({"regex": "/a/.*"}), json!("/a")]])),
            40,
            25,
        ), 1..6),
        asks in prop::collection::vec(some_ask(), 24),
    ) {
        agrees_with_a_linear_search(revisions, &asks)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// So many regular expressions at one place that a path is read for many of them at once.
    #[test]
    fn expressions_at_one_place_find_what_a_linear_search_finds(
        revisions in prop::collection::vec(some_revision(
            (subsequence(ALIKE.to_vec(), 1..=3), -1..=1, prop::option::weighted(0.1, Just("GET"))).prop_map(
                |(regexes, priority, method)| {
                    let paths: Vec<Value> = regexes.iter().map(|(regex, _)| json!({ "regex": regex })).collect();
                    json!({"paths": paths, "priority": priority, "methods": Vec::from_iter(method), "service": "s"})
                },
            ),
            40,
            40,
        ), 1..4),
        asks in prop::collection::vec(some_ask(), 24),
    ) {
        agrees_with_a_linear_search(revisions, &asks)?;
    }
}
