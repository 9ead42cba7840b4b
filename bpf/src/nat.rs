//! Opens flows and rewrites their packets.

use core::ptr;

use abi::{Address, Be16, Config, Flow, Lookup, Reason, Route, State, Tuple, flow_flags, protocol};
use aya_ebpf::{
    bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, BPF_NOEXIST},
    helpers::generated as helper,
};

use crate::{
    checksum::{Delta, adjust, fold},
    conntrack, counters,
    family::{Family, Scratch},
    hook::{HANDLED, Hook, Outcome},
    kernel::{self, Context, ETHERNET, NEXT, Summed},
    maps,
    parse::{Bytes, Far, Packet, Transport},
    sctp, send,
};

/// Ports tried before giving up. With three quarters of the range taken towards one backend, one new flow in 100 is dropped,
/// and its client's next packet tries again.
const PORT_TRIES: u32 = 16;
const EEXIST: i32 = -17;

/// Whether the way does not take a packet of this size.
#[inline(always)]
fn is_too_big<F: Family>(ctx: Context, packet: &Packet<F>, mtu: u32, length: u32) -> bool {
    if length <= mtu {
        return false;
    }
    let payload = ctx.segment_payload();
    if payload == 0 {
        return true;
    }
    let transport = match packet.transport {
        Transport::Tcp(header) => (header.read::<u8, 12>() >> 4) as u32 * 4,
        // SCTP's are cut where its chunks end (`GSO_BY_FRAGS`): its sender knows the path.
        Transport::Far(far) if far.protocol == protocol::SCTP => return false,
        Transport::Far(far) => return send::network_length(far) + far.header + payload > mtu,
        Transport::Udp(_) | Transport::Fragment => 8,
    };
    (F::TRANSPORT - ETHERNET) as u32 + transport + payload > mtu
}

#[inline(always)]
fn is_tunnel(interface: u32) -> bool {
    maps::config().is_some_and(|config| config.tunnel != 0 && config.tunnel == interface)
}

/// Rewrites the packet as its entry says, and sends it on.
#[inline(always)]
pub fn forward<F: Family, H: Hook>(
    ctx: Context,
    packet: &Packet<F>,
    flow: &mut Flow<F::Address>,
    reason: Reason,
) -> Outcome {
    let length = ctx.length() - ETHERNET as u32;
    if is_too_big(ctx, packet, flow.mtu, length) {
        // The stack knows nothing of the way to a backend, and takes a frontend's address for one of its own.
        if !flow.has(flow_flags::WHOLE | flow_flags::TRANSLATED) || flow.has(flow_flags::REPLY) {
            return Outcome::pass(Reason::PassedTooBig);
        }
        // The tunnel's own packets are cut instead: they do not forbid it (`vxlan_xmit_one`).
        if !F::may_be_cut(packet.network) || !is_tunnel(flow.interface) {
            return Outcome::too_big();
        }
    }
    if flow.ttl_step != 0 && F::time_to_live(packet.network) <= 1 {
        return Outcome::pass(Reason::PassedTimeToLive);
    }
    F::rewrite(packet.network, (flow.source, flow.destination), flow.ttl_step, flow.l3_delta);
    conntrack::account(flow, length);
    if flow.route == Route::Peer as u8 {
        set_link_addresses(packet.ethernet, flow);
    }
    if flow.has(flow_flags::TRANSLATED) && !rewrite_transport::<F>(ctx, packet, flow) {
        return Outcome::drop(Reason::DroppedInternal);
    }
    Outcome { reason, verdict: leave::<F, H>(ctx, flow) }
}

/// The receiver must find its own address in the frame, and the host's as the sender.
#[inline(always)]
pub fn set_link_addresses<A>(ethernet: Bytes<ETHERNET>, flow: &Flow<A>) {
    ethernet.write::<u32, 0>(flow.next_hop[0]);
    ethernet.write::<u32, 4>(flow.next_hop[1]);
    ethernet.write::<u32, 8>(flow.next_hop[2]);
}

/// Both ports as they lie in a packet.
#[inline(always)]
pub fn port_word(source: abi::Be16, destination: abi::Be16) -> u32 {
    let ([a, b], [c, d]) = (source.raw().to_ne_bytes(), destination.raw().to_ne_bytes());
    u32::from_ne_bytes([a, b, c, d])
}

