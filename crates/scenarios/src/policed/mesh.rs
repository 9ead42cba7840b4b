//! The nodes, their planes, and the pods of a [`World`]; programs what the world says.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;
use model::{
    Changed, Endpoint, Family, L7Visibility, MacAddress, PodName, PolicyTable, Reserved, ServicePort,
    Snapshot,
    policy::{L4, Verdict},
};
use netns::Owned;
use policy::{
    compile::ContainerPorts,
    offline::Offline,
    oracle,
    read::PodReading,
    world::{Connection, World},
};

use super::{Listens, Published, Served, talk};
use crate::{
    cluster,
    places::{self, Node, Pair, Place},
    planes::{NodePlane, Setting, chain},
    topology::{Cable, Topology, ip},
};

/// Two nodes that enforce the policies of [`Self::world`].
pub struct Mesh {
    setting: Setting,
    /// Before the topology: planes leave before their namespaces go.
    planes: BTreeMap<Node, NodePlane>,
    snapshots: BTreeMap<Node, Snapshot>,
    offline: Offline,
    /// What is to be true once it is programmed. Pods count that have an interface.
    pub world: World,
    services: BTreeMap<u8, (Published, Vec<PodName>)>,
    pods: BTreeMap<PodName, Workload>,
    /// So that no interface's name is used twice.
    started: u8,
    pub topology: Arc<Topology>,
}

/// A pod's network.
struct Workload {
    node: Node,
    endpoint: Endpoint,
    /// Before the namespace.
    servers: talk::Servers,
    space: Arc<Owned>,
}

/// A place to ask from; outlives changes of the mesh.
#[derive(Clone, Debug)]
pub struct Client {
    space: Arc<Owned>,
    /// Its sockets are seen by this node's programs, not its packets only.
    group: Option<Node>,
    topology: Arc<Topology>,
}

impl Client {
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let joined = || {
            if let Some(node) = self.group {
                self.topology.group(node).join().expect("join the node's cgroup");
            }
            work()
        };
        self.space.run(joined).expect("enter namespace")
    }
}

impl Mesh {
    /// Without pods or policies.
    pub fn new(setting: Setting) -> Self {
        let topology = Arc::new(Topology::without_pods());
        let mut world = World::default();
        for node in Node::ALL {
            world.nodes.insert(node.name().into(), cluster::config(node).addresses);
        }
        if setting.direct_return {
            topology.add_tunnel();
        }
        let setting = Setting { policy: true, ..setting };
        let planes = Node::ALL.map(|node| (node, NodePlane::with(setting, &topology, node))).into();
        let mut mesh = Self {
            setting,
            planes,
            snapshots: BTreeMap::new(),
            offline: Offline::default(),
            world,
            services: BTreeMap::new(),
            pods: BTreeMap::new(),
            started: 0,
            topology,
        };
        mesh.program();
        mesh
    }

    /// Gives a pod a namespace and an address that ends in `last`; the world does not know it yet.
    pub fn attach(&mut self, name: &PodName, node: Node, last: u8) {
        self.started += 1;
        let number = self.started;
        let space = Owned::create(&format!("{}-p{number}", self.topology.name)).expect("create namespace");
        let mac = |first| MacAddress([first, 0, 10, 21, node as u8, number]);
        let addresses = address(node, last);
        let cable = Cable { interface: format!("w{number}"), mac: mac(2), host_mac: mac(6), addresses };
        cable.lay(self.topology.node(node), &space);
        let endpoint = Endpoint {
            pod: name.clone(),
            addresses: Family::ALL.map(|family| addresses.of(family)).into(),
            ifindex: self.topology.ifindex(node, &cable.interface),
            interface: cable.interface,
            mac: cable.mac,
            host_mac: cable.host_mac,
            netns: Some(space.path()),
            l7: L7Visibility::default(),
        };
        let servers = talk::Servers::default();
        let workload = Workload { node, endpoint, servers, space: Arc::new(space) };
        self.pods.insert(name.clone(), workload);
    }

    /// [`Self::attach`], and the world knows it by its labels.
    pub fn start(&mut self, name: &PodName, node: Node, last: u8, labels: &[(&str, &str)]) {
        self.attach(name, node, last);
        self.know(name, labels);
    }

    /// The world has an attached pod, with these labels.
    pub fn know(&mut self, name: &PodName, labels: &[(&str, &str)]) {
        let workload = &self.pods[name];
        let reading = PodReading {
            labels: labels.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect(),
            addresses: workload.endpoint.addresses.clone(),
            ports: ContainerPorts::default(),
            node: workload.node.name().into(),
            ..PodReading::default()
        };
        if !self.world.namespaces.contains_key(&name.namespace) {
            self.world.set_namespace(&name.namespace, BTreeMap::new());
        }
        self.world.pods.insert(name.clone(), reading);
    }

