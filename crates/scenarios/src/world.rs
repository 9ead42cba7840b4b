//! Where a case happens: on the oracle alone, or on a plane between real sockets.

mod closed;

use std::{
    collections::BTreeMap,
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use model::{Answer, Changed, Family, NodePortAddresses, Plane, Protocol, Snapshot};

use crate::{
    cluster::{self, HostPort, Service},
    expect::{Oracle, Probe, Question, Seen, Want},
    held::{Held, Socket},
    places::{Node, Place, Pod},
    planes::{NodePlane, Setting, chain},
    talk::{Conversation, Servers, Who, who_udp},
    topology::Topology,
};

/// Long enough for an answer on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
/// A first retransmission (1 s) that is not answered either is silence.
const SILENCE: Duration = Duration::from_millis(1500);

/// A two-node cluster that a case changes and asks.
#[derive(Debug)]
pub struct World {
    /// The family that probes are asked in. Services have both.
    family: Family,
    node_ports: NodePortAddresses,
    host_ports: Vec<HostPort>,
    oracle: Oracle,
    pub(crate) lab: Option<Lab>,
    /// Nodes reach each other's pods through a tunnel.
    tunnel: bool,
    closed: bool,
}

/// Nodes that run a plane, and pods that serve.
pub(crate) struct Lab {
    pub(crate) plane: Plane,
    /// Before the topology: planes leave before their namespaces go.
    planes: BTreeMap<Node, NodePlane>,
    _servers: Servers,
    pub(crate) topology: Topology,
}

/// What clients noticed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Noticed {
    /// How often each answered, and whom it saw.
    Backends(BTreeMap<(Pod, Seen), usize>),
    Refused,
    Silence,
    /// Some router knows no way there.
    Unreachable,
}

impl World {
    /// Without a kernel: `expect` compares with the oracle only.
    pub fn oracle() -> Self {
        Self::on(None)
    }

    /// Two nodes that run `plane`, four pods that serve, a client outside.
    pub fn kernel(plane: Plane) -> Self {
        Self::on(Some(Lab::new(plane)))
    }

    fn on(lab: Option<Lab>) -> Self {
        Self {
            family: Family::V4,
            node_ports: NodePortAddresses::All,
            host_ports: vec![],
            oracle: Oracle::default(),
            lab,
            tunnel: false,
            closed: false,
        }
    }

    /// Probes are of this family from now on; no Service or host port is left, and node ports are served everywhere.
    pub fn start_in(&mut self, family: Family) {
        self.family = family;
        self.node_ports = NodePortAddresses::All;
        self.host_ports.clear();
        self.program(&[]);
    }

    /// The nodes' filter, from the next [`Self::program`] on.
    pub fn serve_node_ports_within(&mut self, prefixes: &[&str]) {
        let prefixes = prefixes.iter().map(|prefix| prefix.parse().expect("a case's prefix"));
        self.serve_node_ports(NodePortAddresses::Within(prefixes.collect()));
    }

    /// The nodes' filter, from the next [`Self::program`] on.
    pub fn serve_node_ports(&mut self, filter: NodePortAddresses) {
        self.node_ports = filter;
    }

    /// The pods' host ports, from the next [`Self::program`] on.
    pub fn map_host_ports(&mut self, ports: &[HostPort]) {
        self.host_ports = ports.to_vec();
    }

    pub fn family(&self) -> Family {
        self.family
    }

    /// Makes these the cluster's Services, and nothing else.
    pub fn program(&mut self, services: &[Service]) {
        for node in Node::ALL {
            let mut next = cluster::snapshot(services, node);
            let host_ports = cluster::host_ports(&self.host_ports, node);
            next.services.extend(host_ports.map(|port| (port.id.clone(), Arc::new(port))));
            let before = self.oracle.snapshots.remove(&node).unwrap_or_default();
            next.node.node_ports = self.node_ports.clone();
            next.generation = before.generation.next();
            if let Some(lab) = &mut self.lab {
                let endpoints = lab.topology.endpoints(node).into_iter();
                next.endpoints =
                    endpoints.map(|endpoint| (endpoint.pod.clone(), Arc::new(endpoint))).collect();
                next.node.tunnel = self.tunnel.then(|| lab.topology.tunnel(node));
                if self.closed {
                    closed::close(&mut next);
                }
                lab.apply(node, &next, &next.changed_since(&before));
            }
            self.oracle.snapshots.insert(node, next);
        }
    }

