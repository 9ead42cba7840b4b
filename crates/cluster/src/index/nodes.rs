//! This node and the others: configuration, zone, peers.

use std::sync::Arc;

use model::{NodeConfig, Peer};

use super::Index;
use crate::{
    node::Node,
    owner::Owner,
    problem::{ObjectRef, Problem},
};

impl Index {
    pub(crate) fn set_node(&mut self, name: &str, read: Option<(Node, Vec<Problem>)>) {
        let (node, problems) = read.map_or((None, vec![]), |(node, problems)| (Some(node), problems));
        self.note_problems(ObjectRef::node(name), problems);
        if name == self.settings.node {
            self.set_own_node(node);
        } else {
            let peer = node.as_ref().map(Node::to_peer);
            let before = self.nodes.get(name).map(Node::to_peer);
            if peer != before {
                self.pending.peers.insert(name.to_owned(), peer.map(Arc::<Peer>::new));
            }
            self.surroundings_moved |= self.nodes.get(name) != node.as_ref();
            match node {
                Some(node) => self.nodes.insert(name.to_owned(), node),
                None => self.nodes.remove(name),
            };
        }
    }

    /// A deleted Node keeps its last configuration: the machine is still there and still forwards.
    fn set_own_node(&mut self, node: Option<Node>) {
        self.own_node_deleted = node.is_none();
        let Some(node) = node else { return };
        let before = self.nodes.insert(node.name.clone(), node);
        let zone = self.nodes.get(&self.settings.node).and_then(|node| node.zone.as_ref());
        if before.as_ref().and_then(|node| node.zone.as_ref()) != zone {
            self.dirty.extend(self.services.keys().cloned().map(Owner::Service));
        }
        self.refresh_node();
    }

    pub(super) fn refresh_node(&mut self) {
        let Some(node) = self.nodes.get(&self.settings.node) else { return };
        if node.internal_ips.is_empty() || node.pod_cidrs.is_empty() {
            return;
        }
        let pods = || node.pod_cidrs.iter().chain(&self.settings.cluster_cidrs);
        let local = self.local_addresses.iter().filter(|address| !pods().any(|cidr| cidr.contains(*address)));
        let mut addresses = vec![];
        for address in node.internal_ips.iter().chain(&node.external_ips).chain(local) {
            if !addresses.contains(address) {
                addresses.push(*address);
            }
        }
        let config = NodeConfig {
            name: node.name.clone(),
            addresses,
            pod_cidrs: node.pod_cidrs.clone(),
            cluster_cidrs: self.settings.cluster_cidrs.clone(),
            tunnel: self.tunnel.clone(),
            node_ports: self.settings.node_ports.clone(),
        };
        if self.node_config.as_ref() != Some(&config) {
            // Host ports leave out addresses of the node that others have.
            self.dirty.extend(self.pods.values().map(|pod| pod.owner.clone()));
            self.surroundings_moved = true;
            self.pending.node = Some(config.clone());
            self.node_config = Some(config);
        }
    }
}
