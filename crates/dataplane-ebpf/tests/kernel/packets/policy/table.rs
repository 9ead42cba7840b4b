//! Policy tables in few words.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use ipnet::IpNet;
use model::{
    IdentityId, PodName, PolicyTable, Protocol,
    policy::{
        Action, Direction, EndpointPolicy, L4Match, ListId, Mode, Peer, PeerKey, PolicyKind, PolicyName,
        PortAction, PortMap, PortPrefix, PortsId, Rank, RuleId, RuleList, RuleRef, Tier,
    },
};

static NUMBERS: AtomicU32 = AtomicU32::new(1);

#[derive(Clone, Default)]
pub(super) struct Table(pub(super) PolicyTable);

pub(super) fn pod() -> PodName {
    PodName { namespace: "test".into(), name: "pod".into() }
}

pub(super) fn friend() -> Peer {
    Peer::Identity(IdentityId::from_raw(super::FRIEND))
}

pub(super) fn tcp(port: u16) -> L4Match {
    L4Match::Ports(Protocol::Tcp, PortPrefix::one(port))
}

pub(super) fn rule(rank: u32, action: Action, rule: u32) -> PortAction {
    PortAction { rank: Rank(rank), action, rule: RuleId(rule) }
}

pub(super) fn allow(number: u32) -> PortAction {
    rule(0, Action::Allow, number)
}

impl Table {
    /// The pod with nothing that is said of it.
    pub(super) fn open() -> Self {
        let mut this = Self::default();
        this.0.endpoints.insert(pod(), EndpointPolicy::default());
        this
    }

    /// With a list of NetworkPolicies for the pod, which `isolation` isolates.
    pub(super) fn isolated(
        mut self,
        direction: Direction,
        isolation: u32,
        rows: &[(Peer, &[(L4Match, PortAction)])],
    ) -> Self {
        self.list(direction, Tier::NetworkPolicy, Some(isolation), rows);
        self
    }

    pub(super) fn ranked(
        mut self,
        direction: Direction,
        tier: Tier,
        rows: &[(Peer, &[(L4Match, PortAction)])],
    ) -> Self {
        self.list(direction, tier, None, rows);
        self
    }

    pub(super) fn audited(mut self) -> Self {
        self.endpoint().mode = Mode::Audit;
        self
    }

    pub(super) fn prefix(mut self, cidr: &IpNet, id: IdentityId) -> Self {
        self.0.prefixes.insert(*cidr, id);
        self
    }

    pub(super) fn endpoint(&mut self) -> &mut EndpointPolicy {
        self.0.endpoints.entry(pod()).or_default()
    }

    pub(super) fn list(
        &mut self,
        direction: Direction,
        tier: Tier,
        isolation: Option<u32>,
        rows: &[(Peer, &[(L4Match, PortAction)])],
    ) -> ListId {
        // A number for each place, so that two tables of a test have the same.
        let list = ListId(1 + direction as u32 * 3 + tier as u32);
        self.0.lists.insert(list, RuleList { direction, tier, isolation: isolation.map(RuleId) });
        self.rule(direction, isolation.unwrap_or(0));
        for (peer, said) in rows {
            for (_, action) in *said {
                self.rule(direction, action.rule.0);
            }
            let ports = Arc::new(PortMap::new(said.iter().copied()));
            let known = self.0.ports.iter().find(|(_, other)| **other == ports).map(|(id, _)| *id);
            // What a number stands for never changes.
            let id = known.unwrap_or_else(|| PortsId(NUMBERS.fetch_add(1, Ordering::Relaxed)));
            self.0.ports.insert(id, ports);
            self.0.peers.insert(PeerKey { list, peer: *peer }, id);
        }
        let endpoint = self.endpoint();
        let lists = match direction {
            Direction::Ingress => &mut endpoint.ingress,
            Direction::Egress => &mut endpoint.egress,
        };
        match tier {
            Tier::Admin => lists.admin = Some(list),
            Tier::NetworkPolicy => lists.network_policy = Some(list),
            Tier::Baseline => lists.baseline = Some(list),
        }
        list
    }

    fn rule(&mut self, direction: Direction, number: u32) {
        if number == 0 {
            return;
        }
        let policy = PolicyName {
            kind: PolicyKind::NetworkPolicy,
            namespace: "test".into(),
            name: format!("rule-{number}"),
        };
        let rule = RuleRef { policy, direction, rule: Some(0), name: None, line: None };
        self.0.rules.insert(RuleId(number), Arc::new(rule));
    }
}