    /// The oracle says `want` of the probe, and clients notice it.
    pub fn expect(&self, probe: Probe, want: Want) {
        let probe = probe.of(self.family);
        let want = want.seen_from(&probe);
        assert_eq!(self.oracle.want(&probe), want, "the oracle, of {probe:?}");
        let Some(lab) = &self.lab else { return };
        let answer = self.oracle.answer(lab.plane, &probe);
        let want = match answer {
            Some(Answer::Untouched) => Want::NotAService,
            Some(Answer::NodePort) => self.oracle.want(&probe.at_the_node()),
            _ => want,
        };
        let refusal = answer.and_then(|answer| match answer {
            Answer::Refused => Some(Noticed::Refused),
            Answer::Silence => Some(Noticed::Silence),
            Answer::Untouched | Answer::NodePort => None,
        });
        let pod = matches!(probe.from, Place::Pod(_));
        for by_packets in [probe.by_packets, true] {
            // What a pod may do by its socket it may do by packets as well.
            let probe = Question { by_packets, ..probe };
            let want = self.oracle.on(lab.plane, &probe, want.clone());
            lab.expect(&probe, refusal.clone(), &want);
            if !pod || lab.plane == Plane::Iptables || by_packets {
                break;
            }
        }
    }

    /// How often each backend answers; `None` on the oracle, which has no chance.
    pub fn count(&self, probe: Probe) -> Option<BTreeMap<Pod, usize>> {
        let probe = probe.of(self.family);
        let lab = self.lab.as_ref()?;
        match lab.ask(&probe, true) {
            Noticed::Backends(answers) => {
                Some(answers.into_iter().map(|((pod, _), count)| (pod, count)).collect())
            }
            other => panic!("{probe:?}: {other:?}"),
        }
    }

    /// Opens a flow and keeps it; says who answers it.
    pub fn hold(&self, probe: Probe) -> (Held, Option<Pod>) {
        let probe = probe.of(self.family);
        let socket = self.lab.as_ref().map(|lab| lab.open(&probe));
        let mut held = Held { probe, socket };
        let pod = held.who().map(|who| who.pod);
        (held, pod)
    }

    /// As [`Self::hold`], over UDP without connecting.
    pub fn hold_unconnected(&self, probe: Probe) -> (Held, Option<Pod>) {
        let probe = probe.of(self.family);
        let open = || UdpSocket::bind((unspecified(probe.to), 0)).expect("bind");
        let socket = self.lab.as_ref().map(|lab| Socket::Unconnected(lab.as_client(&probe, open)));
        let mut held = Held { probe, socket };
        let pod = held.who().map(|who| who.pod);
        (held, pod)
    }

    /// As [`Self::hold`], trying until `pod` is the one that answers.
    pub fn hold_by(&self, probe: Probe, pod: Pod) -> Held {
        for _ in 0..100 {
            let (held, answers) = self.hold(probe);
            if answers.is_none_or(|answers| answers == pod) {
                return held;
            }
        }
        panic!("{} never answered {probe:?}", pod.name())
    }

    /// Both planes end and start again, as when an agent is replaced: without clean-up, and not knowing what was
    /// programmed. `meanwhile` runs while there is none.
    pub fn restart(&mut self, meanwhile: impl FnOnce()) {
        let Some(lab) = &mut self.lab else { return meanwhile() };
        let setting = Setting { policy: self.closed, ..Setting::usual(lab.plane) };
        let pins = lab.planes.split_off(&Node::A).into_iter().map(|(node, plane)| (node, plane.stop()));
        let pins: Vec<_> = pins.collect();
        meanwhile();
        for (node, pins) in pins {
            lab.planes.insert(node, NodePlane::start(setting, &lab.topology, node, pins));
            let snapshot = &self.oracle.snapshots[&node];
            lab.apply(node, snapshot, &Changed::all(snapshot));
        }
    }

    /// No plane finds anything to repair.
    pub fn expect_in_step(&mut self) {
        let Some(lab) = &mut self.lab else { return };
        for (node, snapshot) in &self.oracle.snapshots {
            let plane = &mut lab.planes.get_mut(node).expect("both nodes run a plane").plane;
            let repaired = lab.topology.node(*node).run(|| plane.repair(snapshot)).expect("enter namespace");
            let repaired = repaired.unwrap_or_else(|error| panic!("{}: {}", node.name(), chain(&error)));
            assert_eq!(repaired, [""; 0], "{}", node.name());
        }
    }

    /// The plane under test, unless this is the oracle alone.
    pub fn plane(&self) -> Option<Plane> {
        self.lab.as_ref().map(|lab| lab.plane)
    }

    /// Pods of the other node are reached through a tunnel, from the next [`Self::program`] on.
    pub fn add_tunnel(&mut self) {
        if let Some(lab) = self.lab.as_ref().filter(|_| !self.tunnel) {
            lab.topology.add_tunnel();
        }
        self.tunnel = true;
    }

    /// A router on the way between the nodes, and to the client, takes packets of `mtu` bytes at most.
    pub fn narrow(&self, mtu: u32) {
        if let Some(lab) = &self.lab {
            lab.topology.narrow(mtu);
        }
    }

    /// Pods send complete checksums from now on.
    pub fn disable_transmit_offload(&self) {
        if let Some(lab) = &self.lab {
            lab.topology.disable_transmit_offload();
        }
    }
}

impl Want {
    /// A host cannot tell its own address from its node's.
    fn seen_from(self, probe: &Question) -> Self {
        match self {
            Self::Backends(backends) => {
                Self::Backends(backends.into_iter().map(|(pod, seen)| (pod, seen.of(probe.from))).collect())
            }
            other => other,
        }
    }
}

