//! Which Service holds which cluster address and node port. Derived from the stored Services, so that it can be
//! neither leaked nor forgotten. Never changes a Service; see [`service`].

pub(crate) mod service;

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
};

use ipnet::IpNet;
use serde_json::Value;

use crate::{
    config::{Config, Entropy},
    meta::{self, Object, items, text},
    store::Key,
};

/// Holders of addresses and ports.
#[derive(Debug)]
pub(crate) struct Allocations {
    /// By the name of the ServiceCIDR; the cluster's own comes first.
    ranges: BTreeMap<(Rank, String), Range>,
    port_range: RangeInclusive<u16>,
    addresses: HashMap<IpAddr, Key>,
    ports: HashMap<(u16, String), Key>,
    held: HashMap<Key, Held>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Own,
    Added,
}

/// What one ServiceCIDR adds.
#[derive(Debug)]
struct Range {
    cidrs: Vec<IpNet>,
    /// Gives out no more addresses.
    closing: bool,
}

/// The ServiceCIDR that the server makes of its configuration.
const OWN_RANGE: &str = "kubernetes";

/// What one Service holds.
#[derive(Debug)]
struct Held {
    addresses: Vec<IpAddr>,
    ports: Vec<(u16, String)>,
}

impl Allocations {
    pub(crate) fn new(config: &Config) -> Self {
        let own = Range { cidrs: config.service_cidrs.clone(), closing: false };
        Self {
            ranges: BTreeMap::from([((Rank::Own, OWN_RANGE.to_owned()), own)]),
            port_range: config.node_port_range.clone(),
            addresses: HashMap::new(),
            ports: HashMap::new(),
            held: HashMap::new(),
        }
    }

    /// Takes in a ServiceCIDR.
    pub(crate) fn set_range(&mut self, object: &Object) {
        let cidrs = items(object, &["spec", "cidrs"]).iter();
        let cidrs = cidrs.filter_map(|cidr| cidr.as_str()?.parse().ok()).collect();
        let range = Range { cidrs, closing: meta::is_deleting(object) };
        self.ranges.insert(Self::range_key(meta::name(object)), range);
    }

    /// Forgets a ServiceCIDR.
    pub(crate) fn remove_range(&mut self, name: &str) {
        self.ranges.remove(&Self::range_key(name));
    }

    /// Whether a Service has an address that no other ServiceCIDR than this one contains.
    pub(crate) fn needs_range(&self, name: &str) -> bool {
        let key = Self::range_key(name);
        let Some(range) = self.ranges.get(&key) else { return false };
        let others = || self.ranges.iter().filter(|(other, _)| **other != key).map(|(_, range)| range);
        self.addresses.keys().any(|ip| range.contains(*ip) && !others().any(|other| other.contains(*ip)))
    }

    fn range_key(name: &str) -> (Rank, String) {
        (if name == OWN_RANGE { Rank::Own } else { Rank::Added }, name.to_owned())
    }

    /// Every prefix that addresses may come from, the cluster's own first.
    fn cidrs(&self) -> impl Iterator<Item = &IpNet> + Clone {
        self.ranges.values().filter(|range| !range.closing).flat_map(|range| &range.cidrs)
    }

    /// The addresses that Services have.
    pub(crate) fn addresses_of(&self, service: &Key) -> &[IpAddr] {
        self.held.get(service).map_or(&[], |held| &held.addresses)
    }

    /// Makes a Service the holder of exactly what it names.
    pub(crate) fn hold(&mut self, service: &Object) {
        let key = Key::of(service);
        self.release(&key);
        let held = Held { addresses: cluster_ips(service).collect(), ports: node_ports(service).collect() };
        self.addresses.extend(held.addresses.iter().map(|address| (*address, key.clone())));
        self.ports.extend(held.ports.iter().map(|port| (port.clone(), key.clone())));
        self.held.insert(key, held);
    }

    /// Frees everything a Service held.
    pub(crate) fn release(&mut self, service: &Key) {
        let Some(held) = self.held.remove(service) else { return };
        for address in held.addresses {
            self.addresses.remove(&address);
        }
        for port in held.ports {
            self.ports.remove(&port);
        }
    }
}

impl Range {
    fn contains(&self, ip: IpAddr) -> bool {
        self.cidrs.iter().any(|cidr| cidr.contains(&ip))
    }
}

/// Addresses and ports that clients choose come from the lower part of a range; the server draws from the rest first.
fn static_band(size: u64, divisor: u64, most: u64) -> u64 {
    if size <= 16 { 0 } else { (size / divisor).clamp(16, most) }
}

impl Allocations {
    /// A free address of the family, of the first range that has one, drawn at random.
    fn free_address(&self, ipv4: bool, entropy: &dyn Entropy) -> Option<IpAddr> {
        let mut cidrs = self.cidrs().filter(|cidr| cidr.addr().is_ipv4() == ipv4);
        cidrs.find_map(|cidr| self.free_address_of(cidr, entropy))
    }

