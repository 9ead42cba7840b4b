//! What a socket gets from an address that it names.

use abi::{Address as _, AffinityKey, Backend, BackendSet, Be16, Config, Frontend, Origin, frontend_flags};

use super::Call;
use crate::{family::Family, maps, service};

/// What is to become of a call.
pub enum Decision {
    /// No frontend is there.
    None,
    /// One of these backends.
    Offer(Offer),
    /// A frontend that the packet path serves: what this client gets depends on the address that it will have.
    Left,
    /// The frontend has no backend for this client.
    Refused,
    /// The node's own address is outside the frontend's ranges.
    Denied,
}

/// A frontend with backends for this client.
pub struct Offer {
    pub config: &'static Config,
    pub frontend: &'static Frontend,
    /// Not empty.
    pub set: BackendSet,
}

/// As [`service::choose`] decides for packets, where the client's address does not matter:
///
/// - The node's own sockets have a node's address whatever they connect to, so that masquerading changes nothing.
/// - A pod that is to be masqueraded must go through the packet path.
/// - Source ranges are compared with the node's address, but for a pod, whose address only its packets tell.
#[inline(always)]
pub fn decide<F: Family>(call: Call, address: F::Address, port: Be16) -> Decision {
    let Some(frontend) = service::frontend::<F>(address, port, call.protocol()) else {
        return Decision::None;
    };
    let Some(config) = maps::config() else { return Decision::Left };
    if frontend.flags & frontend_flags::USABLE == 0 {
        return Decision::Refused;
    }
    let host = call.is_of_host();
    let (set, masquerade) = service::scope(frontend, if host { Origin::Node } else { Origin::Pod });
    if !host && (masquerade || frontend.flags & frontend_flags::SOURCE_RANGES != 0) {
        return Decision::Left;
    }
    if frontend.flags & frontend_flags::SOURCE_RANGES != 0
        && !service::is_allowed::<F>(frontend, F::node_address(config))
    {
        // Where the frontend is an address of the node, IPv4 packets to it have that very address as their source.
        let itself = F::Address::BITS == abi::V4::BITS && service::is_allowed::<F>(frontend, address);
        return if itself { Decision::Left } else { Decision::Denied };
    }
    if set.len == 0 {
        return Decision::Refused;
    }
    Decision::Offer(Offer { config, frontend, set })
}

/// Chooses a backend; affinity is per network namespace.
#[inline(always)]
pub fn choose<F: Family>(call: Call, offer: &Offer, backend: &mut Backend<F::Address>) -> bool {
    let Offer { config, frontend, set } = offer;
    let client = AffinityKey { set: set.set, client: F::Address::default(), namespace: call.namespace() };
    let found = service::select::<F>(frontend, *set, &client, config, backend);
    if found {
        service::remember::<F>(frontend, &client, backend);
    }
    found
}
