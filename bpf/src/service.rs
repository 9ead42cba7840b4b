//! From a frontend to a backend.

use abi::{
    Address, AffinityKey, AffinityValue, Backend, BackendKey, BackendSet, Be16, Config, Flow, Frontend,
    FrontendKey, Lookup, MaglevKey, MemberKey, Origin, RangeKey, SetId, Tuple, frontend_flags, maglev,
    protocol,
};
use aya_ebpf::btf_maps::lpm_trie::Key;

use crate::{
    counters,
    family::{Family, origin},
    hook::Hook,
    kernel, maps,
};

/// Slots tried for one that is not this node: more than one node serves of any Service port.
const OTHERS: u32 = 16;

/// What a new flow gets from its destination.
pub enum Choice {
    /// No frontend is there.
    None,
    /// A backend; whether the source is to be masqueraded, and if so, whether it may be kept by way of the tunnel.
    Backend { masquerade: bool, direct: bool },
    /// The frontend has no backend for this client.
    Refused,
    /// The source is outside the frontend's ranges.
    Denied,
    /// A row that must be there is missing.
    Missing,
}

/// What a known flow may do after something changed.
pub enum Review {
    Keep,
    /// Its backend left the set: choose another.
    Anew,
    /// No backend is left for this client.
    Refused,
}

/// Chooses a backend for the first packet of a flow, into `backend`.
#[inline(always)]
pub fn choose<F: Family, H: Hook>(
    key: &Tuple<F::Address>,
    config: &Config,
    backend: &mut Backend<F::Address>,
) -> Choice {
    let Some(frontend) = frontend::<F>(key.destination, key.destination_port, key.protocol) else {
        return Choice::None;
    };
    if frontend.flags & frontend_flags::USABLE == 0 {
        return Choice::Refused;
    }
    if frontend.flags & frontend_flags::SOURCE_RANGES != 0 && !is_allowed::<F>(frontend, key.source) {
        return Choice::Denied;
    }
    let origin = source_origin::<F>(key);
    let direct = origin == Origin::External && frontend.flags & frontend_flags::DIRECT_RETURN != 0;
    // Another node has sent it here for a backend of this node. Where that is gone, any other will do.
    let sent_here = H::FROM_TUNNEL && direct && frontend.tunnel.len != 0;
    let (set, masquerade) = if sent_here { (frontend.tunnel, false) } else { scope(frontend, origin) };
    if set.len == 0 {
        return Choice::Refused;
    }
    let client = AffinityKey { set: set.set, client: key.source, namespace: [0; 2] };
    let table_size = if sent_here { 0 } else { frontend.table_size };
    let slot = || slot::<F>(key, frontend, set, (origin, table_size));
    if !select_by::<F>(frontend, set, &client, config, backend, slot) {
        return Choice::Missing;
    }
    // What a process of this node has sent out of a device cannot come back to the node: it would have the node's own
    // address as its source, a martian.
    if !H::INGRESS && is_this_node::<F>(backend) && !pick_elsewhere::<F>(set, backend) {
        return Choice::Refused;
    }
    remember::<F>(frontend, &client, backend);
    Choice::Backend { masquerade, direct }
}

/// One of a set that is not empty: the one that this client was given before, or any. To be followed by [`remember`]. False
/// where a row that must be there is missing.
#[inline(always)]
pub fn select<F: Family>(
    frontend: &Frontend,
    set: BackendSet,
    client: &AffinityKey<F::Address>,
    config: &Config,
    backend: &mut Backend<F::Address>,
) -> bool {
    select_by::<F>(frontend, set, client, config, backend, || random_slot(set))
}

/// [`select`], with another slot than a random one.
#[inline(always)]
fn select_by<F: Family>(
    frontend: &Frontend,
    set: BackendSet,
    client: &AffinityKey<F::Address>,
    config: &Config,
    backend: &mut Backend<F::Address>,
    slot: impl FnOnce() -> u32,
) -> bool {
    let patience = frontend.affinity_seconds.wrapping_mul(config.hz);
    patience != 0 && remembered::<F>(client, patience, backend) || pick::<F>(set, slot(), backend)
}

