//! [`EbpfDataplane`]: opens the plane, and drives tables and links by what changed.

mod config;
mod identity;
mod inspect;
mod node;
mod policy;

pub use self::config::{Config, LoadBalancer};

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    ops::RangeInclusive,
};

use aya::Ebpf;
use dataplane::{
    Applied, Connection, Counter, Dataplane, Enforced, Error, Feature, Key, MapFill, PlaneStatus, ServiceRow,
};
use model::{Changed, Endpoint, Family, IdentityId, Plane, PodName, PolicyTable, ServicePortId, Snapshot};

use crate::{
    bpffs::Pins,
    events::Telling,
    links::{self, Device, Links},
    objects::{self, Object, Summed},
    policies::Policies,
    ports, report,
    rows::Options,
    sock::Sockets,
    sys,
    tables::Tables,
    xdp::{self, Acceleration, Accelerator},
};

/// The plane of the network namespace that it was opened in. To be used from threads in that namespace only.
///
/// Dropping it leaves the datapath running; [`Dataplane::clean_up`] takes it down.
pub struct EbpfDataplane {
    pins: Pins,
    pod: Ebpf,
    uplink: Ebpf,
    accelerator: Option<Accelerator>,
    links: Links,
    sockets: Sockets,
    tables: Tables,
    policies: Policies,
    /// They are enforced.
    policy: bool,
    summed: Summed,
    sizes: Vec<(&'static str, u32)>,
    uplinks: BTreeSet<Device>,
    /// The tunnel that the programs are on.
    tunnel: Option<Device>,
    /// What masquerading may use where no tunnel needs one of them.
    masquerade_ports: RangeInclusive<u16>,
    hz: u32,
    telling: Telling,
    options: Options,
    /// The devices and addresses of the local pods that are programmed.
    endpoints: BTreeMap<PodName, (Device, Vec<IpAddr>)>,
    /// Rows of a former agent were compared with a first snapshot.
    adopted: bool,
}

impl std::fmt::Debug for EbpfDataplane {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EbpfDataplane")
            .field("pins", &self.pins)
            .field("uplinks", &self.uplinks)
            .finish_non_exhaustive()
    }
}

impl EbpfDataplane {
    /// Loads the programs, takes over or makes the maps, and attaches to the uplinks of the calling thread's namespace.
    ///
    /// # Errors
    /// No root, no BPF, a verifier's refusal, an uplink that is not there: each says so.
    pub fn open(config: Config) -> Result<Self, Error> {
        sys::raise_memory_limit();
        let pins = Pins::prepare(&config.bpffs)?;
        let maps = pins.maps();
        let sizes = config.sizes.by_map(config.conntrack_entries, &config.families);
        for map in objects::discard_resized(&maps, &sizes) {
            tracing::warn!(map, "table has another size: what it held is forgotten");
        }
        let summed = Summed::find(config.checksums);
        let mut pod = objects::load(Object::Pod, &maps, &sizes, summed)?;
        let uplink = objects::load(Object::Uplink, &maps, &sizes, summed)?;
        let accelerator = match config.acceleration {
            Acceleration::Off => None,
            choice => {
                let by_redirect = config.uplinks.iter().any(|name| xdp::is_veth(name));
                let object = objects::load(Object::Xdp { by_redirect }, &maps, &sizes, summed)?;
                Some(Accelerator::new(object, choice, pins.links()))
            }
        };
        let hz = objects::measure_hz(&mut pod)?;
        let tables = Tables::open(&maps)?;
        let policies = Policies::open(&maps)?;
        let links = Links::new(pins.links(), config.attach);
        let sockets = Sockets::open(config.cgroup.as_deref(), config.refusals, &maps, &pins.links())?;
        let mut this = Self {
            pins,
            pod,
            uplink,
            accelerator,
            links,
            sockets,
            tables,
            policies,
            policy: config.policy,
            summed,
            sizes,
            uplinks: BTreeSet::new(),
            tunnel: None,
            masquerade_ports: config.masquerade_ports.unwrap_or_else(ports::masquerade_range),
            hz,
            telling: config.events,
            options: Options {
                table_size: config.table_size,
                direct_return: config.load_balancer == LoadBalancer::DirectReturn,
            },
            endpoints: BTreeMap::new(),
            adopted: false,
        };
        this.configure()?;
        for name in config.uplinks {
            let index =
                links::index(&name).ok_or_else(|| Error::new("find uplink", &name, "no such device"))?;
            let device = Device { name, index };
            this.attach_uplink(&device)?;
            this.uplinks.insert(device);
        }
        Ok(this)
    }

