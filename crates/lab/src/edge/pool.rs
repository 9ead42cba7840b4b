//! One Service at the edge: its rules, its pool of nodes and what their health checks said.
//!
//! No IO; time comes in as an argument. Dropping a pool ends its probing.

use std::{
    collections::{BTreeSet, VecDeque},
    net::IpAddr,
};

use jiff::Timestamp;
use model::{Family, Protocol, ServiceName};
use tokio::task::AbortHandle;

use super::{
    ForwardingRule, ForwardingRuleSpec, Health, HealthCheck, HealthCheckTarget, HealthCheckTiming, Member,
    Probe, TargetPool,
    health::Tracker,
    load_balancer_name,
    program::{Forwarding, receiving},
};
use crate::plan::{NodePlan, REGION};

/// Probes kept per pool: over an hour of two nodes at the default interval.
const HISTORY: usize = 1024;

#[derive(Debug)]
pub(super) struct Pool {
    spec: ForwardingRuleSpec,
    address: IpAddr,
    members: Vec<PoolMember>,
    history: VecDeque<Probe>,
    probing: Vec<AbortHandle>,
}

#[derive(Debug)]
struct PoolMember {
    node: String,
    address: IpAddr,
    tracker: Tracker,
    last: Option<Probe>,
}

impl Pool {
    pub(super) fn new(spec: ForwardingRuleSpec, address: IpAddr, nodes: &[NodePlan], now: Timestamp) -> Self {
        let family = Family::of(address);
        let member = |node: &NodePlan| PoolMember {
            node: node.name.clone(),
            address: node.address_of(family).unwrap_or_else(|| node.address()),
            tracker: Tracker::new(now),
            last: None,
        };
        let members = nodes.iter().map(member).collect();
        Self { spec, address, members, history: VecDeque::new(), probing: vec![] }
    }

    /// Gives the pool a task that ends with it.
    pub(super) fn own(&mut self, probing: AbortHandle) {
        self.probing.push(probing);
    }

    pub(super) fn update(&mut self, spec: ForwardingRuleSpec, address: IpAddr) {
        if spec.health_check != self.spec.health_check {
            self.members.iter_mut().for_each(|member| member.tracker.restart());
        }
        self.spec = spec;
        self.address = address;
    }

    pub(super) fn address(&self) -> IpAddr {
        self.address
    }

    /// Where the node of this index is asked and sent packets to: its address of the pool's family.
    pub(super) fn member(&self, index: usize) -> IpAddr {
        self.members[index].address
    }

    /// Of rule and pool. The second family's carry it, so that names are unique.
    fn name(&self) -> String {
        let name = load_balancer_name(&self.spec.uid);
        match Family::of(self.address) {
            Family::V4 => name,
            Family::V6 => format!("{name}-ipv6"),
        }
    }

    pub(super) fn service(&self) -> ServiceName {
        self.spec.service.clone()
    }

    pub(super) fn health_check(&self) -> HealthCheckTarget {
        self.spec.health_check.clone()
    }

    /// What the kernel is to forward.
    pub(super) fn forwarding(&self) -> Forwarding {
        Forwarding { ports: self.spec.ports.iter().copied().collect(), nodes: receiving(self.health()) }
    }

    /// Takes the answer of one member; true where the pool's traffic may change.
    ///
    /// An answer to a question that is no longer asked is kept in the history and judges nobody.
    pub(super) fn record(
        &mut self,
        index: usize,
        asked: &HealthCheckTarget,
        mut probe: Probe,
        timing: &HealthCheckTiming,
        now: Timestamp,
    ) -> bool {
        let member = &mut self.members[index];
        if *asked == self.spec.health_check {
            probe.transition = member.tracker.observe(probe.answer.is_success(), timing, now);
        }
        let changed = probe.transition.is_some();
        if let Some(health) = probe.transition {
            tracing::info!(service = %self.spec.service, node = member.node, ?health, "health changed");
        }
        member.last = Some(probe.clone());
        if self.history.len() == HISTORY {
            self.history.pop_front();
        }
        self.history.push_back(probe);
        changed
    }

    /// One rule per protocol; the first has the pool's name.
    pub(super) fn rules(&self) -> Vec<ForwardingRule> {
        let name = self.name();
        let protocols: BTreeSet<Protocol> = self.spec.ports.iter().map(|(protocol, _)| *protocol).collect();
        let rule = |(index, protocol): (usize, Protocol)| ForwardingRule {
            name: if index == 0 { name.clone() } else { format!("{name}-{}", protocol.lowercase()) },
            region: REGION.to_owned(),
            ip_address: self.address,
            ip_protocol: protocol,
            ports: self.spec.ports.iter().filter(|(p, _)| *p == protocol).map(|(_, port)| *port).collect(),
            target: format!("{REGION}/targetPools/{name}"),
            service: self.service(),
        };
        protocols.into_iter().enumerate().map(rule).collect()
    }

