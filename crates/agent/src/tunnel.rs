//! The VXLAN device that leads to other nodes' pods, where the network between the nodes routes no pod addresses.
//!
//! As flannel's: the device has the first address of each of the node's own pod prefixes, other nodes' prefixes are
//! routed to theirs, and neighbour and forwarding entries say who and where that is (Linux `vxlan.rst`). Nothing is
//! learned from packets.
//!
//! A device's Ethernet address is derived from its node's name, which every node knows from the Node object and which
//! never changes: nothing has to be published, and no node waits for another.
//!
//! [`wanted`] and [`plan`] are pure; [`sync`] keeps the kernel in step with them, whoever disturbs it.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use dataplane::{ObjectState, ObjectStatus};
use ipnet::IpNet;
use model::{Family, MacAddress, NodeConfig, Peer, Port, Tunnel};
use sha2::{Digest as _, Sha256};

use crate::{
    netlink::{self, Link, Netlink, VxlanDevice},
    routes::{failed, with_cause},
    sysctl,
};

/// The device's name: whatever VXLAN device has it is the agent's.
pub(crate) const INTERFACE: &str = "tp-vxlan";

/// The overlay's network: equal on all nodes of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vxlan {
    vni: u32,
    port: Port,
}

/// The default is flannel's and Cilium's.
impl Default for Vxlan {
    fn default() -> Self {
        Self { vni: 1, port: Port::new(8472).expect("not 0") }
    }
}

/// No such VXLAN network identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("VXLAN network identifier {0}: want 1 to 16777215")]
pub struct InvalidVni(u32);

impl Vxlan {
    /// # Errors
    /// `vni` has more than 24 bits (RFC 7348, section 5), or is 0.
    pub fn new(vni: u32, port: Port) -> Result<Self, InvalidVni> {
        if (1..1 << 24).contains(&vni) { Ok(Self { vni, port }) } else { Err(InvalidVni(vni)) }
    }
}

/// Bytes that encapsulation takes from the uplink's MTU: Ethernet, VXLAN, UDP and IP headers.
pub(crate) fn overhead(underlay: Family) -> u32 {
    match underlay {
        Family::V4 => 50,
        Family::V6 => 70,
    }
}

/// The device and its tables, as they should be or as they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) device: VxlanDevice,
    pub(crate) mac: MacAddress,
    pub(crate) mtu: u32,
    pub(crate) up: bool,
    pub(crate) addresses: BTreeSet<IpNet>,
    pub(crate) neighbours: BTreeMap<IpAddr, MacAddress>,
    pub(crate) forwarding: BTreeMap<MacAddress, IpAddr>,
}

/// One step; steps are done in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Remove,
    Create(VxlanDevice, MacAddress, u32),
    SetMtu(u32),
    AddAddress(IpNet),
    RemoveAddress(IpNet),
    SetUp,
    SetNeighbour(IpAddr, MacAddress),
    RemoveNeighbour(IpAddr),
    SetForwarding(MacAddress, IpAddr),
    RemoveForwarding(MacAddress, IpAddr),
}

/// The Ethernet address of a node's device: locally administered, not multicast.
fn mac_of(node: &str) -> MacAddress {
    let digest = Sha256::digest(node.as_bytes());
    let [a, b, c, d, e, f] = std::array::from_fn(|i| digest[i]);
    MacAddress([a & 0xfc | 2, b, c, d, e, f])
}

/// The address of the device of the node with this pod prefix.
pub(crate) fn address_in(pods: IpNet) -> IpAddr {
    pods.network()
}

