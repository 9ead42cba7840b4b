//! The pods of this node: addresses, interfaces, and their life from the CNI plugin's ADD to its DEL.
//!
//! Invariant: a pod's interface carries nothing before the dataplane has programmed it, and ADD answers only after that: no
//! packet of it is ever seen before its policy. A failed ADD leaves nothing behind. Whose the pod's addresses are is waited for, too, but not for
//! long: a pod without an identity is better than none.

mod ipam;
mod link;
mod store;

use std::{
    collections::{BTreeMap, BTreeSet},
    error::Error as StdError,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use ipnet::IpNet;
use model::{Endpoint, Family, NodeConfig};
use tokio::sync::{Mutex, oneshot};

use self::{
    ipam::Pool,
    store::{Record, State},
};
use crate::{
    controller::Controller,
    netlink::Netlink,
    network::{self, Routing},
    wire::{AddRequest, Added, AddedAddress, Attachment, CheckRequest, Failure, FailureKind},
    worker::Worker,
};

/// How long ADD waits for the dataplane: below what runtimes give a plugin.
const PROGRAM_WITHIN: Duration = Duration::from_secs(20);
/// How long DEL waits for the dataplane to let go before the address may be given out again.
const RELEASE_WITHIN: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Debug)]
pub(crate) struct Pods {
    path: PathBuf,
    netlink: Netlink,
    controller: Controller,
    routing: Routing,
    identities: Identities,
    /// One change at a time: addresses and the file belong together.
    state: Mutex<State>,
}

/// Where to ask whether the kernel knows a pod's identity, and how long to wait for that.
#[derive(Debug)]
pub(crate) struct Identities {
    pub(crate) worker: Worker,
    pub(crate) within: Duration,
}

impl Pods {
    /// Takes over the pods that an earlier agent attached, and tells the dataplane of those that are still
    /// there.
    ///
    /// # Errors
    /// The state file is damaged.
    pub(crate) async fn open(
        path: PathBuf,
        netlink: Netlink,
        controller: Controller,
        routing: Routing,
        identities: Identities,
    ) -> anyhow::Result<Self> {
        let mut state = store::load(&path)?;
        let mut kept = BTreeMap::new();
        for (attachment, mut record) in std::mem::take(&mut state.pods) {
            match netlink.link(&record.endpoint.interface).await? {
                Some(link) => {
                    record.endpoint.ifindex = link.index;
                    record.endpoint.netns = Some(record.netns.clone());
                    controller.set_endpoint(record.endpoint.clone());
                    kept.insert(attachment, record);
                }
                None => {
                    tracing::info!(pod = %record.endpoint.pod, "gone while no agent ran");
                    free(&mut state.pools, &record.endpoint.addresses);
                }
            }
        }
        state.pods = kept;
        store::save(&path, &state)?;
        tracing::info!(pods = state.pods.len(), "took over the node's pods");
        Ok(Self { path, netlink, controller, routing, identities, state: Mutex::new(state) })
    }

    /// The pods that are attached.
    pub(crate) async fn endpoints(&self) -> Vec<Endpoint> {
        self.state.lock().await.pods.values().map(|record| record.endpoint.clone()).collect()
    }

    /// Whether pods can be attached now.
    pub(crate) fn ready(&self) -> Result<NodeConfig, Failure> {
        if let Some(what) = self.controller.waiting_for() {
            return Err(failure(FailureKind::Unavailable, format!("waiting for {what}")));
        }
        self.controller
            .node_config()
            .ok_or_else(|| failure(FailureKind::Unavailable, "waiting for the Node object".into()))
    }

    /// Attaches a pod. The same request again gets the same answer.
    pub(crate) async fn add(&self, request: AddRequest) -> Result<Added, Failure> {
        let node = self.ready()?;
        let mut state = self.state.lock().await;
        if let Some(record) = state.pods.get(&request.attachment) {
            let answer = repeated(&request, record)?;
            // The agent may have ended in the middle of it.
            self.open_way(&record.endpoint, &request.attachment).await?;
            return Ok(answer);
        }
        let addresses = allocate(&mut state, &node)?;
        let attached = self.attach(&request, &addresses, &node).await;
        let (endpoint, mtu) = attached.inspect_err(|_| free(&mut state.pools, &addresses))?;
        let record = Record { netns: request.netns, endpoint: endpoint.clone(), mtu: Some(mtu) };
        state.pods.insert(request.attachment.clone(), record);
        let settled = match self.save(&state) {
            Ok(()) => self.open_way(&endpoint, &request.attachment).await,
            Err(failure) => Err(failure),
        };
        if let Err(failure) = settled {
            self.detach(&mut state, &request.attachment).await;
            return Err(failure);
        }
        tracing::info!(pod = %endpoint.pod, interface = endpoint.interface, ?addresses, "attached");
        // Other pods need not wait for this one's.
        drop(state);
        self.identities.wait(&endpoint).await;
        Ok(added(endpoint, Some(mtu)))
    }

