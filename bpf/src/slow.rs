//! The slow path: flows that are new, changing state, or validated under an older revision.

use abi::{Config, Reason, State, flow_flags};

use crate::{
    conntrack, events,
    family::{Family, Scratch, origin},
    headers::Shape,
    hook::{Hook, Outcome},
    identity::Identities,
    inspect,
    kernel::{self, Context, ETHERNET},
    maps, nat,
    parse::tcp,
    policy,
    route::{self, Way},
    service::{self, Choice, Review},
};

/// What is known of the packet's flow, after bringing it up to date.
enum Known {
    Steady,
    /// Nothing changed under it.
    Valid,
    Stale,
    No,
    Refused,
}

/// Values of [`Scratch::step`].
pub mod step {
    /// Bring the entry up to date.
    pub const UPDATE: u32 = 0;
    /// The same; nothing but its state.
    pub const TRACK: u32 = 1;
    /// Open a translated flow.
    pub const OPEN: u32 = 2;
    /// The same, masqueraded.
    pub const MASQUERADE: u32 = 3;
    /// Enter a flow of which nothing is translated.
    pub const ENTER: u32 = 4;
    /// Let it pass.
    pub const PASS: u32 = 5;
}

/// Takes the tuple and the headers from the scratch, as [`inspect`] left them. Never inlined, so that the fast path stays
/// small.
#[inline(never)]
pub fn run<F: Identities, H: Hook>(ctx: Context) -> Outcome {
    let (Some(config), Some(scratch)) = (maps::config(), F::scratch()) else {
        return Outcome::drop(Reason::DroppedInternal);
    };
    let absent = scratch.noted & events::ABSENT != 0;
    let known = if absent { Known::No } else { update::<F, H>(scratch, config) };
    match known {
        Known::Steady => return Outcome::send(Reason::ForwardedEstablished),
        Known::Valid => {
            (scratch.step, scratch.noted) = (step::TRACK, scratch.noted | events::JUDGED);
            return Outcome::judge();
        }
        Known::Stale => {
            scratch.step = step::UPDATE;
            return Outcome::judge();
        }
        Known::Refused => return Outcome::refuse(),
        Known::No if !H::OPENS => return Outcome::leave(),
        Known::No => {}
    }
    let choice = service::choose::<F, H>(&scratch.key, config, &mut scratch.backend);
    if matches!(choice, Choice::None)
        && opens_anew::<F, H>(scratch)
        && policy::is_on(config)
        && let Some(reason) = policy::is_denied::<F, H>(ctx)
    {
        return Outcome::drop(reason);
    }
    let choice = match choice {
        Choice::None if crosses::<F>(scratch, config) => Choice::Backend { masquerade: false, direct: false },
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

/// A lone SYN from a pod or from outside, which no entry is of: no answer, whatever is known of the opposite direction.
#[inline(always)]
fn opens_anew<F: Family, H: Hook>(scratch: &Scratch<F::Address>) -> bool {
    H::INGRESS
        && scratch.noted & events::ABSENT != 0
        && scratch.headers.flags & (tcp::SYN | tcp::ACK) == tcp::SYN
}

/// Finds the packet's entry, if it has a live one, validates it, and moves its state.
#[inline(always)]
fn update<F: Family, H: Hook>(scratch: &mut Scratch<F::Address>, config: &Config) -> Known {
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
    if flow.revision == config.revision {
        return Known::Valid;
    }
    let is_ours = flow.has(flow_flags::TRANSLATED) && !flow.has(flow_flags::REPLY);
    let review = if flow.has(flow_flags::WHOLE) {
        service::review_whole::<F>(&scratch.key, flow, config)
    } else if is_ours {
        service::review::<F>(&scratch.key, flow)
    } else if H::OPENS && flow.has(flow_flags::LEFT) && is_unheard(flow) {
        // There may be a frontend now.
        Review::Anew
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
    // What a packet answers that was asked about since needs no asking.
    if flow.has(flow_flags::REPLY) && pair.is_some_and(|pair| pair.revision == config.revision) {
        scratch.noted |= events::JUDGED;
    }
    Known::Stale
}

/// Does what is left to do with a packet that no policy denies. Of an entry that one does, the revision stays behind: every
/// packet asks, until it may pass again.
#[inline(never)]
pub fn proceed<F: Family, H: Hook>(ctx: Context) -> Outcome {
    let (Some(config), Some(scratch)) = (maps::config(), F::scratch()) else {
        return Outcome::drop(Reason::DroppedInternal);
    };
    let step = scratch.step;
    match step {
        step::UPDATE | step::TRACK => renew::<F, H>(ctx, scratch, config),
        step::OPEN | step::MASQUERADE => {
            let masquerade = step == step::MASQUERADE;
            count_first(ctx, scratch);
            match nat::open::<F>(scratch, config, masquerade) {
                Ok(()) => Outcome::send(Reason::ForwardedNew),
                Err(reason) => Outcome::drop(reason),
            }
        }
        step::ENTER if enter_plain::<F>(ctx, scratch, config) => Outcome::send(Reason::ForwardedNew),
        // The stack delivers as well, only slower.
        step::ENTER => Outcome::pass(Reason::PassedUnrelated),
        _ => Outcome::pass(scratch.reason),
    }
}

/// Brings the packet's entry up to date, and moves its state.
#[inline(always)]
fn renew<F: Family, H: Hook>(ctx: Context, scratch: &mut Scratch<F::Address>, config: &Config) -> Outcome {
    // SAFETY: as in `conntrack::find`.
    let entry = |key| F::flows().get_ptr_mut(key).map(|flow| unsafe { &mut *flow });
    let Some(flow) = entry(&scratch.key) else { return Outcome::drop(Reason::DroppedTableFull) };
    if scratch.step == step::UPDATE {
        if !flow.has(flow_flags::WHOLE | flow_flags::LEFT) {
            route::resolve::<F, H>(ctx, flow);
            nat::set_deltas::<F>(&scratch.key, flow);
        }
        // Whether it still may be read, [`crate::l7`] finds out.
        flow.flags &= !flow_flags::L7;
        flow.revision = scratch.revision;
    }
    let pair = entry(&scratch.reply_key);
    let before = flow.state;
    conntrack::track(flow, pair, config, scratch.headers.flags, scratch.key.protocol);
    let ends = flow.state == State::HalfClosed as u8 || flow.state == State::Closed as u8;
    if ends && flow.state != before {
        scratch.noted |= events::ENDS;
    }
    Outcome::send(Reason::ForwardedUpdated)
}

/// Looks at the opposite direction of a packet that no frontend is meant by: whether the client reaches this very backend
/// through a frontend already, from the same port. Answers to both flows would look alike: this one gets another port, as the
/// kernel's NAT gives it one (`nf_nat_used_tuple`). What is over makes room.
#[inline(always)]
fn crosses<F: Family>(scratch: &mut Scratch<F::Address>, config: &Config) -> bool {
    scratch.reply_key = scratch.key.reversed();
    (scratch.reverse, scratch.noted) = (0, scratch.noted | events::LOOKED_BACK);
    let Some(answers) = conntrack::find::<F>(&scratch.reply_key) else { return false };
    // What a masquerading node sends from its ports is never a client's.
    let of_client = answers.has(flow_flags::REPLY) && !answers.has(flow_flags::MASQUERADED);
    if !of_client || !answers.has(flow_flags::TRANSLATED) {
        scratch.reverse = reverse_of(answers, scratch.headers.flags, config);
        return false;
    }
    let Scratch { key, reply_key, headers, backend, .. } = scratch;
    let own_key = answers.reply_key(key.protocol);
    let own = conntrack::find::<F>(&own_key);
    if !conntrack::is_alive(answers, own.as_deref(), headers.flags, kernel::jiffies()) {
        conntrack::remove::<F>(&own_key, reply_key);
        return false;
    }
    (backend.address, backend.port) = (key.destination, key.destination_port);
    true
}

/// Fills in how the new flow's packets leave, and notes whether its destination is a pod of this node.
#[inline(always)]
fn resolve<F: Family, H: Hook>(ctx: Context, scratch: &mut Scratch<F::Address>) -> Way {
    let way = route::resolve::<F, H>(ctx, &mut scratch.flow);
    // Only answers are given to the stack though they are for a pod, and those open nothing here.
    scratch.receiver = if way == Way::Pod { scratch.flow.interface } else { 0 };
    scratch.noted |= events::RESOLVED;
    way
}

/// The first packet of a flow to a frontend, or of one that crosses such a flow.
#[inline(always)]
fn open_translated<F: Family, H: Hook>(
    ctx: Context,
    scratch: &mut Scratch<F::Address>,
    config: &Config,
    (masquerade, direct): (bool, bool),
) -> Outcome {
    scratch.flow.flags = if policy::is_from_host::<H>(ctx) { flow_flags::HOST } else { 0 };
    scratch.flow.source = scratch.key.source;
    scratch.flow.destination = scratch.backend.address;
    scratch.flow.destination_port = scratch.backend.port;
    let way = resolve::<F, H>(ctx, scratch);
    if way == Way::Node && !H::INGRESS {
        // Made one of the node's addresses since it was chosen.
        return Outcome::refuse();
    }
    let direct = direct && masquerade && H::FROM_OUTSIDE && config.direct_return != 0;
    let by_tunnel = way == Way::Wire && scratch.flow.interface == config.direct_return;
    if direct && by_tunnel && !H::FROM_TUNNEL {
        return open_whole::<F>(ctx, scratch, config);
    }
    // A pod of this node answers by this node.
    let masquerade = masquerade && !(direct && way == Way::Pod);
    // A backend must not answer itself directly. A process of this node would see its own address as the source, which the
    // stack drops as a martian; its answers pass this node in any case.
    let masquerade = (masquerade || scratch.key.source == scratch.backend.address) && way != Way::Node;
    if masquerade {
        scratch.flow.source = nat::masquerade_address::<F>(config, scratch.flow.interface);
    }
    scratch.step = if masquerade { step::MASQUERADE } else { step::OPEN };
    Outcome::judge()
}

/// The first packet of a flow whose backend is on another node and answers the client itself: sent there as it is.
#[inline(always)]
fn open_whole<F: Family>(ctx: Context, scratch: &mut Scratch<F::Address>, config: &Config) -> Outcome {
    let Scratch { key, flow, .. } = &mut *scratch;
    (flow.source, flow.destination) = (key.source, key.destination);
    (flow.source_port, flow.destination_port) = (key.source_port, key.destination_port);
    flow.flags = flow_flags::WHOLE;
    if !enter_plain::<F>(ctx, scratch, config) {
        return Outcome::drop(Reason::DroppedTableFull);
    }
    Outcome::send(Reason::ForwardedNew)
}

/// Counts the first packet of a new entry. A plain packet is counted before it is entered, and then sent and told of by the
/// scratch's copy of its entry; any other is counted when it is sent by the entry itself.
#[inline(always)]
fn count_first<A>(ctx: Context, scratch: &mut Scratch<A>) {
    (scratch.flow.packets, scratch.flow.bytes) = (0, 0);
    if scratch.headers.shape == Shape::Plain {
        (scratch.flow.packets, scratch.flow.bytes) = (1, (ctx.length() - ETHERNET as u32) as u64);
        scratch.noted |= events::COPIED;
    }
}

/// Enters the flow's only entry for this direction.
#[inline(always)]
fn enter_plain<F: Family>(ctx: Context, scratch: &mut Scratch<F::Address>, config: &Config) -> bool {
    count_first(ctx, scratch);
    let Scratch { key, flow, revision, .. } = &mut *scratch;
    let state = conntrack::initial(key.protocol);
    flow.state = state as u8;
    flow.timeout = conntrack::timeout(config, key.protocol, state);
    flow.last_seen = kernel::jiffies();
    flow.revision = *revision;
    flow.told = abi::coarse(flow.last_seen);
    nat::set_deltas::<F>(key, flow);
    F::flows().insert(&*key, &*flow, 0).is_ok()
}

/// Bits of [`Scratch::reverse`]: what is known of the opposite direction of a plain flow. The low byte is what this direction's
/// entry has because of it, of [`flow_flags`].
mod reverse {
    /// There is one, which this packet may answer.
    pub const FOUND: u32 = 1 << 8;
    /// Policies allow it as they are.
    pub const JUDGED: u32 = 1 << 9;
}

/// Only a packet that may be an answer is one: a lone SYN opens a flow of its own, and one of a flow that is over nobody asked
/// for.
#[inline(always)]
fn reverse_of<A: abi::Address>(entry: &abi::Flow<A>, flags: u8, config: &Config) -> u32 {
    let opens = flags & (tcp::SYN | tcp::ACK) == tcp::SYN;
    if opens || !conntrack::is_alive(entry, None, flags, kernel::jiffies()) {
        return 0;
    }
    let judged = if entry.revision == config.revision { reverse::JUDGED } else { 0 };
    let answers = if entry.has(flow_flags::REPLY) { 0 } else { flow_flags::REPLY };
    reverse::FOUND | judged | (answers | (entry.flags & flow_flags::HOST)) as u32
}

/// Fills in the flow of a packet that nothing of is translated; returns what is known of its opposite direction.
#[inline(always)]
fn plain<F: Family>(scratch: &mut Scratch<F::Address>, config: &Config) -> u32 {
    let Scratch { key, reply_key, flow, headers, noted, reverse, .. } = scratch;
    (flow.source, flow.destination) = (key.source, key.destination);
    (flow.source_port, flow.destination_port) = (key.source_port, key.destination_port);
    if *noted & events::LOOKED_BACK == 0 {
        *reply_key = key.reversed();
        *reverse =
            conntrack::find::<F>(reply_key).map_or(0, |entry| reverse_of(entry, headers.flags, config));
    }
    *reverse
}

/// Asks policies about the plain flow in the scratch, and enters it then.
#[inline(always)]
fn enter_if_allowed<A>(scratch: &mut Scratch<A>) -> Outcome {
    if scratch.reverse & reverse::JUDGED != 0 {
        scratch.noted |= events::JUDGED;
    }
    scratch.step = step::ENTER;
    Outcome::judge()
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
    let reverse = plain::<F>(scratch, config);
    scratch.flow.flags = reverse as u8;
    let ours = H::FROM_OUTSIDE
        || reverse & reverse::FOUND != 0
        || origin::<F>(scratch.key.destination) == abi::Origin::Pod;
    if !H::INGRESS || !ours {
        return Outcome::leave();
    }
    let way = resolve::<F, H>(ctx, scratch);
    if way != Way::Pod && (H::FROM_OUTSIDE || way != Way::Wire) {
        return Outcome::leave();
    }
    enter_if_allowed(scratch)
}

/// What the stack forwards, of what pods send and get while policies are in force: tracked, so that answers are known as such.
#[inline(never)]
pub fn leave<F: Family, H: Hook>(ctx: Context) -> Outcome {
    let (Some(config), Some(scratch)) = (maps::config(), F::scratch()) else {
        return Outcome::drop(Reason::DroppedInternal);
    };
    let reverse = plain::<F>(scratch, config);
    let flow = &mut scratch.flow;
    let of_host = reverse & reverse::FOUND == 0 && policy::is_from_host::<H>(ctx);
    flow.flags = flow_flags::LEFT | reverse as u8 | if of_host { flow_flags::HOST } else { 0 };
    flow.link_checked = 0;
    route::to_stack(flow);
    enter_if_allowed(scratch)
}

/// Nothing came back yet.
#[inline(always)]
fn is_unheard<A>(flow: &abi::Flow<A>) -> bool {
    let silent = flow.state == State::Opening as u8 || flow.state == State::Unanswered as u8;
    silent && flow.flags & flow_flags::REPLY == 0
}
