//! Tables of policies by chance for one pod, and packets to ask them about. Few numbers and addresses, so that they meet.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use fastrand::Rng;
use ipnet::IpNet;
use model::{
    Family, IdentityId, PodName, PolicyTable, Protocol,
    policy::{
        Action, Decision, Direction, DirectionPolicy, EndpointPolicy, L4, L4Match, ListId, Mode, Peer,
        PeerAddress, PeerKey, PolicyKind, PolicyName, PortAction, PortMap, PortPrefix, PortsId, Question,
        Rank, RuleId, RuleList, RuleRef, Tier,
    },
};

const V4: [&str; 6] =
    ["10.20.1.7", "10.20.1.8", "10.20.1.200", "198.51.100.10", "198.51.100.77", "192.0.2.1"];
const V6: [&str; 5] =
    ["fd00:20:0:1::7", "fd00:20:0:1::8", "fd00:20:0:1::c8", "2001:db8:c::10", "2001:db8:c::4d"];

/// Whose addresses are, and which prefixes are named.
pub(crate) struct World {
    pub(crate) addresses: BTreeMap<IpNet, IdentityId>,
    pub(crate) prefixes: BTreeMap<IpNet, IdentityId>,
}

/// One packet that opens a flow from or to the pod.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packet {
    pub(crate) direction: Direction,
    pub(crate) peer: IpAddr,
    pub(crate) l4: L4,
}

pub(crate) fn pod() -> PodName {
    PodName { namespace: "d".into(), name: "web".into() }
}

/// Everybody else.
pub(crate) fn peers(family: Family) -> Vec<IpAddr> {
    let texts = if family == Family::V4 { &V4[..] } else { &V6[..] };
    texts.iter().map(|text| text.parse().expect("address")).collect()
}

pub(crate) const PORTS: [u16; 9] = [79, 80, 81, 443, 1023, 1024, 8080, 32_768, 65_535];

fn one<T: Copy>(rng: &mut Rng, of: &[T]) -> T {
    of[rng.usize(..of.len())]
}

fn l4_match(rng: &mut Rng) -> L4Match {
    let protocol = one(rng, &[Protocol::Tcp, Protocol::Udp, Protocol::Sctp]);
    // Neighbours, as often as not.
    let port = if rng.bool() { one(rng, &PORTS) } else { rng.u16(79..82) };
    match rng.u8(..5) {
        0 => L4Match::Any,
        1 => L4Match::Ports(protocol, PortPrefix::ALL),
        2 => L4Match::Ports(protocol, PortPrefix::new(port, rng.u8(1..=15)).expect("a length")),
        _ => L4Match::Ports(protocol, PortPrefix::one(port)),
    }
}

/// Of both families.
pub(crate) fn world(rng: &mut Rng) -> World {
    let all: Vec<IpAddr> = Family::ALL.into_iter().flat_map(peers).collect();
    let mut addresses = BTreeMap::new();
    for whole in ["0.0.0.0/0", "::/0"] {
        addresses.insert(whole.parse().expect("prefix"), model::Reserved::World.id());
    }
    for peer in &all {
        if rng.bool() {
            addresses.insert(IpNet::from(*peer), IdentityId::from_raw(rng.u32(300..304)));
        }
    }
    let mut prefixes = BTreeMap::new();
    for offset in 0..rng.u32(0..8) {
        let address = one(rng, &all);
        let lengths: &[u8] =
            if address.is_ipv4() { &[0, 1, 8, 24, 25, 32] } else { &[0, 1, 16, 64, 121, 128] };
        let net = IpNet::new(address, one(rng, lengths)).expect("a length").trunc();
        // Some prefixes are one identity's, and a numbering has holes.
        prefixes.insert(net, IdentityId::local(offset / 2 * 2));
    }
    World { addresses, prefixes }
}

struct Filling<'a> {
    rng: &'a mut Rng,
    /// Of the policy: tables share none.
    name: String,
    table: PolicyTable,
}

