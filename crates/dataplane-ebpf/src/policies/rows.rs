//! The neutral table's values as rows of the kernel's. Pure.

use std::collections::{BTreeMap, BTreeSet};

use abi::{
    Be16, PeerRow, PolicyPeer, PolicyRow, PortAction, PortKey, PortMatch, action, matched, peer, policy_flags,
};
use ipnet::IpNet;
use model::{
    PolicyTable,
    policy::{
        self, Action, Direction, DirectionPolicy, EndpointPolicy, L4Match, ListId, Mode, Peer, PeerKey,
        PortMap, PortsId, Tier,
    },
};

use crate::{family::MapNames, table::Prefix};

/// The lists of an endpoint, in both directions.
pub(super) fn lists(policy: &EndpointPolicy) -> impl Iterator<Item = ListId> + '_ {
    let of =
        move |direction| Tier::ALL.into_iter().filter_map(move |tier| policy.direction(direction).list(tier));
    Direction::ALL.into_iter().flat_map(of)
}

pub(super) fn endpoint(policy: &EndpointPolicy) -> PolicyRow {
    let lists =
        |direction: &DirectionPolicy| Tier::ALL.map(|tier| direction.list(tier).map_or(0, |list| list.0));
    let flags = match policy.mode {
        Mode::Enforce => 0,
        Mode::Audit => policy_flags::AUDIT,
    };
    PolicyRow { ingress: lists(&policy.ingress), egress: lists(&policy.egress), flags }
}

pub(super) fn peer(key: PeerKey) -> PolicyPeer {
    let peer = match key.peer {
        Peer::Identity(id) => id.get(),
        Peer::Pods => peer::PODS,
        Peer::Anyone => peer::ANYONE,
    };
    PolicyPeer { list: key.list.0, peer }
}

/// The one match of a map that has no other: it needs no number.
pub(super) fn only(ports: &PortMap) -> Option<(&L4Match, &policy::PortAction)> {
    let mut all = ports.iter();
    all.next().filter(|_| all.next().is_none())
}

pub(super) fn peer_row(id: PortsId, ports: &PortMap) -> PeerRow {
    match only(ports) {
        Some((l4, said)) => PeerRow { ports: 0, only: match_of(*l4), action: action_of(*l4, *said) },
        None => PeerRow { ports: id.0, ..PeerRow::default() },
    }
}

fn match_of(l4: L4Match) -> PortMatch {
    match l4 {
        L4Match::Any => PortMatch::default(),
        L4Match::Ports(protocol, prefix) => PortMatch {
            protocol: protocol.number(),
            length: prefix.length(),
            port: Be16::new(prefix.first()),
        },
    }
}

fn action_of(l4: L4Match, said: policy::PortAction) -> PortAction {
    let action = match said.action {
        Action::Allow => action::ALLOW,
        Action::Deny => action::DENY,
        Action::Pass => action::PASS,
    };
    let narrows = match l4 {
        L4Match::Any => 0,
        L4Match::Ports(_, prefix) if prefix.length() == 0 => matched::PROTOCOL,
        L4Match::Ports(..) => matched::PORTS,
    };
    PortAction { rank: said.rank.0, rule: said.rule.0, action, matched: matched::ROW | narrows }
}

/// The rows under a number.
pub(super) fn ports(id: PortsId, ports: &PortMap) -> BTreeMap<Prefix<PortKey>, PortAction> {
    ports.iter().map(|(l4, said)| (port_key(id, *l4), action_of(*l4, *said))).collect()
}

fn port_key(id: PortsId, l4: L4Match) -> Prefix<PortKey> {
    let any = PortKey { ports: id.0, ..PortKey::default() };
    match l4 {
        L4Match::Any => Prefix { length: PortKey::ANY_BITS, data: any },
        L4Match::Ports(protocol, prefix) => Prefix {
            length: PortKey::PROTOCOL_BITS + u32::from(prefix.length()),
            data: PortKey { protocol: protocol.number(), port: prefix.first().to_be_bytes(), ..any },
        },
    }
}

fn prefix<A: MapNames>(net: &IpNet) -> Option<Prefix<A>> {
    Some(Prefix { length: net.prefix_len().into(), data: A::from_ip(net.network())? })
}

/// Those of `moved` that `table` has, of one family.
pub(super) fn prefixes<A: MapNames>(
    table: &PolicyTable,
    moved: &BTreeSet<IpNet>,
) -> BTreeMap<Prefix<A>, u32> {
    moved.iter().filter_map(|net| Some((prefix(net)?, table.prefixes.get(net)?.get()))).collect()
}

/// Those of `moved` that `table` does not have.
pub(super) fn gone_prefixes<A: MapNames>(table: &PolicyTable, moved: &BTreeSet<IpNet>) -> Vec<Prefix<A>> {
    moved.iter().filter(|net| !table.prefixes.contains_key(net)).filter_map(prefix).collect()
}