/// Looks at a known flow again. TCP keeps its backend for as long as the frontend has any (pods drain); UDP has no end of
/// its own, and moves on when its backend leaves.
#[inline(always)]
pub fn review<F: Family>(key: &Tuple<F::Address>, flow: &Flow<F::Address>) -> Review {
    let Some(frontend) = frontend::<F>(key.destination, key.destination_port, key.protocol) else {
        // There never was one, and only the client's port is another; or the Service is gone: what is open may finish, as with
        // the kernel's own connection tracking.
        let direct = key.destination == flow.destination && key.destination_port == flow.destination_port;
        return if direct || key.protocol == protocol::TCP { Review::Keep } else { Review::Anew };
    };
    let (set, _) = scope(frontend, source_origin::<F>(key));
    if set.len == 0 {
        Review::Refused
    } else if key.protocol == protocol::TCP
        || is_member::<F>(set.set, flow.destination, flow.destination_port)
    {
        Review::Keep
    } else {
        Review::Anew
    }
}

/// Looks again at a flow whose packets go whole to another node: the node is kept for TCP, which it alone knows; any other
/// is chosen again, and mostly alike.
#[inline(always)]
pub fn review_whole<F: Family>(key: &Tuple<F::Address>, flow: &Flow<F::Address>, config: &Config) -> Review {
    if flow.interface != config.direct_return || key.protocol != protocol::TCP {
        return Review::Anew;
    }
    match frontend::<F>(key.destination, key.destination_port, key.protocol) {
        Some(frontend) if frontend.outside.len == 0 => Review::Refused,
        _ => Review::Keep,
    }
}

/// The frontend at an address.
#[inline(always)]
pub fn frontend<F: Family>(address: F::Address, port: Be16, protocol: u8) -> Option<&'static Frontend> {
    if !maps::may_have(address, port, protocol) {
        return None;
    }
    counters::lookup(Lookup::Frontend);
    let key = FrontendKey { address, port, protocol, padding: 0 };
    // SAFETY: rows are replaced whole by user space; a reader keeps the old one until its program ends (RCU).
    unsafe { F::frontends().get(key) }
}

#[inline(always)]
fn source_origin<F: Family>(key: &Tuple<F::Address>) -> Origin {
    counters::lookup(Lookup::Route);
    origin::<F>(key.source)
}

/// The set that a client of this origin chooses from, and whether it is masqueraded.
#[inline(always)]
pub fn scope(frontend: &Frontend, origin: Origin) -> (BackendSet, bool) {
    let (set, flag) = match origin {
        Origin::Pod => (frontend.inside, frontend_flags::MASQUERADE_POD),
        Origin::Node => (frontend.inside, frontend_flags::MASQUERADE_NODE),
        Origin::External => (frontend.outside, frontend_flags::MASQUERADE_EXTERNAL),
    };
    (set, frontend.flags & flag != 0)
}

/// Whether a source is in the frontend's ranges.
#[inline(always)]
pub fn is_allowed<F: Family>(frontend: &Frontend, source: F::Address) -> bool {
    counters::lookup(Lookup::Backend);
    let bits = 64 + F::Address::BITS;
    F::ranges().get(&Key::new(bits, RangeKey { ranges: frontend.ranges, address: source })).is_some()
}

/// The slot of a new flow: each with equal chance. From outside every node gives the same answer, so that a flow which the
/// load balancer moves to another node finds its backend again.
#[inline(always)]
fn slot<F: Family>(
    key: &Tuple<F::Address>,
    frontend: &Frontend,
    set: BackendSet,
    (origin, table_size): (Origin, u32),
) -> u32 {
    if !matches!(origin, Origin::External) {
        return random_slot(set);
    }
    let ports = (key.source_port.get() as u32) << 16 | key.destination_port.get() as u32;
    let ports = if frontend.affinity_seconds == 0 { ports } else { 0 };
    let hash = maglev::hash(key.source, ports, key.protocol);
    match entry::<F>(set, maglev::scale(hash, table_size), table_size) {
        Some(slot) if slot < set.len => slot,
        // No table, or one of backends that are gone: just as even, and the same everywhere while nothing changes.
        _ => maglev::scale(hash, set.len),
    }
}