    fn attach_uplink(&mut self, device: &Device) -> Result<(), Error> {
        self.links.attach(&mut self.uplink, &links::UPLINK, device)?;
        match &mut self.accelerator {
            Some(accelerator) => accelerator.attach(device),
            None => xdp::detach(&self.pins.links(), device)
                .map_err(|source| Error::new("detach xdp program from", &device.name, source)),
        }
    }

    fn apply_service(&mut self, id: &ServicePortId, snapshot: &Snapshot) -> Result<(), Error> {
        let (v4, v6, prefilter) = self.tables.parts();
        let mut set_bits = |bits: &[u32]| prefilter.set(bits);
        match id.family {
            Family::V4 => v4.apply_service(id, snapshot, &self.options, &mut set_bits),
            Family::V6 => v6.apply_service(id, snapshot, &self.options, &mut set_bits),
        }
    }

    /// Programs first, rows second: once a row is there, packets are delivered past the stack.
    fn apply_endpoint(&mut self, name: &PodName, endpoint: Option<&Endpoint>) -> Result<(), Error> {
        let Some(endpoint) = endpoint else {
            return self.remove_endpoint(name);
        };
        let device = Device { name: endpoint.interface.clone(), index: endpoint.ifindex };
        if self.endpoints.get(name).is_some_and(|(old, _)| *old != device) {
            self.remove_endpoint(name)?;
        }
        self.links.attach(&mut self.pod, &links::POD, &device)?;
        let (v4, v6, prefilter) = self.tables.parts();
        let mut set_bits = |bits: &[u32]| prefilter.set(bits);
        v4.put_endpoint(endpoint, &mut set_bits)
            .and_then(|()| v6.put_endpoint(endpoint, &mut set_bits))
            .map_err(|source| Error::new("program endpoint", name.to_string(), source))?;
        self.endpoints.insert(name.clone(), (device, endpoint.addresses.clone()));
        self.drop_stale_addresses(name)
    }

    fn remove_endpoint(&mut self, name: &PodName) -> Result<(), Error> {
        let Some((device, _)) = self.endpoints.remove(name) else { return Ok(()) };
        self.drop_stale_addresses(name)?;
        self.links.detach(&device).map_err(|source| Error::new("detach programs from", device.name, source))
    }

    fn drop_stale_addresses(&mut self, name: &PodName) -> Result<(), Error> {
        if !self.adopted {
            // Rows of a former agent are dropped together, when all pods are known.
            return Ok(());
        }
        let keep: BTreeSet<IpAddr> =
            self.endpoints.values().flat_map(|(_, addresses)| addresses).copied().collect();
        let result =
            self.tables.v4.retain_endpoints(&keep).and_then(|()| self.tables.v6.retain_endpoints(&keep));
        result.map_err(|source| Error::new("remove endpoint", name.to_string(), source))
    }

    /// Removes what a former agent left and this snapshot does not explain.
    fn adopt(&mut self) -> Result<(), Error> {
        self.adopted = true;
        let stale = self.tables.v4.prune()? + self.tables.v6.prune()?;
        if stale > 0 {
            tracing::info!(stale, "removed rows of services that are gone");
        }
        let any = PodName { namespace: String::new(), name: "of a former agent".into() };
        self.drop_stale_addresses(&any)?;
        let keep = self.devices().cloned().collect();
        self.links.retain(&keep).map_err(|source| Error::new("remove stale", "links", source))?;
        let versions = self.pins.remove_other_versions();
        let versions = versions.map_err(|source| Error::new("remove maps of", "another version", source))?;
        if !versions.is_empty() {
            tracing::info!(?versions, "took over from an agent of another version: its flows are forgotten");
        }
        Ok(())
    }

    /// Every service that `changed` asks for, given that a changed node changes all of them.
    fn services_to_program(&self, snapshot: &Snapshot, changed: &Changed) -> BTreeSet<ServicePortId> {
        let mut services = changed.services.clone();
        if changed.node {
            services.extend(snapshot.services.keys().cloned());
            services.extend(self.tables.v4.owned().keys().cloned());
            services.extend(self.tables.v6.owned().keys().cloned());
        }
        services
    }

    /// What the programs counted so far: [`PlaneStatus::counters`] without the rest of the status.
    ///
    /// # Errors
    /// The map cannot be read.
    pub fn counters(&self) -> Result<Vec<Counter>, Error> {
        self.tables.counters()
    }
}

impl Dataplane for EbpfDataplane {
    fn plane(&self) -> Plane {
        Plane::Ebpf
    }

