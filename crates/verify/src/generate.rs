//! Strategies for legal cluster states: what the API server would have let in, and nothing else.
//!
//! Covered: Services of type ClusterIP, NodePort, LoadBalancer (with and without node ports), headless and ExternalName; those
//! of another proxy; external IPs, several load-balancer addresses of either ipMode and host names, shared by several
//! Services; host ports at every kind of address; the filter of node-port addresses; both traffic policies; TCP, UDP and SCTP
//! on one number; IPv4, IPv6 and dual stack; source ranges as people write them; affinity with and without a timeout;
//! publishNotReadyAddresses. Slices: none, one or several of a port, with other target ports in each (as named ports have),
//! missing or nameless ones, of the headless kind or nobody's; endpoints on pods and on the nodes themselves (hostNetwork),
//! listed twice, on no named node, in every combination of conditions, with hints of zones and nodes. Clients that are their
//! own endpoint. Changes: a Service, its type, its endpoints, a node's zone or a host port appears, changes or goes.
//!
//! Not covered: several addresses of one family per node, nodes that come and go, clusters without a pod prefix,
//! masqueradeAll.
//!
//! Plans of small enums and bits, so that they shrink towards plain Services; [`crate::objects`] makes objects of them.

use ipnet::IpNet;
use model::{NodePortAddresses, Protocol};
use proptest::{collection::vec, option, prelude::*, sample::select};

/// A generated case, before it is made into objects.
#[derive(Clone, Debug)]
pub struct Plan {
    pub node_ports: NodePortAddresses,
    /// Zones of the nodes, before and after.
    pub zones: [[Zone; 2]; 2],
    pub slots: Vec<Slot>,
    /// Host ports of the pods, before and after.
    pub host_ports: [Vec<HostPort>; 2],
    /// Whether the state is reached from another one, or from nothing.
    pub stepwise: bool,
}