/// What the set's lookup table has at `index`.
#[inline(always)]
fn entry<F: Family>(set: BackendSet, index: u32, size: u32) -> Option<u32> {
    if size == 0 {
        return None;
    }
    counters::lookup(Lookup::Backend);
    let key = MaglevKey { set: set.set, chunk: index / maglev::CHUNK as u32 };
    // SAFETY: as for frontends.
    let chunk = unsafe { F::maglev().get(key) }?;
    Some(chunk.0[index as usize % maglev::CHUNK] as u32)
}

#[inline(always)]
fn pick<F: Family>(set: BackendSet, slot: u32, backend: &mut Backend<F::Address>) -> bool {
    // The set may shrink between the two lookups; slot 0 is the last to go.
    row::<F>(set, slot, backend) || row::<F>(set, 0, backend)
}

#[inline(always)]
fn is_this_node<F: Family>(backend: &Backend<F::Address>) -> bool {
    counters::lookup(Lookup::Route);
    origin::<F>(backend.address) == Origin::Node
}

/// The first backend from a random slot on that is not this node.
#[inline(always)]
fn pick_elsewhere<F: Family>(set: BackendSet, backend: &mut Backend<F::Address>) -> bool {
    let first = random_slot(set);
    for step in 0..OTHERS {
        if step >= set.len {
            return false;
        }
        let slot = first + step;
        let slot = if slot < set.len { slot } else { slot - set.len };
        if row::<F>(set, slot, backend) && !is_this_node::<F>(backend) {
            return true;
        }
    }
    false
}

#[inline(always)]
fn random_slot(set: BackendSet) -> u32 {
    ((kernel::random() as u64 * set.len as u64) >> 32) as u32
}

#[inline(always)]
fn row<F: Family>(set: BackendSet, slot: u32, backend: &mut Backend<F::Address>) -> bool {
    counters::lookup(Lookup::Backend);
    // SAFETY: as for frontends.
    match unsafe { F::backends().get(BackendKey { set: set.set, slot }) } {
        Some(found) => {
            *backend = *found;
            true
        }
        None => false,
    }
}

/// Whether a set still has this backend.
#[inline(always)]
pub fn is_member<F: Family>(set: SetId, address: F::Address, port: Be16) -> bool {
    counters::lookup(Lookup::Backend);
    // SAFETY: as for frontends.
    unsafe { F::members().get(MemberKey { set, address, port, padding: 0 }) }.is_some()
}

/// The backend that this client was given before, where that is not too long ago and it is still there.
#[inline(always)]
fn remembered<F: Family>(
    client: &AffinityKey<F::Address>,
    patience: u32,
    backend: &mut Backend<F::Address>,
) -> bool {
    counters::lookup(Lookup::Backend);
    let Some(value) = F::affinity().get_ptr(client) else { return false };
    // SAFETY: a mixed read of a row that is being replaced names a backend that membership then denies.
    let value = unsafe { *value };
    if kernel::jiffies().wrapping_sub(value.last_used) >= patience {
        return false;
    }
    backend.address = value.address;
    backend.port = value.port;
    is_member::<F>(client.set, value.address, value.port)
}

/// Keeps a frontend's choice for this client, where the frontend has affinity.
#[inline(always)]
pub fn remember<F: Family>(
    frontend: &Frontend,
    client: &AffinityKey<F::Address>,
    backend: &Backend<F::Address>,
) {
    if frontend.affinity_seconds == 0 {
        return;
    }
    let value = AffinityValue {
        address: backend.address,
        port: backend.port,
        padding: 0,
        last_used: kernel::jiffies(),
    };
    // An LRU table makes room; if it cannot, this client merely is not remembered.
    let _ = F::affinity().insert(client, value, 0);
}
