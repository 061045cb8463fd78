//! What is sent to nodes, encoded and compressed once for all of them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use model::digest::sha256;
use model::snapshot::Snapshot;
use model::wire::envelope;
use parking_lot::Mutex;
use proto::Envelope;
use proto::join::Pin;
use tokio::sync::{OnceCell, Semaphore};

use super::{Encoded, head_to_wire};
use crate::publish::Publisher;
use crate::store::{Head, RevisionRecord};
use crate::trust::authorities::{Authorities, Trusted};

/// How many deltas are kept. Nodes that are up to date all need the same one.
const DELTAS: usize = 8;
/// The newest snapshot, and the one before while nodes still read it.
const SNAPSHOTS: usize = 2;

/// A delta or a snapshot as it goes over the wire.
#[derive(Debug)]
pub struct Encoding {
    /// What the delta builds on; nothing for a snapshot.
    pub base: Option<Head>,
    pub reached: Head,
    pub body: Bytes,
    /// By each authority that nodes may know, the oldest first: a node that knows nothing of others looks at that one.
    pub signatures: Vec<Bytes>,
}

/// Encodes, and remembers the newest.
pub struct Encodings {
    publisher: Arc<Publisher>,
    authorities: Arc<Authorities>,
    deltas: Mutex<Newest>,
    snapshots: Mutex<Newest>,
    /// One snapshot is built at a time: many nodes that come back together wait for one instead of
    /// taking all cores and all memory.
    admission: Semaphore,
    snapshots_built: AtomicU64,
    deltas_built: AtomicU64,
}

/// Encodings by what they are, newest last; those in the making too.
struct Newest {
    slots: VecDeque<(Id, Slot)>,
    bound: usize,
}

type Slot = Arc<OnceCell<Arc<Encoding>>>;

#[derive(Clone, PartialEq)]
struct Id {
    gateway: String,
    base: Option<Head>,
    reached: Head,
    /// Who signs: where another authority has taken its place, what is there is not for all nodes.
    signer: Pin,
}

impl Encodings {
    pub fn new(publisher: Arc<Publisher>, authorities: Arc<Authorities>) -> Self {
        Self {
            publisher,
            authorities,
            deltas: Mutex::new(Newest::bounded(DELTAS)),
            snapshots: Mutex::new(Newest::bounded(SNAPSHOTS)),
            admission: Semaphore::new(1),
            snapshots_built: AtomicU64::new(0),
            deltas_built: AtomicU64::new(0),
        }
    }

    pub fn counted(&self) -> Encoded {
        Encoded {
            snapshots: self.snapshots_built.load(Ordering::Relaxed),
            deltas: self.deltas_built.load(Ordering::Relaxed),
        }
    }

    /// The shortest that brings a node from what it holds to `head`, or to a point from which a delta will: a
    /// delta, the newest snapshot that is there already, or a new one. While changes rain, nodes that come back
    /// do not cause a snapshot for each change. `refused` is not sent.
    pub async fn shortest(
        &self,
        gateway: &str,
        held: Option<Head>,
        head: &Arc<Snapshot>,
        refused: Option<Head>,
    ) -> Arc<Encoding> {
        if let Some(held) = held
            && let Some(records) = self.records(gateway, held, head)
        {
            return self.delta(gateway, held, head, records).await;
        }
        // Not the empty one that every gateway begins with: with it a new node would be ready and serve nothing.
        let leads_on = |reached: Head| {
            let is_possible = reached.revision != 0 && Some(reached) != refused;
            is_possible && self.records(gateway, reached, head).is_some()
        };
        let ready = self.snapshots.lock().ready(gateway, self.authorities.now().first().pin(), leads_on);
        match ready {
            Some(ready) => ready,
            None => self.snapshot(gateway, head).await,
        }
    }

    /// What leads from `held` to `head`; nothing if `held` is not a revision that we remember.
    fn records(&self, gateway: &str, held: Head, head: &Snapshot) -> Option<Vec<Arc<RevisionRecord>>> {
        if self.publisher.digest_at(gateway, held.revision) != Some(held.digest) {
            return None;
        }
        self.publisher.changes(gateway, held.revision, head.revision)
    }

