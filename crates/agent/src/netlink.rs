//! Links, neighbours, addresses and routes of one network namespace, by rtnetlink. Decides nothing.

mod addresses;
mod vxlan;
mod watch;

use std::{future::Future, io, net::IpAddr, pin::pin};

use futures::StreamExt as _;
use ipnet::IpNet;
use model::MacAddress;
use rtnetlink::{
    Handle, LinkGetRequest, LinkUnspec, LinkVeth, RouteMessageBuilder,
    packet_route::{
        AddressFamily,
        link::{InfoData, InfoVeth, LinkAttribute, LinkFlags, LinkMessage},
        route::{
            RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteProtocol, RouteScope, RouteType,
        },
    },
};

pub(crate) use self::{addresses::GlobalAddress, vxlan::VxlanDevice, watch::changes};

/// Marks the routes that the agent made, so that it touches no others ("T"; free in iproute2's rt_protos).
pub(crate) const ROUTE_PROTOCOL: u8 = 84;

/// A refused operation: verb and object.
#[derive(Debug, thiserror::Error)]
#[error("{operation} {object}")]
pub(crate) struct Error {
    pub(crate) operation: &'static str,
    pub(crate) object: String,
    #[source]
    pub(crate) source: io::Error,
}

/// A connection to the kernel's tables of the namespace it was opened in.
#[derive(Clone, Debug)]
pub(crate) struct Netlink(Handle);

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) mac: MacAddress,
    pub(crate) mtu: u32,
    pub(crate) up: bool,
    /// It sends: up, and so is its other end.
    pub(crate) running: bool,
    /// Set where it is a VXLAN device.
    pub(crate) vxlan: Option<VxlanDevice>,
}

/// Where a route of the agent leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Via {
    Gateway(IpAddr),
    /// Straight out of an interface.
    Link(u32),
    /// A gateway that is on the interface although no address of the interface says so.
    OnLink(IpAddr, u32),
    /// Refused with ICMP.
    Unreachable,
}

impl Netlink {
    /// Connects to the namespace of the calling thread.
    ///
    /// # Errors
    /// No netlink socket can be had.
    pub(crate) fn open() -> io::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        Ok(Self(handle))
    }

    /// The interface of that name, where there is one.
    pub(crate) async fn link(&self, name: &str) -> Result<Option<Link>, Error> {
        one_link(self.0.link().get().match_name(name), name).await
    }

    /// The interface of that index, where there is one.
    pub(crate) async fn link_at(&self, index: u32) -> Result<Option<Link>, Error> {
        one_link(self.0.link().get().match_index(index), &format!("number {index}")).await
    }

    /// Creates a veth pair, the other end in the namespace behind the descriptor `peer_netns`.
    pub(crate) async fn add_veth(
        &self,
        name: &str,
        peer_name: &str,
        peer_netns: i32,
        mtu: Option<u32>,
    ) -> Result<(), Error> {
        let mut peer = LinkUnspec::new_with_name(peer_name).setns_by_fd(peer_netns);
        let mut link = LinkVeth::new(name, peer_name);
        if let Some(mtu) = mtu {
            peer = peer.mtu(mtu);
            link = link.mtu(mtu);
        }
        let link = link.set_info_data(InfoData::Veth(InfoVeth::Peer(peer.build())));
        let request = self.0.link().add(link.build()).execute();
        done("create veth pair", format!("{name}, {peer_name}"), request).await
    }

    /// Removes an interface; one that is not there is no error.
    pub(crate) async fn delete_link(&self, name: &str) -> Result<(), Error> {
        let Some(link) = self.link(name).await? else { return Ok(()) };
        let deleted =
            done("remove interface", name.to_owned(), self.0.link().del(link.index).execute()).await;
        deleted.or_else(|error| match error.source.raw_os_error() {
            Some(libc::ENODEV) => Ok(()),
            _ => Err(error),
        })
    }

    pub(crate) async fn set_up(&self, link: &Link) -> Result<(), Error> {
        let message = LinkUnspec::new_with_index(link.index).up().build();
        done("bring up interface", link.name.clone(), self.0.link().set(message).execute()).await
    }

    pub(crate) async fn set_mtu(&self, link: &Link, mtu: u32) -> Result<(), Error> {
        let message = LinkUnspec::new_with_index(link.index).mtu(mtu).build();
        done("set MTU of", link.name.clone(), self.0.link().set(message).execute()).await
    }

    /// A neighbour entry that never ages.
    pub(crate) async fn set_neighbour(
        &self,
        link: &Link,
        address: IpAddr,
        mac: MacAddress,
    ) -> Result<(), Error> {
        let request = self.0.neighbours().add(link.index, address).link_layer_address(&mac.0).replace();
        done("set neighbour", format!("{address} on {}", link.name), request.execute()).await
    }

    /// Adds a route of the agent's own; one that is there already is refused.
    pub(crate) async fn add_route(&self, destination: IpNet, via: Via) -> Result<(), Error> {
        let message = route(destination, via)?;
        done("add route", destination.to_string(), self.0.route().add(message).execute()).await
    }

    /// Removes a route of the agent's own; one that is not there is no error.
    pub(crate) async fn delete_route(&self, destination: IpNet, via: Via) -> Result<(), Error> {
        let message = route(destination, via)?;
        let deleted =
            done("remove route", destination.to_string(), self.0.route().del(message).execute()).await;
        deleted.or_else(|error| match error.source.raw_os_error() {
            Some(libc::ESRCH) => Ok(()),
            _ => Err(error),
        })
    }

    /// The agent's own routes in the main table.
    pub(crate) async fn own_routes(&self) -> Result<Vec<(IpNet, Via)>, Error> {
        let mut own = vec![];
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut filter = RouteMessage::default();
            filter.header.address_family = family;
            let mut routes = pin!(self.0.route().get(filter).execute());
            while let Some(message) = routes.next().await {
                let message = message.map_err(|error| Error {
                    operation: "list",
                    object: "routes".into(),
                    source: cause(error),
                })?;
                if message.header.protocol == RouteProtocol::Other(ROUTE_PROTOCOL) {
                    own.extend(read_route(&message));
                }
            }
        }
        Ok(own)
    }
}

