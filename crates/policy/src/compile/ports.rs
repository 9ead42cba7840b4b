//! Named ports of pods, and what rules' ports mean in prefixes. Pure.

use std::sync::Arc;

use model::{
    Protocol,
    policy::{L4Match, PortPrefix},
};

use crate::{
    mutation::{Bug, made},
    spec::{PortMatch, Ports},
};

/// A port of a container that has a name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerPort {
    pub name: String,
    pub protocol: Protocol,
    pub number: u16,
}

/// All that a pod has, in order, one by each name and protocol. Shared by pods that have the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerPorts(Arc<[ContainerPort]>);

impl ContainerPorts {
    /// Of two by one name and protocol the first.
    pub fn new(ports: impl IntoIterator<Item = ContainerPort>) -> Self {
        let mut kept: Vec<ContainerPort> = vec![];
        for port in ports {
            if !kept.iter().any(|other| other.name == port.name && other.protocol == port.protocol) {
                kept.push(port);
            }
        }
        kept.sort_unstable();
        Self(kept.into())
    }

    pub fn iter(&self) -> impl Iterator<Item = &ContainerPort> {
        self.0.iter()
    }

    fn find(&self, protocol: Option<Protocol>, name: &str) -> impl Iterator<Item = &ContainerPort> {
        self.0.iter().filter(move |port| port.name == name && protocol.is_none_or(|p| p == port.protocol))
    }
}

/// Ports of a rule as prefixes; names are those of `pod`. Without a pod, names mean nothing.
pub(super) fn matches(ports: &Ports, pod: Option<&ContainerPorts>) -> Vec<L4Match> {
    let Ports::Of(ports) = ports else { return vec![L4Match::Any] };
    let mut all = vec![];
    for port in ports {
        match port {
            PortMatch::Range { protocol, first, last } => {
                let last = if made(Bug::EndPortIgnored) && *last < u16::MAX { *first } else { *last };
                let protocol = if made(Bug::ProtocolIgnored) { Protocol::Tcp } else { *protocol };
                let prefixes = PortPrefix::of_range(*first, last).into_iter();
                all.extend(prefixes.map(|prefix| L4Match::Ports(protocol, prefix)));
            }
            PortMatch::Named { protocol, name } => {
                let found = pod.into_iter().flat_map(|pod| pod.find(*protocol, name));
                all.extend(found.map(|port| L4Match::Ports(port.protocol, PortPrefix::one(port.number))));
            }
        }
    }
    all.sort_unstable();
    all.dedup();
    all
}

/// Just the parts by name.
pub(super) fn names(ports: &Ports) -> Ports {
    match ports {
        Ports::Any => Ports::Of(vec![]),
        Ports::Of(all) => {
            let named = |port: &&PortMatch| matches!(port, PortMatch::Named { .. });
            Ports::Of(all.iter().filter(named).cloned().collect())
        }
    }
}
