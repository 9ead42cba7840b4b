//! Tells that something of the namespace's links, addresses, routes or neighbours changed, never what.

use std::io;

use futures::StreamExt as _;
use rtnetlink::{
    MulticastGroup,
    packet_core::NetlinkPayload,
    packet_route::{AddressFamily, RouteNetlinkMessage, neighbour::NeighbourState, route::RouteProtocol},
};
use tokio::sync::watch;

use super::ROUTE_PROTOCOL;

/// Starts to watch the namespace of the calling thread.
///
/// # Errors
/// No netlink socket can be had.
pub(crate) fn changes() -> io::Result<watch::Receiver<()>> {
    let groups = [
        MulticastGroup::Link,
        MulticastGroup::Neigh,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Route,
    ];
    let (connection, _handle, mut messages) = rtnetlink::new_multicast_connection(&groups)?;
    tokio::spawn(connection);
    let (tell, told) = watch::channel(());
    tokio::spawn(async move {
        while let Some((message, _)) = messages.next().await {
            if concerns(&message.payload) && tell.send(()).is_err() {
                return;
            }
        }
    });
    Ok(told)
}

/// Ordinary neighbours come all the time, and others' routes are nobody's business here. Messages that were lost,
/// because the socket's buffer was full, may have been anything.
fn concerns(payload: &NetlinkPayload<RouteNetlinkMessage>) -> bool {
    let NetlinkPayload::InnerMessage(message) = payload else { return true };
    match message {
        RouteNetlinkMessage::NewNeighbour(entry) => {
            let header = &entry.header;
            header.state == NeighbourState::Permanent || header.family == AddressFamily::Bridge
        }
        RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route) => {
            route.header.protocol == RouteProtocol::Other(ROUTE_PROTOCOL)
        }
        _ => true,
    }
}