impl Lab {
    fn new(plane: Plane) -> Self {
        let topology = Topology::new();
        let mut servers = Servers::default();
        for pod in Pod::ALL {
            topology.pod(pod).run(|| servers.start(pod)).expect("enter namespace").expect("start servers");
        }
        let planes = Node::ALL.map(|node| (node, NodePlane::open(plane, &topology, node))).into();
        Self { plane, planes, _servers: servers, topology }
    }

    fn apply(&mut self, node: Node, snapshot: &Snapshot, changed: &Changed) {
        let plane = &mut self.planes.get_mut(&node).expect("both nodes run a plane").plane;
        let applied =
            self.topology.node(node).run(|| plane.apply(snapshot, changed)).expect("enter namespace");
        let applied = applied.unwrap_or_else(|error| panic!("{}: {}", node.name(), chain(&error)));
        let failed: Vec<_> = applied.failed.values().map(chain).collect();
        assert_eq!(failed, [""; 0], "{}", node.name());
    }

    /// Clients notice `refusal`, or else what they want.
    fn expect(&self, probe: &Question, refusal: Option<Noticed>, want: &Want) {
        let forwarded = refusal.is_none() && matches!(want, Want::Backends(_));
        let noticed = self.ask(probe, forwarded);
        match (refusal, want, &noticed) {
            (Some(refusal), _, _) => assert_eq!(noticed, refusal, "{probe:?}"),
            (None, Want::Backends(backends), Noticed::Backends(answers)) => {
                let who: BTreeMap<_, _> = answers.keys().copied().collect();
                assert_eq!(
                    who.len(),
                    answers.len(),
                    "one backend saw several addresses: {probe:?}: {answers:?}"
                );
                assert_eq!(who, *backends, "{probe:?}");
            }
            (None, Want::NotAService, Noticed::Refused | Noticed::Silence | Noticed::Unreachable) => {}
            _ => panic!("{probe:?}: wanted {want:?}, noticed {noticed:?}"),
        }
    }

    fn ask(&self, probe: &Question, forwarded: bool) -> Noticed {
        self.topology.route_vips(probe.via);
        // One that is not forwarded says it all.
        let (patience, times) = if forwarded { (PATIENCE, probe.times) } else { (SILENCE, 1) };
        let ask = || {
            let mut answers = BTreeMap::new();
            for _ in 0..times {
                match once(probe, patience) {
                    Ok(who) => {
                        *answers.entry((who.pod, Seen::from_address(who.client, probe.from))).or_default() +=
                            1
                    }
                    Err(noticed) => return noticed,
                }
            }
            Noticed::Backends(answers)
        };
        self.as_client(probe, ask)
    }

    /// Runs `work` where the probe's client is.
    fn as_client<T: Send>(&self, probe: &Question, work: impl FnOnce() -> T + Send) -> T {
        let group = probe.from.node().filter(|_| !probe.by_packets).map(|node| self.topology.group(node));
        let joined = || {
            if let Some(group) = group {
                group.join().expect("join the node's cgroup");
            }
            work()
        };
        self.topology.place(probe.from).run(joined).expect("enter namespace")
    }

    fn open(&self, probe: &Question) -> Socket {
        self.topology.route_vips(probe.via);
        let opened = self.as_client(probe, || match probe.protocol {
            Protocol::Udp => udp(probe.to).map(Socket::Udp),
            _ => Conversation::open(probe.to, PATIENCE).map(Socket::Tcp),
        });
        opened.unwrap_or_else(|error| panic!("{probe:?}: {error}"))
    }
}

impl std::fmt::Debug for Lab {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} in {}", self.plane, self.topology.name)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for (node, NodePlane { plane, .. }) in &mut self.planes {
            let cleaned = self.topology.node(*node).run(|| plane.clean_up());
            if let Ok(Err(error)) = cleaned {
                eprintln!("{}: {}", node.name(), chain(&error));
            }
        }
    }
}

fn once(probe: &Question, patience: Duration) -> Result<Who, Noticed> {
    let who = match probe.protocol {
        Protocol::Udp => udp(probe.to).and_then(|socket| who_udp(&socket, None, probe.datagram, patience)),
        _ => Conversation::open(probe.to, patience).and_then(|mut conversation| conversation.who()),
    };
    who.map_err(|error| match error.kind() {
        ErrorKind::ConnectionRefused => Noticed::Refused,
        // A datagram that the node itself drops on its way out is not sent at all.
        ErrorKind::TimedOut | ErrorKind::WouldBlock | ErrorKind::PermissionDenied => Noticed::Silence,
        ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable => Noticed::Unreachable,
        _ => panic!("{probe:?}: {error}"),
    })
}

fn udp(to: SocketAddr) -> std::io::Result<UdpSocket> {
    let socket = UdpSocket::bind((unspecified(to), 0))?;
    socket.connect(to)?;
    Ok(socket)
}

fn unspecified(to: SocketAddr) -> IpAddr {
    match Family::of(to.ip()) {
        Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
    }
}
