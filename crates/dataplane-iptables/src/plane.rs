//! [`IptablesDataplane`]: both families behind the [`Dataplane`] trait.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use dataplane::{
    Applied, Connection, Dataplane, Enforced, Error, Key, MapFill, PlaneStatus, RuleTraffic, ServiceRow,
};
use model::{
    Changed, Family, IdentityId, Masquerade, NodeConfig, Plane, PodName, PolicyTable, ServicePortId,
    Snapshot, oracle::Packet, policy::RuleId,
};

use crate::{
    enforcement::{self, Enforcement},
    family::FamilyRules,
    features::{self, Probed},
    flows::UdpFlows,
    kernel::{Programs, Refusal, Rules as _, account, conntrack, sysctl, version},
    names::{ServiceChains, endpoint_chain},
    render::{
        self, INVALID_DROPPED, LOCALHOST_ACCEPTED, Options, Refused, Renderer, ServiceRules, reachable,
    },
    rows, status,
    told::{self, Telling, TellingConfig},
    walk::{self, Journey, Step, Walk},
};

/// Settings of the plane; the defaults are kube-proxy's.
#[derive(Clone, Debug)]
pub struct Config {
    /// Masquerade everything that goes to a cluster IP.
    pub masquerade_all: bool,
    /// Node ports answer on 127.0.0.1.
    pub localhost_node_ports: bool,
    /// Flows are told of, and rules log what they stop; `None`: no rule differs from kube-proxy's.
    pub telling: Option<TellingConfig>,
    /// Network policies are enforced.
    pub policy: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self { masquerade_all: false, localhost_node_ports: true, telling: None, policy: false }
    }
}

/// Keeps the iptables rules of the calling thread's network namespace in step with snapshots.
///
/// Every call acts on the namespace of the thread that makes it: keep to one.
#[derive(Debug)]
pub struct IptablesDataplane {
    config: Config,
    probed: Probed,
    families: BTreeMap<Family, FamilyRules<Programs>>,
    /// Of the snapshot programmed last.
    node: NodeConfig,
    udp_flows: UdpFlows,
    policies: Enforcement,
    /// `route_localnet` was off before this turned it on.
    set_route_localnet: bool,
}

impl IptablesDataplane {
    /// Looks at what iptables and the kernel can do. Writes no rules yet.
    ///
    /// # Errors
    /// There is no iptables, or this process may not use it; flows are wanted, and there is no NFLOG; policies are, and there is no
    /// ipset.
    pub fn open(config: Config) -> Result<Self, Error> {
        let probed = features::probe().map_err(|error| Error::new("use", "iptables", error))?;
        if let Some(telling) = config.telling {
            features::probe_log(telling.group).map_err(|error| Error::new("use", "NFLOG", error))?;
        }
        if config.policy {
            enforcement::probe()?;
        }
        Ok(Self {
            config,
            probed,
            families: BTreeMap::new(),
            node: NodeConfig::default(),
            udp_flows: UdpFlows::default(),
            policies: Enforcement::default(),
            set_route_localnet: false,
        })
    }

    /// What is told of flows; `None` where that is not wanted. There can be one reader at a time.
    ///
    /// # Errors
    /// The kernel does not tell, or another program has the group.
    pub fn telling(&self) -> Result<Option<Telling>, Error> {
        let open = |config| Telling::open(config, self.policies.names().clone());
        self.config.telling.map(open).transpose()
    }

    /// The rules of one service port as they were rendered.
    ///
    /// # Errors
    /// No rules can express it.
    pub fn rendered(&self, id: &ServicePortId) -> Option<Result<ServiceRules, Refused>> {
        let family = self.families.get(&id.family)?;
        let service = family.service(id)?;
        let renderer = Renderer {
            node: &self.node,
            family: id.family,
            options: family.options(),
            comments: family.comments(),
            host_ports: id.is_host_port(),
        };
        Some(renderer.service(service))
    }

    /// The rules of one service port as the kernel has them now, with their counters.
    ///
    /// # Errors
    /// The rules cannot be read.
    pub fn rules_of(&self, id: &ServicePortId) -> Result<Vec<Step>, Error> {
        let Some(family) = self.families.get(&id.family) else { return Ok(vec![]) };
        let saved = family.kernel().save(None).map_err(|error| cannot("read", id.family, error))?;
        let chains = ServiceChains::of(id);
        let endpoints = family.service(id).map(|service| reachable(service)).unwrap_or_default();
        let mut own = vec![chains.svc, chains.svl, chains.ext, chains.fw, chains.hp];
        own.extend(endpoints.into_iter().map(|endpoint| endpoint_chain(id, endpoint)));
        Ok(walk::rules_of(&saved, &id.to_string(), &own))
    }

