//! Which target a request gets by its key: the hash of the key, and the tables that it is looked up in.
//!
//! All of it must come out the same on every node and in every version, or clients would lose their targets during an
//! upgrade: hence a hash function of our own, which is as old as it is simple (FNV-1a, finished by the mixer of
//! SplitMix64). Who chooses keys chooses targets, and no hash function keeps them from it.

use std::net::IpAddr;

use percent_encoding::percent_decode_str;

use crate::exchange::Exchange;
use crate::resource::service::{BalancingPolicy, HashKey, TargetUrl};
use crate::router::Found;
use crate::snapshot::Target;

mod maglev;
mod ring;
#[cfg(test)]
mod tests;

use maglev::Maglev;
use ring::Ring;

/// So many entries are looked at for a target that will do, before all targets are. At half of them it finds one in all
/// but one of four billion cases.
const STEPS: usize = 32;

/// The targets of a service by the hash of a key. It is made once for a list of targets and shared by all cores.
#[derive(Debug)]
pub struct HashTable {
    /// What a target is in every list: the hash of its address.
    identities: Box<[u64]>,
    weights: Box<[u32]>,
    entries: Entries,
}

#[derive(Debug)]
enum Entries {
    Ring(Ring),
    Maglev(Maglev),
}

impl HashTable {
    /// The table for these targets, if the policy goes by one. `previous` is a table that was made for much the same
    /// targets, if there is one: it saves work and makes no difference.
    #[must_use]
    pub fn new(policy: BalancingPolicy, targets: &[Target], previous: Option<&Self>) -> Option<Self> {
        let identities = targets.iter().map(|target| identity(&target.endpoint.url)).collect();
        let weights = targets.iter().map(|target| target.weight).collect();
        Self::of(policy, identities, weights, previous)
    }

    fn of(
        policy: BalancingPolicy,
        identities: Box<[u64]>,
        weights: Box<[u32]>,
        previous: Option<&Self>,
    ) -> Option<Self> {
        let entries = match policy {
            BalancingPolicy::RingHash => {
                let previous = previous.and_then(|table| match &table.entries {
                    Entries::Ring(ring) => Some((ring, table)),
                    Entries::Maglev(_) => None,
                });
                Entries::Ring(match previous {
                    Some((ring, table)) => ring.changed((&table.identities, &table.weights), (&identities, &weights)),
                    None => Ring::new(&identities, &weights),
                })
            }
            BalancingPolicy::Maglev => Entries::Maglev(Maglev::new(&identities, &weights)),
            BalancingPolicy::LeastRequest | BalancingPolicy::RoundRobin | BalancingPolicy::PeakEwma => return None,
        };
        Some(Self { identities, weights, entries })
    }

    /// The target of a hash: the first that will do, from the place of the hash on. So what a target cannot take is
    /// spread over all others, and comes back to it.
    #[must_use]
    pub fn find(&self, hash: u64, mut will_do: impl FnMut(usize) -> bool) -> Option<usize> {
        let mut first = |entries: &mut dyn Iterator<Item = usize>| entries.take(STEPS).find(|target| will_do(*target));
        let found = match &self.entries {
            Entries::Ring(ring) => first(&mut ring.from(hash)),
            Entries::Maglev(table) => first(&mut table.from(hash)),
        };
        // By rendezvous, where hardly any will do: it costs a look at all of them and moves as little.
        found.or_else(|| {
            let all = (0..self.identities.len()).filter(|target| self.weights[*target] > 0 && will_do(*target));
            all.max_by_key(|target| self.draw(hash, *target))
        })
    }

    /// A number for a hash and a target that is always the same, for what only a part of the hashes shall have.
    #[must_use]
    pub fn draw(&self, hash: u64, target: usize) -> u64 {
        mix(hash ^ self.identities[target])
    }
}

/// The hash of what a request has for the key; nothing if it has nothing.
#[must_use]
pub fn hash_of(key: &HashKey, exchange: &Exchange, found: Option<&Found<'_>>) -> Option<u64> {
    let request = &exchange.request;
    Some(match key {
        HashKey::ClientAddress => match exchange.client.address.ip().to_canonical() {
            IpAddr::V4(address) => hash(&address.octets()),
            IpAddr::V6(address) => hash(&address.octets()),
        },
        HashKey::Consumer => hash(exchange.consumer()?.name.as_bytes()),
        HashKey::Header(name) => hash(request.headers.get(&name.0)?),
        HashKey::Cookie(name) => hash(cookie(exchange, name)?),
        HashKey::Query(name) => {
            let parameters = request.target.query()?.split('&');
            let mut parameters = parameters.map(|parameter| parameter.split_once('=').unwrap_or((parameter, "")));
            let (_, value) = parameters.find(|(other, _)| percent_decode_str(other).eq(name.bytes()))?;
            percent_decode_str(value).fold(FNV_BASIS, fnv).finish()
        }
        HashKey::PathCapture(name) => {
            let path = request.target.path();
            let captures = found?.captures(path);
            let (_, place) = captures.into_iter().find(|(other, _)| other == name)?;
            hash(path[place].as_bytes())
        }
    })
}

/// The value of the first cookie of this name (RFC 6265 section 4.2.1).
pub(crate) fn cookie<'e>(exchange: &'e Exchange, name: &str) -> Option<&'e [u8]> {
    let pairs =
        exchange.request.headers.get_all(http::header::COOKIE).flat_map(|field| field.split(|byte| *byte == b';'));
    pairs.map(<[u8]>::trim_ascii).find_map(|pair| pair.strip_prefix(name.as_bytes())?.strip_prefix(b"="))
}

fn identity(url: &TargetUrl) -> u64 {
    let port = url.port.to_be_bytes();
    let scheme = [u8::from(url.https)];
    url.host.bytes().chain([0]).chain(port).chain(scheme).fold(FNV_BASIS, fnv).finish()
}

pub(crate) fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().copied().fold(FNV_BASIS, fnv).finish()
}

const FNV_BASIS: Fnv = Fnv(0xcbf2_9ce4_8422_2325);

#[derive(Clone, Copy)]
struct Fnv(u64);

impl Fnv {
    fn finish(self) -> u64 {
        mix(self.0)
    }
}

fn fnv(Fnv(state): Fnv, byte: u8) -> Fnv {
    Fnv((state ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// Spreads every bit of a number over all of them.
fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}
