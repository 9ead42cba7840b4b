//! VXLAN devices, their neighbours and their forwarding tables.

use std::{net::IpAddr, pin::pin};

use futures::StreamExt as _;
use model::{MacAddress, Port};
use rtnetlink::{
    LinkVxlan,
    packet_route::{
        AddressFamily,
        link::{InfoData, InfoVxlan, LinkInfo},
        neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
    },
};

use super::{Error, Link, Netlink, cause, done};

/// What makes a VXLAN device the one it is: changing any of it takes a new device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct VxlanDevice {
    /// The network's identifier, 24 bits.
    pub(crate) vni: u32,
    pub(crate) port: Port,
    /// The underlay address that it sends from; `None` where the kernel is to choose.
    pub(crate) local: Option<IpAddr>,
}

/// Reads the description of a link; `None` where it is of another kind.
pub(super) fn read(infos: &[LinkInfo]) -> Option<VxlanDevice> {
    let data = infos.iter().find_map(|info| match info {
        LinkInfo::Data(InfoData::Vxlan(data)) => Some(data),
        _ => None,
    })?;
    let (mut vni, mut port, mut local) = (None, None, None);
    for info in data {
        match info {
            InfoVxlan::Id(id) => vni = Some(*id),
            InfoVxlan::Port(number) => port = Port::new(*number),
            InfoVxlan::Local(address) => local = Some(IpAddr::V4(*address)),
            InfoVxlan::Local6(address) => local = Some(IpAddr::V6(*address)),
            _ => {}
        }
    }
    Some(VxlanDevice { vni: vni?, port: port?, local })
}

impl Netlink {
    /// Creates a device that learns nothing by itself: everything it needs to know is entered.
    pub(crate) async fn add_vxlan(
        &self,
        name: &str,
        device: VxlanDevice,
        mac: MacAddress,
        mtu: u32,
    ) -> Result<(), Error> {
        let mut link = LinkVxlan::new(name, device.vni).port(device.port.get()).learning(false);
        link = match device.local {
            Some(IpAddr::V4(address)) => link.local(address),
            Some(IpAddr::V6(address)) => link.local6(address),
            None => link,
        };
        let link = link.address(mac.0.to_vec()).mtu(mtu);
        done("create VXLAN device", name.to_owned(), self.0.link().add(link.build()).execute()).await
    }

    /// The neighbour entries of `link` that never age.
    pub(crate) async fn permanent_neighbours(&self, link: &Link) -> Result<Vec<(IpAddr, MacAddress)>, Error> {
        let mut all = vec![];
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            all.extend(self.neighbours(link, family).await?);
        }
        Ok(all.iter().filter(|entry| is_permanent(entry)).filter_map(read_neighbour).collect())
    }

    pub(crate) async fn remove_neighbour(&self, link: &Link, address: IpAddr) -> Result<(), Error> {
        let message = self.0.neighbours().add(link.index, address).message_mut().clone();
        let request = self.0.neighbours().del(message);
        done("remove neighbour", format!("{address} on {}", link.name), request.execute()).await
    }

    /// Where `link` sends frames: by receiver, the underlay address.
    pub(crate) async fn forwarding(&self, link: &Link) -> Result<Vec<(MacAddress, IpAddr)>, Error> {
        let entries = self.neighbours(link, AddressFamily::Bridge).await?;
        Ok(entries.iter().filter_map(read_neighbour).map(|(address, mac)| (mac, address)).collect())
    }

    pub(crate) async fn set_forwarding(&self, link: &Link, mac: MacAddress, to: IpAddr) -> Result<(), Error> {
        let request = self.0.neighbours().add_bridge(link.index, &mac.0).destination(to);
        let request = request.flags(NeighbourFlags::Own).replace().execute();
        done("set forwarding entry", format!("{mac} on {}", link.name), request).await
    }

    pub(crate) async fn remove_forwarding(
        &self,
        link: &Link,
        mac: MacAddress,
        to: IpAddr,
    ) -> Result<(), Error> {
        let mut entry = self.0.neighbours().add_bridge(link.index, &mac.0).destination(to);
        entry = entry.flags(NeighbourFlags::Own);
        let request = self.0.neighbours().del(entry.message_mut().clone()).execute();
        done("remove forwarding entry", format!("{mac} on {}", link.name), request).await
    }

    async fn neighbours(&self, link: &Link, family: AddressFamily) -> Result<Vec<NeighbourMessage>, Error> {
        let mut entries = pin!(self.0.neighbours().get().set_address_family(family).execute());
        let mut found = vec![];
        while let Some(entry) = entries.next().await {
            let entry = entry.map_err(|error| Error {
                operation: "list neighbours of",
                object: link.name.clone(),
                source: cause(error),
            })?;
            if entry.header.ifindex == link.index {
                found.push(entry);
            }
        }
        Ok(found)
    }
}

fn is_permanent(entry: &NeighbourMessage) -> bool {
    entry.header.state == NeighbourState::Permanent
}

fn read_neighbour(entry: &NeighbourMessage) -> Option<(IpAddr, MacAddress)> {
    let (mut address, mut mac) = (None, None);
    for attribute in &entry.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => address = Some(IpAddr::V4(*v4)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => address = Some(IpAddr::V6(*v6)),
            // A forwarding entry is of no address family: the length tells.
            NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) => {
                let v4 = <[u8; 4]>::try_from(bytes.as_slice()).map(IpAddr::from);
                address = v4.or_else(|_| <[u8; 16]>::try_from(bytes.as_slice()).map(IpAddr::from)).ok();
            }
            NeighbourAttribute::LinkLayerAddress(bytes) => {
                mac = <[u8; 6]>::try_from(bytes.as_slice()).ok().map(MacAddress);
            }
            _ => {}
        }
    }
    Some((address?, mac?))
}
