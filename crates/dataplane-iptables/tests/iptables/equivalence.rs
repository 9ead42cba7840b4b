//! A packet walked through rendered rules ends where the oracle sends it: generated states, both families, every kind
//! of frontend, policy, range, affinity and masquerade. No kernel is needed.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use dataplane_iptables::{
    render::{Options, render},
    walk::{End, Journey, Terrain},
};
use model::{
    Family, FrontendAddress, FrontendKind, Masquerade, NodeConfig, Protocol, ServicePort, Snapshot,
    oracle::{self, Origin, Outcome, Packet},
};
use proptest::{prelude::*, sample::Index};

use crate::legal::{self, Addresses};

/// What a client can observe of either.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Untouched,
    Rejected,
    Dropped,
    /// To one of these, each with whether its source is replaced.
    To(BTreeSet<(SocketAddr, bool)>),
}

/// What the oracle says, as kube-proxy executes it, with what it does otherwise in full knowledge.
pub(crate) fn wanted(packet: &Packet, snapshot: &Snapshot, options: Options) -> Seen {
    if let Some(refused) = refused_where_not_served(packet, snapshot) {
        return refused;
    }
    match expected(packet, snapshot) {
        Seen::Rejected if leaves_unrefused(packet, snapshot) => Seen::Untouched,
        Seen::To(choices) if is_for_cluster_ip(packet, snapshot) => Seen::To(
            choices.into_iter().map(|choice| at_cluster_ip(choice, packet, snapshot, options)).collect(),
        ),
        other => other,
    }
}

/// To a cluster IP, two settings outrank the origin: everyone is masqueraded, or no one, where no prefix tells pods
/// from others.
fn at_cluster_ip(
    (backend, masquerade): (SocketAddr, bool),
    packet: &Packet,
    snapshot: &Snapshot,
    options: Options,
) -> (SocketAddr, bool) {
    let passes = leaves(packet, backend, &snapshot.node);
    let hairpin = backend.ip() == packet.source.ip();
    let masquerade = match (options.masquerade_all, snapshot.node.cluster_cidrs.is_empty()) {
        (true, _) => passes,
        (false, true) => hairpin && passes,
        (false, false) => masquerade,
    };
    (backend, masquerade)
}

fn is_for_cluster_ip(packet: &Packet, snapshot: &Snapshot) -> bool {
    let frontends = snapshot.services.values().flat_map(|service| &service.frontends);
    let mut internal = frontends.filter(|frontend| frontend.kind == FrontendKind::ClusterIp);
    internal.any(|frontend| frontend.address == FrontendAddress::Ip(packet.destination.ip()))
}

/// What the oracle says, as kube-proxy executes it.
fn expected(packet: &Packet, snapshot: &Snapshot) -> Seen {
    match oracle::forward(packet, snapshot) {
        Outcome::Untouched => Seen::Untouched,
        Outcome::NoEndpoints => Seen::Rejected,
        Outcome::NoLocalEndpoints | Outcome::SourceDenied => Seen::Dropped,
        Outcome::Forwarded { choices } => Seen::To(
            choices
                .iter()
                .map(|choice| (choice.backend, choice.masquerade == Masquerade::Yes))
                .map(|(backend, masquerade)| (backend, masquerade && leaves(packet, backend, &snapshot.node)))
                .collect(),
        ),
    }
}

/// Whether the packet passes nat POSTROUTING: what the node receives itself does not, unless it also sent it.
fn leaves(packet: &Packet, backend: SocketAddr, node: &NodeConfig) -> bool {
    !node.addresses.contains(&backend.ip()) || sender(packet, node) == Origin::Node
}

fn sender(packet: &Packet, node: &NodeConfig) -> Origin {
    if packet.source.ip() == packet.destination.ip() { Origin::Node } else { node.origin(packet.source.ip()) }
}