    /// Detaches a pod; one that is not attached is fine.
    pub(crate) async fn remove(&self, attachment: &Attachment) -> Result<(), Failure> {
        let mut state = self.state.lock().await;
        self.detach(&mut state, attachment).await;
        self.save(&state)
    }

    /// Whether the pod is attached as the runtime believes.
    pub(crate) async fn check(&self, request: &CheckRequest) -> Result<(), Failure> {
        let state = self.state.lock().await;
        let Attachment { container_id, ifname } = &request.attachment;
        let Some(record) = state.pods.get(&request.attachment) else {
            return Err(failure(
                FailureKind::NotFound,
                format!("container {container_id} {ifname}: not attached"),
            ));
        };
        let interface = &record.endpoint.interface;
        let link = self.netlink.link(interface).await.map_err(|error| internal(&error))?;
        if link.is_none_or(|link| link.index != record.endpoint.ifindex) {
            return Err(failure(FailureKind::NotFound, format!("interface {interface} is gone")));
        }
        match request.addresses.iter().find(|address| !record.endpoint.addresses.contains(address)) {
            Some(address) => Err(failure(
                FailureKind::Invalid,
                format!("{address} is not an address of {}", record.endpoint.pod),
            )),
            None => Ok(()),
        }
    }

    /// Detaches every pod that is not in `valid`.
    pub(crate) async fn collect(&self, valid: &BTreeSet<Attachment>) -> Result<(), Failure> {
        let mut state = self.state.lock().await;
        let stale: Vec<_> = state.pods.keys().filter(|key| !valid.contains(key)).cloned().collect();
        for attachment in &stale {
            self.detach(&mut state, attachment).await;
        }
        self.save(&state)
    }

    /// The pod as the dataplane knows it, and its MTU: what the runtime asks for, or what the way to other pods takes.
    async fn attach(
        &self,
        request: &AddRequest,
        addresses: &[IpAddr],
        node: &NodeConfig,
    ) -> Result<(Endpoint, u32), Failure> {
        let mtu = match request.mtu {
            Some(mtu) => Some(mtu),
            None => {
                network::pod_mtu(&self.netlink, node, self.routing).await.map_err(|error| internal(&error))?
            }
        };
        let host_name = link::host_name(&request.attachment);
        let wish = link::Wish {
            host_name: &host_name,
            pod_name: &request.attachment.ifname,
            netns: &request.netns,
            addresses,
            mtu,
        };
        let pair = link::attach(&self.netlink, wish).await.map_err(|error| internal(&error))?;
        let mtu = pair.host.mtu;
        let endpoint = Endpoint {
            pod: request.pod.clone(),
            addresses: addresses.to_vec(),
            interface: pair.host.name,
            ifindex: pair.host.index,
            mac: pair.pod.mac,
            host_mac: pair.host.mac,
            netns: Some(request.netns.clone()),
            l7: Default::default(),
        };
        Ok((endpoint, mtu))
    }

    /// Programs a pod, and connects it then.
    async fn open_way(&self, endpoint: &Endpoint, attachment: &Attachment) -> Result<(), Failure> {
        self.program(endpoint).await?;
        link::connect(&self.netlink, endpoint, &attachment.ifname).await.map_err(|error| internal(&error))
    }

    async fn program(&self, endpoint: &Endpoint) -> Result<(), Failure> {
        let programmed = self.controller.set_endpoint(endpoint.clone());
        let failed = |reason: String| {
            failure(FailureKind::Unavailable, format!("program pod {}: {reason}", endpoint.pod))
        };
        match tokio::time::timeout(PROGRAM_WITHIN, programmed).await {
            Ok(Ok(done)) => done.map_err(failed),
            Ok(Err(_)) => Err(failed("the dataplane has ended".into())),
            Err(_) => Err(failed(format!("not done within {PROGRAM_WITHIN:?}"))),
        }
    }

