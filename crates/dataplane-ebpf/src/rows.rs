//! A Service port as rows of the maps. Pure: the same input gives the same rows, also after a restart.

use std::{collections::BTreeMap, net::IpAddr};

use abi::{
    Address, Backend, BackendKey, BackendSet, Be16, Frontend, FrontendKey, MemberKey, RangeKey, SetId,
    backend_flags, frontend_flags,
};
use model::{
    Family, FrontendKind, L7Visibility, Masquerade, NodeConfig, ServicePort, ServicePortId, Target,
    TrafficPolicy, oracle::Origin,
};

use crate::{maglev::TableSize, table::Prefix};

/// What the whole cluster is set to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Options {
    pub(crate) table_size: TableSize,
    /// Clients from outside keep their address under Cluster policy.
    pub(crate) direct_return: bool,
}

/// Everything that one Service port puts into the maps of its family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rows<A: Ord> {
    pub(crate) frontends: BTreeMap<FrontendKey<A>, Frontend>,
    pub(crate) backends: BTreeMap<BackendKey, Backend<A>>,
    pub(crate) members: BTreeMap<MemberKey<A>, u32>,
    pub(crate) ranges: BTreeMap<Prefix<RangeKey<A>>, u32>,
    /// Sets that have a lookup table.
    pub(crate) tables: BTreeMap<SetId, TableSize>,
    /// Bits of the prefilter.
    pub(crate) bits: Vec<u32>,
}

/// Why a Service port cannot be programmed, whatever the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unsupported {
    #[error("a backend or frontend address is of another family than the service")]
    OtherFamily,
}

/// The rows of `service` on `node`.
pub(crate) fn rows<A: Address>(
    service: &ServicePort,
    node: &NodeConfig,
    options: &Options,
) -> Result<Rows<A>, Unsupported> {
    let mut rows = Rows::default();
    let cluster = backend_set(&mut rows, &service.id, "cluster", &service.cluster)?;
    let local = backend_set(&mut rows, &service.id, "local", &service.local)?;
    let near = near_set(&mut rows, service, local, options)?;
    for (index, frontend) in service.frontends.iter().enumerate() {
        let mut row = Frontend {
            affinity_seconds: service.affinity_seconds.unwrap_or(0),
            flags: kind_number(frontend.kind) << frontend_flags::KIND_SHIFT,
            ..Default::default()
        };
        if service.usable_anywhere {
            row.flags |= frontend_flags::USABLE;
        }
        if frontend.policy == TrafficPolicy::Local {
            row.flags |= frontend_flags::LOCAL;
        }
        let set = |origin| target(service, service.target(frontend, origin), cluster, local);
        let (pod, node_scope, external) = (set(Origin::Pod), set(Origin::Node), set(Origin::External));
        row.inside = pod.0;
        row.outside = external.0;
        for (masquerade, flag) in [
            (pod.1, frontend_flags::MASQUERADE_POD),
            (node_scope.1, frontend_flags::MASQUERADE_NODE),
            (external.1, frontend_flags::MASQUERADE_EXTERNAL),
        ] {
            if masquerade {
                row.flags |= flag;
            }
        }
        if options.direct_return && returns_directly(frontend) {
            row.flags |= frontend_flags::DIRECT_RETURN;
            row.tunnel = near;
        }
        if has_table(frontend, row.outside, options) {
            row.table_size = options.table_size.get();
            rows.tables.insert(row.outside.set, options.table_size);
        }
        if !frontend.source_ranges.is_empty() {
            row.flags |= frontend_flags::SOURCE_RANGES;
            row.ranges = set_id(&service.id, &format!("ranges {index}"));
            for range in &frontend.source_ranges {
                // A range of the other family allows nobody here.
                if let Some(address) = A::from_ip(range.addr()) {
                    let key = RangeKey { ranges: row.ranges, address };
                    rows.ranges.insert(Prefix { length: 64 + u32::from(range.prefix_len()), data: key }, 1);
                }
            }
        }
        for address in addresses::<A>(frontend, service.id.family, node)? {
            let key = FrontendKey {
                address,
                port: Be16::new(frontend.port.get()),
                protocol: service.id.protocol.number(),
                padding: 0,
            };
            rows.frontends.insert(key, row);
            rows.bits.push(abi::prefilter::bit(key.address, key.port, key.protocol));
        }
    }
    let processes =
        rows.backends.values().filter(|backend| node.addresses.contains(&backend.address.to_ip()));
    // Their answers leave through the host's stack, where the egress programs ask the prefilter.
    let bits: Vec<u32> = processes
        .map(|backend| abi::prefilter::bit(backend.address, backend.port, service.id.protocol.number()))
        .collect();
    rows.bits.extend(bits);
    Ok(rows)
}

/// Its address is the same on every node: the backend's node knows the frontend as well. The address of a node port is one
/// node's alone.
fn returns_directly(frontend: &model::Frontend) -> bool {
    matches!(frontend.kind, FrontendKind::ExternalIp | FrontendKind::LoadBalancer)
        && frontend.policy == TrafficPolicy::Cluster
}

