//! The cloud's load balancer, as GCE's target pools are: forwarding rules, pools of nodes, HTTP health checks.
//!
//! Forwards by the kernel of the edge's namespace: 5-tuple hashing over healthy nodes, nothing rewritten, replies
//! go back directly. Called by the service controller ([`Edge::ensure`], [`Edge::remove`]); read by the
//! supervisor's API ([`Edge::status`]). Never knows Kubernetes objects.

mod health;
mod pool;
mod probe;
mod program;
mod spec;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;
use model::{Family, ServiceName};
use netns::NetNs;

pub(crate) use program::NODE_BRIDGE;
pub use spec::{
    EdgeStatus, ForwardingRule, ForwardingRuleSpec, Health, HealthCheck, HealthCheckTarget,
    HealthCheckTiming, Member, Probe, ProbeAnswer, TargetPool, load_balancer_name,
};

use self::{pool::Pool, program::Table};
use crate::{command, plan::Topology};

/// Why a Service cannot be load-balanced, or the load balancer not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("give {service} the load-balancer address {address}: outside {range}")]
    OutOfRange { service: ServiceName, address: IpAddr, range: ipnet::IpNet },
    #[error("give {service} the load-balancer address {address}: taken by {owner}")]
    Taken { service: ServiceName, address: IpAddr, owner: ServiceName },
    #[error("give {service} a load-balancer address: all of {range} are taken")]
    Exhausted { service: ServiceName, range: ipnet::IpNet },
    #[error("give {service} an {} load-balancer address: the lab has none", match family { Family::V4 => "IPv4", Family::V6 => "IPv6" })]
    NoSuchFamily { service: ServiceName, family: Family },
    #[error("program the load balancer")]
    Program(#[from] command::Error),
    #[error("open a namespace of the load balancer")]
    Namespace(#[from] netns::Error),
}

/// A handle on the load balancer; clones share it. Probing ends with [`Edge::remove`] or the runtime.
#[derive(Clone, Debug)]
pub struct Edge {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    topology: Topology,
    timing: HealthCheckTiming,
    namespace: NetNs,
    nodes: Vec<NetNs>,
    /// Never locked across an await.
    pools: Mutex<Pools>,
    /// What the kernels hold.
    applied: Mutex<Table>,
    /// Held while they are programmed, so that steps never interleave.
    programming: tokio::sync::Mutex<()>,
}

/// By Service uid and family.
type Pools = BTreeMap<(String, Family), Pool>;

impl Edge {
    /// Prepares the edge of a lab whose namespaces and links exist.
    ///
    /// # Errors
    /// A namespace is missing, or the kernel refuses next hops or filter.
    pub fn new(topology: Topology, timing: HealthCheckTiming) -> Result<Self, Error> {
        let namespace = NetNs::open(&topology.edge_namespace())?;
        let nodes =
            topology.nodes.iter().map(|node| NetNs::open(&node.namespace)).collect::<Result<_, _>>()?;
        command::ip_batch(&namespace, &program::next_hops(&topology))?;
        for addressing in &topology.addressing {
            let filter = program::filter(&Table::new(), addressing.vips);
            command::iptables_restore(&namespace, addressing.family(), &filter)?;
        }
        let shared = Shared {
            topology,
            timing,
            namespace,
            nodes,
            pools: Mutex::default(),
            applied: Mutex::default(),
            programming: tokio::sync::Mutex::default(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Creates or updates the rules and the pools of one Service; returns its addresses, in order of the families asked
    /// for, once packets are forwarded.
    ///
    /// Idempotent. A Service keeps its addresses unless it requests others.
    ///
    /// # Errors
    /// A requested address cannot be given, or the kernel refuses; what was there before stays.
    pub async fn ensure(&self, spec: ForwardingRuleSpec) -> Result<Vec<IpAddr>, Error> {
        let addresses = self.admit(&spec)?;
        self.program().await?;
        Ok(addresses)
    }

    /// Removes the rules and the pools of the Service with this uid. One that is gone already is no error.
    ///
    /// # Errors
    /// The kernel refuses.
    pub async fn remove(&self, uid: &str) -> Result<(), Error> {
        self.pools().retain(|(of, _), _| of != uid);
        self.program().await
    }

    /// Rules and pools with the health of every node and the latest probes, ordered by name.
    pub fn status(&self) -> EdgeStatus {
        let applied = self.shared.applied();
        let pools = self.pools();
        let describe = |pool: &Pool| pool.describe(&self.shared.timing, applied.get(&pool.address()));
        let mut status = EdgeStatus {
            forwarding_rules: pools.values().flat_map(Pool::rules).collect(),
            target_pools: pools.values().map(describe).collect(),
        };
        status.forwarding_rules.sort_by(|a, b| a.name.cmp(&b.name));
        status.target_pools.sort_by(|a, b| a.name.cmp(&b.name));
        status
    }

    /// Records what the Service wants and starts to probe for it.
    fn admit(&self, spec: &ForwardingRuleSpec) -> Result<Vec<IpAddr>, Error> {
        let mut pools = self.pools();
        let choose = |family| self.choose_address(&pools, spec, family);
        let addresses = spec.families.iter().map(|family| choose(*family)).collect::<Result<Vec<_>, _>>()?;
        pools.retain(|(uid, family), _| *uid != spec.uid || spec.families.contains(family));
        for (family, address) in spec.families.iter().zip(&addresses) {
            let key = (spec.uid.clone(), *family);
            if let Some(pool) = pools.get_mut(&key) {
                pool.update(spec.clone(), *address);
                continue;
            }
            let mut pool = Pool::new(spec.clone(), *address, &self.shared.topology.nodes, Timestamp::now());
            for index in 0..self.shared.topology.nodes.len() {
                let probing = self.clone().keep_probing(key.clone(), index);
                pool.own(tokio::spawn(probing).abort_handle());
            }
            pools.insert(key, pool);
        }
        Ok(addresses)
    }

    fn choose_address(
        &self,
        pools: &Pools,
        spec: &ForwardingRuleSpec,
        family: Family,
    ) -> Result<IpAddr, Error> {
        let service = || spec.service.clone();
        let range = self.shared.topology.of(family).map(|addressing| addressing.vips);
        let range = range.ok_or_else(|| Error::NoSuchFamily { service: service(), family })?;
        let owner = |address| {
            let others = pools.iter().filter(|((uid, _), _)| *uid != spec.uid);
            others.map(|(_, pool)| pool).find(|pool| pool.address() == address).map(Pool::service)
        };
        let requested = spec.requested_ips.iter().copied().find(|address| Family::of(*address) == family);
        match (requested, pools.get(&(spec.uid.clone(), family))) {
            (Some(address), _) if !range.contains(&address) => {
                Err(Error::OutOfRange { service: service(), address, range })
            }
            (Some(address), _) => match owner(address) {
                Some(owner) => Err(Error::Taken { service: service(), address, owner }),
                None => Ok(address),
            },
            (None, Some(pool)) => Ok(pool.address()),
            (None, None) => range
                .hosts()
                .find(|address| *address != range.network() && owner(*address).is_none())
                .ok_or_else(|| Error::Exhausted { service: service(), range }),
        }
    }

    /// Brings the kernels in step with the pools.
    async fn program(&self) -> Result<(), Error> {
        let _alone = self.shared.programming.lock().await;
        let old = self.shared.applied();
        let new: Table = self.pools().values().map(|pool| (pool.address(), pool.forwarding())).collect();
        if old == new {
            return Ok(());
        }
        let shared = Arc::clone(&self.shared);
        let work = tokio::task::spawn_blocking(move || {
            shared.transition(&old, &new)?;
            *shared.applied.lock().unwrap_or_else(PoisonError::into_inner) = new;
            Ok(())
        });
        work.await.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()))
    }

    /// Probes one node for one pool until the pool goes.
    async fn keep_probing(self, key: (String, Family), index: usize) {
        let mut ticks = tokio::time::interval(self.shared.timing.interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let node = &self.shared.topology.nodes[index];
        loop {
            ticks.tick().await;
            let asked = self.pools().get(&key).map(|pool| (pool.health_check(), pool.member(index)));
            let Some((target, address)) = asked else { return };
            let address = SocketAddr::new(address, target.port.get());
            let time = Timestamp::now();
            let (answer, latency) =
                probe::probe(&self.shared.namespace, address, &target.path, self.shared.timing.timeout).await;
            let probe = Probe {
                time,
                node: node.name.clone(),
                url: format!("http://{address}{}", target.path),
                latency_us: u64::try_from(latency.as_micros()).unwrap_or(u64::MAX),
                answer,
                transition: None,
            };
            let Some(changed) = self
                .pools()
                .get_mut(&key)
                .map(|pool| pool.record(index, &target, probe, &self.shared.timing, Timestamp::now()))
            else {
                return;
            };
            if changed && let Err(error) = self.program().await {
                tracing::error!(
                    node = node.name,
                    error = &error as &dyn std::error::Error,
                    "health not programmed"
                );
            }
        }
    }

    fn pools(&self) -> MutexGuard<'_, Pools> {
        // Every change below this lock is one assignment: a panic elsewhere leaves nothing half done.
        self.shared.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    fn applied(&self) -> Table {
        self.applied.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Nodes accept an address before the edge sends to it, and as long as it does.
    fn transition(&self, old: &Table, new: &Table) -> Result<(), Error> {
        let mut union = old.clone();
        union.extend(new.iter().map(|(vip, forwarding)| (*vip, forwarding.clone())));
        for node in &self.nodes {
            command::ip_batch(node, &program::node_steps(old, &union))?;
        }
        for addressing in &self.topology.addressing {
            let family = addressing.family();
            let of_family = |table: &Table| -> Table {
                let own = table.iter().filter(|(vip, _)| Family::of(**vip) == family);
                own.map(|(vip, forwarding)| (*vip, forwarding.clone())).collect()
            };
            let (old, new) = (of_family(old), of_family(new));
            command::ip_batch(&self.namespace, &program::edge_steps(&old, &new, addressing.vips))?;
            if ports(&old) != ports(&new) {
                let filter = program::filter(&new, addressing.vips);
                command::iptables_restore(&self.namespace, family, &filter)?;
            }
        }
        for node in &self.nodes {
            command::ip_batch(node, &program::node_steps(&union, new))?;
        }
        Ok(())
    }
}

/// What the filter depends on.
fn ports(table: &Table) -> Vec<(&IpAddr, &std::collections::BTreeSet<(model::Protocol, model::Port)>)> {
    table.iter().map(|(vip, forwarding)| (vip, &forwarding.ports)).collect()
}