    /// Takes a pod out of everything. Goes on over failures: whoever detaches cannot do anything about them.
    async fn detach(&self, state: &mut State, attachment: &Attachment) {
        // Also without a record: an attempt may have been cut short before it was written down.
        let name = link::host_name(attachment);
        if let Err(error) = self.netlink.delete_link(&name).await {
            tracing::warn!(interface = name, error = error.source.to_string(), "cannot remove");
        }
        let Some(record) = state.pods.remove(attachment) else { return };
        let pod = &record.endpoint.pod;
        // A pod that was made anew under its old name may be attached already.
        if !state.pods.values().any(|other| other.endpoint.pod == *pod) {
            let released: oneshot::Receiver<_> = self.controller.remove_endpoint(pod.clone());
            if tokio::time::timeout(RELEASE_WITHIN, released).await.is_err() {
                tracing::warn!(%pod, "the dataplane has not let go yet");
            }
        }
        free(&mut state.pools, &record.endpoint.addresses);
        tracing::info!(%pod, interface = name, "detached");
    }

    fn save(&self, state: &State) -> Result<(), Failure> {
        store::save(&self.path, state).map_err(|error| internal(&error))
    }
}

impl Identities {
    /// Until the pod's addresses have an identity of the cluster in the kernel, so that its first flow has it; or for long
    /// enough.
    async fn wait(&self, endpoint: &Endpoint) {
        if self.within.is_zero() {
            return;
        }
        let known = async {
            let mut steps = self.worker.steps();
            loop {
                steps.borrow_and_update();
                let addresses = endpoint.addresses.clone();
                let all_known = self.worker.ask(move |reconciler| {
                    let of = |address| reconciler.plane().identity_of(address);
                    let mut found = addresses.into_iter().map(of);
                    found.all(|id| matches!(id, Ok(Some(id)) if id.is_of_cluster()))
                });
                if !matches!(all_known.await, Ok(false)) || steps.changed().await.is_err() {
                    return;
                }
            }
        };
        if tokio::time::timeout(self.within, known).await.is_err() {
            let (pod, within) = (&endpoint.pod, self.within);
            tracing::warn!(%pod, ?within, "has no identity yet: its first flows will not have it either");
        }
    }
}

/// The state file that goes with a socket.
pub(crate) fn state_path(socket: &Path) -> PathBuf {
    socket.with_extension("pods.json")
}

/// One address per pod prefix of the node.
fn allocate(state: &mut State, node: &NodeConfig) -> Result<Vec<IpAddr>, Failure> {
    let used: BTreeSet<IpAddr> =
        state.pods.values().flat_map(|record| record.endpoint.addresses.iter().copied()).collect();
    let mut addresses = vec![];
    for cidr in &node.pod_cidrs {
        let allocated = pool_of(&mut state.pools, *cidr).allocate(&used);
        match allocated {
            Ok(address) => addresses.push(address),
            Err(exhausted) => {
                free(&mut state.pools, &addresses);
                return Err(failure(FailureKind::Unavailable, exhausted.to_string()));
            }
        }
    }
    Ok(addresses)
}

fn pool_of(pools: &mut Vec<Pool>, cidr: IpNet) -> &mut Pool {
    let index = pools.iter().position(|pool| pool.cidr() == cidr.trunc()).unwrap_or_else(|| {
        pools.push(Pool::new(cidr));
        pools.len() - 1
    });
    &mut pools[index]
}

fn free(pools: &mut [Pool], addresses: &[IpAddr]) {
    for address in addresses {
        for pool in &mut *pools {
            pool.free(*address);
        }
    }
}

/// The runtime may ask twice; but an attachment never changes its pod or its namespace.
fn repeated(request: &AddRequest, record: &Record) -> Result<Added, Failure> {
    if record.endpoint.pod == request.pod && record.netns == request.netns {
        return Ok(added(record.endpoint.clone(), record.mtu));
    }
    let Attachment { container_id, ifname } = &request.attachment;
    let message =
        format!("container {container_id} {ifname}: already attached to pod {}", record.endpoint.pod);
    Err(failure(FailureKind::Invalid, message))
}

fn added(endpoint: Endpoint, mtu: Option<u32>) -> Added {
    let address = |address: &IpAddr| AddedAddress {
        address: IpNet::from(*address),
        gateway: link::gateway(Family::of(*address)),
    };
    Added { addresses: endpoint.addresses.iter().map(address).collect(), endpoint, mtu }
}

fn failure(kind: FailureKind, message: String) -> Failure {
    Failure { kind, message }
}

fn internal(error: &dyn StdError) -> Failure {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        message = format!("{message}: {error}");
        cause = error.source();
    }
    failure(FailureKind::Internal, message)
}
