//! A set of networks, compiled for asking which addresses are in it.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::value::Network;

/// A set of networks: they lie apart, in ascending order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks(Box<[IpNet]>);

impl Networks {
    #[must_use]
    pub fn of(written: &[Network]) -> Self {
        let mut networks = IpNet::aggregate(&written.iter().map(|network| network.0).collect());
        networks.sort_unstable();
        Self(networks.into())
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// An IPv4 address in IPv6 clothes is an IPv4 address.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let behind = self.0.partition_point(|network| network.network() <= address);
        self.0[..behind].last().is_some_and(|network| network.contains(&address))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Aggregated and searched, they hold what one of them holds.
        #[test]
        fn a_set_holds_what_its_networks_hold(
            networks in proptest::collection::vec((any::<[u8; 4]>(), 0_u8..=32), 0..8),
            address in any::<[u8; 4]>(),
        ) {
            let networks: Vec<Network> = networks
                .into_iter()
                .map(|(address, length)| Network(IpNet::new(address.into(), length).expect("a length").trunc()))
                .collect();
            let address = IpAddr::from(address);
            let expected = networks.iter().any(|network| network.0.contains(&address));
            prop_assert_eq!(Networks::of(&networks).contains(address), expected);
        }
    }
}
