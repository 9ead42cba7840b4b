//! An in-memory plane for tests. Its [`Kernel`] refuses what a real one refuses: a frontend that names a
//! backend which is not there, the removal of a backend in use, an entry beyond the capacity.
//!
//! So code that only works on a forgiving fake fails here.

mod kernel;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use model::{
    Backend, Changed, FrontendAddress, IdentityId, NodeConfig, Plane, Protocol, ServicePort, Snapshot,
    Target, oracle::Origin,
};

pub use kernel::{FrontendKey, Kernel, Refusal, Slot};

use crate::{
    Applied, BackendRow, BackendState, Connection, Dataplane, Error, Key, MapFill, PlaneStatus, ServiceRow,
};

/// A plane whose kernel the test can look into and tamper with. Clones share one kernel.
#[derive(Clone, Debug, Default)]
pub struct Fake {
    kernel: Arc<Mutex<Kernel>>,
}

impl Fake {
    /// A fake with room for so many frontends and so many backends.
    pub fn with_capacity(frontends: usize, backends: usize) -> Self {
        let fake = Self::default();
        fake.kernel().frontend_capacity = frontends;
        fake.kernel().backend_capacity = backends;
        fake
    }

    /// The kernel, locked for as long as the guard lives.
    ///
    /// A test that panicked with the guard in hand leaves the kernel as it was.
    pub fn kernel(&self) -> MutexGuard<'_, Kernel> {
        self.kernel.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Dataplane for Fake {
    fn plane(&self) -> Plane {
        Plane::Ebpf
    }

    fn apply(&mut self, snapshot: &Snapshot, changed: &Changed) -> Result<Applied, Error> {
        let mut kernel = self.kernel();
        kernel.applies += 1;
        if let Some(message) = &kernel.broken {
            return Err(Error::new("program", "everything", message.clone()));
        }
        let mut applied = Applied::default();
        if let Some(family) = kernel.broken_family {
            applied.refused.insert(family);
            applied.failed.insert(Key::Node, Error::new("program", format!("{family:?}"), "it is broken"));
        }
        let broken_family = kernel.broken_family;
        for id in changed.services.iter().filter(|id| Some(id.family) != broken_family) {
            let key = Key::Service(id.clone());
            let wanted = snapshot.services.get(id).map(|port| slots(port)).unwrap_or_default();
            let done = kernel.check(&key).and_then(|()| program(&mut kernel, id, wanted));
            note(&mut applied, key, done);
        }
        for pod in &changed.endpoints {
            let key = Key::Endpoint(pod.clone());
            let done = kernel.check(&key);
            match snapshot.endpoints.get(pod).filter(|_| done.is_ok()) {
                Some(endpoint) => _ = kernel.endpoints.insert(pod.clone(), Arc::clone(endpoint)),
                None => _ = kernel.endpoints.remove(pod),
            }
            note(&mut applied, key, done);
        }
        for name in &changed.peers {
            let key = Key::Peer(name.clone());
            let done = kernel.check(&key);
            note(&mut applied, key, done);
        }
        if !changed.addresses.is_empty() && changed.addresses.len() == snapshot.addresses.len() {
            // As after a start: what a former agent left goes.
            kernel.addresses.retain(|prefix, _| snapshot.addresses.contains_key(prefix));
        }
        for prefix in &changed.addresses {
            let key = Key::Address(*prefix);
            let done = kernel.check(&key);
            match snapshot.addresses.get(prefix).filter(|_| done.is_ok()) {
                Some(identity) => _ = kernel.addresses.insert(*prefix, *identity),
                None => _ = kernel.addresses.remove(prefix),
            }
            note(&mut applied, key, done);
        }
        if changed.node {
            kernel.node = snapshot.node.clone();
        }
        Ok(applied)
    }

    fn repair(&mut self, snapshot: &Snapshot) -> Result<Vec<String>, Error> {
        let mut kernel = self.kernel();
        kernel.repairs += 1;
        let mut repaired = vec![];
        let mut owned: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
        for (key, slot) in &kernel.frontends {
            owned.entry(slot.service.clone()).or_default().insert(*key, slot.clone());
        }
        let stale = owned.keys().filter(|id| !snapshot.services.contains_key(id));
        for id in stale {
            if program(&mut kernel, id, BTreeMap::new()).is_ok() {
                repaired.push(format!("removed stale service {id}"));
            }
        }
        // What is refused here is refused in `apply` too, reported from there and tried again.
        for (id, port) in &snapshot.services {
            let wanted = slots(port);
            let drifted = owned.get(id).cloned().unwrap_or_default() != wanted;
            let admitted = kernel.check(&Key::Service(id.clone())).is_ok();
            if drifted && admitted && program(&mut kernel, id, wanted).is_ok() {
                repaired.push(format!("restored service {id}"));
            }
        }
        Ok(repaired)
    }

    fn services(&self) -> Result<Vec<ServiceRow>, Error> {
        let kernel = self.kernel();
        let mut rows: Vec<_> =
            kernel.frontends.iter().flat_map(|(key, slot)| service_rows(key, slot, &kernel.node)).collect();
        rows.sort();
        Ok(rows)
    }

    fn connections(&self, limit: usize) -> Result<Vec<Connection>, Error> {
        Ok(self.kernel().connections.iter().take(limit).cloned().collect())
    }

    fn status(&self) -> PlaneStatus {
        let kernel = self.kernel();
        let fill = |name: &'static str, entries: usize, capacity: usize| MapFill {
            name: format!("{name}s"),
            entries: entries as u64,
            capacity: capacity as u64,
            bytes: 0,
            refused: kernel.full.get(name).copied().unwrap_or_default(),
        };
        PlaneStatus {
            plane: self.plane(),
            features: vec![],
            maps: vec![
                fill("frontend", kernel.frontends.len(), kernel.frontend_capacity),
                fill("backend", kernel.backends.len(), kernel.backend_capacity),
            ],
            counters: vec![],
            unseen: vec![],
        }
    }

