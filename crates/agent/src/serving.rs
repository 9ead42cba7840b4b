//! Where a node's flows are served, and which nodes its peer service names. Never listens outside the machine without
//! certificates.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use anyhow::Context as _;
use cluster::CLUSTER_NAME;
use model::Family;
use observer::{
    names::{node_server, peer_name},
    node::Node,
    peers::{Peer, Peers},
    serve,
    tls::Certificates,
};
use tokio::sync::watch;

use crate::{
    controller::Nodes,
    flows::{Observer, Part},
};

/// Listens where `settings` say; the parts serve, and keep the peers to the nodes that are known.
pub(crate) async fn open(
    server: Node,
    settings: &Observer,
    nodes: watch::Receiver<Option<Arc<Nodes>>>,
) -> anyhow::Result<Vec<Part>> {
    let peers = Peers::default();
    let routes = serve::node_routes(server, peers.clone()).await?;
    let mut parts: Vec<Part> = vec![];
    if let Some(path) = &settings.socket {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        }
        let serving = serve::unix(serve::bind_unix(path)?, routes.clone(), std::future::pending());
        parts.push(Box::pin(async move { ended("observer's socket", serving.await) }));
    }
    if let Some(address) = settings.bind {
        match settings.certificates.clone() {
            Some(files) => {
                let certificates = Certificates::load(files)?;
                let listener = serve::bind(address).await?;
                let serving = serve::tls(listener, certificates, routes, std::future::pending());
                parts.push(Box::pin(async move { ended("observer", serving.await) }));
            }
            None => {
                let listener = serve::bind_loopback(address).await?;
                let serving = serve::loopback(listener, routes, std::future::pending());
                parts.push(Box::pin(async move { ended("observer", serving.await) }));
            }
        }
    }
    let reached = settings.bind.map(|bind| Reached { bind, tls: settings.certificates.is_some() });
    parts.push(Box::pin(follow(peers, nodes, reached)));
    Ok(parts)
}

/// An error, because nothing ends while the agent runs.
pub(crate) fn ended(
    what: &'static str,
    result: Result<(), impl std::error::Error + Send + Sync + 'static>,
) -> anyhow::Error {
    match result {
        Ok(()) => anyhow::anyhow!("{what}: ended unexpectedly"),
        Err(error) => anyhow::Error::from(error).context(what),
    }
}

/// How flows are reached on this node, and so on every other.
#[derive(Clone, Copy, Debug)]
struct Reached {
    bind: SocketAddr,
    tls: bool,
}

async fn follow(
    peers: Peers,
    mut nodes: watch::Receiver<Option<Arc<Nodes>>>,
    reached: Option<Reached>,
) -> anyhow::Error {
    loop {
        let known = nodes.borrow_and_update().clone();
        if let (Some(known), Some(reached)) = (known, reached) {
            peers.set(all(&known, reached));
        }
        if nodes.changed().await.is_err() {
            return anyhow::anyhow!("peers: nobody tells of nodes any more");
        }
    }
}

/// This node and the others. One without an address cannot be reached and is none.
fn all(nodes: &Nodes, reached: Reached) -> BTreeMap<String, Peer> {
    let own = (nodes.own.name.as_str(), nodes.own.addresses.as_slice());
    let others = nodes.peers.iter().map(|(name, peer)| (name.as_str(), peer.addresses.as_slice()));
    std::iter::once(own)
        .chain(others)
        .filter_map(|(node, addresses)| {
            let address = match reached.bind.ip() {
                // Of a family that is listened for, if there is one.
                bind if node != nodes.own.name || bind.is_unspecified() => {
                    let fits = |ip: &&std::net::IpAddr| bind.is_ipv6() || Family::of(**ip) == Family::V4;
                    *addresses.iter().find(fits).or(addresses.first())?
                }
                // Only here is it known which of the node's addresses is meant.
                bind => bind,
            };
            let peer = Peer {
                address: SocketAddr::new(address, reached.bind.port()).to_string(),
                server_name: reached.tls.then(|| node_server(node, CLUSTER_NAME)),
            };
            Some((peer_name(node, CLUSTER_NAME), peer))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use model::NodeConfig;

    use super::*;

    fn nodes(own: &[&str], other: &[&str]) -> Nodes {
        let ips = |texts: &[&str]| texts.iter().map(|text| text.parse().expect("an address")).collect();
        let own = NodeConfig {
            name: "node.a".into(),
            addresses: ips(own),
            pod_cidrs: vec![],
            cluster_cidrs: vec![],
            tunnel: None,
            node_ports: Default::default(),
        };
        let peer = model::Peer { name: "node-b".into(), addresses: ips(other), pod_cidrs: vec![] };
        Nodes { own, peers: [("node-b".to_owned(), Arc::new(peer))].into() }
    }

    fn addresses(nodes: &Nodes, bind: &str, tls: bool) -> Vec<String> {
        let reached = Reached { bind: bind.parse().expect("an address"), tls };
        all(nodes, reached).into_values().map(|peer| peer.address).collect()
    }

    #[test]
    fn every_node_is_a_peer_by_address_and_the_name_in_its_certificate() {
        let nodes = nodes(&["10.0.0.1", "fd00::1"], &["10.0.0.2", "fd00::2"]);
        let reached = Reached { bind: "0.0.0.0:4244".parse().expect("an address"), tls: true };
        let peer = |address: &str, name: &str| Peer {
            address: address.into(),
            server_name: Some(format!("{name}.default.hubble-grpc.cilium.io")),
        };
        assert_eq!(
            all(&nodes, reached),
            [
                ("node-b".to_owned(), peer("10.0.0.2:4244", "node-b")),
                ("node.a".to_owned(), peer("10.0.0.1:4244", "node-a")),
            ]
            .into()
        );
        let plain = all(&nodes, Reached { tls: false, ..reached });
        assert!(plain.values().all(|peer| peer.server_name.is_none()));
    }

    #[test]
    fn addresses_are_of_a_family_that_is_listened_for() {
        let both = nodes(&["fd00::1", "10.0.0.1"], &["fd00::2", "10.0.0.2"]);
        assert_eq!(addresses(&both, "0.0.0.0:1", true), ["10.0.0.2:1", "10.0.0.1:1"]);
        assert_eq!(addresses(&both, "[::]:1", true), ["[fd00::2]:1", "[fd00::1]:1"]);
        assert_eq!(addresses(&both, "10.0.0.9:1", true), ["10.0.0.2:1", "10.0.0.9:1"]);
        // In plain text only this node can be reached; the others are named all the same.
        assert_eq!(addresses(&both, "127.0.0.1:1", false), ["10.0.0.2:1", "127.0.0.1:1"]);
        assert_eq!(addresses(&nodes(&["fd00::1"], &[]), "[::]:1", true), ["[fd00::1]:1"]);
    }
}