    /// The pod and its interface are gone; the nodes do not know yet.
    pub fn end(&mut self, name: &PodName) {
        let workload = self.pods.remove(name).expect("a pod");
        ip(self.topology.node(workload.node), &format!("link del {}\n", workload.endpoint.interface));
        self.world.pods.remove(name);
    }

    /// A pod answers at `ports` from now on.
    pub fn listen(&mut self, name: &PodName, ports: &[Listens]) {
        let Workload { servers, space, .. } = self.pods.get_mut(name).expect("a pod");
        space.run(|| ports.iter().for_each(|port| servers.listen(*port))).expect("enter namespace");
    }

    /// What reached a pod's servers.
    pub fn served(&self, name: &PodName) -> Served {
        self.pods[name].servers.served.clone()
    }

    /// A Service, from the next [`Self::program`] on.
    pub fn publish(&mut self, service: Published, backends: &[PodName]) {
        self.services.insert(service.number, (service, backends.to_vec()));
    }

    /// No Services, from the next [`Self::program`] on.
    pub fn withdraw(&mut self) {
        self.services.clear();
    }

    /// A NetworkPolicy, from the next [`Self::program`] on. `name`: namespace and name.
    ///
    /// # Panics
    /// `spec` is none.
    pub fn policy(&mut self, name: &PodName, spec: serde_json::Value) {
        let metadata = serde_json::json!({"namespace": name.namespace, "name": name.name});
        let object = serde_json::json!({"metadata": metadata, "spec": spec});
        self.world.set_network_policy(serde_json::from_value(object).expect("NetworkPolicy"), None);
    }

    /// Both nodes have what the world says when this returns.
    pub fn program(&mut self) {
        self.compile();
        for node in Node::ALL {
            self.program_at(node);
        }
    }

    /// Compiles what the world says; nobody is told.
    pub fn compile(&mut self) {
        self.offline.sync(&self.world);
    }

    /// `node` has what was compiled.
    pub fn program_at(&mut self, node: Node) {
        let next = self.snapshot(node);
        let before = self.snapshots.remove(&node);
        let changed = before.map_or_else(|| Changed::all(&next), |before| next.changed_since(&before));
        self.apply(node, &next, &changed);
        self.snapshots.insert(node, next);
    }

    fn apply(&mut self, node: Node, snapshot: &Snapshot, changed: &Changed) {
        let plane = &mut self.planes.get_mut(&node).expect("both nodes run a plane").plane;
        let applied =
            self.topology.node(node).run(|| plane.apply(snapshot, changed)).expect("enter namespace");
        let applied = applied.unwrap_or_else(|error| panic!("{}: {}", node.name(), chain(&error)));
        let failed: Vec<_> = applied.failed.values().map(chain).collect();
        assert_eq!(failed, [""; 0], "{}", node.name());
    }

    fn snapshot(&self, node: Node) -> Snapshot {
        let peer = cluster::peer(node.other());
        let mut snapshot = Snapshot {
            node: cluster::config(node),
            services: self.service_ports(node).map(|port| (port.id.clone(), Arc::new(port))).collect(),
            peers: [(peer.name.clone(), Arc::new(peer))].into(),
            addresses: self.addresses(node),
            policy: self.table(node),
            ..Snapshot::default()
        };
        snapshot.node.tunnel = self.setting.direct_return.then(|| self.topology.tunnel(node));
        let own = self.present().filter(|(_, workload)| workload.node == node);
        snapshot.endpoints =
            own.map(|(name, workload)| (name.clone(), Arc::new(workload.endpoint.clone()))).collect();
        snapshot
    }

    /// Pods that the world and the topology have.
    fn present(&self) -> impl Iterator<Item = (&PodName, &Workload)> {
        self.pods.iter().filter(|(name, _)| self.world.pods.contains_key(name))
    }

    fn service_ports(&self, node: Node) -> impl Iterator<Item = ServicePort> {
        self.services.values().flat_map(move |(service, backends)| {
            Family::ALL.map(|family| {
                let backend = |name| {
                    let workload = self.pods.get(name)?;
                    Some((address_of(&workload.endpoint, family), workload.node == node))
                };
                let backends: Vec<_> = backends.iter().filter_map(backend).collect();
                service.service_port(family, &backends)
            })
        })
    }

    /// As an agent tells them: nobody of the cluster's prefixes is the world.
    fn addresses(&self, node: Node) -> BTreeMap<IpNet, model::IdentityId> {
        let of = |node, who: Reserved| {
            cluster::config(node).addresses.into_iter().map(move |ip| (IpNet::from(ip), who.id()))
        };
        let everything =
            ["0.0.0.0/0", "::/0"].map(|net| (net.parse().expect("prefix"), Reserved::World.id()));
        let unmanaged = Family::ALL.map(|family| (places::cluster_cidr(family), Reserved::Unmanaged.id()));
        let pods = self.offline.identities().iter().flat_map(|(name, identity)| {
            let addresses = self.world.pods.get(name).into_iter().flat_map(|pod| &pod.addresses);
            addresses.map(|ip| (IpNet::from(*ip), *identity))
        });
        let nodes = of(node, Reserved::Host).chain(of(node.other(), Reserved::RemoteNode));
        everything.into_iter().chain(unmanaged).chain(nodes).chain(pods).collect()
    }

