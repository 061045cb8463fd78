//! A series of changes applied one after the other, or several at once after an absence, leads to the same
//! configuration and the same behaviour as compiling the last revision from nothing.

use std::collections::BTreeMap;

use model::config::{Config, Edit};
use model::file::{self, Others, Secrets, Source, Surroundings};
use model::resource::{Key, Resource};
use model::snapshot::Snapshot;
use model::wire;
use proptest::prelude::*;

use crate::behaviour::behaviour;
use crate::universe::{self, Seed};

/// What a control plane and a node that follows now and then go through.
struct History {
    head: Snapshot,
    node: Snapshot,
    /// The last change of each resource since the node last followed.
    pending: BTreeMap<Key, proto::Envelope>,
    configs: Vec<Config>,
}

impl History {
    fn of(changes: &[Vec<Seed>]) -> Self {
        let mut history = Self {
            head: Snapshot::default(),
            node: Snapshot::default(),
            pending: BTreeMap::new(),
            configs: vec![Config::default()],
        };
        for (index, change) in changes.iter().enumerate() {
            history.publish(change);
            if index % 3 == 2 {
                history.follow();
            }
        }
        history.follow();
        history
    }

    fn publish(&mut self, change: &[Seed]) {
        let edits = universe::edits(&self.head.config, change);
        let before = self.head.config.digest();
        // Changes that do not hold are part of life: they must leave no trace.
        if let Ok((next, changes)) = self.head.apply(self.head.revision + 1, edits) {
            for change in &changes {
                self.pending.insert(change.key.clone(), wire::envelope_of_change(change));
            }
            self.configs.push(next.config.clone());
            self.head = next;
        } else {
            assert_eq!(before, self.head.config.digest());
        }
    }

    fn follow(&mut self) {
        let envelopes = std::mem::take(&mut self.pending);
        let edits: Vec<Edit> = envelopes.values().map(|envelope| wire::edit(envelope).expect("an edit")).collect();
        let applied = self.node.apply(self.head.revision, edits);
        self.node = applied.unwrap_or_else(|problems| panic!("{problems:?}")).0;
    }
}

/// The snapshot of a configuration from nothing, as a new node makes it.
fn fresh(config: &Config, revision: u64) -> Snapshot {
    let envelopes = config.iter().map(|(key, document)| wire::envelope(key, document));
    let edits = envelopes.map(|envelope| wire::edit(&envelope).expect("an edit")).collect();
    Snapshot::default().apply(revision, edits).unwrap_or_else(|problems| panic!("{problems:?}")).0
}

fn read(text: String) -> file::Parsed {
    let surroundings = Surroundings { env: &|_| None, file: &|_| Err(std::io::ErrorKind::Unsupported.into()) };
    file::parse(vec![Source { path: "export".into(), text }], &surroundings)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn deltas_lead_to_what_the_whole_leads_to(changes in universe::changes(40)) {
        let history = History::of(&changes);
        let expected = behaviour(&fresh(&history.head.config, history.head.revision));
        prop_assert_eq!(&behaviour(&history.head), &expected);
        prop_assert_eq!(&behaviour(&history.node), &expected);
    }

    #[test]
    fn going_back_restores_every_earlier_configuration(changes in universe::changes(24), draw in any::<prop::sample::Index>()) {
        let history = History::of(&changes);
        let earlier = draw.get(&history.configs);
        let edits = history.head.config.edits_to(earlier);
        let (back, _) = history.head.apply(99, edits).unwrap_or_else(|problems| panic!("{problems:?}"));
        prop_assert_eq!(behaviour(&back), behaviour(&fresh(earlier, 99)));
    }

    #[test]
    fn what_is_stored_is_canonical(changes in universe::changes(24)) {
        for (key, document) in History::of(&changes).head.config.iter() {
            let spec = serde_json::from_str(&document.spec).expect("JSON");
            let again = Resource::parse(key.kind, spec).unwrap_or_else(|faults| panic!("{faults:?}")).canonical();
            prop_assert_eq!(&*again, &*document.spec);
        }
    }

    #[test]
    fn an_export_changes_nothing_where_it_came_from_and_makes_the_same_elsewhere(changes in universe::changes(24)) {
        let head = History::of(&changes).head;
        let redacted = file::export(head.config.iter(), Secrets::Redacted);
        for text in [file::to_yaml(&redacted), file::to_json(&redacted)] {
            prop_assert!(!text.contains("PRIVATE KEY"));
            let edits = read(text).edits_on(&head, Others::Remove).unwrap_or_else(|problems| panic!("{problems:?}"));
            let (after, changes) = head.apply(99, edits).unwrap_or_else(|problems| panic!("{problems:?}"));
            prop_assert!(changes.is_empty() && after.config.digest() == head.config.digest());
        }
        let empty = Snapshot::default();
        let text = file::to_yaml(&file::export(head.config.iter(), Secrets::Plain));
        let edits = read(text).edits_on(&empty, Others::Keep).unwrap_or_else(|problems| panic!("{problems:?}"));
        let elsewhere = match empty.apply(1, edits) {
            Ok((elsewhere, _)) => elsewhere,
            // What age sets apart here is of one age there.
            Err(problems) => {
                prop_assert!(problems.iter().all(|problem| problem.code == "tied-routes"), "{problems:?}");
                return Ok(());
            }
        };
        let specs = |config: &Config| -> Vec<_> {
            config.iter().map(|(key, document)| (key.clone(), document.spec.clone())).collect()
        };
        prop_assert_eq!(specs(&elsewhere.config), specs(&head.config));
    }
}