/// What `node` needs, whose underlay has this MTU, and what cannot be had.
pub(crate) fn wanted<'a>(
    vxlan: Vxlan,
    underlay_mtu: u32,
    node: &NodeConfig,
    peers: impl Iterator<Item = &'a Peer>,
) -> (State, Vec<ObjectStatus>) {
    let local = node.addresses.first().copied();
    let family = local.map_or(Family::V4, Family::of);
    let mut state = State {
        device: VxlanDevice { vni: vxlan.vni, port: vxlan.port, local },
        mac: mac_of(&node.name),
        mtu: underlay_mtu.saturating_sub(overhead(family)),
        up: true,
        addresses: node.pod_cidrs.iter().map(|cidr| IpNet::from(address_in(*cidr))).collect(),
        neighbours: BTreeMap::new(),
        forwarding: BTreeMap::new(),
    };
    let mut problems = vec![];
    for peer in peers {
        let Some(to) = peer.addresses.iter().find(|address| Family::of(**address) == family) else {
            let name = if family == Family::V4 { "IPv4" } else { "IPv6" };
            let reason = format!("no {name} InternalIP to send VXLAN packets to");
            problems.push(failed(&peer.name, Some("status.addresses"), reason, ObjectState::Refused));
            continue;
        };
        let mac = mac_of(&peer.name);
        state.forwarding.insert(mac, *to);
        for cidr in &peer.pod_cidrs {
            // The first of two nodes with one prefix gets its route, too: see `routes::wanted`.
            state.neighbours.entry(address_in(*cidr)).or_insert(mac);
        }
    }
    (state, problems)
}

/// The steps from `observed` to `wanted`: entries before their use ends, a device that is another one made anew.
pub(crate) fn plan(wanted: &State, observed: Option<&State>) -> Vec<Step> {
    let mut steps = vec![];
    let same = |state: &&State| (state.device, state.mac) == (wanted.device, wanted.mac);
    if observed.is_some_and(|state| !same(&state)) {
        steps.push(Step::Remove);
    }
    let fresh = State {
        addresses: BTreeSet::new(),
        neighbours: BTreeMap::new(),
        forwarding: BTreeMap::new(),
        up: false,
        ..wanted.clone()
    };
    let observed = observed.filter(same).unwrap_or_else(|| {
        steps.push(Step::Create(wanted.device, wanted.mac, wanted.mtu));
        &fresh
    });
    if observed.mtu != wanted.mtu {
        steps.push(Step::SetMtu(wanted.mtu));
    }
    steps.extend(wanted.addresses.difference(&observed.addresses).copied().map(Step::AddAddress));
    steps.extend(observed.addresses.difference(&wanted.addresses).copied().map(Step::RemoveAddress));
    if !observed.up {
        steps.push(Step::SetUp);
    }
    let differs = |mac, to| observed.forwarding.get(mac) != Some(to);
    let set = wanted.forwarding.iter().filter(|(mac, to)| differs(mac, to));
    steps.extend(set.map(|(mac, to)| Step::SetForwarding(*mac, *to)));
    let differs = |address, mac| observed.neighbours.get(address) != Some(mac);
    let set = wanted.neighbours.iter().filter(|(address, mac)| differs(address, mac));
    steps.extend(set.map(|(address, mac)| Step::SetNeighbour(*address, *mac)));
    let gone = observed.neighbours.keys().filter(|address| !wanted.neighbours.contains_key(address));
    steps.extend(gone.copied().map(Step::RemoveNeighbour));
    let gone = observed.forwarding.iter().filter(|(mac, _)| !wanted.forwarding.contains_key(mac));
    steps.extend(gone.map(|(mac, to)| Step::RemoveForwarding(*mac, *to)));
    steps
}

/// Brings the kernel to `wanted`; returns the device and what could not be done.
///
/// # Errors
/// The kernel cannot be asked, or there is no device in the end.
pub(crate) async fn sync(
    netlink: &Netlink,
    wanted: &State,
) -> Result<(Tunnel, Vec<ObjectStatus>), netlink::Error> {
    let mut link = netlink.link(INTERFACE).await?;
    let observed = match &link {
        Some(link) => Some(observe(netlink, link).await?),
        None => None,
    };
    let mut problems = vec![];
    for step in plan(wanted, observed.as_ref()) {
        match execute(netlink, &mut link, step).await {
            Ok(()) => tracing::info!(?step, "tunnel changed"),
            Err(error) => problems.push(failed("(this node)", None, with_cause(&error), ObjectState::Failed)),
        }
    }
    let link = link.ok_or_else(gone)?;
    Ok((describe(&link, wanted.device.port, &wanted.addresses), problems))
}