    /// The rules that the first packet of a flow is compared with in the kernel now, when chance sends it to `endpoint`.
    ///
    /// # Errors
    /// The rules cannot be read.
    pub fn walk(&self, packet: Packet, endpoint: SocketAddr) -> Result<Walk, Error> {
        let family = Family::of(packet.destination.ip());
        let saved = Programs::new(family).save(None).map_err(|error| cannot("read", family, error))?;
        let local = self.node.addresses.iter().copied().collect::<BTreeSet<_>>();
        Ok(walk::walk(&saved, &Journey { packet, endpoint, remembered: None, local }))
    }

    fn options(&self) -> Options {
        Options {
            masquerade_all: self.config.masquerade_all,
            localhost_node_ports: self.config.localhost_node_ports,
            accounting: self.probed.accounting,
            random_fully: self.probed.random_fully,
            liberal: sysctl::read(sysctl::TCP_BE_LIBERAL).is_ok_and(|value| value != 0),
            log: self.config.telling.map(|telling| telling.group),
        }
    }

    /// Makes ready what rules need: counters, settings, the families that the node has.
    fn prepare(&mut self, node: &NodeConfig) {
        if self.node != *node {
            self.node.clone_from(node);
        }
        let options = self.options();
        for family in Family::ALL {
            if !self.families.contains_key(&family) && node.addresses.iter().any(|a| Family::of(*a) == family)
            {
                self.families.insert(family, FamilyRules::new(family, Programs::new(family), options));
                if family == Family::V4 && self.config.localhost_node_ports {
                    self.enable_route_localnet();
                }
            }
        }
        if self.probed.accounting {
            for name in [INVALID_DROPPED, LOCALHOST_ACCEPTED] {
                if let Err(error) = account::ensure(name) {
                    tracing::warn!(%error, name, "cannot make the packet counter");
                }
            }
        }
    }

    fn forget_stale_flows(&mut self, snapshot: &Snapshot, changed: &Changed) {
        let families: Vec<_> = self.families.keys().copied().collect();
        self.udp_flows.forget(&families, snapshot, changed);
    }

    fn enforce(&mut self, snapshot: &Snapshot, changed: &Changed) -> BTreeMap<Key, Error> {
        if !self.config.policy {
            self.policies.leave();
            return BTreeMap::new();
        }
        let families = self.families.keys().copied();
        self.policies.apply(families, self.config.telling.map(|telling| telling.group), snapshot, changed)
    }

    fn repair_policies(&mut self, snapshot: &Snapshot) -> Result<Vec<String>, Error> {
        if self.config.policy { self.policies.repair(snapshot) } else { Ok(vec![]) }
    }

    /// Packets and bytes that each rule of a policy has decided about: those that opened flows, or were denied.
    ///
    /// # Errors
    /// The rules cannot be read.
    pub fn rule_counts(&self) -> Result<BTreeMap<RuleId, RuleTraffic>, Error> {
        self.policies.counts()
    }

    fn enable_route_localnet(&mut self) {
        if sysctl::read(sysctl::ROUTE_LOCALNET).is_ok_and(|value| value == 0) {
            match sysctl::write(sysctl::ROUTE_LOCALNET, 1) {
                Ok(()) => self.set_route_localnet = true,
                Err(error) => {
                    tracing::warn!(%error, "cannot set route_localnet: node ports will not answer on 127.0.0.1");
                }
            }
        }
    }
}

impl Dataplane for IptablesDataplane {
    fn plane(&self) -> Plane {
        Plane::Iptables
    }

    fn apply(&mut self, snapshot: &Snapshot, changed: &Changed) -> Result<Applied, Error> {
        self.prepare(&snapshot.node);
        // Who may talk to whom before where there is somebody.
        let mut applied = Applied { failed: self.enforce(snapshot, changed), ..Applied::default() };
        for id in changed.services.iter().filter(|id| snapshot.services.contains_key(*id)) {
            if !self.families.contains_key(&id.family) {
                let error =
                    Error::new("program service", id.to_string(), "the node has no address of its family");
                applied.failed.insert(Key::Service(id.clone()), error);
            }
        }
        let mut refusals = Vec::new();
        for (family, rules) in &mut self.families {
            match rules.apply(snapshot, changed) {
                Ok(failed) => applied.failed.extend(failed.into_iter().map(|(id, error)| {
                    let error = Error::new("program service", id.to_string(), error);
                    (Key::Service(id), error)
                })),
                Err(error) => {
                    applied.refused.insert(*family);
                    refusals.push(cannot("write", *family, error));
                }
            }
        }
        self.forget_stale_flows(snapshot, changed);
        let all_refused = refusals.len() == self.families.len();
        match refusals.pop() {
            Some(error) if all_refused => Err(error),
            Some(error) => {
                applied.failed.insert(Key::Node, error);
                Ok(applied)
            }
            None => Ok(applied),
        }
    }