    fn identity_of(&self, address: IpAddr) -> Result<Option<IdentityId>, Error> {
        let kernel = self.kernel();
        let fitting = kernel.addresses.iter().filter(|(prefix, _)| prefix.contains(&address));
        Ok(fitting.max_by_key(|(prefix, _)| prefix.prefix_len()).map(|(_, identity)| *identity))
    }

    fn clean_up(&mut self) -> Result<(), Error> {
        *self.kernel() = Kernel::default();
        Ok(())
    }
}

/// Backends first, then the frontends that name them; what is not used any more goes last.
fn program(
    kernel: &mut Kernel,
    id: &model::ServicePortId,
    wanted: BTreeMap<FrontendKey, Slot>,
) -> Result<(), Refusal> {
    let held: Vec<_> =
        kernel.frontends.iter().filter(|(_, slot)| slot.service == *id).map(|(key, _)| *key).collect();
    let backends: BTreeSet<_> = wanted.values().flat_map(Slot::backends).collect();
    for backend in backends {
        kernel.insert_backend(backend)?;
    }
    for (key, slot) in &wanted {
        kernel.set_frontend(*key, slot.clone())?;
    }
    for key in held.iter().filter(|key| !wanted.contains_key(key)) {
        kernel.remove_frontend(key)?;
    }
    for backend in kernel.unused_backends() {
        kernel.remove_backend(&backend)?;
    }
    Ok(())
}

fn slots(port: &ServicePort) -> BTreeMap<FrontendKey, Slot> {
    let slot = |frontend: &model::Frontend| Slot {
        service: port.id.clone(),
        frontend: frontend.clone(),
        inside: chosen(port.target(frontend, Origin::Pod)),
        outside: chosen(port.target(frontend, Origin::External)),
        affinity_seconds: port.affinity_seconds,
    };
    let key = |frontend: &model::Frontend| FrontendKey {
        address: frontend.address,
        family: port.id.family,
        port: frontend.port,
        protocol: port.id.protocol,
    };
    port.frontends.iter().map(|frontend| (key(frontend), slot(frontend))).collect()
}

fn chosen(target: Target<'_>) -> Vec<Backend> {
    match target {
        Target::Backends(backends, _) => backends.to_vec(),
        Target::NoEndpoints | Target::NoLocalEndpoints => vec![],
    }
}

fn service_rows(key: &FrontendKey, slot: &Slot, node: &NodeConfig) -> Vec<ServiceRow> {
    let addresses = match key.address {
        FrontendAddress::Ip(ip) => vec![ip],
        FrontendAddress::Node => {
            let of_family = |ip: &&std::net::IpAddr| model::Family::of(**ip) == key.family;
            node.addresses.iter().filter(of_family).copied().collect()
        }
    };
    let row = |ip| ServiceRow {
        service: Some(slot.service.service.clone()),
        port_name: slot.service.port.clone(),
        kind: slot.frontend.kind,
        frontend: SocketAddr::new(ip, key.port.get()),
        protocol: key.protocol,
        policy: slot.frontend.policy,
        backends: slot.outside.iter().map(backend_row).collect(),
        affinity_seconds: slot.affinity_seconds,
        source_ranges: slot.frontend.source_ranges.iter().map(ToString::to_string).collect(),
    };
    addresses.into_iter().map(row).collect()
}

fn backend_row(backend: &Backend) -> BackendRow {
    BackendRow {
        address: backend.address,
        state: if backend.terminating { BackendState::Terminating } else { BackendState::Active },
        local: backend.local,
    }
}

fn note(applied: &mut Applied, key: Key, done: Result<(), Refusal>) {
    if let Err(refusal) = done {
        let (operation, object) = match &key {
            Key::Service(id) => ("insert service", id.to_string()),
            Key::Endpoint(pod) => ("insert endpoint", pod.to_string()),
            Key::Peer(name) => ("insert peer", name.clone()),
            Key::Address(prefix) => ("insert address", prefix.to_string()),
            Key::Policy => ("insert", "policies".to_owned()),
            Key::Node => ("insert", "node".to_owned()),
        };
        applied.failed.insert(key, Error::new(operation, object, refusal));
    }
}

/// A backend as the kernel keys it.
pub type BackendKey = (Protocol, SocketAddr);