impl Filling<'_> {
    fn rule(&mut self, direction: Direction) -> RuleId {
        let id = RuleId(self.table.rules.len() as u32 + 1);
        let policy =
            PolicyName { kind: PolicyKind::NetworkPolicy, namespace: "d".into(), name: self.name.clone() };
        let rule = RuleRef { policy, direction, rule: Some(id.0 as usize), name: None, line: None };
        self.table.rules.insert(id, Arc::new(rule));
        id
    }

    fn said(&mut self, direction: Direction, tier: Tier) -> PortAction {
        let rule = self.rule(direction);
        match tier {
            Tier::NetworkPolicy => PortAction { rank: Rank(0), action: Action::Allow, rule },
            Tier::Admin | Tier::Baseline => {
                let action = one(self.rng, &[Action::Allow, Action::Deny, Action::Pass]);
                PortAction { rank: Rank(self.rng.u32(0..4)), action, rule }
            }
        }
    }

    fn list(&mut self, direction: Direction, tier: Tier, peers: &[Peer]) -> ListId {
        let list = ListId(self.table.lists.len() as u32 + 1);
        let isolation = (tier == Tier::NetworkPolicy).then(|| self.rule(direction));
        self.table.lists.insert(list, RuleList { direction, tier, isolation });
        for peer in peers {
            if self.rng.u8(..3) == 0 {
                let count = self.rng.usize(1..7);
                let said: Vec<_> =
                    (0..count).map(|_| (l4_match(self.rng), self.said(direction, tier))).collect();
                let ports = PortsId(self.table.ports.len() as u32 + 1);
                self.table.ports.insert(ports, PortMap::new(said).into());
                self.table.peers.insert(PeerKey { list, peer: *peer }, ports);
            }
        }
        list
    }
}

/// What a node with [`pod`] enforces.
pub(crate) fn table(rng: &mut Rng, world: &World) -> PolicyTable {
    let table = PolicyTable { prefixes: world.prefixes.clone(), ..PolicyTable::default() };
    let name = format!("p{}", rng.u32(..));
    let mut filling = Filling { rng, name, table };
    let mut peers = vec![Peer::Pods, Peer::Anyone, Peer::Identity(model::Reserved::World.id())];
    peers.extend((300..304).map(|id| Peer::Identity(IdentityId::from_raw(id))));
    peers.extend(world.prefixes.values().map(|id| Peer::Identity(*id)));
    let mut policy = EndpointPolicy::default();
    for direction in Direction::ALL {
        let mut lists = DirectionPolicy::default();
        for (tier, list) in
            Tier::ALL.into_iter().zip([&mut lists.admin, &mut lists.network_policy, &mut lists.baseline])
        {
            if filling.rng.u8(..3) > 0 {
                *list = Some(filling.list(direction, tier, &peers));
            }
        }
        match direction {
            Direction::Ingress => policy.ingress = lists,
            Direction::Egress => policy.egress = lists,
        }
    }
    if filling.rng.u8(..4) == 0 {
        policy.mode = Mode::Audit;
    }
    filling.table.endpoints.insert(pod(), policy);
    filling.table
}

pub(crate) fn packet(rng: &mut Rng, family: Family) -> Packet {
    let peer = one(rng, &peers(family));
    let direction = one(rng, &Direction::ALL);
    let l4 = match rng.u8(..8) {
        0 => L4::Other,
        number => {
            let port = if number < 5 { one(rng, &PORTS) } else { rng.u16(79..82) };
            L4::Port(one(rng, &[Protocol::Tcp, Protocol::Udp, Protocol::Sctp]), port)
        }
    };
    Packet { direction, peer, l4 }
}

/// By the longest prefix.
pub(crate) fn owner(table: &BTreeMap<IpNet, IdentityId>, address: IpAddr) -> Option<IdentityId> {
    let holding = table.iter().filter(|(net, _)| net.contains(&address));
    holding.max_by_key(|(net, _)| net.prefix_len()).map(|(_, id)| *id)
}

/// What `table` says of a packet.
pub(crate) fn decide(
    table: &PolicyTable,
    addresses: &BTreeMap<IpNet, IdentityId>,
    packet: &Packet,
) -> Decision {
    let identity = owner(addresses, packet.peer).unwrap_or_default();
    let peer = PeerAddress { identity, prefix: owner(&table.prefixes, packet.peer) };
    let endpoint = pod();
    let Packet { direction, l4, .. } = *packet;
    table.decide(&Question { endpoint: &endpoint, direction, peer, l4, loopback: false })
}