    /// The pool as it is shown; `programmed` is what the kernel forwards for its address now.
    pub(super) fn describe(&self, timing: &HealthCheckTiming, programmed: Option<&Forwarding>) -> TargetPool {
        let member = |(index, member): (usize, &PoolMember)| Member {
            node: member.node.clone(),
            address: member.address,
            health: member.tracker.health(),
            since: member.tracker.since(),
            receives_traffic: programmed.is_some_and(|forwarding| forwarding.nodes.contains(&index)),
            last_probe: member.last.clone(),
        };
        TargetPool {
            name: self.name(),
            region: REGION.to_owned(),
            service: self.service(),
            ip_address: self.address,
            session_affinity: "NONE".to_owned(),
            health_check: HealthCheck { target: self.health_check(), timing: *timing },
            members: self.members.iter().enumerate().map(member).collect(),
            history: self.history.iter().cloned().collect(),
        }
    }

    fn health(&self) -> impl Iterator<Item = Health> + Clone + '_ {
        self.members.iter().map(|member| member.tracker.health())
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.probing.iter().for_each(AbortHandle::abort);
    }
}

#[cfg(test)]
mod tests {
    use model::{Plane, Port};

    use super::{super::ProbeAnswer, *};
    use crate::plan::{LabName, Topology};

    fn target(port: u16) -> HealthCheckTarget {
        HealthCheckTarget { port: Port::new(port).expect("port"), path: "/healthz".into() }
    }

    fn spec(port: u16) -> ForwardingRuleSpec {
        let tcp = |port| (Protocol::Tcp, Port::new(port).expect("port"));
        ForwardingRuleSpec {
            uid: "c973ff85-4367-44bf-a586-378db41283ef".into(),
            service: ServiceName { namespace: "netflow-test".into(), name: "nginx".into() },
            families: vec![Family::V4],
            requested_ips: vec![],
            ports: vec![tcp(80), tcp(443), (Protocol::Udp, Port::new(53).expect("port"))],
            health_check: target(port),
        }
    }

    fn pool() -> Pool {
        let name = LabName::new("x").expect("name");
        let topology = Topology::new(name, Plane::Iptables, 2).expect("size");
        let vip = "203.0.113.1".parse().expect("address");
        Pool::new(spec(10256), vip, &topology.nodes, Timestamp::UNIX_EPOCH)
    }

    fn answer(pool: &mut Pool, index: usize, asked: u16, status: u16) -> bool {
        let probe = Probe {
            time: Timestamp::UNIX_EPOCH,
            node: format!("node {index}"),
            url: String::new(),
            latency_us: 1,
            answer: ProbeAnswer::Http { status, body: String::new() },
            transition: None,
        };
        pool.record(index, &target(asked), probe, &HealthCheckTiming::default(), Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn each_protocol_has_a_rule_and_all_share_the_pool() {
        let rules = pool().rules();
        assert_eq!(rules.len(), 2);
        assert_eq!(rules[0].name, "ac973ff85436744bfa586378db41283e");
        assert_eq!(rules[0].ports.iter().map(|p| p.get()).collect::<Vec<_>>(), [80, 443]);
        assert_eq!(rules[1].name, "ac973ff85436744bfa586378db41283e-udp");
        assert_eq!(rules[0].target, rules[1].target);
    }

    #[tokio::test]
    async fn traffic_follows_health() {
        let mut pool = pool();
        assert_eq!(pool.forwarding().nodes, BTreeSet::from([0, 1]), "nobody is healthy yet");
        assert!(answer(&mut pool, 1, 10256, 200));
        assert_eq!(pool.forwarding().nodes, BTreeSet::from([1]));
        assert!(answer(&mut pool, 0, 10256, 200));
        let changes: Vec<_> = (0..3).map(|_| answer(&mut pool, 1, 10256, 503)).collect();
        assert_eq!(changes, [false, false, true]);
        assert_eq!(pool.forwarding().nodes, BTreeSet::from([0]));
        let transitions = pool.history.iter().filter_map(|probe| probe.transition).count();
        assert_eq!((pool.history.len(), transitions), (5, 3));
    }

    #[tokio::test]
    async fn an_answer_to_an_old_question_judges_nobody() {
        let mut pool = pool();
        answer(&mut pool, 0, 10256, 200);
        pool.update(spec(30001), pool.address());
        for _ in 0..3 {
            assert!(!answer(&mut pool, 0, 10256, 503));
        }
        assert_eq!(pool.describe(&HealthCheckTiming::default(), None).members[0].health, Health::Healthy);
        assert_eq!(pool.history.len(), 4);
    }

    #[test]
    fn history_is_bounded() {
        let mut pool = pool();
        for _ in 0..HISTORY + 5 {
            answer(&mut pool, 0, 10256, 200);
        }
        assert_eq!(pool.history.len(), HISTORY);
    }
}
