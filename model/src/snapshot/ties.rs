//! Routes that nothing sets apart: same host, path and conditions, same priority, made in the same revision. Which of them
//! gets a request would be left to chance, so whoever writes one is asked to decide.

use std::collections::BTreeSet;

use super::Snapshot;
use super::compile::age_of_route;
use crate::config::Changed;
use crate::problem::{Fault, Problems};
use crate::resource::{Kind, Name, Resource};

/// A problem for each pair that one of the changes is in.
pub(super) fn find(snapshot: &Snapshot, changes: &[Changed]) -> Problems {
    let mut problems = Problems::new();
    let mut told: BTreeSet<(Name, Name)> = BTreeSet::new();
    for change in changes.iter().filter(|change| change.key.kind == Kind::Route) {
        let name = &change.key.name;
        let (Some(Resource::Route(written)), Some(slot)) = (change.resource(), snapshot.routes.slot(name)) else {
            continue;
        };
        if !written.enabled {
            continue;
        }
        let age = |slot| age_of_route(&snapshot.routes, &snapshot.config, slot);
        for tie in snapshot.router.ties(&written, slot, &age) {
            let Some(other) = snapshot.routes.get(tie.other).map(|route| &route.name) else { continue };
            let pair = if name < other { (name.clone(), other.clone()) } else { (other.clone(), name.clone()) };
            if !told.insert(pair) {
                continue;
            }
            let host = if tie.host.is_empty() { "every host".to_owned() } else { format!("`{}`", tie.host) };
            let path = tie.path.map_or("/", |index| written.paths[index].as_str());
            let message =
                format!("`{name}` and `{other}` match the same requests for {host} at `{path}`, and are as old");
            let pointer = tie.path.map_or_else(String::new, |index| format!("/paths/{index}"));
            let fault = Fault::new(pointer, "tied-routes", message);
            problems.push(fault.hint("give one of them a higher `priority`, or another condition").at(&change.key));
        }
    }
    problems
}
