//! Which target gets a request.
//!
//! How much of the requests each target shall get is worked out when targets or their health change, and not for a
//! request ([`shares`]). What is left is to choose among shares, each policy in its own way.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use model::hashing::HashTable;
use model::resource::service::BalancingPolicy;
use model::snapshot::{Service, Subset, Target};

use crate::health::ServiceHealth;

pub(super) mod latency;
mod shares;
#[cfg(test)]
mod tests;
mod turns;

pub(super) use shares::Condition;
use shares::Shares;
use turns::Turns;

/// The choice among the targets of one service, as one core makes it.
pub(super) struct Balancer {
    service: Arc<Service>,
    /// The targets that there is a choice among; without one, all.
    subset: Option<Arc<Subset>>,
    health: Arc<ServiceHealth>,
    zone: Option<Arc<str>>,
    /// What the health of the service had come to when the shares were made.
    seen: Cell<u32>,
    shares: RefCell<Shares>,
    way: Way,
}

/// What a policy goes by besides shares.
enum Way {
    /// There is no choice.
    Only,
    LeastLoaded,
    InTurn(RefCell<Turns>),
    ByHash(Arc<HashTable>),
}

impl Balancer {
    /// The choice among the targets of a service. `previous` is the choice before, with the place that each of them had
    /// there: turns go on where they were.
    pub(super) fn new(
        service: &Arc<Service>,
        subset: Option<&Arc<Subset>>,
        health: &Arc<ServiceHealth>,
        zone: Option<&Arc<str>>,
        previous: Option<(&Self, &[Option<usize>])>,
    ) -> Self {
        let targets = service.targets.iter();
        let plain: Box<[u32]> = targets.map(|target| if is_in(subset, target) { target.weight } else { 0 }).collect();
        let way = match (service.load_balancing.policy, &service.hash_table) {
            _ if service.targets.len() == 1 => Way::Only,
            (_, Some(table)) => Way::ByHash(Arc::clone(table)),
            (BalancingPolicy::RoundRobin, _) => {
                let before = previous.and_then(|(previous, places)| match &previous.way {
                    Way::InTurn(turns) => Some((turns.borrow(), places)),
                    _ => None,
                });
                Way::InTurn(RefCell::new(match before {
                    Some((turns, places)) => turns.moved(places, &plain),
                    None => Turns::new(&plain),
                }))
            }
            _ => Way::LeastLoaded,
        };
        Self {
            service: Arc::clone(service),
            subset: subset.cloned(),
            health: Arc::clone(health),
            zone: zone.cloned(),
            // Shares are made when they are needed, by somebody who knows the time.
            seen: Cell::new(health.generation().wrapping_sub(1)),
            shares: RefCell::new(Shares::plain(plain)),
            way,
        }
    }

    /// Whether the choice is among targets of which this is one.
    pub(super) fn holds(&self, target: usize) -> bool {
        is_in(self.subset.as_ref(), &self.service.targets[target])
    }

    /// Whether the shares are those of an earlier condition of the targets: then [`Balancer::refresh`] comes first.
    pub(super) fn is_behind(&self) -> bool {
        self.seen.get() != self.health.generation()
    }

    /// Works the shares out anew.
    pub(super) fn refresh(&self, condition: impl Fn(usize) -> Condition) {
        if matches!(self.way, Way::Only) {
            // Whatever is the matter with it, there is no other.
            return self.seen.set(self.health.generation());
        }
        self.seen.set(self.health.generation());
        let is_in = |target: &Target| is_in(self.subset.as_ref(), target);
        let threshold = self.service.load_balancing.panic_threshold;
        let shares = Shares::of(&self.service.targets, is_in, self.zone.as_deref(), threshold, condition);
        if let Way::InTurn(turns) = &self.way {
            turns.borrow_mut().follow(&shares.weights);
        }
        *self.shares.borrow_mut() = shares;
    }

    /// The target for a request that `tried` already could not be sent to. `hash` is that of its key, and `load` tells
    /// what a target has to do.
    pub(super) fn pick(&self, tried: &[usize], hash: Option<u64>, load: impl Fn(usize) -> u64) -> Option<usize> {
        let shares = self.shares.borrow();
        match &self.way {
            Way::Only => (tried.is_empty() && shares.weights[0] > 0).then_some(0),
            Way::LeastLoaded if tried.is_empty() => shares.less_loaded_of_two(load),
            Way::LeastLoaded => shares.any_but(tried),
            Way::InTurn(turns) if tried.is_empty() => turns.borrow_mut().next(),
            // Out of turn, or the target that gets the next request as well would be the one that could not take this.
            Way::InTurn(_) => shares.any_but(tried),
            Way::ByHash(table) => {
                let hash = hash.unwrap_or_else(|| fastrand::u64(..));
                table.find(hash, |target| !tried.contains(&target) && shares.has(target, table.draw(hash, target)))
            }
        }
    }
}

fn is_in(subset: Option<&Arc<Subset>>, target: &Target) -> bool {
    subset.is_none_or(|subset| subset.holds(target))
}