    fn apply(&mut self, snapshot: &Snapshot, changed: &Changed) -> Result<Applied, Error> {
        let mut applied = Applied::default();
        if changed.is_empty() && self.adopted {
            return Ok(applied);
        }
        let mut note = |key, result: Result<(), Error>| {
            if let Err(error) = result {
                applied.failed.insert(key, error);
            }
        };
        if changed.node {
            let result = self.tables.v4.apply_node(&snapshot.node);
            let result = result.and_then(|()| self.tables.v6.apply_node(&snapshot.node));
            note(Key::Node, result.and_then(|()| self.apply_tunnel(snapshot.node.tunnel.as_ref())));
        }
        for name in &changed.endpoints {
            let endpoint = snapshot.endpoints.get(name).map(|endpoint| &**endpoint);
            note(Key::Endpoint(name.clone()), self.apply_endpoint(name, endpoint));
        }
        for (key, error) in self.apply_addresses(snapshot, &changed.addresses) {
            note(key, Err(error));
        }
        if self.adopted && changed.is_addresses_only() {
            if self.is_enforcing()? {
                // Whom a flow is with may be somebody else to a policy.
                self.advance(snapshot)?;
            }
            return Ok(applied);
        }
        for (key, error) in self.apply_policy(snapshot, &changed.policy) {
            note(key, Err(error));
        }
        let services = self.services_to_program(snapshot, changed);
        let lost = self.sockets.note(snapshot, &services);
        for id in &services {
            let result = self.apply_service(id, snapshot);
            note(Key::Service(id.clone()), result);
        }
        self.advance(snapshot)?;
        self.sockets.close_lost(snapshot, lost);
        if !self.adopted {
            self.adopt()?;
        }
        Ok(applied)
    }

    fn repair(&mut self, snapshot: &Snapshot) -> Result<Vec<String>, Error> {
        let mut repaired = self.tables.v4.refresh()?;
        repaired.extend(self.tables.v6.refresh()?);
        repaired.extend(self.policies.refresh()?);
        // What differs is written, what nobody owns is removed: the same work as after a start.
        self.adopted = false;
        let applied = self.apply(snapshot, &Changed::all(snapshot))?;
        let words = self.tables.rebuild_prefilter()?;
        if words > 0 {
            tracing::debug!(words, "prefilter rebuilt");
        }
        for device in self.uplinks.clone() {
            self.attach_uplink(&device)?;
        }
        self.sockets.repair()?;
        for (key, error) in applied.failed {
            tracing::warn!(?key, %error, "not repaired");
        }
        Ok(repaired)
    }

    fn services(&self) -> Result<Vec<ServiceRow>, Error> {
        let mut rows = report::service_rows(&self.tables.v4)?;
        rows.extend(report::service_rows(&self.tables.v6)?);
        rows.sort();
        Ok(rows)
    }

    fn connections(&self, limit: usize) -> Result<Vec<Connection>, Error> {
        let now = self.now()?;
        let mut rows = report::connections(&self.tables.v4, now, self.hz, limit)?;
        let left = limit - rows.len();
        rows.extend(report::connections(&self.tables.v6, now, self.hz, left)?);
        Ok(rows)
    }

    fn status(&self) -> PlaneStatus {
        let clock = Feature {
            name: "clock".into(),
            available: true,
            detail: format!("{} jiffies per second", self.hz),
        };
        PlaneStatus {
            plane: Plane::Ebpf,
            features: vec![
                self.links.feature(),
                self.sockets.feature(),
                self.summed.feature(),
                self.accelerator.as_ref().map_or_else(xdp::off, Accelerator::feature),
                clock,
            ],
            maps: self.maps(),
            counters: self.tables.counters().unwrap_or_default(),
            unseen: vec![],
        }
    }

    fn identity_of(&self, address: IpAddr) -> Result<Option<IdentityId>, Error> {
        self.kernel_identity(address)
    }

    fn enforced(&self, endpoint: &PodName, wanted: &PolicyTable) -> Result<Option<Enforced>, Error> {
        self.kernel_policy(endpoint, wanted)
    }

    fn maps(&self) -> Vec<MapFill> {
        let mut maps = self.tables.fill(self.now().unwrap_or_default());
        maps.extend(self.policies.fill());
        maps
    }

    fn clean_up(&mut self) -> Result<(), Error> {
        let mut errors: Vec<String> = vec![];
        for device in self.devices() {
            if let Err(error) = self.links.detach(device) {
                errors.push(format!("detach from {}: {error}", device.name));
            }
        }
        if let Err(error) = self.links.retain(&BTreeSet::new()) {
            errors.push(format!("remove links: {error}"));
        }
        if let Err(error) = self.sockets.clean_up() {
            errors.push(format!("remove socket links: {error}"));
        }
        errors.extend(self.pins.remove().iter().map(|error| format!("remove pins: {error}")));
        self.endpoints.clear();
        self.uplinks.clear();
        self.tunnel = None;
        if errors.is_empty() {
            Ok(())
        } else {
            Err(Error::new("clean up", "ebpf dataplane", errors.join("; ")))
        }
    }
}