/// The device of an earlier run, if it is there.
pub(crate) async fn existing(netlink: &Netlink) -> Result<Option<Tunnel>, netlink::Error> {
    let Some(link) = netlink.link(INTERFACE).await? else { return Ok(None) };
    let Some(device) = link.vxlan else { return Ok(None) };
    let state = observe(netlink, &link).await?;
    Ok(Some(describe(&link, device.port, &state.addresses)))
}

/// Removes the device; none is no error.
pub(crate) async fn remove(netlink: &Netlink) -> Result<(), netlink::Error> {
    match netlink.link(INTERFACE).await? {
        Some(link) if link.vxlan.is_some() => {
            tracing::info!(interface = INTERFACE, "tunnel removed");
            netlink.delete_link(INTERFACE).await
        }
        _ => Ok(()),
    }
}

fn describe(link: &Link, port: Port, addresses: &BTreeSet<IpNet>) -> Tunnel {
    Tunnel {
        interface: link.name.clone(),
        ifindex: link.index,
        addresses: addresses.iter().map(IpNet::addr).collect(),
        port,
    }
}

fn gone() -> netlink::Error {
    netlink::Error {
        operation: "find interface",
        object: INTERFACE.into(),
        source: std::io::ErrorKind::NotFound.into(),
    }
}

async fn observe(netlink: &Netlink, link: &Link) -> Result<State, netlink::Error> {
    let addresses = netlink.global_addresses().await?;
    let own = addresses.iter().filter(|address| address.interface == link.index);
    // A device of another kind under our name is no device of ours, and differs from every wanted one.
    let other = VxlanDevice { vni: 0, port: Vxlan::default().port, local: None };
    Ok(State {
        device: link.vxlan.unwrap_or(other),
        mac: link.mac,
        mtu: link.mtu,
        up: link.up,
        addresses: own.map(|address| address.net).collect(),
        neighbours: netlink.permanent_neighbours(link).await?.into_iter().collect(),
        forwarding: netlink.forwarding(link).await?.into_iter().collect(),
    })
}

async fn execute(netlink: &Netlink, link: &mut Option<Link>, step: Step) -> Result<(), netlink::Error> {
    match step {
        Step::Create(device, mac, mtu) => {
            netlink.add_vxlan(INTERFACE, device, mac, mtu).await?;
            *link = netlink.link(INTERFACE).await?;
            sysctl::apply_all(&sysctl::of_tunnel(INTERFACE));
            return Ok(());
        }
        Step::Remove => {
            netlink.delete_link(INTERFACE).await?;
            *link = None;
            return Ok(());
        }
        _ => {}
    }
    let link = link.as_ref().ok_or_else(gone)?;
    match step {
        Step::Create(..) | Step::Remove => Ok(()),
        Step::SetMtu(mtu) => netlink.set_mtu(link, mtu).await,
        Step::AddAddress(address) => netlink.add_address(link, address).await,
        Step::RemoveAddress(address) => netlink.remove_address(link, address).await,
        Step::SetUp => netlink.set_up(link).await,
        Step::SetNeighbour(address, mac) => netlink.set_neighbour(link, address, mac).await,
        Step::RemoveNeighbour(address) => netlink.remove_neighbour(link, address).await,
        Step::SetForwarding(mac, to) => netlink.set_forwarding(link, mac, to).await,
        Step::RemoveForwarding(mac, to) => netlink.remove_forwarding(link, mac, to).await,
    }
}

#[cfg(test)]
mod tests;
