//! The slow path: flows that are new, changing state, or validated under an older revision.

use abi::{Config, Reason, State, flow_flags};

use crate::{
    conntrack, events,
    family::{Family, Scratch, origin},
    hook::{Hook, Outcome},
    inspect,
    kernel::{self, Context},
    maps, nat,
    route::{self, Way},
    service::{self, Choice, Review},
};

/// What is known of the packet's flow, after bringing it up to date.
enum Known {
    Steady,
    Yes,
    No,
    Refused,
}

/// Takes the tuple and the headers from the scratch, as [`inspect`] left them. Never inlined, so that the fast path stays
/// small.
#[inline(never)]
pub fn run<F: Family, H: Hook>(ctx: Context) -> Outcome {
    let (Some(config), Some(scratch)) = (maps::config(), F::scratch()) else {
        return Outcome::drop(Reason::DroppedInternal);
    };
    match update::<F, H>(ctx, scratch, config) {
        Known::Steady => return Outcome::send(Reason::ForwardedEstablished),
        Known::Yes => return Outcome::send(Reason::ForwardedUpdated),
        Known::Refused => return Outcome::refuse(),
        Known::No if !H::OPENS => return Outcome::pass(Reason::PassedUnrelated),
        Known::No => {}
    }
    let choice = match service::choose::<F, H>(&scratch.key, config, &mut scratch.backend) {
        Choice::None if crosses::<F>(scratch) => Choice::Backend { masquerade: false, direct: false },
        choice => choice,
    };
    if !matches!(choice, Choice::None)
        && let Some(reason) = inspect::denied::<F, H>(&scratch.key)
    {
        return Outcome::drop(reason);
    }
    match choice {
        Choice::Backend { masquerade, direct } => {
            open_translated::<F, H>(ctx, scratch, config, (masquerade, direct))
        }
        Choice::None => open_plain::<F, H>(ctx, scratch, config),
        Choice::Refused => Outcome::refuse(),
        Choice::Denied => Outcome::drop(Reason::DroppedSourceRange),
        Choice::Missing => Outcome::drop(Reason::DroppedInternal),
    }
}

/// Finds the packet's entry, if it has a live one, validates it, and moves its state.
#[inline(always)]
fn update<F: Family, H: Hook>(ctx: Context, scratch: &mut Scratch<F::Address>, config: &Config) -> Known {
    let flags = scratch.headers.flags;
    let Some(flow) = conntrack::find::<F>(&scratch.key) else { return Known::No };
    if flow.packets == 0 {
        scratch.noted |= events::BEGINS;
    }
    if conntrack::is_steady(flags, flow, config, kernel::jiffies()) {
        return Known::Steady;
    }
    scratch.reply_key = flow.reply_key(scratch.key.protocol);
    let pair = conntrack::find::<F>(&scratch.reply_key);
    if !conntrack::is_alive(flow, pair.as_deref(), flags, kernel::jiffies()) {
        conntrack::remove::<F>(&scratch.key, &scratch.reply_key);
        return Known::No;
    }
    if flow.revision != config.revision {
        let is_ours = flow.has(flow_flags::TRANSLATED) && !flow.has(flow_flags::REPLY);
        let review = if flow.has(flow_flags::WHOLE) {
            service::review_whole::<F>(&scratch.key, flow, config)
        } else if is_ours {
            service::review::<F>(&scratch.key, flow)
        } else {
            Review::Keep
        };
        match review {
            Review::Keep => {}
            Review::Refused | Review::Anew => {
                conntrack::remove::<F>(&scratch.key, &scratch.reply_key);
                return if matches!(review, Review::Refused) { Known::Refused } else { Known::No };
            }
        }
        if !flow.has(flow_flags::WHOLE) {
            route::resolve::<F, H>(ctx, flow);
            nat::set_deltas::<F>(&scratch.key, flow);
        }
        // Whether it still may be read, [`crate::l7`] finds out.
        flow.flags &= !flow_flags::L7;
        flow.revision = config.revision;
    }
    let before = flow.state;
    conntrack::track(flow, pair, config, flags, scratch.key.protocol);
    let ends = flow.state == State::HalfClosed as u8 || flow.state == State::Closed as u8;
    if ends && flow.state != before {
        scratch.noted |= events::ENDS;
    }
    Known::Yes
}

/// Whether the client reaches this very backend through a frontend already, from the same port. Answers to both flows would
/// look alike: this one gets another port, as the kernel's NAT gives it one (`nf_nat_used_tuple`). What is over makes room.
#[inline(always)]
fn crosses<F: Family>(scratch: &mut Scratch<F::Address>) -> bool {
    let Scratch { key, reply_key, headers, backend, .. } = scratch;
    *reply_key = key.reversed();
    let Some(answers) = conntrack::find::<F>(reply_key) else { return false };
    // What a masquerading node sends from its ports is never a client's.
    let of_client = answers.has(flow_flags::REPLY) && !answers.has(flow_flags::MASQUERADED);
    if !of_client || !answers.has(flow_flags::TRANSLATED) {
        return false;
    }
    let own_key = answers.reply_key(key.protocol);
    let own = conntrack::find::<F>(&own_key);
    if !conntrack::is_alive(answers, own.as_deref(), headers.flags, kernel::jiffies()) {
        conntrack::remove::<F>(&own_key, reply_key);
        return false;
    }
    (backend.address, backend.port) = (key.destination, key.destination_port);
    true
}

