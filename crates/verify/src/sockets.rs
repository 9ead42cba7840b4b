//! Both nodes of the scenarios' cluster run a plane, and clients talk to servers through it: real packets, real sockets.
//!
//! Slow, so for few states. Says nothing of SCTP: the kernel need not have such sockets.

mod talk;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use anyhow::{Context as _, anyhow};
use model::{
    Family, Masquerade, Plane, Protocol, Situation, Snapshot,
    oracle::{Outcome, Packet},
};
use scenarios::{
    places::{Node, Place},
    planes::NodePlane,
    topology::Topology,
};

use crate::{
    compare::{Coverage, Difference, Oracle, Seen, compare, wanted},
    executor::{Executor, Stop, not_programmed},
    objects::SERVERS,
    probe::{Probe, is_cluster_ip, is_vip, probes},
    state::{Case, Follower},
    tally::Tally,
};

/// Connections per probe, and per way to make them.
const TRIES: usize = 3;
/// Probes that are asked at the same time: most of the time is waiting for silence.
const AT_ONCE: usize = 32;
/// Of probes that concern no Service, one in so many is asked.
const UNTOUCHED: usize = 5;
const PORT: u16 = 40_000;

const SCTP: &str = "SCTP: the kernel need not have its sockets";
/// A cloud takes the route away with the address.
const STRAY_VIP: &str = "a load-balancer address that no Service has: these nodes keep it all the same";
const EDGE: &str = "the edge router knows no way to cluster IPs";
const MANY: &str = "concerns no Service: one in five is asked, the other executors ask all";
const ASYMMETRIC: &str =
    "the backend answers the client directly, past the node that translated, as with kube-proxy";

/// Two nodes that run a plane.
pub struct Sockets {
    plane: Plane,
    oracle: Oracle,
    /// Before the topology: planes leave before their namespaces go.
    planes: BTreeMap<Node, NodePlane>,
    programmed: BTreeMap<Node, Snapshot>,
    _servers: talk::Servers,
    topology: Topology,
}

/// A probe, where it is decided, and what is wanted there.
struct Question<'a> {
    probe: Probe,
    node: Node,
    packet: Packet,
    snapshot: &'a Snapshot,
    wanted: Seen,
    /// The programs of the client's node do not see its socket, only its packets.
    by_packets: bool,
}

impl Sockets {
    /// # Errors
    /// A server's port is taken.
    ///
    /// # Panics
    /// No root, no namespaces, or the plane does not open.
    pub fn new(plane: Plane, oracle: Oracle) -> anyhow::Result<Self> {
        let topology = Topology::new();
        topology.route_vips(Node::A);
        let mut servers = talk::Servers::default();
        for place in SERVERS {
            topology
                .place(place)
                .run(|| servers.start(place))?
                .with_context(|| format!("serve at {place}"))?;
        }
        for node in Node::ALL {
            topology.node(node).run(answer_everybody)?.context("set sysctls")?;
        }
        let planes = Node::ALL.map(|node| (node, NodePlane::open(plane, &topology, node))).into();
        Ok(Self { plane, oracle, planes, programmed: BTreeMap::new(), _servers: servers, topology })
    }

    fn program(&mut self, node: Node, next: &Snapshot) -> Result<(), Stop> {
        let before = self.programmed.remove(&node).unwrap_or_default();
        let changed = next.changed_since(&before);
        let plane = &mut self.planes.get_mut(&node).expect("both nodes run a plane").plane;
        let applied = self.topology.node(node).run(|| plane.apply(next, &changed)).context("enter a node")?;
        let applied = applied
            .map_err(|error| anyhow!("program {}: {}", node.name(), scenarios::planes::chain(&error)))?;
        self.programmed.insert(node, next.clone());
        match applied.failed.first_key_value() {
            Some((key, error)) => {
                let got = format!("{key:?}: {}", scenarios::planes::chain(error));
                Err(not_programmed(self.name(), got).into())
            }
            None => Ok(()),
        }
    }

