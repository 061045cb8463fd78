//! How many connections a listener has, of all clients and of each, over all cores. Counted when a connection begins
//! and ends, never by requests.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::Mutex;

/// The places of a listener.
#[derive(Default)]
pub struct Places {
    taken: AtomicU32,
    by_client: Mutex<HashMap<IpAddr, u32, foldhash::fast::RandomState>>,
}

/// One place; dropping it gives it back.
pub struct Place {
    places: Arc<Places>,
    client: Option<IpAddr>,
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    Listener,
    Client,
}

impl Full {
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Listener => "too-many-connections",
            Self::Client => "too-many-connections-of-client",
        }
    }
}

impl Places {
    /// A place for a connection whose client is not known yet.
    pub fn take(self: &Arc<Self>, limit: u32) -> Result<Place, Full> {
        // Counted before it is compared, so that two cores do not both take the last one.
        let place = Place { places: self.clone(), client: None };
        if self.taken.fetch_add(1, Ordering::Relaxed) < limit { Ok(place) } else { Err(Full::Listener) }
    }
}

impl Place {
    /// Makes it a place of this client.
    pub fn belongs_to(&mut self, client: IpAddr, limit: u32) -> Result<(), Full> {
        let client = network_of(client);
        let mut by_client = self.places.by_client.lock();
        let taken = by_client.entry(client).or_default();
        if *taken >= limit {
            return Err(Full::Client);
        }
        *taken += 1;
        drop(by_client);
        self.client = Some(client);
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.taken.fetch_sub(1, Ordering::Relaxed);
        let Some(client) = self.client else { return };
        let mut by_client = self.places.by_client.lock();
        if let Some(taken) = by_client.get_mut(&client) {
            *taken -= 1;
            if *taken == 0 {
                by_client.remove(&client);
                // After a flood of addresses the table would stay as large as it was.
                if by_client.is_empty() {
                    by_client.shrink_to(64);
                }
            }
        }
    }
}

/// What one client has for itself: an IPv4 address, or the IPv6 network of 64 bits that it may choose addresses from
/// (RFC 4291 section 2.5.1).
fn network_of(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn places_are_counted_for_all_and_for_each_client_and_come_back() {
        let places = Arc::new(Places::default());
        let take = |client: &str| {
            let mut place = places.take(3)?;
            place.belongs_to(address(client), 2).map(|()| place)
        };
        let first = take("192.0.2.1").expect("a place");
        let _second = take("::ffff:192.0.2.1").expect("the same client has two");
        assert_eq!(take("192.0.2.1").err(), Some(Full::Client));
        let _other = take("192.0.2.2").expect("another client");
        assert_eq!(take("192.0.2.3").err(), Some(Full::Listener));
        drop(first);
        take("192.0.2.1").expect("it came back, and the refused ones hold none");
        assert_eq!(places.by_client.lock().len(), 2);
    }

    #[test]
    fn a_client_of_ipv6_is_a_network() {
        let places = Arc::new(Places::default());
        let mut first = places.take(9).expect("a place");
        first.belongs_to(address("2001:db8::1"), 1).expect("the first");
        assert_eq!(places.take(9).expect("a place").belongs_to(address("2001:db8::2"), 1), Err(Full::Client));
        places.take(9).expect("a place").belongs_to(address("2001:db8:0:1::1"), 1).expect("another network");
    }
}