/// Ports and the transport checksum. Must be last: the helpers move the packet.
#[inline(always)]
fn rewrite_transport<F: Family>(ctx: Context, packet: &Packet<F>, flow: &Flow<F::Address>) -> bool {
    let (addresses, ports) = (flow.address_delta, flow.port_delta);
    let summed = match packet.transport {
        Transport::Fragment => return true,
        Transport::Far(far) => return rewrite_far::<F>(ctx, far, flow),
        // The sender computed none (RFC 768).
        Transport::Udp(header) if header.read::<u16, 6>() == 0 => Summed::Whole,
        Transport::Tcp(_) | Transport::Udp(_) => ctx.summed(),
    };
    if summed == Summed::Whole {
        rewrite_whole(packet.transport, flow);
        return true;
    }
    set_ports(packet.transport, flow);
    match (packet.transport, summed) {
        (Transport::Tcp(header), Summed::Partial) => {
            header.write::<u16, 16>(fold(header.read::<u16, 16>() as u32 + addresses as u32));
            true
        }
        (Transport::Udp(header), Summed::Partial) => {
            header.write::<u16, 6>(fold(header.read::<u16, 6>() as u32 + addresses as u32));
            true
        }
        (Transport::Tcp(_), _) => replace(ctx, F::TRANSPORT + 16, addresses, ports, 0),
        _ => replace(ctx, F::TRANSPORT + 6, addresses, ports, BPF_F_MARK_MANGLED_0 as u64),
    }
}

/// Ports, and a transport checksum that is whole, or that is not there.
#[inline(always)]
pub fn rewrite_whole<A: Address>(transport: Transport, flow: &Flow<A>) {
    let delta = fold(flow.address_delta as u32 + flow.port_delta as u32);
    set_ports(transport, flow);
    match transport {
        Transport::Tcp(header) => header.write::<u16, 16>(adjust(header.read::<u16, 16>(), delta)),
        Transport::Udp(header) => {
            let field = header.read::<u16, 6>();
            if field != 0 {
                let field = adjust(field, delta);
                header.write::<u16, 6>(if field == 0 { 0xffff } else { field });
            }
        }
        Transport::Far(_) | Transport::Fragment => {}
    }
}

#[inline(always)]
fn set_ports<A: Address>(transport: Transport, flow: &Flow<A>) {
    match transport {
        Transport::Tcp(header) => {
            header.write::<u16, 0>(flow.source_port.raw());
            header.write::<u16, 2>(flow.destination_port.raw());
        }
        Transport::Udp(header) => {
            header.write::<u16, 0>(flow.source_port.raw());
            header.write::<u16, 2>(flow.destination_port.raw());
        }
        Transport::Far(_) | Transport::Fragment => {}
    }
}

/// Ports and checksum wherever they are.
#[inline(always)]
fn rewrite_far<F: Family>(ctx: Context, far: Far, flow: &Flow<F::Address>) -> bool {
    let Some(scratch) = F::scratch() else { return false };
    let ports = port_word(flow.source_port, flow.destination_port);
    let (field, flags) = match far.protocol {
        protocol::TCP => (16, 0),
        protocol::UDP => (6, BPF_F_MARK_MANGLED_0 as u64),
        _ => return sctp::rewrite(ctx, far, &mut scratch.words, ports),
    };
    let at = far.offset as usize;
    if far.protocol == protocol::UDP {
        if !ctx.load(at, &mut scratch.words, 8) {
            return false;
        }
        let [_, _, a, b] = scratch.words[1].to_ne_bytes();
        if u16::from_ne_bytes([a, b]) == 0 {
            return ctx.store(at, &[ports], 4);
        }
    }
    ctx.store(at, &[ports], 4) && replace(ctx, at + field, flow.address_delta, flow.port_delta, flags)
}

#[inline(always)]
fn replace(ctx: Context, offset: usize, addresses: u16, ports: u16, flags: u64) -> bool {
    (addresses == 0 || ctx.replace_checksum(offset, addresses, flags | BPF_F_PSEUDO_HDR as u64))
        && (ports == 0 || ctx.replace_checksum(offset, ports, flags))
}