    /// Endpoints are the node's own.
    fn table(&self, node: Node) -> PolicyTable {
        let own: BTreeSet<&PodName> =
            self.present().filter(|(_, workload)| workload.node == node).map(|(name, _)| name).collect();
        let mut table = self.offline.table().clone();
        table.endpoints.retain(|name, _| own.contains(name));
        table
    }

    /// What the policies say, which is the same by the oracle and by the compiled table.
    ///
    /// # Panics
    /// They differ, or cannot say.
    pub fn allows(&self, from: &PodName, to: &PodName, family: Family, l4: L4) -> bool {
        let party = |name| self.world.pod_party(name, family).expect("a pod");
        self.says(&Connection { source: party(from), destination: party(to), l4 })
    }

    fn says(&self, connection: &Connection) -> bool {
        let judged = oracle::judge(&self.world, connection).expect("decidable").verdict();
        assert_eq!(self.offline.verdict(connection), judged, "the table, of {connection:?}");
        judged == Verdict::Allow
    }

    /// A pod's address.
    pub fn address(&self, name: &PodName, family: Family) -> IpAddr {
        address_of(&self.pods[name].endpoint, family)
    }

    /// A port of a pod.
    pub fn at(&self, name: &PodName, family: Family, port: u16) -> SocketAddr {
        SocketAddr::new(self.address(name, family), port)
    }

    /// Asks from a pod; by its socket as a process of its node, else the node's programs see packets only.
    pub fn client(&self, name: &PodName, by_socket: bool) -> Client {
        let Workload { node, space, .. } = &self.pods[name];
        let (space, topology) = (Arc::clone(space), Arc::clone(&self.topology));
        Client { space, group: by_socket.then_some(*node), topology }
    }

    /// Runs `work` outside, or as a process of a node.
    pub fn elsewhere<T: Send>(&self, place: Place, work: impl FnOnce() -> T + Send) -> T {
        self.topology.place(place).run(work).expect("enter namespace")
    }

    /// A connection from a pod, kept open.
    ///
    /// # Panics
    /// It does not come about.
    pub fn connect(&self, from: &PodName, to: SocketAddr) -> TcpStream {
        let connect = || TcpStream::connect_timeout(&to, Duration::from_secs(10)).expect("connect");
        self.client(from, false).run(connect)
    }

    /// As when agents are replaced: without clean-up, and not knowing what was programmed. `meanwhile` runs while there is none;
    /// what it changes of the mesh is programmed by those that come.
    pub fn restart(&mut self, meanwhile: impl FnOnce(&mut Self)) {
        let planes = std::mem::take(&mut self.planes).into_iter();
        let pins: Vec<_> = planes.map(|(node, plane)| (node, plane.stop())).collect();
        meanwhile(self);
        self.compile();
        for (node, pins) in pins {
            self.planes.insert(node, NodePlane::start(self.setting, &self.topology, node, pins));
            self.snapshots.remove(&node);
            self.program_at(node);
        }
    }

    /// What a node's plane says.
    pub fn on_plane<T>(&self, node: Node, ask: impl FnOnce(&dyn dataplane::Dataplane) -> T) -> T {
        ask(self.planes[&node].plane.as_ref())
    }
}

impl std::fmt::Debug for Mesh {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} in {}", self.setting.plane, self.topology.name)
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for (node, plane) in &self.planes {
                let counters =
                    plane.plane.status().counters.into_iter().filter(|counter| counter.packets > 0);
                counters.for_each(|counter| println!("{} {} {}", node.name(), counter.name, counter.packets));
            }
        }
        for (node, NodePlane { plane, .. }) in &mut self.planes {
            let cleaned = self.topology.node(*node).run(|| plane.clean_up());
            if let Ok(Err(error)) = cleaned {
                eprintln!("{}: {}", node.name(), chain(&error));
            }
        }
    }
}

/// Of a node's pod ranges.
const fn address(node: Node, last: u8) -> Pair {
    Pair::new([10, 20, node as u8, last], [0xfd00, 0x20, 0, node as u16, 0, 0, 0, last as u16])
}

fn address_of(endpoint: &Endpoint, family: Family) -> IpAddr {
    let mut addresses = endpoint.addresses.iter().copied();
    addresses.find(|address| Family::of(*address) == family).expect("an address of each family")
}
