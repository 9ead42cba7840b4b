//! Calls of sockets that named a frontend. One record says what was named and what was given: Hubble's clients know two flows
//! of it, before and after.
//!
//! A socket's own address is not chosen yet when it calls: what is shown is that of the pod whose network namespace it is in,
//! or the node's, and no port.

use std::{net::IpAddr, sync::Arc};

use abi::{EventKind, HOST_IDENTITY, Point};

use super::{Decoder, Parts, l4};
use crate::{
    directory::Directory,
    event::{Endpoint, Flow, Ip, Seen},
    proto::flow::{SocketTranslationPoint as At, TrafficDirection, Verdict},
};

/// The other side of a call.
struct Peer {
    words: [u32; 4],
    port: abi::Be16,
    identity: u32,
}

impl Decoder {
    /// Before, and unless the call was refused, after.
    pub(super) fn call(&mut self, record: &abi::Event, parts: Parts, directory: &Directory) -> Vec<Flow> {
        let named = Peer { words: record.destination, port: record.destination_port, identity: 0 };
        let given = Peer {
            words: record.new_destination,
            port: record.new_destination_port,
            identity: record.destination_identity,
        };
        let socket = |point| Seen::Socket { point, cookie: record.packets, cgroup: record.bytes };
        if record.kind != EventKind::Translated as u8 {
            let refused = Peer { identity: record.destination_identity, ..named };
            return vec![self.of_call(record, parts, directory, (refused, Seen::Drop(parts.drop)))];
        }
        let (before, after) = match parts.point {
            Point::Answer => (At::SockXlatePointPreDirectionRev, At::SockXlatePointPostDirectionRev),
            _ => (At::SockXlatePointPreDirectionFwd, At::SockXlatePointPostDirectionFwd),
        };
        // Whose address it was belongs to what was before an answer was turned back.
        let (named, given) = match parts.point {
            Point::Answer => (Peer { identity: 0, ..named }, Peer { identity: 0, ..given }),
            _ => (named, given),
        };
        let traced = Parts { verdict: Verdict::Traced, ..parts };
        vec![
            self.of_call(record, traced, directory, (named, socket(before))),
            self.of_call(record, parts, directory, (given, socket(after))),
        ]
    }

    fn of_call(
        &mut self,
        record: &abi::Event,
        parts: Parts,
        directory: &Directory,
        (peer, seen): (Peer, Seen),
    ) -> Flow {
        let (own, caller) = caller(record, parts, directory);
        let address = (parts.address)(peer.words);
        let service = address.and_then(|ip| directory.service(ip, peer.port.get(), record.protocol));
        let other = match address {
            // Services have no identity; and where the record has none, the address may still be somebody's.
            Some(_) if peer.identity == 0 && service.is_some() => Arc::default(),
            Some(ip) if peer.identity == 0 => directory.owner(ip),
            Some(ip) => directory.endpoint(ip, peer.identity),
            None => Arc::default(),
        };
        let answers = parts.point == Point::Answer;
        let ip = own.zip(address).map(|(own, other)| Ip {
            source: if answers { other } else { own },
            destination: if answers { own } else { other },
            source_xlated: None,
            encrypted: false,
        });
        let port = peer.port.get();
        let (source, destination) = if answers { (other, caller) } else { (caller, other) };
        let (source_service, destination_service) = if answers { (service, None) } else { (None, service) };
        Flow {
            uuid: self.uuid(),
            verdict: parts.verdict,
            seen,
            direction: if parts.verdict == Verdict::Dropped {
                TrafficDirection::Egress
            } else {
                TrafficDirection::Unknown
            },
            is_reply: (parts.verdict != Verdict::Dropped).then_some(answers),
            ethernet: None,
            ip,
            l4: l4(record, if answers { (port, 0) } else { (0, port) }),
            source,
            destination,
            source_names: None,
            destination_names: None,
            source_service,
            destination_service,
            interface: None,
            node: Arc::clone(&self.node),
            rules: None,
            rare: None,
        }
    }
}

/// Who called, and the address that its packets will most likely have.
fn caller(record: &abi::Event, parts: Parts, directory: &Directory) -> (Option<IpAddr>, Arc<Endpoint>) {
    let is_v4 = record.family == 4;
    debug_assert!(matches!(parts.point, Point::Call | Point::Answer));
    if record.source_identity == HOST_IDENTITY {
        let own = directory.node_address(is_v4);
        return (own, directory.of_identity(HOST_IDENTITY));
    }
    let [low, high, ..] = record.source;
    match directory.in_namespace(u64::from(high) << 32 | u64::from(low)) {
        Some((addresses, endpoint)) => {
            let own = addresses.iter().find(|address| address.is_ipv4() == is_v4).copied();
            (own, endpoint)
        }
        None => (None, Arc::default()),
    }
}