/// Sends a rewritten packet where its entry says; returns the program's verdict.
#[inline(always)]
pub fn leave<F: Family, H: Hook>(ctx: Context, flow: &mut Flow<F::Address>) -> i32 {
    const NEXT_HOP_LENGTH: i32 = 20;
    let interface = flow.interface;
    if flow.route == Route::Stack as u8 {
        return NEXT;
    }
    ctx.set_note(HANDLED);
    if !H::INGRESS {
        // What a process of this node sends carries the route to the frontend. Were it to wait for an unresolved neighbour,
        // it would leave by that route after all (`neigh_update`): the helper must look up its own. There is no peer from
        // here either (`skb_do_redirect`): pods are reached over their veth.
        // SAFETY: takes numbers, and no next hop.
        return unsafe { helper::bpf_redirect_neigh(interface, ptr::null_mut(), 0, 0) as i32 };
    }
    if flow.route == Route::Peer as u8 {
        // SAFETY: takes numbers only.
        return unsafe { helper::bpf_redirect_peer(interface, 0) as i32 };
    }
    // SAFETY: the next hop is a `struct bpf_redir_neigh` in the map's value.
    unsafe {
        helper::bpf_redirect_neigh(interface, (&raw mut flow.next_hop).cast(), NEXT_HOP_LENGTH, 0) as i32
    }
}

/// Precomputes what a packet's checksums change by, from its key and its entry.
#[inline(always)]
pub fn set_deltas<F: Family>(key: &Tuple<F::Address>, flow: &mut Flow<F::Address>) {
    let (old, new) = ((key.source, key.destination), (flow.source, flow.destination));
    flow.l3_delta = F::header_delta(old, new, flow.ttl_step);
    let addresses = F::address_delta(Delta::none(), old.0, new.0);
    flow.address_delta = F::address_delta(addresses, old.1, new.1).fold();
    flow.port_delta = Delta::none()
        .word(key.source_port.raw(), flow.source_port.raw())
        .word(key.destination_port.raw(), flow.destination_port.raw())
        .fold();
}

/// Enters a translated flow: `scratch.flow` has its destination, its route and its counts, `scratch.key` the packet's tuple.
///
/// The reply's entry comes first and reserves the tuple: two CPUs cannot take one port for the same backend.
#[inline(always)]
pub fn open<F: Family>(
    scratch: &mut Scratch<F::Address>,
    config: &Config,
    masquerade: bool,
) -> Result<(), Reason> {
    let Scratch { key, reply_key, flow, reply, revision, .. } = scratch;
    flow.source = key.source;
    flow.flags = flow_flags::TRANSLATED | (flow.flags & flow_flags::HOST);
    if masquerade {
        flow.source = masquerade_address::<F>(config, flow.interface);
        flow.flags |= flow_flags::MASQUERADED;
        if flow.source == F::Address::default() {
            return Err(Reason::DroppedNoNodeAddress);
        }
    }
    let state = conntrack::initial(key.protocol);
    let now = kernel::jiffies();
    flow.state = state as u8;
    flow.timeout = conntrack::timeout(config, key.protocol, state);
    flow.last_seen = now;
    flow.revision = *revision;
    flow.told = abi::coarse(flow.last_seen);
    *reply_key = flow.reply_key(key.protocol);

    reply.source = key.destination;
    reply.destination = key.source;
    reply.source_port = key.destination_port;
    reply.destination_port = key.source_port;
    (reply.state, reply.timeout, reply.last_seen) = (flow.state, flow.timeout, now);
    let kept = flow_flags::MASQUERADED | flow_flags::HOST;
    reply.flags = flow_flags::TRANSLATED | flow_flags::REPLY | (flow.flags & kept);
    // Its route and its deltas are found by the first reply.
    reply.revision = 0;
    (reply.packets, reply.bytes, reply.told) = (0, 0, flow.told);

    reserve::<F>(key, reply_key, reply, config, masquerade)?;
    flow.source_port = reply_key.destination_port;
    set_deltas::<F>(key, flow);
    if F::flows().insert(&*key, &*flow, 0).is_err() {
        let _ = F::flows().remove(&*reply_key);
        return Err(Reason::DroppedTableFull);
    }
    Ok(())
}

/// The address of the device that the packet leaves by, so that answers come back the same way: as the kernel's
/// MASQUERADE chooses it (`net/netfilter/nf_nat_masquerade.c`).
#[inline(always)]
pub fn masquerade_address<F: Family>(config: &Config, interface: u32) -> F::Address {
    let address = F::tunnel_address(config);
    let through_tunnel = config.tunnel != 0 && interface == config.tunnel;
    if through_tunnel && address != F::Address::default() { address } else { F::node_address(config) }
}

