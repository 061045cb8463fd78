//! Joins what is said about targets beside the configuration with the snapshot that is served.
//!
//! Here all that decides which targets a service has comes together, for the process and not for each core: what a
//! revision says, and what is said beside it. A source of targets says what it has to say at any time
//! ([`Sources::say`]) and names the services that it concerns; what cores serve follows when it is asked for
//! ([`Sources::follow`]), and costs what those services cost. A revision that comes meanwhile has it already
//! ([`Sources::join`]).

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use model::membership::{Found, Membership};
use model::resource::Name;
use model::resource::service::DnsDiscovery;
use model::slots::Slot;
use model::snapshot::{Service, Snapshot};
use parking_lot::Mutex;

/// What the control plane is told of at a time.
const MAX_TOLD: usize = 500;

/// What the sources of targets say.
#[derive(Default)]
pub struct Sources(Mutex<Said>);

#[derive(Default)]
struct Said {
    membership: Membership,
    /// The services that this concerns and that are not served so yet.
    touched: BTreeSet<Name>,
    /// What services find by themselves: those with equal discovery find the same.
    found: Arc<HashMap<Arc<DnsDiscovery>, Arc<[Found]>>>,
    /// Where something else was found, which is not served yet.
    refound: HashSet<Arc<DnsDiscovery>>,
}

/// A revision, and what is served of it.
#[derive(Clone)]
pub struct Served {
    /// As it was compiled.
    bare: Arc<Snapshot>,
    /// With the targets that its services have now.
    pub joined: Arc<Snapshot>,
}

impl Sources {
    /// What holds from now on, and for which services it is something else than before.
    pub fn say(&self, membership: Membership, touched: impl IntoIterator<Item = Name>) {
        let mut said = self.0.lock();
        said.membership = membership;
        said.touched.extend(touched);
    }

    /// What discovery leads to from now on; nothing if nobody wants to know any more.
    pub fn find(&self, discovery: &Arc<DnsDiscovery>, found: Option<Arc<[Found]>>) {
        let mut said = self.0.lock();
        let known = Arc::make_mut(&mut said.found);
        match found {
            Some(found) => drop(known.insert(Arc::clone(discovery), found)),
            None => drop(known.remove(discovery)),
        }
        said.refound.insert(Arc::clone(discovery));
    }

    /// A revision with all that is said. `before` was served until now; services that are the same in both stay the
    /// same thing.
    pub fn join(&self, bare: Arc<Snapshot>, before: Option<&Served>) -> Served {
        let said = self.take();
        let touched = said.concerned(&bare);
        let mut joined = Snapshot::clone(&bare);
        let names = said.membership.services().map(|(name, _)| name).chain(bare.discovered.keys());
        for name in names.collect::<BTreeSet<_>>() {
            let Some(service) = bare.services.find(name) else { continue };
            let before =
                before.and_then(|before| Some((before.bare.services.find(name)?, before.joined.services.find(name)?)));
            let same = before.filter(|(bare, _)| Arc::ptr_eq(bare, service) && !touched.contains(name));
            joined.replace_service(match same {
                Some((_, joined)) => Arc::clone(joined),
                None => said.join(service, before.map(|(_, joined)| &**joined)),
            });
        }
        Served { bare, joined: Arc::new(joined) }
    }

    /// The same revision with what was said since, and the slots of the services that it concerns; nothing if it
    /// concerns none.
    pub fn follow(&self, served: &Served) -> Option<(Served, Arc<[Slot]>)> {
        let said = self.take();
        let bare = Arc::clone(&served.bare);
        let touched = said.concerned(&bare);
        let mut joined = Snapshot::clone(&served.joined);
        let slots = touched.iter().filter_map(|name| {
            let service = bare.services.find(name)?;
            let previous = served.joined.services.find(name);
            Some(joined.replace_service(said.join(service, previous.map(|previous| &**previous))))
        });
        let slots: Arc<[Slot]> = slots.collect();
        (!slots.is_empty()).then(|| (Served { bare, joined: Arc::new(joined) }, slots))
    }

    /// What services of a snapshot found, for the control plane, and how many targets are left out.
    pub fn to_wire(&self, snapshot: &Snapshot) -> (Vec<proto::FoundTargets>, u64) {
        let found = Arc::clone(&self.0.lock().found);
        let (mut room, mut untold) = (MAX_TOLD, 0);
        let told = snapshot.discovered.iter().filter_map(|(service, discovery)| {
            let found = found.get(discovery)?;
            let targets: Vec<String> = found.iter().take(room).map(|found| found.url.to_string()).collect();
            room -= targets.len();
            untold += (found.len() - targets.len()) as u64;
            (!targets.is_empty()).then(|| proto::FoundTargets { service: service.to_string(), targets })
        });
        (told.collect(), untold)
    }