    fn free_address_of(&self, cidr: &IpNet, entropy: &dyn Entropy) -> Option<IpAddr> {
        let size = hosts(cidr);
        let offset = draw(size, static_band(size, 16, 256), entropy, |offset| {
            !self.addresses.contains_key(&host(cidr, offset + 1))
        })?;
        Some(host(cidr, offset + 1))
    }

    /// A port of the range that `is_free`, drawn at random.
    fn free_port(&self, entropy: &dyn Entropy, is_free: impl Fn(u16) -> bool) -> Option<u16> {
        let (first, last) = (*self.port_range.start(), *self.port_range.end());
        let size = u64::from(last.saturating_sub(first)) + 1;
        let number = |offset: u64| first + offset as u16;
        draw(size, static_band(size, 32, 128), entropy, |offset| is_free(number(offset))).map(number)
    }
}

/// A free offset below `size`: from a random place on in the part above `band`, and only then below it.
fn draw(size: u64, band: u64, entropy: &dyn Entropy, is_free: impl Fn(u64) -> bool) -> Option<u64> {
    let upper = size - band;
    let from = if upper == 0 { 0 } else { entropy.next() % upper };
    (0..upper).map(|step| band + (from + step) % upper).chain(0..band).find(|offset| is_free(*offset))
}

/// Addresses that Services may have: not the network's first, and in IPv4 not its broadcast address.
fn hosts(cidr: &IpNet) -> u64 {
    let bits = u32::from(cidr.max_prefix_len() - cidr.prefix_len());
    if cidr.addr().is_ipv4() {
        return (1u64 << bits).saturating_sub(2);
    }
    // As the real server: of a larger IPv6 range only the first 65,536 addresses are given out.
    (1u64 << bits.min(16)).saturating_sub(1)
}

/// The address at an offset from the network's first.
pub(crate) fn host(cidr: &IpNet, offset: u64) -> IpAddr {
    match cidr.network() {
        IpAddr::V4(first) => Ipv4Addr::from(u32::from(first).wrapping_add(offset as u32)).into(),
        IpAddr::V6(first) => Ipv6Addr::from(u128::from(first).wrapping_add(u128::from(offset))).into(),
    }
}

fn cluster_ips(service: &Object) -> impl Iterator<Item = IpAddr> {
    items(service, &["spec", "clusterIPs"]).iter().filter_map(|ip| ip.as_str()?.parse().ok())
}

/// Node ports with their protocol; the health-check port is TCP.
fn node_ports(service: &Object) -> impl Iterator<Item = (u16, String)> {
    let health = &service["spec"]["healthCheckNodePort"];
    items(service, &["spec", "ports"])
        .iter()
        .map(|port| (&port["nodePort"], text(port, &["protocol"])))
        .chain([(health, "TCP")])
        .filter_map(|(port, protocol)| {
            let number = u16::try_from(port.as_u64()?).ok()?;
            (number != 0).then(|| (number, protocol.to_owned()))
        })
}

impl Allocations {
    /// Whether a client may have the address that it asks for.
    fn check_address(&self, ip: IpAddr, owner: &Key) -> Result<(), String> {
        let mut cidrs = self.cidrs().filter(|cidr| cidr.addr().is_ipv4() == ip.is_ipv4());
        let in_range = |cidr: &IpNet| host(cidr, 1) <= ip && ip <= host(cidr, hosts(cidr));
        if !cidrs.clone().any(in_range) {
            let cidr = cidrs.next().map_or_else(String::new, ToString::to_string);
            return Err(format!(
                "the provided IP ({ip}) is not in the valid range. The range of valid IPs is {cidr}"
            ));
        }
        match self.addresses.get(&ip) {
            Some(holder) if holder != owner => Err("provided IP is already allocated".to_owned()),
            _ => Ok(()),
        }
    }

    /// What a client asks for, if it may have it.
    fn check_port(&self, port: &Value, protocol: &str, owner: &Key) -> Result<u16, String> {
        let range = &self.port_range;
        let number = port
            .as_u64()
            .and_then(|number| u16::try_from(number).ok())
            .filter(|number| range.contains(number))
            .ok_or_else(|| {
                format!(
                    "provided port is not in the valid range. The range of valid ports is {}-{}",
                    range.start(),
                    range.end()
                )
            })?;
        if self.is_held_by_other(&(number, protocol.to_owned()), owner) {
            return Err("provided port is already allocated".to_owned());
        }
        Ok(number)
    }

    fn is_held_by_other(&self, port: &(u16, String), owner: &Key) -> bool {
        self.ports.get(port).is_some_and(|holder| holder != owner)
    }
}
