//! Which address the next pod gets. Pure: what is in use is told, what was chosen is answered.

use std::{
    collections::{BTreeSet, VecDeque},
    net::IpAddr,
};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// The network's own address and its first one (customarily a gateway's) go to nobody.
const FIRST_OFFSET: u128 = 2;

/// The addresses of one pod prefix.
///
/// Never-used ones first, then the one that has been free the longest: the longer an address rests, the fewer
/// peers remember its last owner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pool {
    cidr: IpNet,
    /// Offset of the first address that was never given out.
    next: u128,
    /// In the order in which they became free.
    freed: VecDeque<IpAddr>,
}

/// Every address of the prefix is in use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no address is free in {0}")]
pub(crate) struct Exhausted(pub(crate) IpNet);

impl Pool {
    pub(crate) fn new(cidr: IpNet) -> Self {
        Self { cidr: cidr.trunc(), next: FIRST_OFFSET, freed: VecDeque::new() }
    }

    pub(crate) fn cidr(&self) -> IpNet {
        self.cidr
    }

    /// Chooses an address that is not in `used`.
    ///
    /// # Errors
    /// [`Exhausted`].
    pub(crate) fn allocate(&mut self, used: &BTreeSet<IpAddr>) -> Result<IpAddr, Exhausted> {
        while self.next <= self.last_offset() {
            let address = self.at(self.next);
            self.next += 1;
            if !used.contains(&address) {
                return Ok(address);
            }
        }
        while let Some(address) = self.freed.pop_front() {
            if !used.contains(&address) {
                return Ok(address);
            }
        }
        Err(Exhausted(self.cidr))
    }

    /// Takes an address back. Addresses of other prefixes are none of its business.
    pub(crate) fn free(&mut self, address: IpAddr) {
        if self.cidr.contains(&address) && !self.freed.contains(&address) {
            self.freed.push_back(address);
        }
    }

    fn last_offset(&self) -> u128 {
        let host_bits = u32::from(self.cidr.max_prefix_len() - self.cidr.prefix_len());
        let all = 1u128.checked_shl(host_bits).map_or(u128::MAX, |size| size - 1);
        // IPv4 broadcasts to the last one.
        if self.cidr.addr().is_ipv4() { all.saturating_sub(1) } else { all }
    }

    fn at(&self, offset: u128) -> IpAddr {
        match self.cidr.network() {
            IpAddr::V4(base) => {
                let offset = u32::try_from(offset).unwrap_or(u32::MAX);
                IpAddr::V4(u32::from(base).saturating_add(offset).into())
            }
            IpAddr::V6(base) => IpAddr::V6(u128::from(base).saturating_add(offset).into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(cidr: &str) -> Pool {
        Pool::new(cidr.parse().expect("prefix"))
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("address")
    }

    /// Allocates until nothing is left.
    fn drain(pool: &mut Pool, used: &mut BTreeSet<IpAddr>) -> Vec<String> {
        let mut all = vec![];
        while let Ok(address) = pool.allocate(used) {
            assert!(used.insert(address), "{address} given out twice");
            all.push(address.to_string());
        }
        all
    }

    #[test]
    fn network_gateway_and_broadcast_addresses_go_to_nobody() {
        let mut used = BTreeSet::new();
        assert_eq!(
            drain(&mut pool("10.20.0.0/29"), &mut used),
            ["10.20.0.2", "10.20.0.3", "10.20.0.4", "10.20.0.5", "10.20.0.6"]
        );
        assert_eq!(drain(&mut pool("fd20::/126"), &mut BTreeSet::new()), ["fd20::2", "fd20::3"]);
        assert_eq!(drain(&mut pool("10.20.0.0/31"), &mut BTreeSet::new()), [""; 0]);
        assert_eq!(drain(&mut pool("10.20.0.0/32"), &mut BTreeSet::new()), [""; 0]);
    }

    #[test]
    fn the_address_that_was_free_the_longest_is_reused_after_all_fresh_ones() {
        let mut pool = pool("10.20.0.0/29");
        let mut used = BTreeSet::from([pool.allocate(&BTreeSet::new()).expect("first")]);
        used.clear();
        pool.free(ip("10.20.0.2"));
        assert_eq!(pool.allocate(&used), Ok(ip("10.20.0.3")), "a fresh one first");
        used.insert(ip("10.20.0.3"));
        drain(&mut pool, &mut used);
        for freed in ["10.20.0.5", "10.20.0.3"] {
            used.remove(&ip(freed));
            pool.free(ip(freed));
        }
        assert_eq!(pool.allocate(&used), Ok(ip("10.20.0.5")));
        assert_eq!(pool.allocate(&BTreeSet::from([ip("10.20.0.5")])), Ok(ip("10.20.0.3")));
        assert!(pool.allocate(&used).is_err());
    }

    #[test]
    fn an_address_in_use_is_never_chosen_even_where_the_pool_has_forgotten_it() {
        let used = BTreeSet::from([ip("10.20.0.2"), ip("10.20.0.3")]);
        assert_eq!(pool("10.20.0.0/24").allocate(&used), Ok(ip("10.20.0.4")));
    }

    #[test]
    fn a_pool_survives_a_restart() {
        let mut pool = pool("10.20.0.0/24");
        pool.allocate(&BTreeSet::new()).expect("address");
        pool.free(ip("10.20.0.2"));
        pool.free(ip("192.0.2.1"));
        let text = serde_json::to_string(&pool).expect("serialise");
        assert_eq!(serde_json::from_str::<Pool>(&text).expect("read"), pool);
        assert_eq!(pool.freed, [ip("10.20.0.2")], "foreign addresses are not taken");
    }

    #[test]
    fn a_very_large_prefix_works() {
        assert_eq!(pool("fd20::/16").allocate(&BTreeSet::new()), Ok(ip("fd20::2")));
        assert_eq!(pool("::/0").allocate(&BTreeSet::new()), Ok(ip("::2")));
    }
}