/// The first packet of a flow to a frontend, or of one that crosses such a flow.
#[inline(always)]
fn open_translated<F: Family, H: Hook>(
    ctx: Context,
    scratch: &mut Scratch<F::Address>,
    config: &Config,
    (masquerade, direct): (bool, bool),
) -> Outcome {
    scratch.flow.flags = 0;
    scratch.flow.source = scratch.key.source;
    scratch.flow.destination = scratch.backend.address;
    scratch.flow.destination_port = scratch.backend.port;
    let way = route::resolve::<F, H>(ctx, &mut scratch.flow);
    if way == Way::Node && !H::INGRESS {
        // Made one of the node's addresses since it was chosen.
        return Outcome::refuse();
    }
    let direct = direct && masquerade && H::FROM_OUTSIDE && config.direct_return != 0;
    let by_tunnel = way == Way::Wire && scratch.flow.interface == config.direct_return;
    if direct && by_tunnel && !H::FROM_TUNNEL {
        return open_whole::<F>(scratch, config);
    }
    // A pod of this node answers by this node.
    let masquerade = masquerade && !(direct && way == Way::Pod);
    // A backend must not answer itself directly. A process of this node would see its own address as the source, which the
    // stack drops as a martian; its answers pass this node in any case.
    let masquerade = (masquerade || scratch.key.source == scratch.backend.address) && way != Way::Node;
    match nat::open::<F>(scratch, config, masquerade) {
        Ok(()) => Outcome::send(Reason::ForwardedNew),
        Err(reason) => Outcome::drop(reason),
    }
}

/// The first packet of a flow whose backend is on another node and answers the client itself: sent there as it is.
#[inline(always)]
fn open_whole<F: Family>(scratch: &mut Scratch<F::Address>, config: &Config) -> Outcome {
    let Scratch { key, flow, .. } = &mut *scratch;
    (flow.source, flow.destination) = (key.source, key.destination);
    (flow.source_port, flow.destination_port) = (key.source_port, key.destination_port);
    flow.flags = flow_flags::WHOLE;
    if !enter_plain::<F>(scratch, config) {
        return Outcome::drop(Reason::DroppedTableFull);
    }
    Outcome::send(Reason::ForwardedNew)
}

/// Enters the flow's only entry for this direction.
#[inline(always)]
fn enter_plain<F: Family>(scratch: &mut Scratch<F::Address>, config: &Config) -> bool {
    let Scratch { key, flow, .. } = &mut *scratch;
    let state = conntrack::initial(key.protocol);
    flow.state = state as u8;
    flow.timeout = conntrack::timeout(config, key.protocol, state);
    flow.last_seen = kernel::jiffies();
    flow.revision = config.revision;
    (flow.packets, flow.bytes, flow.told) = (0, 0, abi::coarse(flow.last_seen));
    nat::set_deltas::<F>(key, flow);
    F::flows().insert(&*key, &*flow, 0).is_ok()
}

/// The first packet of a direction of a flow between pods, or to a pod: one entry, so that those after it take one lookup.
///
/// What a pod sends elsewhere of its own accord is the stack's, which may masquerade it.
#[inline(always)]
fn open_plain<F: Family, H: Hook>(
    ctx: Context,
    scratch: &mut Scratch<F::Address>,
    config: &Config,
) -> Outcome {
    let Scratch { key, reply_key, flow, .. } = &mut *scratch;
    (flow.source, flow.destination) = (key.source, key.destination);
    (flow.source_port, flow.destination_port) = (key.source_port, key.destination_port);
    *reply_key = key.reversed();
    let answers = H::INGRESS && conntrack::find::<F>(reply_key).is_some();
    flow.flags = if answers { flow_flags::REPLY } else { 0 };
    let ours = H::FROM_OUTSIDE || answers || origin::<F>(key.destination) == abi::Origin::Pod;
    if !H::INGRESS || !ours {
        return Outcome::pass(Reason::PassedUnrelated);
    }
    let way = route::resolve::<F, H>(ctx, flow);
    if way != Way::Pod && (H::FROM_OUTSIDE || way != Way::Wire) {
        return Outcome::pass(Reason::PassedUnrelated);
    }
    if !enter_plain::<F>(scratch, config) {
        // The stack delivers as well, only slower.
        return Outcome::pass(Reason::PassedUnrelated);
    }
    Outcome::send(Reason::ForwardedNew)
}
