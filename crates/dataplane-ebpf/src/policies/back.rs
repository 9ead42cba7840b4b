//! One endpoint's policy read back from the kernel's tables, as a neutral table. What was written is not asked: only maps are.

use std::{collections::BTreeMap, io, sync::Arc};

use abi::{PeerRow, PolicyRow, PortAction, PortKey, PortMatch, V4, V6, action, peer, policy_flags};
use dataplane::{Enforced, RuleTraffic};
use ipnet::IpNet;
use model::{
    IdentityId, PodName, PolicyTable, Protocol,
    policy::{
        self, Action, Direction, DirectionPolicy, EndpointPolicy, L4Match, ListId, Mode, Peer, PeerKey,
        PortMap, PortPrefix, PortsId, Rank, RuleId, RuleList, Tier,
    },
};

use super::Policies;
use crate::{family::MapNames, table::Prefix};

impl Policies {
    /// What the kernel has for `endpoint`; empty where it has no row.
    ///
    /// # Errors
    /// A map cannot be read, or has a row that means nothing.
    pub(crate) fn enforced(&self, endpoint: &PodName, wanted: &PolicyTable) -> io::Result<Enforced> {
        let mut enforced = Enforced::default();
        let interface = self.interfaces.get(endpoint);
        let row = interface.map(|interface| self.endpoints.table().get(interface)).transpose()?.flatten();
        let Some(row) = row else { return Ok(enforced) };
        let table = &mut enforced.table;
        let policy = endpoint_policy(&row);
        table.endpoints.insert(endpoint.clone(), policy);
        for direction in Direction::ALL {
            for tier in Tier::ALL {
                let Some(list) = policy.direction(direction).list(tier) else { continue };
                let isolation = self.lists.table().get(&list.0)?.filter(|rule| *rule != 0).map(RuleId);
                table.lists.insert(list, RuleList { direction, tier, isolation });
            }
        }
        self.read_peers(table)?;
        table.prefixes.extend(prefixes::<V4>(&self.v4.read()?.into_iter().collect())?);
        table.prefixes.extend(prefixes::<V6>(&self.v6.read()?.into_iter().collect())?);
        let said = table.ports.values().flat_map(|ports| ports.iter()).map(|(_, said)| said.rule);
        let rules: Vec<RuleId> = said.chain(table.lists.values().filter_map(|list| list.isolation)).collect();
        for rule in rules {
            let count = self.rules.count(rule)?;
            enforced.counts.insert(rule, RuleTraffic { packets: count.packets, bytes: count.bytes });
            let name = wanted.rules.get(&rule).map(|name| (rule, Arc::clone(name)));
            enforced.table.rules.extend(name);
        }
        Ok(enforced)
    }

    /// Rows of the lists that `table` has. A single match has no number in the kernel: it gets one that is free.
    fn read_peers(&self, table: &mut PolicyTable) -> io::Result<()> {
        let rows =
            self.peers.read()?.into_iter().filter(|(key, _)| table.lists.contains_key(&ListId(key.list)));
        let rows: Vec<_> = rows.collect();
        let mut numbered = BTreeMap::<u32, Vec<(L4Match, policy::PortAction)>>::new();
        if rows.iter().any(|(_, row)| row.ports != 0) {
            for (key, said) in self.ports.read()? {
                numbered.entry(key.data.ports).or_default().push((key_match(&key)?, port_action(said)?));
            }
        }
        for (free, (key, row)) in rows.into_iter().enumerate() {
            let (id, ports) = match row {
                PeerRow { ports: 0, only, action } => {
                    (u32::MAX - free as u32, PortMap::new([(l4_match(only)?, port_action(action)?)]))
                }
                PeerRow { ports, .. } => {
                    (ports, PortMap::new(numbered.get(&ports).into_iter().flatten().copied()))
                }
            };
            let peer = match key.peer {
                peer::PODS => Peer::Pods,
                peer::ANYONE => Peer::Anyone,
                id => Peer::Identity(IdentityId::from_raw(id)),
            };
            table.peers.insert(PeerKey { list: ListId(key.list), peer }, PortsId(id));
            table.ports.insert(PortsId(id), ports.into());
        }
        Ok(())
    }
}

fn endpoint_policy(row: &PolicyRow) -> EndpointPolicy {
    let list = |number: u32| (number != 0).then_some(ListId(number));
    let lists = |[admin, network_policy, baseline]: [u32; 3]| DirectionPolicy {
        admin: list(admin),
        network_policy: list(network_policy),
        baseline: list(baseline),
    };
    let audits = row.flags & policy_flags::AUDIT != 0;
    let mode = if audits { Mode::Audit } else { Mode::Enforce };
    EndpointPolicy { ingress: lists(row.ingress), egress: lists(row.egress), mode }
}

fn foreign(what: &str, number: u32) -> io::Error {
    io::Error::other(format!("a row has {what} {number}, which means nothing"))
}

fn ports(protocol: u8, port: u16, length: u32) -> io::Result<L4Match> {
    let protocol = Protocol::from_number(protocol).ok_or_else(|| foreign("protocol", protocol.into()))?;
    let bits = u8::try_from(length).ok().and_then(|length| PortPrefix::new(port, length).ok());
    Ok(L4Match::Ports(protocol, bits.ok_or_else(|| foreign("port length", length))?))
}

fn l4_match(only: PortMatch) -> io::Result<L4Match> {
    match only.protocol {
        0 => Ok(L4Match::Any),
        protocol => ports(protocol, only.port.get(), only.length.into()),
    }
}

fn key_match(key: &Prefix<PortKey>) -> io::Result<L4Match> {
    match key.length {
        PortKey::ANY_BITS => Ok(L4Match::Any),
        length => {
            let port_bits = length.checked_sub(PortKey::PROTOCOL_BITS);
            let port_bits = port_bits.ok_or_else(|| foreign("key length", length))?;
            ports(key.data.protocol, u16::from_be_bytes(key.data.port), port_bits)
        }
    }
}

fn port_action(said: PortAction) -> io::Result<policy::PortAction> {
    let action = match said.action {
        action::ALLOW => Action::Allow,
        action::DENY => Action::Deny,
        action::PASS => Action::Pass,
        other => return Err(foreign("action", other.into())),
    };
    Ok(policy::PortAction { rank: Rank(said.rank), action, rule: RuleId(said.rule) })
}

pub(super) fn prefixes<A: MapNames>(rows: &BTreeMap<Prefix<A>, u32>) -> io::Result<Vec<(IpNet, IdentityId)>> {
    let read = |(prefix, id): (&Prefix<A>, &u32)| {
        let length = u8::try_from(prefix.length).ok();
        let net = length.and_then(|length| IpNet::new(prefix.data.to_ip(), length).ok());
        Ok((net.ok_or_else(|| foreign("prefix length", prefix.length))?, IdentityId::from_raw(*id)))
    };
    rows.iter().map(read).collect()
}
