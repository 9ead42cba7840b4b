//! The plane's health: features, how full tables are, what rules have counted.

use dataplane::{Counter, MapFill, PlaneStatus, Unseen};
use model::{Family, Plane};

use crate::{
    enforcement::Enforcement,
    family::FamilyRules,
    features::{self, Probed},
    flows::UdpFlows,
    kernel::{Programs, Rules as _, account, conntrack, sysctl},
    render::LOCALHOST_ACCEPTED,
    ruleset::Table,
};

/// What is told of besides rules.
pub(crate) struct Known<'a> {
    pub probed: &'a Probed,
    pub udp_flows: &'a UdpFlows,
    pub policies: &'a Enforcement,
}

pub(crate) fn of<'a>(
    families: impl Iterator<Item = &'a FamilyRules<Programs>>,
    known: &Known<'_>,
    mut maps: Vec<MapFill>,
    unseen: Vec<Unseen>,
) -> PlaneStatus {
    let mut counters = vec![known.udp_flows.counter()];
    for rules in families {
        let saved = match rules.kernel().save(None) {
            Ok(saved) => saved,
            Err(error) => {
                tracing::warn!(%error, "cannot read rules for the status");
                continue;
            }
        };
        for table in Table::ALL {
            let entries: usize = saved.chains(table).map(|(_, rules)| rules.len()).sum();
            let name = format!("rules {table} {}", name_of(rules.family()));
            maps.push(MapFill { name, entries: entries as u64, capacity: 0, bytes: 0, refused: 0 });
        }
        counters.extend(rules.counts(&saved).into_rows());
        counters.extend(known.policies.counters(rules.family(), &saved));
    }
    counters.extend(account::all().unwrap_or_default().into_iter().filter_map(accounted));
    PlaneStatus {
        plane: Plane::Iptables,
        features: features::list(known.probed),
        maps,
        counters: summed(counters),
        unseen,
    }
}

/// The one table with a limit. Reading the rules would cost as much as there are.
pub(crate) fn connection_table() -> MapFill {
    let read = |name| sysctl::read(name).unwrap_or_default();
    MapFill {
        name: "nf_conntrack".to_owned(),
        entries: read(sysctl::CONNTRACK_COUNT),
        capacity: read(sysctl::CONNTRACK_MAX),
        bytes: 0,
        refused: conntrack::dropped().unwrap_or_default(),
    }
}

/// INVALID packets are counted by their rule, too.
fn accounted(count: account::Count) -> Option<Counter> {
    let name = (count.name == LOCALHOST_ACCEPTED).then(|| "accepted_localhost_node_port".to_owned())?;
    Some(Counter { name, packets: count.packets, bytes: count.bytes })
}

/// Both families under one name.
fn summed(mut counters: Vec<Counter>) -> Vec<Counter> {
    counters.sort();
    let mut sums: Vec<Counter> = Vec::new();
    for counter in counters {
        match sums.last_mut() {
            Some(last) if last.name == counter.name => {
                last.packets += counter.packets;
                last.bytes += counter.bytes;
            }
            _ => sums.push(counter),
        }
    }
    sums
}

const fn name_of(family: Family) -> &'static str {
    match family {
        Family::V4 => "ipv4",
        Family::V6 => "ipv6",
    }
}
