//! Keeps the node's own network in step with the cluster: tunnel, routes, and what the node's addresses are.
//!
//! Level-triggered: looks at the kernel whenever the cluster or the kernel says that something moved, and once in a
//! while without being told. Never touches what the agent did not make.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use dataplane::{ObjectState, ObjectStatus};
use model::{Family, NodeConfig, Tunnel};
use tokio::sync::watch;

use crate::{
    controller::{Controller, Nodes},
    netlink::{self, Netlink},
    routes::{self, Routes, Wanted, failed, with_cause},
    tunnel::{self, Vxlan},
};

/// Everything is looked at again this often, and sooner while something is wrong.
const VERIFY_EVERY: Duration = Duration::from_secs(60);
const RETRY_EVERY: Duration = Duration::from_secs(5);
/// What changes in a burst is looked at once.
const SETTLE: Duration = Duration::from_millis(50);

/// What a link has whose MTU nobody can tell: Ethernet's.
const DEFAULT_MTU: u32 = 1500;

/// How packets get to other nodes' pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Routing {
    /// The network between the nodes routes pod addresses.
    #[default]
    Native,
    /// It does not: packets between pods travel in VXLAN.
    Vxlan(Vxlan),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Network {
    netlink: Netlink,
    controller: Controller,
    routing: Routing,
}

impl Network {
    /// Tells the controller what is there already, so that an agent that starts again changes nothing on its way.
    pub(crate) async fn open(netlink: Netlink, controller: Controller, routing: Routing) -> Self {
        let this = Self { netlink, controller, routing };
        if routing != Routing::Native {
            match tunnel::existing(&this.netlink).await {
                Ok(tunnel) => this.controller.set_tunnel(tunnel),
                Err(error) => tracing::warn!(%error, "cannot look for a tunnel"),
            }
        }
        this.look_at_addresses().await;
        this
    }

    /// Runs for as long as the agent.
    pub(crate) async fn keep(
        self,
        mut nodes: watch::Receiver<Option<Arc<Nodes>>>,
        mut changes: watch::Receiver<()>,
    ) {
        // Until the cluster is known, what an earlier run made stays.
        while nodes.borrow_and_update().is_none() {
            if nodes.changed().await.is_err() {
                return;
            }
        }
        loop {
            changes.mark_unchanged();
            let current = nodes.borrow_and_update().clone();
            let Some(current) = current else { return };
            let problems = self.sync(&current).await;
            self.look_at_addresses().await;
            let pause = if problems.is_empty() { VERIFY_EVERY } else { RETRY_EVERY };
            self.controller.set_route_problems(problems);
            let moved = async {
                tokio::select! {
                    alive = nodes.changed() => alive.is_ok(),
                    alive = changes.changed() => {
                        tokio::time::sleep(SETTLE).await;
                        alive.is_ok()
                    }
                }
            };
            if tokio::time::timeout(pause, moved).await == Ok(false) {
                return;
            }
        }
    }

    async fn sync(&self, nodes: &Nodes) -> Vec<ObjectStatus> {
        let peers = || nodes.peers.values().map(|peer| &**peer);
        let (tunnel, mut problems) = match self.sync_tunnel(nodes).await {
            Ok(done) => done,
            Err(error) => {
                // Routes stay as they are: native ones lead nowhere where there is no native routing.
                return vec![failed("(this node)", None, with_cause(&error), ObjectState::Failed)];
            }
        };
        let wanted = routes::wanted(&nodes.own, peers(), tunnel.as_ref().map(|tunnel| tunnel.ifindex));
        problems.extend(Routes::new(self.netlink.clone()).sync(&wanted).await);
        if tunnel.is_none()
            && let Err(error) = tunnel::remove(&self.netlink).await
        {
            problems.push(failed("(this node)", None, with_cause(&error), ObjectState::Failed));
        }
        self.controller.set_tunnel(tunnel);
        problems
    }

    async fn sync_tunnel(
        &self,
        nodes: &Nodes,
    ) -> Result<(Option<Tunnel>, Vec<ObjectStatus>), netlink::Error> {
        let Routing::Vxlan(vxlan) = self.routing else { return Ok((None, vec![])) };
        let mtu = underlay_mtu(&self.netlink, &nodes.own).await?.unwrap_or(DEFAULT_MTU);
        let peers = nodes.peers.values().map(|peer| &**peer);
        let (wanted, mut problems) = tunnel::wanted(vxlan, mtu, &nodes.own, peers);
        let (tunnel, failures) = tunnel::sync(&self.netlink, &wanted).await?;
        problems.extend(failures);
        Ok((Some(tunnel), problems))
    }

    /// Which of them are the node's, the index decides.
    async fn look_at_addresses(&self) {
        match self.netlink.global_addresses().await {
            Ok(found) => {
                let addresses = found.iter().map(|address| address.net.addr());
                self.controller.set_local_addresses(addresses.filter(|a| !a.is_loopback()).collect());
            }
            Err(error) => tracing::warn!(%error, "cannot look at the node's addresses"),
        }
    }
}

/// The MTU that pods of this node are to have; `None` where it cannot be told.
pub(crate) async fn pod_mtu(
    netlink: &Netlink,
    node: &NodeConfig,
    routing: Routing,
) -> Result<Option<u32>, netlink::Error> {
    let underlay = underlay_mtu(netlink, node).await?;
    let overhead = match (routing, node.addresses.first()) {
        (Routing::Vxlan(_), Some(address)) => tunnel::overhead(Family::of(*address)),
        _ => 0,
    };
    Ok(underlay.map(|mtu| mtu.saturating_sub(overhead)))
}

/// The MTU of the interface that has the node's first address: the way to the other nodes.
async fn underlay_mtu(netlink: &Netlink, node: &NodeConfig) -> Result<Option<u32>, netlink::Error> {
    let Some(first) = node.addresses.first() else { return Ok(None) };
    let is_first = |address: &&netlink::GlobalAddress| address.net.addr() == *first;
    let found = netlink.global_addresses().await?;
    let Some(address) = found.iter().find(is_first) else { return Ok(None) };
    Ok(netlink.link_at(address.interface).await?.map(|link| link.mtu))
}

/// Removes tunnel and routes that an agent made.
///
/// # Errors
/// The kernel refuses.
pub(crate) async fn remove() -> anyhow::Result<()> {
    let netlink = Netlink::open().context("open a netlink socket")?;
    let problems = Routes::new(netlink.clone()).sync(&Wanted::default()).await;
    tunnel::remove(&netlink).await?;
    match problems.into_iter().next() {
        Some(problem) => anyhow::bail!(problem.reason.unwrap_or_default()),
        None => Ok(()),
    }
}