    fn take(&self) -> Said {
        let mut said = self.0.lock();
        let (touched, refound) = (std::mem::take(&mut said.touched), std::mem::take(&mut said.refound));
        Said { membership: said.membership.clone(), touched, found: Arc::clone(&said.found), refound }
    }
}

impl Said {
    /// The services that are something else than they were served as.
    fn concerned(&self, bare: &Snapshot) -> BTreeSet<Name> {
        let found = bare.discovered.iter().filter(|(_, discovery)| self.refound.contains(*discovery));
        self.touched.iter().chain(found.map(|(name, _)| name)).cloned().collect()
    }

    /// The one place where sources meet.
    fn join(&self, service: &Arc<Service>, previous: Option<&Service>) -> Arc<Service> {
        let found = service.discovery.as_ref().and_then(|discovery| self.found.get(discovery));
        let service = match found {
            Some(found) => Arc::new(service.with_found(found, previous)),
            None => Arc::clone(service),
        };
        match self.membership.of(&service.name) {
            Some(entries) => Arc::new(service.joined(entries, previous)),
            None => service,
        }
    }
}

#[cfg(test)]
mod tests {
    use model::config::Edit;
    use model::membership::{Change, Member};
    use model::resource::{Key, Kind};
    use serde_json::json;

    use super::*;

    fn put(name: &str, target: &str) -> Edit {
        Edit::Put { kind: Kind::Service, name: name.to_owned(), spec: json!({"url": target}) }
    }

    fn after(before: &Snapshot, edits: Vec<Edit>) -> Arc<Snapshot> {
        Arc::new(before.apply(before.revision + 1, edits).expect("good edits").0)
    }

    fn name(text: &str) -> Name {
        text.parse().expect("a name")
    }

    /// Says something about a target of a service, or nothing any more.
    fn say(sources: &Sources, service: &str, target: &str, member: Option<Member>) {
        let mut membership = sources.0.lock().membership.clone();
        let version = membership.version() + 1;
        let target = target.parse().expect("a URL");
        membership.apply(version, [Change { service: name(service), target, version, member }]);
        sources.say(membership, [name(service)]);
    }

    fn targets(served: &Served, service: &str) -> Vec<String> {
        let service = served.joined.services.find(service).expect("a service");
        service.targets.iter().map(|target| target.endpoint.url.to_string()).collect()
    }

    #[test]
    fn what_is_said_holds_for_every_revision_that_has_the_service() {
        let sources = Sources::default();
        let draining = Member { draining: true, ..Member::default() };
        // Before there is anything to join it with, and about a service that is not there yet.
        say(&sources, "shop", "http://b:1", Some(Member::default()));
        say(&sources, "later", "http://c:1", Some(Member::default()));
        let first = after(&Snapshot::default(), vec![put("shop", "http://a:1"), put("blog", "http://a:1")]);
        let served = sources.join(first.clone(), None);
        assert_eq!(targets(&served, "shop"), ["http://a:1", "http://b:1"]);

        say(&sources, "shop", "http://a:1", Some(draining));
        let (served, slots) = sources.follow(&served).expect("it concerns a service");
        assert_eq!(
            (&*slots, targets(&served, "shop")),
            (&[first.services.slot("shop").expect("a slot")][..], vec!["http://b:1".to_owned()])
        );
        assert!(sources.follow(&served).is_none(), "nothing was said since");

        // Another revision, which leaves the service alone.
        let second = after(&first, vec![put("later", "http://a:1")]);
        let next = sources.join(second.clone(), Some(&served));
        let shop = |served: &Served| Arc::as_ptr(served.joined.services.find("shop").expect("a service"));
        assert_eq!(
            (shop(&next), targets(&next, "later")),
            (shop(&served), vec!["http://a:1".into(), "http://c:1".into()])
        );

        // What was said before a revision comes, and not handed over yet, comes with it.
        say(&sources, "shop", "http://a:1", None);
        let third = after(&second, vec![Edit::Remove { key: Key::new(Kind::Service, name("blog")) }]);
        let last = sources.join(third, Some(&next));
        assert_eq!(targets(&last, "shop"), ["http://a:1", "http://b:1"]);
        assert!(sources.follow(&last).is_none());

        // The last word about a service leads back to what is written.
        say(&sources, "shop", "http://b:1", None);
        let (last, _) = sources.follow(&last).expect("it concerns a service");
        assert_eq!(targets(&last, "shop"), ["http://a:1"]);
    }
}
