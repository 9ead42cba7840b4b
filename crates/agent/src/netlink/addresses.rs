//! Addresses of interfaces.

use std::{net::IpAddr, pin::pin};

use futures::StreamExt as _;
use ipnet::IpNet;
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope,
};

use super::{Error, Link, Netlink, cause, done};

/// An address of an interface that is neither its loopback nor its link-local one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct GlobalAddress {
    /// Index of the interface.
    pub(crate) interface: u32,
    pub(crate) net: IpNet,
}

impl Netlink {
    pub(crate) async fn add_address(&self, link: &Link, address: IpNet) -> Result<(), Error> {
        let mut request = self.0.address().add(link.index, address.addr(), address.prefix_len());
        if address.addr().is_ipv6() {
            // The address is ours by allocation; without this it is unusable for its first second.
            request.message_mut().attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        done("add address", format!("{address} to {}", link.name), request.execute()).await
    }

    pub(crate) async fn remove_address(&self, link: &Link, address: IpNet) -> Result<(), Error> {
        let mut request = self.0.address().add(link.index, address.addr(), address.prefix_len());
        let message = request.message_mut().clone();
        let request = self.0.address().del(message);
        done("remove address", format!("{address} from {}", link.name), request.execute()).await
    }

    /// Every usable address of global scope that an interface of this namespace has, by interface.
    pub(crate) async fn global_addresses(&self) -> Result<Vec<GlobalAddress>, Error> {
        let mut found = vec![];
        let mut addresses = pin!(self.0.address().get().execute());
        while let Some(message) = addresses.next().await {
            let message = message.map_err(|error| Error {
                operation: "list",
                object: "addresses".into(),
                source: cause(error),
            })?;
            found.extend(read(&message));
        }
        found.sort();
        Ok(found)
    }
}

fn read(message: &AddressMessage) -> Option<GlobalAddress> {
    // Nobody may use an address before it is known to be unique, nor where it is not.
    let unusable = AddressHeaderFlags::Tentative | AddressHeaderFlags::Dadfailed;
    let header = &message.header;
    if header.scope != AddressScope::Universe || header.flags.intersects(unusable) {
        return None;
    }
    // IPv4 has its own address in Local (Address is the peer's on point-to-point links), IPv6 in Address.
    let find = |pick: fn(&AddressAttribute) -> Option<IpAddr>| message.attributes.iter().find_map(pick);
    let local = find(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let address = local.or_else(|| {
        find(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })?;
    let net = IpNet::new(address, header.prefix_len).ok()?;
    Some(GlobalAddress { interface: header.index, net })
}