    async fn delta(
        &self,
        gateway: &str,
        held: Head,
        head: &Snapshot,
        records: Vec<Arc<RevisionRecord>>,
    ) -> Arc<Encoding> {
        let reached = head_of(head);
        let slot = self.deltas.lock().slot(self.id(gateway, Some(held), reached));
        let encoding = slot.get_or_init(|| async {
            self.deltas_built.fetch_add(1, Ordering::Relaxed);
            self.finish(gateway, Some(held), reached, move || proto::body::encode(merged(&records))).await
        });
        Arc::clone(encoding.await)
    }

    fn id(&self, gateway: &str, base: Option<Head>, reached: Head) -> Id {
        Id { gateway: gateway.to_owned(), base, reached, signer: self.authorities.now().first().pin() }
    }

    /// Encodes and signs, on a thread that may take its time.
    async fn finish(
        &self,
        gateway: &str,
        base: Option<Head>,
        reached: Head,
        encode: impl FnOnce() -> Bytes + Send + 'static,
    ) -> Arc<Encoding> {
        let (trusted, gateway) = (self.authorities.now(), gateway.to_owned());
        let finishing = tokio::task::spawn_blocking(move || {
            let body = encode();
            let wire_base = base.map(head_to_wire);
            let text = proto::signed::revision(&gateway, wire_base.as_ref(), &head_to_wire(reached), &sha256(&body));
            let signatures = signatures(&trusted, &text);
            Arc::new(Encoding { base, reached, body, signatures })
        });
        finishing.await.expect("encoding what was compiled does not panic")
    }

    /// Everything that `head` holds.
    pub async fn snapshot(&self, gateway: &str, head: &Arc<Snapshot>) -> Arc<Encoding> {
        let reached = head_of(head);
        let slot = self.snapshots.lock().slot(self.id(gateway, None, reached));
        let encoding = slot.get_or_init(|| async {
            let _permit = self.admission.acquire().await;
            self.snapshots_built.fetch_add(1, Ordering::Relaxed);
            let head = Arc::clone(head);
            let encode = move || proto::body::encode(head.config.iter().map(|(key, document)| envelope(key, document)));
            self.finish(gateway, None, reached, encode).await
        });
        Arc::clone(encoding.await)
    }
}

impl Newest {
    fn bounded(bound: usize) -> Self {
        Self { slots: VecDeque::new(), bound }
    }

    fn slot(&mut self, id: Id) -> Slot {
        if let Some((_, slot)) = self.slots.iter().find(|(known, _)| *known == id) {
            return Arc::clone(slot);
        }
        if self.slots.len() == self.bound {
            self.slots.pop_front();
        }
        let slot = Slot::default();
        self.slots.push_back((id, Arc::clone(&slot)));
        slot
    }

    /// The newest finished one of a gateway that is `usable`.
    fn ready(&self, gateway: &str, signer: Pin, usable: impl Fn(Head) -> bool) -> Option<Arc<Encoding>> {
        let is_for = |id: &Id| id.gateway == gateway && id.signer == signer && usable(id.reached);
        let of_gateway = self.slots.iter().rev().filter(|(id, _)| is_for(id));
        of_gateway.filter_map(|(_, slot)| slot.get()).next().cloned()
    }
}

fn signatures(trusted: &Trusted, text: &[u8]) -> Vec<Bytes> {
    let mut signatures: Vec<Bytes> = trusted.iter().map(|authority| authority.sign(text).into()).collect();
    signatures.reverse();
    signatures
}

pub fn head_of(snapshot: &Snapshot) -> Head {
    Head { revision: snapshot.revision, digest: snapshot.config.digest() }
}

/// The last word of `records` on each resource that they touch.
fn merged(records: &[Arc<RevisionRecord>]) -> Vec<Envelope> {
    let mut envelopes = BTreeMap::new();
    for change in records.iter().flat_map(|record| record.changes.iter()) {
        let sent = match &change.after {
            Some(document) => envelope(&change.key, document),
            None => Envelope {
                kind: change.key.kind.singular().to_owned(),
                name: change.key.name.to_string(),
                removed: true,
                ..Envelope::default()
            },
        };
        envelopes.insert(&change.key, sent);
    }
    envelopes.into_values().collect()
}