/// kube-proxy refuses outside addresses in INPUT and FORWARD only: what the node itself sends to one that is not its
/// own leaves it.
fn leaves_unrefused(packet: &Packet, snapshot: &Snapshot) -> bool {
    let frontend = snapshot.services.values().flat_map(|service| {
        let ours = service.id.protocol == packet.protocol;
        service.frontends.iter().filter(move |_| ours)
    });
    let external = frontend.filter(|frontend| frontend.kind != FrontendKind::ClusterIp);
    let mut addressed = external.filter(|frontend| {
        frontend.address == FrontendAddress::Ip(packet.destination.ip())
            && frontend.port.get() == packet.destination.port()
    });
    addressed.next().is_some()
        && sender(packet, &snapshot.node) == Origin::Node
        && !local(packet, &snapshot.node).contains(&packet.destination.ip())
}

/// kube-proxy refuses a node port at all addresses of the node, also at those that do not serve node ports: there no
/// one would have answered either.
fn refused_where_not_served(packet: &Packet, snapshot: &Snapshot) -> Option<Seen> {
    let node = &snapshot.node;
    let address = packet.destination.ip();
    if !node.addresses.contains(&address) || node.serves_node_ports(address) {
        return None;
    }
    let mut everywhere = snapshot.clone();
    everywhere.node.node_ports = model::NodePortAddresses::All;
    match (oracle::forward(packet, snapshot), expected(packet, &everywhere)) {
        (Outcome::Untouched, refused @ (Seen::Rejected | Seen::Dropped)) => Some(refused),
        (Outcome::Untouched, Seen::To(_)) => {
            // Under Local policy without a local endpoint, the refusal does not ask who sends.
            everywhere.node.addresses.clear();
            everywhere.node.addresses.push(address);
            everywhere.node.cluster_cidrs.clear();
            let outside = SocketAddr::new(crate::legal::stranger(address), packet.source.port());
            let refused = expected(&Packet { source: outside, ..*packet }, &everywhere);
            (refused == Seen::Dropped).then_some(refused)
        }
        _ => None,
    }
}

/// The node's addresses; a load-balancer address is one where it is the source.
fn local(packet: &Packet, node: &NodeConfig) -> BTreeSet<IpAddr> {
    let own = (sender(packet, node) == Origin::Node).then(|| packet.source.ip());
    node.addresses.iter().copied().chain(own).collect()
}

/// Where the rules lead the packet, chance and affinity taking every way there is.
pub(crate) fn walked(
    terrain: &Terrain<'_>,
    packet: &Packet,
    snapshot: &Snapshot,
    remembered: Option<SocketAddr>,
) -> Seen {
    let end = |endpoint| {
        let local = local(packet, &snapshot.node);
        terrain.walk(&Journey { packet: *packet, endpoint, remembered, local }).end
    };
    match end(packet.destination) {
        End::Untranslated => return Seen::Untouched,
        End::Rejected => return Seen::Rejected,
        End::Dropped => return Seen::Dropped,
        End::Translated { .. } => {}
    }
    let ends = endpoints(snapshot).into_iter().map(end);
    Seen::To(
        ends.map(|end| match end {
            End::Translated { to, masqueraded } => (to, masqueraded),
            other => panic!("chance decides whether {packet:?} ends in {other:?}"),
        })
        .collect(),
    )
}

fn endpoints(snapshot: &Snapshot) -> BTreeSet<SocketAddr> {
    let services = snapshot.services.values();
    services.flat_map(|service| service.cluster.iter().chain(&service.local)).map(|b| b.address).collect()
}

/// Where a service port is reached; node ports at every address of the node, also where they are not served.
fn frontends_of(service: &ServicePort, node: &NodeConfig) -> Vec<(Protocol, SocketAddr)> {
    let addresses = |address| match address {
        FrontendAddress::Ip(address) => vec![address],
        FrontendAddress::Node => node.addresses_of(service.id.family).collect(),
    };
    let sockets = service.frontends.iter().flat_map(|frontend| {
        addresses(frontend.address).into_iter().map(|address| SocketAddr::new(address, frontend.port.get()))
    });
    sockets.map(|socket| (service.id.protocol, socket)).collect()
}

