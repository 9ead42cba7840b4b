//! The connection table: is an entry alive, may a packet of it take the fast path, and what a packet does to its state.

use abi::{Address, Config, Flow, Lookup, State, Tuple, flow_flags, protocol};

use crate::{counters, events, family::Family, kernel, parse::tcp};

/// The fast path's question: nothing about this flow can have changed, and this packet changes nothing.
#[inline(always)]
pub fn is_steady<A>(flags: u8, flow: &Flow<A>, config: &Config, now: u32) -> bool {
    flow.revision == config.revision
        && !events::is_due(flow, config.event_interval, now)
        && flow.state >= State::FIRST_STEADY
        && flags & (tcp::SYN | tcp::FIN | tcp::RST) == 0
        && now.wrapping_sub(flow.last_seen) < flow.timeout
}

#[inline(always)]
pub fn find<F: Family>(key: &Tuple<F::Address>) -> Option<&'static mut Flow<F::Address>> {
    counters::lookup(Lookup::Conntrack);
    // SAFETY: rows are shared with other CPUs and written without locks, field by field. Every field is either constant for
    // the life of the row or one aligned word; counts may lose a packet to a race.
    F::flows().get_ptr_mut(key).map(|flow| unsafe { &mut *flow })
}

/// Whether a packet of this entry still belongs to the flow that made it.
#[inline(always)]
pub fn is_alive<A: Address>(flow: &Flow<A>, pair: Option<&Flow<A>>, flags: u8, now: u32) -> bool {
    let opens = flags & (tcp::SYN | tcp::ACK) == tcp::SYN;
    if opens && flow.state == State::Closed as u8 {
        return false;
    }
    let fresh = |flow: &Flow<A>| now.wrapping_sub(flow.last_seen) < flow.timeout;
    // One direction may be silent for long while the other is busy.
    fresh(flow) || pair.is_some_and(fresh)
}

/// Removes both directions.
#[inline(always)]
pub fn remove<F: Family>(key: &Tuple<F::Address>, reply_key: &Tuple<F::Address>) {
    let _ = F::flows().remove(reply_key);
    let _ = F::flows().remove(key);
}

/// The state that a flow starts in.
#[inline(always)]
pub fn initial(number: u8) -> State {
    if has_handshake(number) { State::Opening } else { State::Unanswered }
}

/// What this packet does to both directions.
#[inline(always)]
pub fn track<A: Address>(
    flow: &mut Flow<A>,
    pair: Option<&mut Flow<A>>,
    config: &Config,
    flags: u8,
    number: u8,
) {
    let next = if has_handshake(number) {
        handshake_state(flow, pair.as_deref(), flags)
    } else if flow.has(flow_flags::REPLY) {
        Some(State::Answered)
    } else {
        None
    };
    let Some(state) = next else { return };
    if flags & tcp::FIN != 0 {
        flow.flags |= flow_flags::FIN;
    }
    let timeout = timeout(config, number, state);
    flow.state = state as u8;
    flow.timeout = timeout;
    if let Some(pair) = pair {
        pair.state = state as u8;
        pair.timeout = timeout;
    }
}

/// SCTP's chunks count as the TCP flags that say the same ([`crate::inspect`]).
#[inline(always)]
fn has_handshake(number: u8) -> bool {
    number == protocol::TCP || number == protocol::SCTP
}

/// `None`: unchanged.
#[inline(always)]
fn handshake_state<A: Address>(flow: &Flow<A>, pair: Option<&Flow<A>>, flags: u8) -> Option<State> {
    if flags & tcp::RST != 0 {
        return Some(State::Closed);
    }
    if flags & tcp::FIN != 0 {
        let both = pair.is_some_and(|pair| pair.has(flow_flags::FIN));
        return Some(if both { State::Closed } else { State::HalfClosed });
    }
    // The handshake is through with the first packet without SYN after both sides were heard.
    let heard = pair.is_none_or(|pair| pair.packets > 0);
    (flow.state == State::Opening as u8 && flags & tcp::SYN == 0 && heard).then_some(State::Established)
}

#[inline(always)]
pub fn timeout(config: &Config, number: u8, state: State) -> u32 {
    let timeouts = &config.timeouts;
    match state {
        State::Established if number == protocol::SCTP => timeouts.sctp_established,
        State::Opening | State::HalfClosed | State::Closed if number == protocol::SCTP => {
            timeouts.sctp_unsettled
        }
        State::Opening => timeouts.tcp_opening,
        State::Established => timeouts.tcp_established,
        State::HalfClosed => timeouts.tcp_half_closed,
        State::Closed => timeouts.tcp_closed,
        State::Unanswered => timeouts.udp_unanswered,
        State::Answered => timeouts.udp,
    }
}

/// Counts one packet of `bytes` on its entry.
#[inline(always)]
pub fn account<A: Address>(flow: &mut Flow<A>, bytes: u32) {
    flow.packets += 1;
    flow.bytes += bytes as u64;
    flow.last_seen = kernel::jiffies();
}