    /// Nothing, the first state where there is one, then the second.
    fn reach(&mut self, case: &Case, node: Node) -> Result<(), Stop> {
        let endpoints = self.topology.endpoints(node);
        let mut follower = Follower::new(node, case.node_ports.clone(), endpoints);
        if let Some(before) = self.programmed.get(&node).cloned() {
            self.program(node, &Snapshot { services: BTreeMap::new(), ..before })?;
        }
        match &case.before {
            Some(before) => {
                follower.list(before);
                self.program(node, follower.snapshot())?;
                follower.step(before, &case.objects);
            }
            None => {
                follower.list(&case.objects);
            }
        }
        self.program(node, follower.snapshot())?;
        let plane = &mut self.planes.get_mut(&node).expect("both nodes run a plane").plane;
        let snapshot = &self.programmed[&node];
        let repaired = self.topology.node(node).run(|| plane.repair(snapshot)).context("enter a node")?;
        match repaired.context("repair")?.first() {
            None => Ok(()),
            Some(repaired) => {
                let probe = format!("what {} holds", node.name());
                let (wanted, got) = ("nothing to repair".to_owned(), repaired.clone());
                Err(Difference { executor: self.name(), probe, wanted, got }.into())
            }
        }
    }

    fn questions(&self, case: &Case, tally: &mut Tally) -> Vec<Question<'_>> {
        let (mut questions, mut untouched) = (vec![], 0);
        for probe in probes(case) {
            let (node, packet, outcome) = self.decided(&probe);
            let snapshot = &self.programmed[&node];
            let (_, _, wanted) = wanted(self.plane, &packet, snapshot, self.oracle);
            untouched += usize::from(wanted == Seen::Untouched);
            let left_out = if probe.protocol == Protocol::Sctp {
                Some(SCTP)
            } else if probe.from == Place::Client && is_cluster_ip(probe.to.ip()) {
                Some(EDGE)
            } else if is_vip(probe.to.ip()) && !snapshot.is_load_balancer(probe.to.ip()) {
                Some(STRAY_VIP)
            } else if wanted == Seen::Untouched && untouched % UNTOUCHED != 0 {
                Some(MANY)
            } else if !comes_back(&probe, node, &outcome) {
                Some(ASYMMETRIC)
            } else {
                None
            };
            if let Some(reason) = left_out {
                tally.leave_out(reason);
                continue;
            }
            let both = self.plane == Plane::Ebpf && matches!(probe.from, Place::Pod(_));
            for by_packets in [false, true].into_iter().take(1 + usize::from(both)) {
                questions.push(Question {
                    probe,
                    node,
                    packet,
                    snapshot,
                    wanted: wanted.clone(),
                    by_packets,
                });
            }
        }
        questions
    }

    /// At the first node that knows the destination.
    fn decided(&self, probe: &Probe) -> (Node, Packet, Outcome) {
        let owner = Node::at(probe.to.ip());
        let first = probe.from.node().or(owner).unwrap_or(Node::A);
        let packet = probe.packet(PORT);
        let at = |node| (self.oracle)(&packet, &self.programmed[&node]);
        let outcome = at(first);
        match owner {
            Some(owner) if owner != first && outcome == Outcome::Untouched => (owner, packet, at(owner)),
            _ => (first, packet, outcome),
        }
    }
}

impl Executor for Sockets {
    fn name(&self) -> &'static str {
        match self.plane {
            Plane::Ebpf => "ebpf sockets",
            Plane::Iptables => "iptables sockets",
        }
    }

    fn is_slow(&self) -> bool {
        true
    }

    fn check(&mut self, case: &Case, tally: &mut Tally) -> Result<(), Stop> {
        for node in Node::ALL {
            self.reach(case, node)?;
        }
        let questions = self.questions(case, tally);
        for some in questions.chunks(AT_ONCE) {
            let topology = &self.topology;
            let answers: Vec<_> = std::thread::scope(|scope| {
                let threads: Vec<_> = some
                    .iter()
                    .map(|Question { probe, node, wanted, by_packets, .. }| {
                        scope.spawn(move || ask(topology, (probe, *node), wanted, *by_packets))
                    })
                    .collect();
                threads.into_iter().map(|thread| thread.join().expect("no panic while asking")).collect()
            });
            for (question, got) in some.iter().zip(answers) {
                let Question { probe, packet, snapshot, .. } = question;
                let got = self.as_packets(question, got.with_context(|| probe.to_string())?);
                let by = (self.plane, self.name());
                tally.count(compare(by, (probe, packet, snapshot), (got, Coverage::Some), self.oracle))?;
            }
        }
        Ok(())
    }
}

