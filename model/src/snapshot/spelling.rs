//! Requests whose path comes in another spelling than the canonical one, where a route keeps the path as it came.
//!
//! What decides about such a request must be what its service gets, or a spelling could pass a route that another
//! spelling of the same path would not. So a route that keeps the path gets the request only if both spellings lead to
//! it; a path that has no canonical form must lead to it as it came. All others get what the canonical path leads to.

use super::Snapshot;
use crate::router::path::PathFault;
use crate::router::{Found, Request};

/// Which spelling of the path counts: for its route, for policies, for the log and for the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spelling {
    Canonical,
    Received,
}

impl Snapshot {
    /// The route of a request with a path that came as `received`, and that is `canonical` or cannot be; the path in the
    /// request itself does not count.
    pub fn find_spelled(
        &self,
        request: &Request<'_>,
        received: &str,
        canonical: Result<&str, PathFault>,
    ) -> Result<(Option<Found<'_>>, Spelling), PathFault> {
        let find = |path| self.router.find(&Request { path, ..*request });
        let keeps = |found: &Found<'_>| self.routes.get(found.route).is_some_and(super::Route::keeps_path);
        let as_received = || match self.routes_keeping_path {
            0 => None,
            _ => find(received).filter(keeps),
        };
        match canonical {
            Ok(canonical) => {
                let found = find(canonical);
                if !found.as_ref().is_some_and(keeps) {
                    return Ok((found, Spelling::Canonical));
                }
                let same = as_received().filter(|other| found.is_some_and(|found| found.route == other.route));
                same.map(|found| (Some(found), Spelling::Received)).ok_or(PathFault::LeadsElsewhere)
            }
            Err(fault @ PathFault::NotAbsolute) => Err(fault),
            Err(fault) => as_received().map(|found| (Some(found), Spelling::Received)).ok_or(fault),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Method;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::config::Edit;
    use crate::explain::{Question, explain};
    use crate::fields::Fields;
    use crate::resource::Kind;
    use crate::router::path;

    fn snapshot(routes: &[(&str, Value)]) -> Snapshot {
        let put = |(name, spec): &(&str, Value)| {
            let mut spec = spec.clone();
            spec["respond"] = json!({});
            Edit::Put { kind: Kind::Route, name: (*name).to_owned(), spec }
        };
        Snapshot::default().apply(1, routes.iter().map(put).collect()).expect("valid").0
    }

    fn sample() -> Snapshot {
        let keeps = |path: Value| json!({"paths": [path], "normalize_path": false});
        snapshot(&[
            ("all", json!({"paths": ["/a"]})),
            ("secret", json!({"paths": ["/files/secret"]})),
            ("files", keeps(json!("/files"))),
            ("exact", keeps(json!({"exact": "/x%2Fy"}))),
            ("names", keeps(json!({"template": "/n/{one}"}))),
        ])
    }

    /// The route, and the path that counts; or the code of the answer.
    fn routed(snapshot: &Snapshot, received: &str) -> Result<(String, String), &'static str> {
        let canonical = path::canonical(received);
        let request = Request {
            listener: None,
            source: None,
            host: "",
            path: "",
            method: &Method::GET,
            headers: &Fields::default(),
            query: None,
        };
        let canonical = canonical.as_deref().map_err(|fault| *fault);
        let (found, spelling) = snapshot.find_spelled(&request, received, canonical).map_err(|fault| fault.code())?;
        let name = found.and_then(|found| snapshot.routes.get(found.route)).map_or("", |route| route.name.as_str());
        let path = match spelling {
            Spelling::Canonical => canonical.expect("it has one"),
            Spelling::Received => received,
        };
        Ok((name.to_owned(), path.to_owned()))
    }

    #[test]
    fn a_path_is_kept_where_both_spellings_lead_to_the_route_that_keeps_it() {
        let snapshot = sample();
        for (received, expected) in [
            ("/files/a", Ok(("files", "/files/a"))),
            ("/files/%41//b/./c", Ok(("files", "/files/%41//b/./c"))),
            ("/files/a%2Fb", Ok(("files", "/files/a%2Fb"))),
            ("/files/%zz%00", Ok(("files", "/files/%zz%00"))),
            ("/files/..%2fa", Ok(("files", "/files/..%2fa"))),
            // What another route gets by the canonical path, it gets however the path is spelled.
            ("/files/../a/b", Ok(("all", "/a/b"))),
            ("/files//secret", Ok(("secret", "/files/secret"))),
            ("/files/%73ecret", Ok(("secret", "/files/secret"))),
            ("/files/x/../secret/y", Ok(("secret", "/files/secret/y"))),
            ("/a/../files/b", Err("path-leads-elsewhere")),
            ("//files/b", Err("path-leads-elsewhere")),
            ("/%66iles/b", Err("path-leads-elsewhere")),
            // Without a canonical form, and at a place where the path is not kept.
            ("/a/b%2Fc", Err("path-encoded-slash")),
            ("/files/secret/a%2Fb", Err("path-encoded-slash")),
            ("/elsewhere/%2F", Err("path-encoded-slash")),
            ("/../files", Err("path-above-root")),
            ("files/a", Err("path-not-absolute")),
            ("/x%2Fy", Ok(("exact", "/x%2Fy"))),
            ("/x%2fy", Err("path-encoded-slash")),
            ("/n/a%2Fb", Ok(("names", "/n/a%2Fb"))),
            ("/n/%41", Ok(("names", "/n/%41"))),
            ("/nothing//", Ok(("", "/nothing/"))),
        ] {
            let expected = expected.map(|(route, path)| (route.to_owned(), path.to_owned()));
            assert_eq!(routed(&snapshot, received), expected, "{received}");
        }
    }

    proptest! {
        /// Where no route keeps the path, nothing is different; and what is explained is what is done.
        #[test]
        fn paths_that_are_not_kept_are_canonical(path in "/?(files|a|x|n|/|%2F|%41|\\.\\.|\\.|;|%|secret){0,8}") {
            let plain = snapshot(&[("all", json!({"paths": ["/a"]})), ("files", json!({"paths": ["/files"]}))]);
            match (routed(&plain, &path), path::canonical(&path)) {
                (Ok((_, counts)), canonical) => prop_assert_eq!(Ok(&*counts), canonical.as_deref()),
                (Err(code), canonical) => prop_assert_eq!(Some(code), canonical.err().map(PathFault::code)),
            }
            let snapshot = sample();
            let question = json!({"url": path, "headers": [{"name": "host", "value": "x"}]});
            let question: Question = serde_json::from_value(question).expect("a question");
            // A text that is no path at all is no question.
            let Ok(told) = explain(&snapshot, &question) else { return Ok(()) };
            match routed(&snapshot, &path) {
                Ok((route, counts)) => {
                    let named = told.route.as_ref().map_or("", |name| name.as_str());
                    prop_assert_eq!((named, &told.path.refused), (&*route, &None));
                    prop_assert_eq!(told.path.counts.as_ref(), Some(&counts));
                }
                Err(code) => prop_assert_eq!(told.path.refused.map(|refused| refused.code), Some(code.to_owned())),
            }
        }
    }
}
