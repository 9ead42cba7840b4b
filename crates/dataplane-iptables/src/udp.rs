//! Which tracked UDP flows a changed service leaves without a backend. Pure; deletion is the caller's.
//!
//! A UDP client that keeps its source port keeps its conntrack entry, and with it a backend that may be gone.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use model::{FrontendAddress, Protocol, ServicePort};

use crate::{kernel::conntrack::Entry, render::reachable};

/// Where UDP services are reached, and the backends that may answer there.
#[derive(Debug, Default)]
pub(crate) struct UdpServices {
    by_address: BTreeMap<SocketAddr, BTreeSet<SocketAddr>>,
    by_node_port: BTreeMap<u16, BTreeSet<SocketAddr>>,
}

impl UdpServices {
    /// Services of other protocols and services without endpoints are left out: entries of the latter would
    /// only be made again, without translation.
    pub(crate) fn of<'a>(services: impl IntoIterator<Item = &'a ServicePort>) -> Self {
        let mut all = Self::default();
        for service in services {
            let backends: BTreeSet<_> = reachable(service).into_iter().collect();
            if service.id.protocol != Protocol::Udp || backends.is_empty() {
                continue;
            }
            for frontend in &service.frontends {
                match frontend.address {
                    FrontendAddress::Ip(address) => {
                        let address = SocketAddr::new(address, frontend.port.get());
                        all.by_address.insert(address, backends.clone());
                    }
                    FrontendAddress::Node => {
                        all.by_node_port.insert(frontend.port.get(), backends.clone());
                    }
                }
            }
        }
        all
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.by_address.is_empty() && self.by_node_port.is_empty()
    }

    /// Whether a flow goes where none of its service's backends is: to a backend that is gone, to an old port of
    /// one, or untranslated to the frontend itself.
    pub(crate) fn is_stale(&self, entry: &Entry) -> bool {
        if entry.protocol != Protocol::Udp {
            return false;
        }
        let destination = entry.original.destination;
        let backends =
            self.by_address.get(&destination).or_else(|| self.by_node_port.get(&destination.port()));
        backends.is_some_and(|backends| !backends.contains(&entry.reply.source))
    }
}
