//! What the kernel has, read back from the maps: frontends, connections, raw rows.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    net::SocketAddr,
};

use abi::{
    Address, Backend, BackendKey, Flow, Frontend, FrontendKey, RangeKey, SetId, State, Tuple, backend_flags,
    flow_flags, frontend_flags,
};
use dataplane::{BackendRow, BackendState, Connection, Error, ServiceRow};
use ipnet::IpNet;
use model::{Masquerade, Protocol, ServicePortId, TrafficPolicy};

use crate::{
    family::{Family, MapNames},
    rows,
    table::Prefix,
};

fn unreadable(name: &'static str) -> impl Fn(io::Error) -> Error {
    move |source| Error::new("read map", name, source)
}

fn socket<A: Address>(address: A, port: abi::Be16) -> SocketAddr {
    SocketAddr::new(address.to_ip(), port.get())
}

/// An error with all its causes.
pub(crate) fn chain(error: &Error) -> String {
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// The slots of each set, in order.
type Sets<A> = HashMap<SetId, BTreeMap<u32, Backend<A>>>;

fn sets<A: MapNames>(rows: impl IntoIterator<Item = (BackendKey, Backend<A>)>) -> Sets<A> {
    let mut sets = Sets::new();
    for (key, backend) in rows {
        sets.entry(key.set).or_default().insert(key.slot, backend);
    }
    sets
}

/// Every frontend in the kernel's table, with the name of the Service where it is known.
pub(crate) fn service_rows<A: MapNames>(family: &Family<A>) -> Result<Vec<ServiceRow>, Error> {
    let sets = sets(family.backends.read().map_err(unreadable(A::BACKENDS))?);
    let ranges: Vec<Prefix<RangeKey<A>>> =
        family.ranges.read().map_err(unreadable(A::RANGES))?.into_iter().map(|(key, _)| key).collect();
    let frontends = family.frontends.read().map_err(unreadable(A::FRONTENDS))?;
    let row = |(key, frontend)| service_row(family.owner(&key), key, frontend, &sets, &ranges);
    Ok(frontends.into_iter().filter_map(row).collect())
}

/// `None` for a protocol that is no Service's.
fn service_row<A: MapNames>(
    owner: Option<&ServicePortId>,
    key: FrontendKey<A>,
    frontend: Frontend,
    sets: &Sets<A>,
    ranges: &[Prefix<RangeKey<A>>],
) -> Option<ServiceRow> {
    let slots = sets.get(&frontend.outside.set);
    let backends = slots.into_iter().flatten().filter(|(slot, _)| **slot < frontend.outside.len);
    let policy = if frontend.flags & frontend_flags::LOCAL != 0 {
        TrafficPolicy::Local
    } else {
        TrafficPolicy::Cluster
    };
    let restricted = frontend.flags & frontend_flags::SOURCE_RANGES != 0;
    let source_ranges = ranges
        .iter()
        .filter(|prefix| restricted && prefix.data.ranges == frontend.ranges)
        .filter_map(|prefix| IpNet::new(prefix.data.address.to_ip(), (prefix.length - 64) as u8).ok());
    Some(ServiceRow {
        service: owner.map(|id| id.service.clone()),
        port_name: owner.map(|id| id.port.clone()).unwrap_or_default(),
        kind: rows::kind(frontend.flags),
        frontend: socket(key.address, key.port),
        protocol: Protocol::from_number(key.protocol)?,
        policy,
        backends: backends.map(|(_, backend)| backend_row(backend)).collect(),
        affinity_seconds: (frontend.affinity_seconds != 0).then_some(frontend.affinity_seconds),
        source_ranges: source_ranges.map(|range| range.to_string()).collect(),
    })
}

fn backend_row<A: Address>(backend: &Backend<A>) -> BackendRow {
    let terminating = backend.flags & backend_flags::TERMINATING != 0;
    BackendRow {
        address: socket(backend.address, backend.port),
        state: if terminating { BackendState::Terminating } else { BackendState::Active },
        local: backend.flags & backend_flags::LOCAL != 0,
    }
}

/// Live flows, from their first packet's point of view.
pub(crate) fn connections<A: MapNames>(
    family: &Family<A>,
    now: u32,
    hz: u32,
    limit: usize,
) -> Result<Vec<Connection>, Error> {
    let flows: BTreeMap<Tuple<A>, Flow<A>> =
        family.flows.rows().map_err(unreadable(A::FLOWS))?.into_iter().collect();
    let rows = flows.iter().filter(|(_, flow)| !flow.has(flow_flags::REPLY));
    Ok(rows.filter_map(|(key, flow)| connection(key, flow, &flows, now, hz)).take(limit).collect())
}

/// `None` once neither direction is alive.
fn connection<A: MapNames>(
    key: &Tuple<A>,
    flow: &Flow<A>,
    flows: &BTreeMap<Tuple<A>, Flow<A>>,
    now: u32,
    hz: u32,
) -> Option<Connection> {
    let reply = flows.get(&flow.reply_key(key.protocol));
    let left = |flow: &Flow<A>| flow.timeout.checked_sub(now.wrapping_sub(flow.last_seen));
    let left = left(flow).max(reply.and_then(left))?;
    let both = |count: fn(&Flow<A>) -> u64| Some(count(flow) + reply.map_or(0, count));
    Some(Connection {
        protocol: Protocol::from_number(key.protocol)?,
        source: socket(key.source, key.source_port),
        destination: socket(key.destination, key.destination_port),
        backend: socket(flow.destination, flow.destination_port),
        source_seen: socket(flow.source, flow.source_port),
        masquerade: if flow.has(flow_flags::MASQUERADED) { Masquerade::Yes } else { Masquerade::No },
        state: State::name(flow.state).to_owned(),
        expires_seconds: Some(u64::from(left / hz.max(1))),
        packets: both(|flow| flow.packets),
        bytes: both(|flow| flow.bytes),
    })
}

/// One Service port's rows as the kernel has them, in the order that a new flow reads them.
pub(crate) fn raw_rows<A: MapNames>(family: &Family<A>, id: &ServicePortId) -> Result<Vec<String>, Error> {
    let Some(owned) = family.owned().get(id) else { return Ok(vec![]) };
    let mut text = vec![];
    for key in owned.frontends.keys() {
        let found = family.frontends.table().get(key).map_err(unreadable(A::FRONTENDS))?;
        if let Some(row) = found {
            text.push(frontend_text::<A>(key, &row));
        }
    }
    for key in owned.ranges.keys() {
        let range = format!("{}/{}", key.data.address.to_ip(), key.length - 64);
        text.push(format!("{} {:?} {range} => allowed", A::RANGES, key.data.ranges));
    }
    for key in owned.backends.keys() {
        if let Some(row) = family.backends.table().get(key).map_err(unreadable(A::BACKENDS))? {
            let backend = backend_row(&row);
            let place = if backend.local { "local" } else { "remote" };
            let state = if backend.state == BackendState::Active { "active" } else { "terminating" };
            let address = backend.address;
            text.push(format!("{} {:?}[{}] => {address} {place} {state}", A::BACKENDS, key.set, key.slot));
        }
    }
    Ok(text)
}

fn frontend_text<A: MapNames>(key: &FrontendKey<A>, row: &Frontend) -> String {
    let protocol =
        Protocol::from_number(key.protocol).map_or_else(|| key.protocol.to_string(), |p| p.to_string());
    let masquerade: Vec<&str> = [
        (frontend_flags::MASQUERADE_POD, "pods"),
        (frontend_flags::MASQUERADE_NODE, "node"),
        (frontend_flags::MASQUERADE_EXTERNAL, "external"),
    ]
    .into_iter()
    .filter(|(flag, _)| row.flags & flag != 0)
    .map(|(_, word)| word)
    .collect();
    let masquerade = if masquerade.is_empty() { "nobody".to_owned() } else { masquerade.join(",") };
    let affinity = if row.affinity_seconds == 0 {
        String::new()
    } else {
        format!(" affinity {} s", row.affinity_seconds)
    };
    format!(
        "{} {}/{protocol} => {:?} inside {:?}[{}] outside {:?}[{}] masquerade {masquerade}{affinity}",
        A::FRONTENDS,
        socket(key.address, key.port),
        rows::kind(row.flags),
        row.inside.set,
        row.inside.len,
        row.outside.set,
        row.outside.len,
    )
}