/// What becomes of one Service. Slots have names and addresses of their own.
#[derive(Clone, Debug)]
pub struct Slot {
    pub before: Option<Service>,
    pub after: Option<Service>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zone {
    Unlabelled,
    Empty,
    One,
    Two,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    ClusterIp,
    NodePort,
    LoadBalancer,
    /// Without node ports (allocateLoadBalancerNodePorts: false).
    LoadBalancerOnly,
    Headless,
    ExternalName,
}

#[derive(Clone, Copy, Debug)]
pub struct HostPort {
    /// Of [`scenarios::places::Pod::ALL`]; has one host port.
    pub pod: usize,
    pub protocol: Protocol,
    pub target: u16,
    pub at: HostIp,
    pub finished: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostIp {
    None,
    Unspecified(bool),
    /// The node's own; IPv6 or not.
    Node(bool),
}

#[derive(Clone, Debug)]
pub struct Service {
    pub kind: Kind,
    /// Families of its cluster IPs, in order; false is IPv4.
    pub families: Vec<bool>,
    pub ports: Vec<ServicePort>,
    pub external_ips: Vec<usize>,
    pub ingress: Vec<Ingress>,
    pub source_ranges: Vec<&'static str>,
    pub internal_local: bool,
    pub external_local: bool,
    /// With its timeout, where one is given.
    pub affinity: Option<Option<u32>>,
    pub publish_not_ready: bool,
    /// Carries another proxy's name.
    pub foreign: bool,
    pub slices: Vec<Slice>,
}

#[derive(Clone, Copy, Debug)]
pub struct ServicePort {
    pub protocol: Protocol,
    pub number: u16,
}

#[derive(Clone, Copy, Debug)]
pub enum Ingress {
    /// Of [`scenarios::places::VIPS`], IPv6 or not, with its ipMode.
    Address(usize, bool, Option<&'static str>),
    HostName,
}

#[derive(Clone, Debug)]
pub struct Slice {
    pub family: bool,
    pub label: Label,
    /// What each of the Service's ports is here.
    pub ports: Vec<TargetPort>,
    pub endpoints: Vec<Endpoint>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Label {
    Service,
    Headless,
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetPort {
    Number(u16),
    Missing,
    /// Listed without its name, or without a number.
    Nameless,
    Numberless,
}

#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Of [`crate::objects::SERVERS`].
    pub server: usize,
    pub ready: Option<bool>,
    pub serving: Option<bool>,
    pub terminating: Option<bool>,
    pub names_node: bool,
    pub zones: Vec<&'static str>,
    pub nodes: Vec<&'static str>,
    /// Lists a second address, which means nothing.
    pub second_address: bool,
}

/// Source ranges as people write them: blanks, leading zeros, everything, the other family.
const RANGES: [&str; 9] = [
    "198.51.100.0/24",
    " 10.20.0.0/16 ",
    "010.128.000.00/24",
    "192.0.2.0/24",
    "0.0.0.0/0",
    "2001:db8:c::/64",
    "fd00:20::/64",
    "fd00:128::11/128",
    "::/0",
];

/// Everything that a run compares.
pub fn plan() -> impl Strategy<Value = Plan> {
    let zones = [[zone(), zone()], [zone(), zone()]];
    let host_ports = [host_ports(), host_ports()];
    (node_ports(), zones, vec(slot(), 1..=4), host_ports, any::<bool>()).prop_map(
        |(node_ports, zones, slots, host_ports, stepwise)| Plan {
            node_ports,
            zones,
            slots,
            host_ports,
            stepwise,
        },
    )
}

fn host_ports() -> impl Strategy<Value = Vec<HostPort>> {
    let at = select(vec![
        HostIp::None,
        HostIp::Node(false),
        HostIp::Node(true),
        HostIp::Unspecified(false),
        HostIp::Unspecified(true),
    ]);
    let protocol = select(vec![Protocol::Tcp, Protocol::Udp, Protocol::Sctp]);
    let target = select(vec![8080, 9090]);
    let one = (0..4usize, protocol, target, at, proptest::bool::weighted(0.1))
        .prop_map(|(pod, protocol, target, at, finished)| HostPort { pod, protocol, target, at, finished });
    prop_oneof![2 => Just(vec![]), 1 => vec(one, 1..=3)].prop_map(|mut all| {
        all.sort_by_key(|port| port.pod);
        all.dedup_by_key(|port| port.pod);
        all
    })
}

fn node_ports() -> impl Strategy<Value = NodePortAddresses> {
    let prefixes = |texts: &[&str]| -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().expect("a prefix in this file")).collect()
    };
    prop_oneof![
        6 => Just(NodePortAddresses::All),
        1 => Just(NodePortAddresses::Primary),
        1 => Just(NodePortAddresses::Within(prefixes(&["10.128.0.0/24"]))),
        1 => Just(NodePortAddresses::Within(prefixes(&["192.0.2.0/24", "fd00:128::/64"]))),
    ]
}

fn zone() -> impl Strategy<Value = Zone> + Clone {
    select(vec![Zone::Unlabelled, Zone::One, Zone::Two, Zone::Empty])
}

/// Unchanged, changed in its endpoints only, replaced, added, removed.
fn slot() -> impl Strategy<Value = Slot> {
    let both = |before, after| Slot { before: Some(before), after: Some(after) };
    prop_oneof![
        2 => service().prop_map(move |service| both(service.clone(), service)),
        4 => (service(), slices()).prop_map(move |(service, slices)| {
            both(service.clone(), Service { slices, ..service })
        }),
        2 => (service(), service()).prop_map(move |(before, after)| both(before, after)),
        1 => service().prop_map(|after| Slot { before: None, after: Some(after) }),
        1 => service().prop_map(|before| Slot { before: Some(before), after: None }),
    ]
}

fn service() -> impl Strategy<Value = Service> {
    let kind = prop_oneof![
        3 => Just(Kind::ClusterIp),
        2 => Just(Kind::NodePort),
        5 => Just(Kind::LoadBalancer),
        1 => Just(Kind::LoadBalancerOnly),
        1 => Just(Kind::Headless),
        1 => Just(Kind::ExternalName),
    ];
    let families = select(vec![vec![false], vec![false, true], vec![true], vec![true, false]]);
    let outside = (
        vec(0..2usize, 0..=2),
        vec(ingress(), 0..=3),
        prop_oneof![3 => Just(vec![]), 2 => vec(select(&RANGES[..]), 1..=3)],
    );
    let policies = (any::<bool>(), any::<bool>());
    let affinity = option::weighted(0.3, option::of(select(vec![1u32, 600, 10_800, 86_400])));
    let rest = (affinity, any::<bool>(), proptest::bool::weighted(0.05));
    (kind, families, ports(), outside, policies, rest, slices()).prop_map(
        |(kind, families, ports, outside, policies, rest, slices)| {
            let (external_ips, ingress, source_ranges) = outside;
            let (internal_local, external_local) = policies;
            let (affinity, publish_not_ready, foreign) = rest;
            Service {
                kind,
                families,
                ports,
                external_ips,
                ingress,
                source_ranges,
                internal_local,
                external_local,
                affinity,
                publish_not_ready,
                foreign,
                slices,
            }
        },
    )
}

/// One number for several protocols is legal, one number twice for one protocol is not.
fn ports() -> impl Strategy<Value = Vec<ServicePort>> {
    let protocol = prop_oneof![4 => Just(Protocol::Tcp), 3 => Just(Protocol::Udp), 2 => Just(Protocol::Sctp)];
    let port =
        (protocol, select(vec![80, 53, 443])).prop_map(|(protocol, number)| ServicePort { protocol, number });
    vec(port, 1..=3).prop_map(|mut ports| {
        let mut seen = vec![];
        ports.retain(|port| {
            let new = !seen.contains(&(port.protocol, port.number));
            seen.push((port.protocol, port.number));
            new
        });
        ports
    })
}

fn ingress() -> impl Strategy<Value = Ingress> {
    let mode = select(vec![None, Some("VIP"), Some("Proxy")]);
    prop_oneof![
        6 => (0..2usize, any::<bool>(), mode).prop_map(|(vip, v6, mode)| Ingress::Address(vip, v6, mode)),
        1 => Just(Ingress::HostName),
    ]
}

fn slices() -> impl Strategy<Value = Vec<Slice>> {
    let label = prop_oneof![14 => Just(Label::Service), 1 => Just(Label::Headless), 1 => Just(Label::None)];
    let port = prop_oneof![
        12 => Just(TargetPort::Number(8080)),
        6 => Just(TargetPort::Number(9090)),
        1 => Just(TargetPort::Missing),
        1 => Just(TargetPort::Nameless),
        1 => Just(TargetPort::Numberless),
    ];
    let endpoints = prop_oneof![1 => vec(endpoint(), 0..=1), 4 => vec(endpoint(), 1..=4)];
    let slice = (any::<bool>(), label, vec(port, 3), endpoints)
        .prop_map(|(family, label, ports, endpoints)| Slice { family, label, ports, endpoints });
    prop_oneof![1 => vec(slice.clone(), 0..=1), 5 => vec(slice, 1..=4)]
}

fn endpoint() -> impl Strategy<Value = Endpoint> {
    let ready = select(vec![None, Some(true), Some(true), Some(false)]);
    let condition = || select(vec![None, Some(true), Some(false)]);
    let hints =
        |names: &'static [&'static str]| prop_oneof![1 => Just(vec![]), 2 => vec(select(names), 1..=2)];
    let hints = (
        prop_oneof![1 => Just(vec![]), 1 => hints(&["z1", "z2"])],
        prop_oneof![3 => Just(vec![]), 1 => hints(&["node-a", "node-b"])],
    );
    let servers = crate::objects::SERVERS.len();
    let rest = (proptest::bool::weighted(0.9), hints, proptest::bool::weighted(0.1));
    (0..servers, ready, condition(), condition(), rest).prop_map(
        |(server, ready, serving, terminating, (names_node, (zones, nodes), second_address))| Endpoint {
            server,
            ready,
            serving,
            terminating,
            names_node,
            zones,
            nodes,
            second_address,
        },
    )
}
