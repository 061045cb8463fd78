//! Copies of requests for other services. Clients do not notice them: a copy waits for nobody and nobody waits for it,
//! and what all copies of a core may hold is bounded by their number and by how far each may be behind.

use std::cell::Cell;
use std::rc::Rc;

use http::header::UPGRADE;
use http_body_util::BodyExt;
use model::slots::Slot;
use model::snapshot::{Mirror, Snapshot};

use crate::body::{Failure, Room};
use crate::cores::core::Core;
use crate::telemetry::ServiceCounts;
use crate::upstream::{End, RouteTerms, TimeLimits, Unanswered, UpstreamError, UpstreamRequest};

/// Copies under way on one core.
const MAX_COPIES: u32 = 128;

/// What all copies of bodies on one core may hold that their services have not taken.
const MAX_BODY_BYTES: usize = 16 * 1024 * 1024;

/// Copies that are given up are mentioned in the log of the process this often; metrics count every one.
const WARN_EVERY_NS: u64 = 10_000_000_000;

/// The copies under way on one core.
pub struct Copies {
    count: Rc<Cell<u32>>,
    room: Room,
    warned_ns: Cell<Option<u64>>,
}

/// One copy under way.
struct Place(Rc<Cell<u32>>);

/// Sends copies of a request that is about to go to its service.
pub fn mirror<'m>(
    core: &Rc<Core>,
    snapshot: &Rc<Snapshot>,
    mirrors: impl Iterator<Item = &'m Mirror>,
    request: &mut UpstreamRequest,
) {
    if request.headers.contains_key(UPGRADE) {
        return;
    }
    for mirror in mirrors.filter(|mirror| mirror.fraction.holds(fastrand::u32(..))) {
        let Some(service) = snapshot.services.get(mirror.service) else { continue };
        let counts = core.telemetry.metrics.service(mirror.service, &service.name);
        let Some(place) = core.copies.enter() else {
            core.copies.dropped(core, &counts, &service.name, "too-many");
            continue;
        };
        counts.mirrored();
        let timeout_ns = u64::try_from(mirror.timeout.as_nanos()).unwrap_or(u64::MAX);
        let end = End { at_ns: core.clock.now().monotonic_ns.saturating_add(timeout_ns), is_of_client: false };
        let copy = UpstreamRequest {
            method: request.method.clone(),
            target: request.target.clone(),
            headers: request.headers.clone(),
            body: request.body.copy(&core.copies.room),
            interim: None,
            ends: request.ends.clone(),
            time: TimeLimits { head: service.timeouts.request.get(), exchange: None, whole: Some(end), is_call: false },
            hash: None,
            tag: None,
        };
        let (core, snapshot, slot) = (Rc::clone(core), Rc::clone(snapshot), mirror.service);
        tokio::task::spawn_local(async move {
            let _place = place;
            if let Err(reason) = send(&core, &snapshot, slot, copy).await
                && let Some(service) = snapshot.services.get(slot)
            {
                core.copies.dropped(&core, &counts, &service.name, reason);
            }
        });
    }
}

/// Sends a copy and reads what is answered.
async fn send(core: &Core, snapshot: &Rc<Snapshot>, slot: Slot, copy: UpstreamRequest) -> Result<(), &'static str> {
    let mut body = match core.upstreams.forward(snapshot, slot, RouteTerms::default(), copy).answer().await {
        Ok(answer) => answer.body,
        // Its client was still sending it.
        Err(Unanswered { error: UpstreamError::RequestBody(Failure::TooSlow), .. }) => return Err("unanswered"),
        Err(Unanswered { error: UpstreamError::RequestBody(Failure::Behind), .. }) => return Err("behind"),
        Err(Unanswered { error: UpstreamError::RequestBody(_), .. }) => return Err("request-broken"),
        Err(_) => return Err("unanswered"),
    };
    while let Some(frame) = body.frame().await {
        frame.map_err(|_| "answer-broken")?;
    }
    Ok(())
}

impl Default for Copies {
    fn default() -> Self {
        Self { count: Rc::default(), room: Room::new(MAX_BODY_BYTES), warned_ns: Cell::new(None) }
    }
}

impl Copies {
    fn enter(&self) -> Option<Place> {
        let count = self.count.get();
        (count < MAX_COPIES).then(|| {
            self.count.set(count + 1);
            Place(Rc::clone(&self.count))
        })
    }

    /// Counts a copy that came to nothing, and says so in the log of the process now and then.
    fn dropped(&self, core: &Core, counts: &ServiceCounts, service: &str, reason: &'static str) {
        counts.mirror_dropped(reason);
        let now_ns = core.clock.now().monotonic_ns;
        if self.warned_ns.get().is_none_or(|warned_ns| now_ns >= warned_ns + WARN_EVERY_NS) {
            self.warned_ns.set(Some(now_ns));
            tracing::warn!(service.name = service, reason, "a mirrored request came to nothing");
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}
