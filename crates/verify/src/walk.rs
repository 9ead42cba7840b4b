//! The iptables plane without a kernel: its rules for a snapshot, walked through by every way that chance can take.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use dataplane_iptables::{
    parse::Saved,
    render::{Options, render},
    walk::{End, Journey, walk},
};
use model::{Family, FrontendAddress, FrontendKind, Snapshot, oracle::Packet};
use scenarios::places::Node;

use crate::compare::{Seen, is_noticed};

/// The rules of one snapshot, of both families.
#[derive(Debug)]
pub struct Rules {
    saved: BTreeMap<Family, Saved>,
    endpoints: BTreeSet<SocketAddr>,
    local: BTreeSet<IpAddr>,
}

impl Rules {
    /// # Errors
    /// A service port that no rules express: which, and why.
    pub fn of(snapshot: &Snapshot, node: Node) -> Result<Self, String> {
        let mut saved = BTreeMap::new();
        for family in Family::ALL {
            let (set, refused) = render(snapshot, family, Options::default());
            if let Some((id, reason)) = refused.first_key_value() {
                return Err(format!("{id}: {reason}"));
            }
            saved.insert(family, set.saved());
        }
        let services = snapshot.services.values();
        let backends = services.flat_map(|service| service.cluster.iter().chain(&service.local));
        // A load-balancer address is local where it is one: where a Service's frontend is.
        let frontends = snapshot.services.values().flat_map(|service| &service.frontends);
        let balancer = frontends.filter_map(|frontend| match (frontend.kind, frontend.address) {
            (FrontendKind::LoadBalancer, FrontendAddress::Ip(ip)) => Some(ip),
            _ => None,
        });
        let own = Family::ALL.map(|family| node.address(family));
        Ok(Self {
            saved,
            endpoints: backends.map(|backend| backend.address).collect(),
            local: own.into_iter().chain(balancer).collect(),
        })
    }

    /// Where the rules lead the packet.
    pub fn seen(&self, packet: &Packet, snapshot: &Snapshot) -> Seen {
        let saved = &self.saved[&Family::of(packet.destination.ip())];
        let end = |endpoint| {
            let journey = Journey { packet: *packet, endpoint, remembered: None, local: self.local.clone() };
            walk(saved, &journey).end
        };
        match end(packet.destination) {
            End::Untranslated => return Seen::Untouched,
            End::Rejected => return Seen::Refused,
            End::Dropped => return Seen::Dropped,
            End::Translated { .. } => {}
        }
        let noticed = is_noticed(packet, snapshot);
        let mut ways = BTreeSet::new();
        for endpoint in self.endpoints.iter().filter(|e| e.is_ipv4() == packet.destination.is_ipv4()) {
            match end(*endpoint) {
                End::Translated { to, masqueraded } => ways.insert((to, masqueraded && noticed)),
                other => return Seen::Other(format!("chance decides whether it ends in {other:?}")),
            };
        }
        Seen::To(ways)
    }
}