async fn one_link(request: LinkGetRequest, object: &str) -> Result<Option<Link>, Error> {
    let mut links = pin!(request.execute());
    match links.next().await {
        Some(Ok(message)) => Ok(Some(read_link(&message))),
        None => Ok(None),
        Some(Err(error)) => match cause(error) {
            error if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            source => Err(Error { operation: "look up interface", object: object.to_owned(), source }),
        },
    }
}

async fn done(
    operation: &'static str,
    object: String,
    request: impl Future<Output = Result<(), rtnetlink::Error>>,
) -> Result<(), Error> {
    request.await.map_err(|error| Error { operation, object, source: cause(error) })
}

/// The kernel's own error number, where it is one.
fn cause(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other.to_string()),
    }
}

fn read_link(message: &LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mac: MacAddress::default(),
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up),
        running: message.header.flags.contains(LinkFlags::Running),
        vxlan: None,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Address(bytes) => {
                link.mac = bytes.as_slice().try_into().map(MacAddress).unwrap_or_default();
            }
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::LinkInfo(infos) => link.vxlan = vxlan::read(infos),
            _ => {}
        }
    }
    link
}

fn route(destination: IpNet, via: Via) -> Result<RouteMessage, Error> {
    let invalid = |error: &dyn std::fmt::Display| Error {
        operation: "describe route",
        object: destination.to_string(),
        source: io::Error::new(io::ErrorKind::InvalidInput, error.to_string()),
    };
    let mut builder = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(destination.addr(), destination.prefix_len())
        .map_err(|error| invalid(&error))?
        .protocol(RouteProtocol::Other(ROUTE_PROTOCOL));
    builder = match via {
        Via::Gateway(gateway) => builder.gateway(gateway).map_err(|error| invalid(&error))?,
        Via::Link(index) => builder.output_interface(index).scope(RouteScope::Link),
        Via::OnLink(gateway, index) => {
            builder.gateway(gateway).map_err(|error| invalid(&error))?.output_interface(index).onlink()
        }
        Via::Unreachable => builder.kind(RouteType::Unreachable),
    };
    Ok(builder.build())
}

fn read_route(message: &RouteMessage) -> Option<(IpNet, Via)> {
    let address = |address: &RouteAddress| match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    };
    let find = |pick: fn(&RouteAttribute) -> Option<&RouteAddress>| {
        message.attributes.iter().find_map(pick).and_then(address)
    };
    let destination = find(|attribute| match attribute {
        RouteAttribute::Destination(destination) => Some(destination),
        _ => None,
    })?;
    let gateway = find(|attribute| match attribute {
        RouteAttribute::Gateway(gateway) => Some(gateway),
        _ => None,
    });
    let interface = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    });
    let onlink = message.header.flags.contains(RouteFlags::Onlink);
    let via = match (message.header.kind, gateway, interface) {
        (RouteType::Unreachable, ..) => Via::Unreachable,
        (_, Some(gateway), Some(index)) if onlink => Via::OnLink(gateway, index),
        (_, Some(gateway), _) => Via::Gateway(gateway),
        (_, None, Some(index)) => Via::Link(index),
        (_, None, None) => return None,
    };
    Some((IpNet::new(destination, message.header.destination_prefix_length).ok()?, via))
}