impl Sockets {
    /// A pod that its socket gives to itself sees itself: the divergence `hairpin`.
    fn as_packets(&self, question: &Question<'_>, got: Seen) -> Seen {
        let Question { probe, packet, snapshot, by_packets, .. } = question;
        let outcome = (self.oracle)(packet, snapshot);
        let situation = Situation { packet, snapshot, outcome: &outcome };
        match got {
            Seen::To(ways) if !by_packets && self.plane.shows_itself(&situation) => {
                let itself = |server: SocketAddr| server.ip() == probe.from.address(Family::of(server.ip()));
                Seen::To(ways.into_iter().map(|(to, node)| (to, node || itself(to))).collect())
            }
            got => got,
        }
    }
}

fn ask(
    topology: &Topology,
    (probe, node): (&Probe, Node),
    wanted: &Seen,
    by_packets: bool,
) -> anyhow::Result<Seen> {
    let group = probe.from.node().filter(|_| !by_packets).map(|node| topology.group(node));
    let times = if matches!(wanted, Seen::To(_)) { TRIES } else { 1 };
    let answered = matches!(wanted, Seen::To(_) | Seen::Refused);
    let answers: Vec<talk::Answer> = topology.place(probe.from).run(|| {
        if let Some(group) = group {
            group.join().context("join the node's cgroup")?;
        }
        (0..times).map(|_| talk::ask(probe.to, probe.protocol, answered)).collect::<anyhow::Result<_>>()
    })??;
    let mut ways = BTreeSet::new();
    let family = Family::of(probe.to.ip());
    for answer in answers {
        match answer {
            talk::Answer::By(server, client) if client == probe.from.address(family) => {
                ways.insert((server, false));
            }
            talk::Answer::By(server, client) if client == node.address(family) => {
                ways.insert((server, true));
            }
            talk::Answer::By(server, client) => {
                return Ok(Seen::Other(format!("to {server}, which sees {client}")));
            }
            // Whatever lies at the address.
            _ if *wanted == Seen::Untouched => return Ok(Seen::Untouched),
            talk::Answer::Refused => return Ok(Seen::Refused),
            talk::Answer::Silence => return Ok(Seen::Dropped),
            talk::Answer::Unreachable => return Ok(Seen::Other("unreachable".to_owned())),
        }
    }
    Ok(Seen::To(ways))
}

/// Whether answers pass the node that translated, whichever backend is chosen.
fn comes_back(probe: &Probe, node: Node, outcome: &Outcome) -> bool {
    let Outcome::Forwarded { choices } = outcome else { return true };
    let at = |ip| SERVERS.into_iter().find(|place| place.addresses().contains(ip)).and_then(Place::node);
    probe.from.node() == Some(node)
        || choices
            .iter()
            .all(|choice| choice.masquerade == Masquerade::Yes || at(choice.backend.ip()) == Some(node))
}

/// Refusals are not rationed: many clients ask at the same time.
fn answer_everybody() -> std::io::Result<()> {
    std::fs::write("/proc/sys/net/ipv4/icmp_ratelimit", "0")?;
    std::fs::write("/proc/sys/net/ipv6/icmp/ratelimit", "0")
}

impl std::fmt::Debug for Sockets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} in {}", self.plane, self.topology.name)
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        for (node, NodePlane { plane, .. }) in &mut self.planes {
            if let Ok(Err(error)) = self.topology.node(*node).run(|| plane.clean_up()) {
                eprintln!("{}: {}", node.name(), scenarios::planes::chain(&error));
            }
        }
    }
}
