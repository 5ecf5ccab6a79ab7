//! How many connections each address has, and how fast they come.
//!
//! An owner of IPv6 has a whole /64 network, so addresses of one such network count as one. An address is forgotten once it has no
//! connection and may begin a whole burst again.

use super::Bound;
use parking_lot::{Mutex, RwLock};
use runtime::pace::{Pace, Rate};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use tokio::time::Instant;

/// The list is looked through for addresses that can be forgotten when it has twice as many as were left the last time, and at
/// least this many.
const LOOK: usize = 1_024;

/// What an address may do.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct AddressRules {
    /// Connections at once. `None`: no limit.
    pub connections: Option<u32>,
    /// Connections in a second. `None`: no limit.
    pub handshakes: Option<Rate>,
}

/// Counts connections by their addresses.
#[derive(Debug, Default)]
pub(crate) struct Addresses {
    rules: RwLock<AddressRules>,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    addresses: HashMap<Network, Usage>,
    /// The number of addresses at which they are looked through.
    look_at: usize,
}

#[derive(Debug, Default)]
struct Usage {
    connections: u32,
    pace: Pace,
}

/// An address, or a /64 network of IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Network {
    V4(Ipv4Addr),
    V6([u16; 4]),
}

impl From<IpAddr> for Network {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address),
            IpAddr::V6(address) => {
                let [a, b, c, d, ..] = address.segments();
                Self::V6([a, b, c, d])
            }
        }
    }
}

impl Addresses {
    /// These rules hold from now on. Connections that are there stay.
    pub(crate) fn set(&self, rules: AddressRules) {
        *self.rules.write() = rules;
    }

    /// Takes a place for one more connection of this address.
    ///
    /// # Errors
    /// The bound that was reached.
    pub(crate) fn enter(self: &Arc<Self>, address: IpAddr) -> Result<AddressPermit, Bound> {
        let network = Network::from(address);
        let AddressRules {
            connections,
            handshakes,
        } = *self.rules.read();
        if connections.is_some() || handshakes.is_some() {
            let now = Instant::now();
            let mut known = self.known.lock();
            known.forget_rested(now);
            let usage = known.addresses.entry(network).or_default();
            if connections.is_some_and(|most| usage.connections >= most) {
                return Err(Bound::Address);
            }
            if handshakes.is_some_and(|rate| usage.pace.take(&rate, now).is_err()) {
                return Err(Bound::AddressRate);
            }
            usage.connections += 1;
        }
        Ok(AddressPermit {
            addresses: Arc::clone(self),
            network,
        })
    }
}

impl Known {
    fn forget_rested(&mut self, now: Instant) {
        if self.addresses.len() < self.look_at.max(LOOK) {
            return;
        }
        let is_in_use = |usage: &Usage| usage.connections > 0 || !usage.pace.has_rested(now);
        self.addresses.retain(|_, usage| is_in_use(usage));
        self.look_at = 2 * self.addresses.len();
        self.addresses.shrink_to(self.look_at.max(LOOK));
    }
}

/// The place of one connection of an address. Dropping it gives the place back.
#[derive(Debug)]
pub(crate) struct AddressPermit {
    addresses: Arc<Addresses>,
    network: Network,
}

impl Drop for AddressPermit {
    fn drop(&mut self) {
        if let Some(usage) = self.addresses.known.lock().addresses.get_mut(&self.network) {
            usage.connections = usage.connections.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv6Addr;
    use std::time::Duration;
    use tokio::time::advance;

    fn addresses(connections: u32, each_second: u32, burst: u32) -> Arc<Addresses> {
        let addresses = Arc::<Addresses>::default();
        addresses.set(AddressRules {
            connections: Some(connections),
            handshakes: Rate::of(each_second, burst),
        });
        addresses
    }

    fn v4(number: u32) -> IpAddr {
        Ipv4Addr::from(number).into()
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_has_so_many_connections_at_once_and_others_have_theirs() {
        let addresses = addresses(2, 0, 0);
        let (one, two) = (
            addresses.enter(v4(1)).unwrap(),
            addresses.enter(v4(1)).unwrap(),
        );
        assert_eq!(addresses.enter(v4(1)).unwrap_err(), Bound::Address);
        assert!(addresses.enter(v4(2)).is_ok());
        drop(one);
        assert!(addresses.enter(v4(1)).is_ok());
        drop(two);
    }

    #[tokio::test(start_paused = true)]
    async fn connections_of_an_address_may_come_in_a_burst_and_then_at_the_rate() {
        let addresses = addresses(1_000, 50, 500);
        for _ in 0..500 {
            assert!(addresses.enter(v4(1)).is_ok());
        }
        assert_eq!(addresses.enter(v4(1)).unwrap_err(), Bound::AddressRate);
        assert!(
            addresses.enter(v4(2)).is_ok(),
            "another address has its own rate"
        );
        advance(Duration::from_millis(20)).await;
        assert!(addresses.enter(v4(1)).is_ok());
        assert!(addresses.enter(v4(1)).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn addresses_of_one_ipv6_network_count_as_one() {
        let addresses = addresses(1, 0, 0);
        let address = |last: u16, network: u16| {
            let address = Ipv6Addr::new(0x2001, 0xdb8, 0, network, 0, 0, 0, last);
            IpAddr::from(address)
        };
        let _one = addresses.enter(address(1, 7)).unwrap();
        assert!(addresses.enter(address(2, 7)).is_err());
        assert!(addresses.enter(address(1, 8)).is_ok());
        // An address of IPv4 may be written as one of IPv6.
        let mapped = Ipv4Addr::new(192, 0, 2, 1).to_ipv6_mapped();
        let _four = addresses.enter(mapped.into()).unwrap();
        assert!(addresses.enter(Ipv4Addr::new(192, 0, 2, 1).into()).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_million_addresses_leave_nothing_behind() {
        let addresses = addresses(10, 50, 500);
        let mut most = 0;
        for number in 0..1_000_000 {
            assert!(addresses.enter(v4(number)).is_ok());
            if number % 100 == 0 {
                advance(Duration::from_millis(10)).await;
            }
            most = most.max(addresses.known.lock().addresses.capacity());
        }
        assert!(most < 4 * LOOK, "{most}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_is_not_forgotten_while_it_has_a_connection_or_has_to_wait() {
        let addresses = addresses(1, 1, 1);
        let _connected = addresses.enter(v4(0)).unwrap();
        for number in 2..10_000 {
            assert!(addresses.enter(v4(number)).is_ok());
            advance(Duration::from_secs(1)).await;
        }
        assert_eq!(addresses.enter(v4(0)).unwrap_err(), Bound::Address);

        drop(addresses.enter(v4(1)).unwrap());
        for number in 10_000..20_000 {
            assert!(addresses.enter(v4(number)).is_ok());
        }
        assert_eq!(addresses.enter(v4(1)).unwrap_err(), Bound::AddressRate);
    }

    #[tokio::test(start_paused = true)]
    async fn without_rules_nothing_is_counted() {
        let addresses = Arc::<Addresses>::default();
        let _permits: Vec<_> = (0..100).map(|_| addresses.enter(v4(1)).unwrap()).collect();
        assert!(addresses.known.lock().addresses.is_empty());
    }
}