    fn repair(&mut self, snapshot: &Snapshot) -> Result<Vec<String>, Error> {
        self.prepare(&snapshot.node);
        self.forget_stale_flows(snapshot, &Changed::default());
        let mut repaired = self.repair_policies(snapshot)?;
        for (family, rules) in &mut self.families {
            let (_, differences) =
                rules.converge(snapshot).map_err(|error| cannot("repair", *family, error))?;
            repaired.extend(differences);
        }
        if self.config.localhost_node_ports
            && self.families.contains_key(&Family::V4)
            && sysctl::read(sysctl::ROUTE_LOCALNET).is_ok_and(|value| value == 0)
        {
            self.enable_route_localnet();
            repaired.push("set route_localnet".to_owned());
        }
        Ok(repaired)
    }

    fn services(&self) -> Result<Vec<ServiceRow>, Error> {
        let mut all = Vec::new();
        for (family, rules) in &self.families {
            let saved = rules.kernel().save(None).map_err(|error| cannot("read", *family, error))?;
            let service = |id: &ServicePortId| rules.service(id).map(|service| &**service);
            let known = rows::Known { family: *family, node: &self.node, service: &service };
            all.extend(rows::services(&saved, &known));
        }
        all.sort();
        Ok(all)
    }

    fn connections(&self, limit: usize) -> Result<Vec<Connection>, Error> {
        let mut all = Vec::new();
        for family in self.families.keys() {
            let entries = conntrack::entries(*family, limit - all.len(), |_| true)
                .map_err(|error| Error::new("read", "the connection table", error))?;
            all.extend(entries.iter().take(limit - all.len()).map(connection));
        }
        Ok(all)
    }

    fn status(&self) -> PlaneStatus {
        let unseen = told::unseen(self.config.telling.is_some());
        let known =
            status::Known { probed: &self.probed, udp_flows: &self.udp_flows, policies: &self.policies };
        status::of(self.families.values(), &known, self.maps(), unseen)
    }

    fn identity_of(&self, address: IpAddr) -> Result<Option<IdentityId>, Error> {
        if self.config.policy { self.policies.identity_of(address) } else { Ok(None) }
    }

    fn enforced(&self, endpoint: &PodName, wanted: &PolicyTable) -> Result<Option<Enforced>, Error> {
        self.config.policy.then(|| self.policies.enforced(endpoint, wanted)).transpose()
    }

    fn maps(&self) -> Vec<MapFill> {
        let mut maps = vec![status::connection_table()];
        maps.extend(self.policies.fill());
        maps
    }

    fn clean_up(&mut self) -> Result<(), Error> {
        let mut problems = self.policies.clean_up();
        for family in Family::ALL {
            // Without the family's programs nothing can have been put there.
            if !self.families.contains_key(&family) && version(family).is_err() {
                continue;
            }
            let rules = self
                .families
                .entry(family)
                .or_insert_with(|| FamilyRules::new(family, Programs::new(family), Options::default()));
            if let Err(error) = rules.clean_up() {
                problems.push(error.to_string());
            }
        }
        self.families.clear();
        if self.probed.accounting {
            for name in [INVALID_DROPPED, LOCALHOST_ACCEPTED] {
                problems.extend(account::remove(name).err().map(|error| format!("counter {name}: {error}")));
            }
        }
        if std::mem::take(&mut self.set_route_localnet) {
            problems.extend(
                sysctl::write(sysctl::ROUTE_LOCALNET, 0).err().map(|e| format!("route_localnet: {e}")),
            );
        }
        if problems.is_empty() {
            return Ok(());
        }
        Err(Error::new("remove", "iptables rules", problems.join("; ")))
    }
}

pub(crate) fn cannot(operation: &'static str, family: Family, error: Refusal) -> Error {
    let object = match family {
        Family::V4 => "IPv4 rules",
        Family::V6 => "IPv6 rules",
    };
    Error::new(operation, object, error)
}

fn connection(entry: &conntrack::Entry) -> Connection {
    let source_seen = entry.reply.destination;
    Connection {
        protocol: entry.protocol,
        source: entry.original.source,
        destination: entry.original.destination,
        backend: entry.reply.source,
        source_seen,
        masquerade: if source_seen == entry.original.source { Masquerade::No } else { Masquerade::Yes },
        state: entry.tcp_state.unwrap_or("-").to_owned(),
        expires_seconds: entry.timeout_seconds,
        packets: entry.packets,
        bytes: entry.bytes,
    }
}

/// The rules of a snapshot in one family with default options, as text for `iptables-restore --noflush`.
pub fn rendered_text(snapshot: &Snapshot, family: Family) -> String {
    render::render(snapshot, family, Options::default()).0.to_string()
}
