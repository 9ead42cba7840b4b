//! Gives a pod its interface: a veth pair, routed, without a shared segment. Nothing crosses the pair before its host's end is up,
//! which it is once the dataplane has programmed it.
//!
//! The pod has single addresses and one way out, through a gateway that exists only as a permanent neighbour
//! entry; so no broadcast ever crosses the pair and nothing depends on address resolution.

use std::{
    fs::File,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::AsRawFd as _,
    path::Path,
    time::Duration,
};

use ipnet::IpNet;
use model::{Endpoint, Family, MacAddress};
use netns::NetNs;
use sha2::{Digest as _, Sha256};

use crate::{
    netlink::{self, Link, Netlink, Via},
    sysctl,
    wire::Attachment,
};

/// Link-local: never routed, and the same for every pod.
const GATEWAY_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 1, 1));
const GATEWAY_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1));

/// What a pod is to get.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish<'a> {
    pub(crate) host_name: &'a str,
    pub(crate) pod_name: &'a str,
    pub(crate) netns: &'a Path,
    pub(crate) addresses: &'a [IpAddr],
    pub(crate) mtu: Option<u32>,
}

/// Both ends; the host's is down.
#[derive(Clone, Debug)]
pub(crate) struct Pair {
    pub(crate) host: Link,
    pub(crate) pod: Link,
}

/// The pod cannot be attached.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("open network namespace {path}")]
    Open {
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error(transparent)]
    Enter(#[from] netns::Error),
    #[error("set up a runtime inside the pod")]
    Runtime(#[source] std::io::Error),
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
    #[error("interface {0} vanished while it was set up")]
    Vanished(String),
}

/// The gateway that a pod is given in `family`.
pub(crate) fn gateway(family: Family) -> IpAddr {
    match family {
        Family::V4 => GATEWAY_V4,
        Family::V6 => GATEWAY_V6,
    }
}

/// The host end's name: the same for the same attachment, at most 15 bytes as the kernel wants.
pub(crate) fn host_name(attachment: &Attachment) -> String {
    let mut hash = Sha256::new();
    hash.update(attachment.container_id.as_bytes());
    hash.update([0]);
    hash.update(attachment.ifname.as_bytes());
    let hex: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("tp{}", &hex[..11])
}

/// Creates the pair and everything around it. A failure leaves nothing behind.
pub(crate) async fn attach(netlink: &Netlink, wish: Wish<'_>) -> Result<Pair, Error> {
    // A pair of that name can only be left over from an attempt that was cut short.
    netlink.delete_link(wish.host_name).await?;
    let attached = try_attach(netlink, wish).await;
    if attached.is_err()
        && let Err(error) = netlink.delete_link(wish.host_name).await
    {
        tracing::warn!(interface = wish.host_name, %error, "left behind");
    }
    attached
}

async fn try_attach(netlink: &Netlink, wish: Wish<'_>) -> Result<Pair, Error> {
    let path = wish.netns.display().to_string();
    let file = File::open(wish.netns).map_err(|source| Error::Open { path: path.clone(), source })?;
    netlink.add_veth(wish.host_name, wish.pod_name, file.as_raw_fd(), wish.mtu).await?;
    let vanished = || Error::Vanished(wish.host_name.to_owned());
    let host = netlink.link(wish.host_name).await?.ok_or_else(vanished)?;
    sysctl::apply_all(&sysctl::of_pod(wish.host_name));
    let pod = inside(wish, host.mac)?;
    Ok(Pair { host, pod })
}

/// How long it may take until both ends of a pair send: the kernel sets them going a moment after they are up
/// (`net/core/link_watch.c`).
const RUNNING_WITHIN: Duration = Duration::from_secs(2);

/// Opens the way between a pod, whose end is `pod_name`, and its node. Again is fine.
pub(crate) async fn connect(netlink: &Netlink, endpoint: &Endpoint, pod_name: &str) -> Result<(), Error> {
    let name = &endpoint.interface;
    let host = netlink.link(name).await?.ok_or_else(|| Error::Vanished(name.clone()))?;
    netlink.set_up(&host).await?;
    for address in &endpoint.addresses {
        netlink.set_neighbour(&host, *address, endpoint.mac).await?;
        let (address, via) = (IpNet::from(*address), Via::Link(host.index));
        netlink.delete_route(address, via).await?;
        netlink.add_route(address, via).await?;
    }
    let running = async {
        while !runs(netlink, name).await? || !pod_runs(endpoint, pod_name)? {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    };
    tokio::time::timeout(RUNNING_WITHIN, running).await.unwrap_or_else(|_| {
        tracing::warn!(interface = name, "does not run yet");
        Ok(())
    })
}

async fn runs(netlink: &Netlink, name: &str) -> Result<bool, Error> {
    Ok(netlink.link(name).await?.is_some_and(|link| link.running))
}

fn pod_runs(endpoint: &Endpoint, pod_name: &str) -> Result<bool, Error> {
    let Some(netns) = &endpoint.netns else { return Ok(true) };
    within(netns, async || {
        let netlink = Netlink::open().map_err(Error::Runtime)?;
        runs(&netlink, pod_name).await
    })
}

/// Sets up the pod's end.
fn inside(wish: Wish<'_>, host_mac: MacAddress) -> Result<Link, Error> {
    within(wish.netns, async || set_up_pod(wish, host_mac).await)
}

/// Runs `work` on a thread of its own inside the pod's namespace.
fn within<T: Send>(netns: &Path, work: impl AsyncFnOnce() -> Result<T, Error> + Send) -> Result<T, Error> {
    let namespace = NetNs::open(&netns.display().to_string())?;
    tokio::task::block_in_place(|| {
        namespace.run(|| {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Runtime)?;
            runtime.block_on(work())
        })
    })?
}

async fn set_up_pod(wish: Wish<'_>, host_mac: MacAddress) -> Result<Link, Error> {
    let netlink = Netlink::open().map_err(Error::Runtime)?;
    let vanished = |name: &str| Error::Vanished(name.to_owned());
    let loopback = netlink.link("lo").await?.ok_or_else(|| vanished("lo"))?;
    netlink.set_up(&loopback).await?;
    let link = netlink.link(wish.pod_name).await?.ok_or_else(|| vanished(wish.pod_name))?;
    for address in wish.addresses {
        netlink.add_address(&link, IpNet::from(*address)).await?;
    }
    netlink.set_up(&link).await?;
    for address in wish.addresses {
        let gateway = gateway(Family::of(*address));
        netlink.set_neighbour(&link, gateway, host_mac).await?;
        let everything = match Family::of(*address) {
            Family::V4 => IpNet::new(Ipv4Addr::UNSPECIFIED.into(), 0),
            Family::V6 => IpNet::new(Ipv6Addr::UNSPECIFIED.into(), 0),
        };
        if let Ok(everything) = everything {
            netlink.add_route(everything, Via::OnLink(gateway, link.index)).await?;
        }
    }
    Ok(link)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_are_stable_distinct_and_short_enough() {
        let name = |id: &str, ifname: &str| {
            host_name(&Attachment { container_id: id.into(), ifname: ifname.into() })
        };
        assert_eq!(name("c1", "eth0"), name("c1", "eth0"));
        assert_ne!(name("c1", "eth0"), name("c1", "eth1"));
        assert_ne!(name("c1", "eth0"), name("c1e", "th0"));
        assert_eq!(name("c1", "eth0").len(), 13);
        assert!(name("c1", "eth0").starts_with("tp"));
    }
}
