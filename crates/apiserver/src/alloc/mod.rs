//! Which Service holds which cluster address and node port. Derived from the stored Services, so that it can be
//! neither leaked nor forgotten. Never changes a Service; see [`service`].

pub(crate) mod service;

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
};

use ipnet::IpNet;

use crate::{
    config::{Config, Entropy},
    meta::{Object, items, text},
    store::Key,
};

/// Holders of addresses and ports.
#[derive(Debug)]
pub(crate) struct Allocations {
    cidrs: Vec<IpNet>,
    port_range: RangeInclusive<u16>,
    addresses: HashMap<IpAddr, Key>,
    ports: HashMap<(u16, String), Key>,
    held: HashMap<Key, Held>,
}

/// What one Service holds.
#[derive(Debug)]
struct Held {
    addresses: Vec<IpAddr>,
    ports: Vec<(u16, String)>,
}

impl Allocations {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            cidrs: config.service_cidrs.clone(),
            port_range: config.node_port_range.clone(),
            addresses: HashMap::new(),
            ports: HashMap::new(),
            held: HashMap::new(),
        }
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

/// Addresses and ports that clients choose come from the lower part of a range; the server draws from the rest first.
fn static_band(size: u64, divisor: u64, most: u64) -> u64 {
    if size <= 16 { 0 } else { (size / divisor).clamp(16, most) }
}

impl Allocations {
    /// A free address of the range, drawn at random.
    fn free_address(&self, cidr: &IpNet, entropy: &dyn Entropy) -> Option<IpAddr> {
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
    // As the real server: of a larger range only the first 65,536 addresses are given out.
    let size = 1u64 << bits.min(16);
    let unusable = if cidr.addr().is_ipv4() && bits <= 16 { 2 } else { 1 };
    size.saturating_sub(unusable)
}

/// The address at an offset from the network's first.
fn host(cidr: &IpNet, offset: u64) -> IpAddr {
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