/// The backends of this node, whatever the policy. A Service without Local policy has no list of them.
fn near_set<A: Address>(
    rows: &mut Rows<A>,
    service: &ServicePort,
    local: BackendSet,
    options: &Options,
) -> Result<BackendSet, Unsupported> {
    if local.len > 0 || !options.direct_return || !service.frontends.iter().any(returns_directly) {
        return Ok(local);
    }
    let near: Vec<_> = service.cluster.iter().filter(|backend| backend.local).cloned().collect();
    backend_set(rows, &service.id, "near", &near)
}

/// Clients from outside that may be led to another node next time find the same backend there. Under Local policy they
/// could not, and a cluster IP has hardly any.
fn has_table(frontend: &model::Frontend, set: BackendSet, options: &Options) -> bool {
    frontend.kind != FrontendKind::ClusterIp
        && frontend.policy == TrafficPolicy::Cluster
        // With more backends than entries some would be left out.
        && (2..=options.table_size.get().min(u16::MAX.into())).contains(&set.len)
}

/// Where `frontend` is reached; a node port or host port may stand for several addresses, one row each.
fn addresses<A: Address>(
    frontend: &model::Frontend,
    family: Family,
    node: &NodeConfig,
) -> Result<Vec<A>, Unsupported> {
    let address = |ip| A::from_ip(ip).ok_or(Unsupported::OtherFamily);
    node.addresses_at(frontend, family).into_iter().map(address).collect()
}

/// The set that clients of one origin choose from, and whether they are masqueraded.
fn target(
    service: &ServicePort,
    target: Target<'_>,
    cluster: BackendSet,
    local: BackendSet,
) -> (BackendSet, bool) {
    match target {
        Target::Backends(backends, masquerade) => {
            let is_local = std::ptr::eq(backends, service.local.as_slice());
            (if is_local { local } else { cluster }, masquerade == Masquerade::Yes)
        }
        // Refused on this plane, whether others have backends or not.
        Target::NoEndpoints | Target::NoLocalEndpoints => (BackendSet::default(), false),
    }
}

fn backend_set<A: Address>(
    rows: &mut Rows<A>,
    id: &ServicePortId,
    which: &str,
    backends: &[model::Backend],
) -> Result<BackendSet, Unsupported> {
    let set = set_id(id, which);
    for (slot, backend) in backends.iter().enumerate() {
        let address = A::from_ip(backend.address.ip()).ok_or(Unsupported::OtherFamily)?;
        let port = Be16::new(backend.address.port());
        let local = if backend.local { backend_flags::LOCAL } else { 0 };
        let terminating = if backend.terminating { backend_flags::TERMINATING } else { 0 };
        let slot = u32::try_from(slot).expect("fewer backends than a u32 counts");
        rows.backends.insert(BackendKey { set, slot }, Backend { address, port, flags: local | terminating });
        rows.members.insert(MemberKey { set, address, port, padding: 0 }, 1);
    }
    Ok(BackendSet { set, len: u32::try_from(backends.len()).expect("fewer backends than a u32 counts") })
}

/// The same name gives the same number in every run: rows of a former agent are recognised, not doubled. By FNV-1a of 64
/// bits two of 20,000 names meet with a probability of one in 10^11.
fn set_id(id: &ServicePortId, what: &str) -> SetId {
    let parts = [
        id.service.namespace.as_str(),
        &id.service.name,
        &id.port,
        id.protocol.lowercase(),
        match id.family {
            Family::V4 => "4",
            Family::V6 => "6",
        },
        what,
    ];
    let bytes = parts.iter().flat_map(|part| part.bytes().chain([0]));
    SetId::from(bytes.fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    }))
}

/// By number. Numbers that no agent writes read as the first.
const KINDS: [FrontendKind; 5] = [
    FrontendKind::ClusterIp,
    FrontendKind::ExternalIp,
    FrontendKind::LoadBalancer,
    FrontendKind::NodePort,
    FrontendKind::HostPort,
];

fn kind_number(kind: FrontendKind) -> u32 {
    KINDS.iter().position(|other| *other == kind).map_or(0, |index| index as u32)
}

/// The kind that a row was written with.
pub(crate) fn kind(flags: u32) -> FrontendKind {
    let number = (flags >> frontend_flags::KIND_SHIFT & frontend_flags::KIND_MASK) as usize;
    KINDS.get(number).copied().unwrap_or(FrontendKind::ClusterIp)
}

/// The prefilter's bit of a pod of this node.
pub(crate) fn endpoint_bit<A: Address>(address: A) -> u32 {
    abi::prefilter::bit(address, Be16::default(), 0)
}

/// The first address of `node` in the family: the one that masquerades.
pub(crate) fn node_address<A: Address>(node: &NodeConfig) -> Option<A> {
    node.addresses.iter().find_map(|ip: &IpAddr| A::from_ip(*ip))
}

/// What may be read of an endpoint's packets.
pub(crate) fn l7_flags(visible: L7Visibility) -> u32 {
    let flag = |is_set, flag| if is_set { flag } else { 0 };
    flag(visible.dns, abi::l7_flags::DNS) | flag(visible.http, abi::l7_flags::HTTP)
}

#[cfg(test)]
mod tests;
