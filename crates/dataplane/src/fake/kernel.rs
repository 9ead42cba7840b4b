//! The tables of the fake kernel, and what it refuses.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ipnet::IpNet;
use model::{
    Backend, Endpoint, Family, Frontend, FrontendAddress, IdentityId, NodeConfig, PodName, Port, Protocol,
    ServicePortId,
};

use super::BackendKey;
use crate::{Connection, Key};

/// Open to tests: they may remove entries behind the plane's back, refuse keys, or break everything.
#[derive(Debug)]
pub struct Kernel {
    pub frontends: BTreeMap<FrontendKey, Slot>,
    pub backends: BTreeSet<BackendKey>,
    pub endpoints: BTreeMap<PodName, Arc<Endpoint>>,
    pub addresses: BTreeMap<IpNet, IdentityId>,
    pub node: NodeConfig,
    pub connections: Vec<Connection>,
    pub frontend_capacity: usize,
    pub backend_capacity: usize,
    /// Keys that are refused while they are in here, with the reason.
    pub refused: BTreeMap<Key, String>,
    /// Why nothing at all can be programmed.
    pub broken: Option<String>,
    /// A family of which nothing can be programmed.
    pub broken_family: Option<Family>,
    /// How often a table had no room, by its name.
    pub full: BTreeMap<&'static str, u64>,
    /// How often the plane was asked to apply and to repair.
    pub applies: usize,
    pub repairs: usize,
}

/// What a frontend is looked up by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrontendKey {
    pub address: FrontendAddress,
    pub family: Family,
    pub port: Port,
    pub protocol: Protocol,
}

/// What a frontend leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    pub service: ServicePortId,
    pub frontend: Frontend,
    /// For clients on this node.
    pub inside: Vec<Backend>,
    /// For clients elsewhere.
    pub outside: Vec<Backend>,
    pub affinity_seconds: Option<u32>,
}

/// What the fake kernel answers instead of doing it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the {0} table is full")]
    Full(&'static str),
    #[error("backend {0} is not there")]
    Dangling(std::net::SocketAddr),
    #[error("backend {0} is in use")]
    Busy(std::net::SocketAddr),
    #[error("no such entry")]
    NotFound,
    #[error("{0}")]
    Injected(String),
}

impl Default for Kernel {
    fn default() -> Self {
        Self {
            frontends: BTreeMap::new(),
            backends: BTreeSet::new(),
            endpoints: BTreeMap::new(),
            addresses: BTreeMap::new(),
            node: NodeConfig::default(),
            connections: vec![],
            frontend_capacity: usize::MAX,
            backend_capacity: usize::MAX,
            refused: BTreeMap::new(),
            broken: None,
            broken_family: None,
            full: BTreeMap::new(),
            applies: 0,
            repairs: 0,
        }
    }
}

impl Slot {
    /// Every backend that the slot names.
    pub fn backends(&self) -> impl Iterator<Item = BackendKey> {
        self.inside.iter().chain(&self.outside).map(|backend| (self.service.protocol, backend.address))
    }
}

impl Kernel {
    pub(super) fn check(&self, key: &Key) -> Result<(), Refusal> {
        self.refused.get(key).map_or(Ok(()), |reason| Err(Refusal::Injected(reason.clone())))
    }

    pub(super) fn insert_backend(&mut self, backend: BackendKey) -> Result<(), Refusal> {
        if !self.backends.contains(&backend) && self.backends.len() >= self.backend_capacity {
            return Err(self.full("backend"));
        }
        self.backends.insert(backend);
        Ok(())
    }

    pub(super) fn set_frontend(&mut self, key: FrontendKey, slot: Slot) -> Result<(), Refusal> {
        if let Some(missing) = slot.backends().find(|backend| !self.backends.contains(backend)) {
            return Err(Refusal::Dangling(missing.1));
        }
        if !self.frontends.contains_key(&key) && self.frontends.len() >= self.frontend_capacity {
            return Err(self.full("frontend"));
        }
        self.frontends.insert(key, slot);
        Ok(())
    }

    fn full(&mut self, table: &'static str) -> Refusal {
        *self.full.entry(table).or_default() += 1;
        Refusal::Full(table)
    }

    pub(super) fn remove_frontend(&mut self, key: &FrontendKey) -> Result<(), Refusal> {
        self.frontends.remove(key).map(drop).ok_or(Refusal::NotFound)
    }

    pub(super) fn remove_backend(&mut self, backend: &BackendKey) -> Result<(), Refusal> {
        if self.frontends.values().any(|slot| slot.backends().any(|used| used == *backend)) {
            return Err(Refusal::Busy(backend.1));
        }
        if self.backends.remove(backend) { Ok(()) } else { Err(Refusal::NotFound) }
    }

    pub(super) fn unused_backends(&self) -> Vec<BackendKey> {
        let used: BTreeSet<_> = self.frontends.values().flat_map(Slot::backends).collect();
        self.backends.difference(&used).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dangling_references_and_removal_in_use_are_refused() {
        let backend =
            Backend { address: "10.0.0.1:80".parse().expect("address"), local: true, terminating: false };
        let service = model::ServiceName { namespace: "ns".into(), name: "web".into() };
        let id = ServicePortId { service, port: String::new(), protocol: Protocol::Tcp, family: Family::V4 };
        let frontend = Frontend {
            kind: model::FrontendKind::NodePort,
            address: FrontendAddress::Node,
            port: Port::new(30080).expect("port"),
            policy: model::TrafficPolicy::Cluster,
            source_ranges: vec![],
        };
        let key = FrontendKey {
            address: frontend.address,
            family: Family::V4,
            port: frontend.port,
            protocol: Protocol::Tcp,
        };
        let at = (Protocol::Tcp, backend.address);
        let slot =
            Slot { service: id, frontend, inside: vec![backend], outside: vec![], affinity_seconds: None };

        let mut kernel = Kernel { backend_capacity: 1, ..Kernel::default() };
        assert_eq!(kernel.set_frontend(key, slot.clone()), Err(Refusal::Dangling(at.1)));
        assert_eq!(kernel.insert_backend(at), Ok(()));
        assert_eq!(kernel.insert_backend((Protocol::Udp, at.1)), Err(Refusal::Full("backend")));
        assert_eq!(kernel.set_frontend(key, slot), Ok(()));
        assert_eq!(kernel.remove_backend(&at), Err(Refusal::Busy(at.1)));
        assert_eq!(kernel.remove_frontend(&key), Ok(()));
        assert_eq!(kernel.remove_backend(&at), Ok(()));
        assert_eq!(kernel.remove_frontend(&key), Err(Refusal::NotFound));
    }
}
