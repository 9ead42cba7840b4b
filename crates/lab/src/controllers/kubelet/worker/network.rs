//! A pod's network: its namespace, and what the CNI plugin does to it.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
};

use k8s_openapi::{
    api::core::v1::Pod,
    jiff::{SignedDuration, Timestamp},
};
use netns::NetNs;
use tokio::task::spawn_blocking;

use super::{
    super::{super::events::Note, cni::Attachment, plan, state::Sandbox},
    Worker,
};

impl Worker {
    pub(super) async fn make_sandbox(&mut self, pod: &Pod) {
        let host_network = pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true);
        if host_network {
            self.record.sandbox = Sandbox::Ready {
                netns: self.node.plan.namespace.clone(),
                host_network,
                addresses: self.node.plan.addresses.clone(),
                since: Timestamp::now(),
            };
            return;
        }
        let attempts = match self.record.sandbox {
            Sandbox::Failed { attempts, .. } => attempts + 1,
            _ => 1,
        };
        let netns = self.shared.topology.pod_namespace(&self.record.uid);
        self.record.sandbox = Sandbox::Partial { netns: netns.clone() };
        self.save();
        match self.attach(&netns).await {
            Ok(addresses) => {
                let since = Timestamp::now();
                self.record.sandbox = Sandbox::Ready { netns, host_network, addresses, since };
            }
            Err(error) => {
                let message = format!(
                    "Failed to create pod sandbox: failed to setup network for sandbox \"{}\": {error:#}",
                    self.record.uid
                );
                self.recorder.record(pod, Note::warning("FailedCreatePodSandBox", message)).await;
                // The runtime undoes what a failed ADD may have done; what this cannot undo is found by name.
                let _ = self.detach(&netns).await;
                let delay = plan::sandbox_retry(attempts);
                let retry_at = Timestamp::now() + SignedDuration::try_from(delay).unwrap_or_default();
                self.record.sandbox = Sandbox::Failed { attempts, retry_at };
            }
        }
    }

    async fn attach(&self, netns: &str) -> anyhow::Result<Vec<IpAddr>> {
        let name = netns.to_owned();
        let path = blocking(move || {
            // One of this name is from an attempt that was cut short: nothing in it is worth keeping.
            NetNs::remove(&name)?;
            Ok::<_, netns::Error>(NetNs::create(&name)?.path())
        })
        .await??;
        Ok(self.plugin.add(&self.attachment(&path)).await?)
    }

    async fn detach(&self, netns: &str) -> anyhow::Result<()> {
        let path = PathBuf::from("/run/netns").join(netns);
        let detached = self.plugin.del(&self.attachment(&path)).await;
        let name = netns.to_owned();
        blocking(move || NetNs::remove(&name)).await??;
        Ok(detached?)
    }

    fn attachment<'a>(&'a self, netns: &'a Path) -> Attachment<'a> {
        Attachment {
            container_id: &self.record.uid,
            netns,
            namespace: &self.record.namespace,
            name: &self.record.name,
        }
    }

    pub(super) async fn remove_sandbox(&mut self, pod: Option<&Pod>) {
        let (netns, host_network, next) = match &self.record.sandbox {
            Sandbox::Ready { netns, host_network, addresses, since } => {
                let next = Sandbox::Removed { addresses: addresses.clone(), since: *since };
                (netns.clone(), *host_network, next)
            }
            Sandbox::Partial { netns } => (netns.clone(), false, Sandbox::Missing),
            Sandbox::Missing | Sandbox::Failed { .. } | Sandbox::Removed { .. } => return,
        };
        if !host_network && let Err(error) = self.detach(&netns).await {
            let message = format!("error killing pod: failed to teardown network for sandbox: {error:#}");
            tracing::warn!(pod = self.record.full_name(), message);
            if let Some(pod) = pod {
                self.recorder.record(pod, Note::warning("FailedKillPod", message)).await;
            }
            return;
        }
        self.record.sandbox = next;
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> anyhow::Result<T> {
    Ok(spawn_blocking(work).await?)
}