/// A packet that may concern a service: sources of every origin, frontends and what is next to them.
fn packet(at: [Index; 4], snapshot: &Snapshot, family: Family) -> Packet {
    let pool = Addresses::of(family);
    let mut targets: Vec<_> =
        snapshot.services.values().flat_map(|service| frontends_of(service, &snapshot.node)).collect();
    targets.push((Protocol::Tcp, SocketAddr::new(pool.cluster_ips[0], 81)));
    let (mut protocol, destination) = *at[0].get(&targets);
    if at[1].index(8) == 0 {
        protocol = *at[2].get(&[Protocol::Tcp, Protocol::Udp, Protocol::Sctp]);
    }
    let mut sources = pool.sources();
    sources.push(destination.ip());
    Packet { source: SocketAddr::new(*at[3].get(&sources), 40000), destination, protocol }
}

fn options([masquerade_all, random_fully, accounting, liberal]: [bool; 4]) -> Options {
    Options { masquerade_all, random_fully, accounting, liberal, ..Options::default() }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_walk_ends_where_the_oracle_sends_the_packet(
        (family, snapshot) in legal::state(),
        flags in any::<[bool; 4]>(),
        packets in proptest::collection::vec(any::<[Index; 4]>(), 12),
    ) {
        let options = options(flags);
        let (set, refused) = render(&snapshot, family, options);
        prop_assert!(refused.is_empty(), "{refused:?}");
        let saved = set.saved();
        let terrain = Terrain::of(&saved);
        for packet in packets.into_iter().map(|at| packet(at, &snapshot, family)) {
            let want = wanted(&packet, &snapshot, options);
            prop_assert_eq!(walked(&terrain, &packet, &snapshot, None), want, "{:?}\n{}", packet, set);
        }
    }

    /// A client that affinity remembers gets what it had, as long as that is among its choices.
    #[test]
    fn affinity_leads_to_what_the_client_had(
        (family, snapshot) in legal::state(),
        packets in proptest::collection::vec(any::<[Index; 4]>(), 8),
        had in any::<Index>(),
    ) {
        let known: Vec<_> = endpoints(&snapshot).into_iter().collect();
        prop_assume!(!known.is_empty());
        let had = *had.get(&known);
        let saved = render(&snapshot, family, Options::default()).0.saved();
        let terrain = Terrain::of(&saved);
        for packet in packets.into_iter().map(|at| packet(at, &snapshot, family)) {
            let Seen::To(choices) = walked(&terrain, &packet, &snapshot, None) else { continue };
            let remembers = snapshot.services.values().any(|service| {
                service.affinity_seconds.is_some()
                    && frontends_of(service, &snapshot.node).contains(&(packet.protocol, packet.destination))
            });
            let want = match choices.iter().find(|(endpoint, _)| *endpoint == had) {
                Some(choice) if remembers => [*choice].into(),
                _ => choices,
            };
            prop_assert_eq!(walked(&terrain, &packet, &snapshot, Some(had)), Seen::To(want), "{:?}", packet);
        }
    }

    /// Chance is even: the chance of each endpoint's rule times that of getting there is one in all.
    #[test]
    fn every_choice_has_the_same_chance((family, snapshot) in legal::state()) {
        let set = render(&snapshot, family, Options::default()).0;
        for (service, chains) in snapshot.services.values().map(|service| {
            (service, dataplane_iptables::names::ServiceChains::of(&service.id))
        }) {
            for (chain, backends) in [(chains.svc, &service.cluster), (chains.svl, &service.local)] {
                let Some(rules) = set.chains[&dataplane_iptables::ruleset::Table::Nat].get(&chain) else { continue };
                let chances = crate::legal::chances(rules);
                prop_assert_eq!(chances.len(), backends.len());
                for chance in chances {
                    prop_assert!((chance * backends.len() as f64 - 1.0).abs() < 1e-6, "{}", chance);
                }
            }
        }
    }
}