/// Finds a source port under which the reply's tuple is free, and enters it.
///
/// Without masquerading the client's own port is tried first: it is taken only where the same client talks to the backend
/// directly from the same port. A masqueraded flow's first choice follows from the client's address and port, so that one
/// client's flows never meet before they have gone round the range; then any port; then one whose flow is over.
#[inline(always)]
fn reserve<F: Family>(
    key: &Tuple<F::Address>,
    reply_key: &mut Tuple<F::Address>,
    reply: &Flow<F::Address>,
    config: &Config,
    masquerade: bool,
) -> Result<(), Reason> {
    if config.masquerade_ports == 0 {
        return Err(Reason::DroppedNoPort);
    }
    reply_key.destination_port =
        if !masquerade { key.source_port } else { port(config, first_choice(key, config.masquerade_ports)) };
    if enter::<F>(reply_key, reply)? || replace_former::<F>(reply_key, reply, false)? {
        return Ok(());
    }
    // A table that is full evicts a flow before it refuses a tuple: looked up first.
    let mut over = None;
    for _ in 1..PORT_TRIES {
        let offset = ((kernel::random() as u64 * config.masquerade_ports as u64) >> 32) as u32;
        reply_key.destination_port = port(config, offset);
        let Some(other) = conntrack::find::<F>(reply_key) else {
            if enter::<F>(reply_key, reply)? {
                return Ok(());
            }
            continue;
        };
        counters::lookup(Lookup::PortTaken);
        let idle = kernel::jiffies().wrapping_sub(other.last_seen) >= other.timeout;
        if idle || other.state == State::Closed as u8 {
            over = Some(reply_key.destination_port);
        }
    }
    let Some(port) = over else { return Err(Reason::DroppedNoPort) };
    reply_key.destination_port = port;
    match replace_former::<F>(reply_key, reply, true)? {
        true => Ok(()),
        false => Err(Reason::DroppedNoPort),
    }
}

/// The port at `offset` in the range.
#[inline(always)]
fn port(config: &Config, offset: u32) -> Be16 {
    Be16::new(config.masquerade_first.wrapping_add(offset) as u16)
}

/// Enters the reply's tuple; false where it is taken.
#[inline(always)]
fn enter<F: Family>(reply_key: &Tuple<F::Address>, reply: &Flow<F::Address>) -> Result<bool, Reason> {
    match F::flows().insert(reply_key, reply, BPF_NOEXIST as u64) {
        Ok(()) => Ok(true),
        Err(EEXIST) => {
            counters::lookup(Lookup::PortTaken);
            Ok(false)
        }
        Err(_) => Err(Reason::DroppedTableFull),
    }
}

/// Where in a range of `ports` a client's flow looks first.
#[inline(always)]
fn first_choice<A: Address>(key: &Tuple<A>, ports: u32) -> u32 {
    let client = key.source.mix().wrapping_mul(0x9E37_79B1) >> 16;
    (client + key.source_port.get() as u32).checked_rem(ports).unwrap_or(0)
}

/// Takes the tuple over from a flow that is over, or from the former one of the same client to the same frontend; with
/// `closed`, also from one that is closed but not forgotten, or lost its own entry. False where the flow lives on.
///
/// The former flow's own entry goes too: a straggler of it would end up in the new one.
#[inline(always)]
fn replace_former<F: Family>(
    reply_key: &Tuple<F::Address>,
    reply: &Flow<F::Address>,
    closed: bool,
) -> Result<bool, Reason> {
    let Some(other) = conntrack::find::<F>(reply_key) else { return enter::<F>(reply_key, reply) };
    let translated = other.has(flow_flags::REPLY) && other.has(flow_flags::TRANSLATED);
    let ours = translated
        && other.source == reply.source
        && other.destination == reply.destination
        && other.source_port == reply.source_port
        && other.destination_port == reply.destination_port;
    if !ours {
        let own_key = other.reply_key(reply_key.protocol);
        let own = conntrack::find::<F>(&own_key)
            // The same client may have begun anew, by another port.
            .filter(|own| !translated || own.source_port.raw() == reply_key.destination_port.raw());
        let may_go = closed && translated && (own.is_none() || other.state == State::Closed as u8);
        if !may_go && conntrack::is_alive(other, own.as_deref(), 0, kernel::jiffies()) {
            return Ok(false);
        }
        if own.is_some() {
            let _ = F::flows().remove(&own_key);
        }
        counters::lookup(Lookup::PortReused);
    }
    F::flows().insert(reply_key, reply, 0).map(|()| true).map_err(|_| Reason::DroppedTableFull)
}
