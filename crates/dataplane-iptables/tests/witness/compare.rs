//! Two sets of rules: line by line, but for the order between Services, and by what becomes of packets.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
};

use dataplane_iptables::{
    parse::Saved,
    ruleset::Table,
    walk::{Journey, Terrain},
};
pub(crate) use model::Family;
use model::{Protocol, Snapshot, oracle::Packet};

use crate::ours::Ours;

/// Rules that only one of both has, and chains that have them in another order.
pub(crate) fn rules(theirs: &Saved, ours: &Saved) -> Vec<String> {
    let mut found = Vec::new();
    for table in Table::ALL {
        let (theirs, ours) = (chains(theirs, table), chains(ours, table));
        let names: BTreeSet<_> = theirs.keys().chain(ours.keys()).collect();
        for name in names {
            match (theirs.get(name), ours.get(name)) {
                (Some(a), Some(b)) if a == b => {}
                (Some(_), None) => {
                    found.push(format!("rules of {table} {name}: only the proxy has the chain"))
                }
                (None, Some(_)) => found.push(format!("rules of {table} {name}: only we have the chain")),
                (a, b) => found.push(format!("rules of {table} {name}: {a:#?} there, {b:#?} here")),
            }
        }
    }
    found
}

/// The chains of ours and jumps into them. In the chains that Services share, their order is the proxy's own choice
/// (kube-proxy walks a map): the lines are sorted, with the last, which must be last, kept in its place.
fn chains(saved: &Saved, table: Table) -> std::collections::BTreeMap<String, Vec<String>> {
    let shared = ["KUBE-SERVICES", "KUBE-EXTERNAL-SERVICES", "KUBE-NODEPORTS", "KUBE-PROXY-FIREWALL"];
    let mut all = std::collections::BTreeMap::new();
    for (name, rules) in saved.chains(table) {
        let own = name.as_str().starts_with("KUBE-");
        let wanted = |text: &&str| own || text.contains("-j KUBE-");
        let mut rules: Vec<_> =
            rules.iter().map(|rule| rule.text.as_str()).filter(wanted).map(str::to_owned).collect();
        if shared.contains(&name.as_str()) {
            rules.sort_by_key(|rule| (rule.contains("NOTE: this must be the last"), rule.clone()));
        }
        if own || !rules.is_empty() {
            all.insert(name.to_string(), rules);
        }
    }
    all
}

/// Packets that end elsewhere by the proxy's rules than by ours.
pub(crate) fn flows(theirs: &Saved, ours: &Ours, family: Family) -> Vec<String> {
    let mut found = Vec::new();
    let local = ours.snapshot.node.addresses_of(family).collect::<BTreeSet<_>>();
    let endpoints: BTreeSet<_> = endpoints(&ours.snapshot, family).collect();
    let (there, here) = (Terrain::of(theirs), Terrain::of(&ours.saved[&family]));
    for packet in packets(&ours.snapshot, family) {
        for endpoint in endpoints.iter().copied().chain([packet.destination]) {
            let journey = Journey { packet, endpoint, remembered: None, local: local.clone() };
            let (there, here) = (there.walk(&journey).end, here.walk(&journey).end);
            if there != here {
                found.push(format!("packet {packet:?} led to {endpoint}: {there:?} there, {here:?} here"));
            }
        }
    }
    found
}

fn endpoints(snapshot: &Snapshot, family: Family) -> impl Iterator<Item = SocketAddr> {
    let services = snapshot.services.values().filter(move |service| service.id.family == family);
    services.flat_map(|service| service.cluster.iter().chain(&service.local)).map(|backend| backend.address)
}

/// From every origin to every frontend, under every protocol.
fn packets(snapshot: &Snapshot, family: Family) -> Vec<Packet> {
    let texts = match family {
        Family::V4 => {
            ["10.128.1.5", "10.128.2.5", "192.168.50.2", "203.0.113.5", "203.0.113.200", "198.51.100.66"]
        }
        Family::V6 => {
            ["fd00:20:0:1::5", "fd00:20:0:2::5", "fd00:50::2", "2001:db8:c::5", "2001:db8:d::5", "fd00:50::9"]
        }
    };
    let clients = texts.map(|text| text.parse::<IpAddr>().expect("address"));
    let sources: BTreeSet<IpAddr> =
        clients.into_iter().chain(endpoints(snapshot, family).map(|endpoint| endpoint.ip())).collect();
    let services = snapshot.services.values().filter(|service| service.id.family == family);
    let targets: BTreeSet<_> = services
        .flat_map(|service| {
            service.frontends.iter().flat_map(|frontend| {
                let at = snapshot.node.addresses_at(frontend, family).into_iter();
                at.map(|address| SocketAddr::new(address, frontend.port.get())).collect::<Vec<_>>()
            })
        })
        .collect();
    let mut all = Vec::new();
    for (destination, source) in
        targets.iter().flat_map(|target| sources.iter().map(move |source| (*target, *source)))
    {
        for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
            all.push(Packet { source: SocketAddr::new(source, 40000), destination, protocol });
        }
    }
    all
}
