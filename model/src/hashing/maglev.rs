//! A table of places that the targets take in turns, each in an order of its own (Eisenbud et al., "Maglev", section 3.4).

use super::mix;

/// Places of the table, a prime so that every order of a target leads through all of them.
const PLACES: usize = 16_381;
/// For so many targets that few places would be left for each.
const MANY_PLACES: usize = 131_071;
const MANY_TARGETS: usize = 2_048;

const FREE: u32 = u32::MAX;

/// The target of each place.
#[derive(Debug)]
pub(super) struct Maglev(Box<[u32]>);

/// One target's way through the table.
struct Taker {
    identity: u64,
    target: u32,
    weight: u64,
    next: usize,
    skip: usize,
    taken: u64,
}

impl Maglev {
    pub(super) fn new(identities: &[u64], weights: &[u32]) -> Self {
        let size = if identities.len() > MANY_TARGETS { MANY_PLACES } else { PLACES };
        let with_weight = identities.iter().zip(weights).zip(0..).filter(|((_, weight), _)| **weight > 0);
        let mut takers: Vec<Taker> = with_weight
            .map(|((identity, weight), target)| Taker {
                identity: *identity,
                target,
                weight: u64::from(*weight),
                next: below(mix(*identity), size),
                skip: below(mix(!*identity), size - 1) + 1,
                taken: 0,
            })
            .collect();
        if takers.is_empty() {
            return Self(Box::default());
        }
        // Whose turn it is must not depend on the order in which they were written.
        takers.sort_unstable_by_key(|taker| taker.identity);
        let heaviest = takers.iter().map(|taker| taker.weight).max().unwrap_or(1);
        let mut places = vec![FREE; size];
        let mut free = size;
        for round in 1_u64.. {
            for taker in &mut takers {
                // In so many rounds, the heaviest takes as many places, and the others in proportion.
                if round * taker.weight < (taker.taken + 1) * heaviest {
                    continue;
                }
                taker.take(&mut places);
                free -= 1;
                if free == 0 {
                    return Self(places.into());
                }
            }
        }
        unreachable!("the heaviest takes a place in every round")
    }

    /// The targets of the places from a hash on, once around.
    pub(super) fn from(&self, hash: u64) -> impl Iterator<Item = usize> {
        let begin = if self.0.is_empty() { 0 } else { below(hash, self.0.len()) };
        let (before, behind) = self.0.split_at(begin);
        behind.iter().chain(before).map(|target| *target as usize)
    }
}

impl Taker {
    /// Takes its next place that is free.
    fn take(&mut self, places: &mut [u32]) {
        let size = places.len();
        loop {
            let place = &mut places[self.next];
            self.next += self.skip;
            if self.next >= size {
                self.next -= size;
            }
            if *place == FREE {
                *place = self.target;
                self.taken += 1;
                return;
            }
        }
    }
}

/// The rest of a number.
fn below(number: u64, size: usize) -> usize {
    usize::try_from(number % size as u64).expect("it is less than a size")
}
