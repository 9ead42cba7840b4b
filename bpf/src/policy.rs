//! Whether a flow may be: asked when it is opened, and again by its next packet once anything that decides has changed.
//!
//! A flow is asked about as the pod that opened it and the one that it is for see it, whichever way the packet goes: an answer
//! passes as long as what it answers does. Each end that is a pod of this node is asked once: the sender on the way out of the
//! pod, after service translation, the receiver before delivery. What has no flow is asked about alone ([`untracked`]). What
//! was decided is remembered by the two ends ([`verdicts`]), so that most new flows, and most packets of who is denied, ask no
//! table.
//!
//! Never asks about what a process of this node sends: that is told by the packet having been received from no device, and not
//! by its address, which masquerading gives to others.

mod verdicts;

use abi::{
    Be16, Config, Count, Flow, Lookup, PeerRow, Point, PolicyPeer, PolicyRow, PortAction, PortKey, Reason,
    TIERS, Tuple, UNRANKED_TIER, action, asked_flags, flow_flags, matched, peer, policy_flags,
};
use aya_ebpf::{
    btf_maps::{HashMap, LpmTrie, PerCpuArray, PerCpuHashMap, lpm_trie::Key},
    macros::btf_map,
};

use crate::{
    conntrack, counters, events,
    family::{Family, Scratch},
    hook::Hook,
    identity::{self, Identities},
    kernel::Context,
    maps::{self, ENDPOINT_ROWS, GROWS},
    slow::step,
};

pub use self::verdicts::{ROWS as VERDICT_ROWS, Verdict, is_denied};

/// Rows: user space may ask for others. Buckets cost 16 bytes a row, whether there is one or not (`htab_map_alloc`).
pub const LIST_ROWS: usize = 16_384;
pub const PEER_ROWS: usize = 131_072;
pub const PORT_ROWS: usize = 65_536;
pub const RULE_ROWS: usize = 16_384;

#[btf_map]
static POLICIES: HashMap<u32, PolicyRow, { 4 * ENDPOINT_ROWS }, GROWS> = HashMap::new();
#[btf_map]
static LISTS: HashMap<u32, u32, LIST_ROWS, GROWS> = HashMap::new();
#[btf_map]
static PEERS: HashMap<PolicyPeer, PeerRow, PEER_ROWS, GROWS> = HashMap::new();
#[btf_map]
static PORTS: LpmTrie<PortKey, PortAction, PORT_ROWS> = LpmTrie::new();
#[btf_map]
static RULES: PerCpuHashMap<u32, Count, RULE_ROWS, GROWS> = PerCpuHashMap::new();

/// Reserved identities (`model::Reserved`).
const HOST: u32 = 1;
const WORLD: u32 = 2;
/// The first identity of the cluster, and the number after the last.
const OF_CLUSTER: core::ops::Range<u32> = 256..65_536;

/// Who opened a flow, to whom.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Asked<A> {
    /// By its own address.
    pub sender: A,
    /// The sender as the receiver sees it: masqueraded, perhaps.
    pub source: A,
    /// After service translation.
    pub destination: A,
    pub port: Be16,
    /// 0: without ports.
    pub protocol: u8,
    /// Of [`flow_flags`]: of an answer, of a process of this node.
    pub flags: u8,
}

/// One end's question, and what is known so far. In a map, where the verifier does not follow values.
#[repr(C)]
struct Question {
    lists: [u32; TIERS],
    loopback: u32,
    /// In the order in which they are asked; 0: none.
    peers: [u32; 4],
    port: PortKey,
    bits: u32,
    /// Of the best answer of a tier so far; all ones: none.
    order: u64,
    action: u32,
    rule: u32,
    /// Of [`matched`].
    matched: u32,
}

#[btf_map]
static QUESTION: PerCpuArray<Question, 1> = PerCpuArray::new();

#[inline(always)]
fn question() -> Option<&'static mut Question> {
    // SAFETY: this CPU's own, and nothing interrupts a program with another of the same CPU.
    QUESTION.get_ptr_mut(0).map(|question| unsafe { &mut *question })
}

#[inline(always)]
pub fn is_on(config: &Config) -> bool {
    config.policy != 0
}

/// Packets that have no flow are judged at a pod's two ends only.
#[inline(always)]
pub fn is_at_pod<H: Hook>() -> bool {
    H::POINT as u8 == Point::FromPod as u8 || H::POINT as u8 == Point::ToPod as u8
}

/// Whether a process of this node sent it.
#[inline(always)]
pub fn is_from_host<H: Hook>(ctx: Context) -> bool {
    !H::INGRESS && ctx.received_on() == 0
}

/// The flow of an entry as policies see it.
#[inline(always)]
fn ask<A: abi::Address>(asked: &mut Asked<A>, key: &Tuple<A>, flow: &Flow<A>) {
    asked.protocol = key.protocol;
    asked.flags = flow.flags & (flow_flags::REPLY | flow_flags::HOST);
    if flow.has(flow_flags::REPLY) {
        (asked.sender, asked.source) = (flow.destination, key.destination);
        (asked.destination, asked.port) = (key.source, key.source_port);
    } else {
        (asked.sender, asked.source) = (key.source, flow.source);
        (asked.destination, asked.port) = (flow.destination, flow.destination_port);
    }
}

/// Judges the flow of the scratch's step; why it is dropped, or `None`.
#[inline(never)]
pub fn judge<F: Identities, H: Hook>(ctx: Context) -> Option<Reason> {
    let Some(scratch) = F::scratch() else { return Some(Reason::DroppedInternal) };
    let Scratch { asked, noted, key, flow, step, receiver, revision, .. } = scratch;
    if *noted & events::JUDGED != 0 {
        return None;
    }
    match *step {
        step::PASS => {}
        step::UPDATE | step::TRACK => {
            // SAFETY: as in `conntrack::find`.
            let entry = F::flows().get_ptr(&*key).map(|flow| unsafe { &*flow });
            let Some(entry) = entry else { return Some(Reason::DroppedTableFull) };
            ask(asked, key, entry);
        }
        _ => ask(asked, key, flow),
    }
    *noted |= events::JUDGED;
    let known = if *noted & events::RESOLVED != 0 { Some(*receiver) } else { None };
    let (sender, receiver) = ends::<F, H>(ctx, asked, known);
    let receiver = if asked.flags & flow_flags::HOST == 0 { receiver } else { 0 };
    if sender | receiver == 0 {
        return None;
    }
    let Some(verdict) = verdicts::of::<F>(asked) else { return Some(Reason::DroppedInternal) };
    if !verdict.is_of(asked, *revision) || verdict.ends != [sender, receiver] {
        verdict.revision = 0;
        verdict.ends = [sender, receiver];
        if decide::<F>() {
            verdict.revision = *revision;
        }
        if maps::config().is_some_and(|config| config.event_level != 0) {
            // For those who come after.
            for (identity, address) in verdict.identities.iter_mut().zip([asked.source, asked.destination]) {
                *identity = if *identity == 0 { identity::of::<F>(address) } else { *identity };
            }
        }
    }
    verdicts::pronounce(ctx, scratch, verdict)
}

/// Asks the policies of both ends, as the verdict's row has them, about what the scratch asks, and writes down what they say.
/// False where nothing is known of an end yet: nobody may rely on that.
#[inline(never)]
fn decide<F: Identities>() -> bool {
    let (Some(Scratch { asked, .. }), Some(question)) = (F::scratch(), question()) else { return false };
    let Some(verdict) = verdicts::of::<F>(asked) else { return false };
    verdict.asked = *asked;
    (verdict.denied, verdict.noted) = (verdicts::BY_NONE, 0);
    (verdict.rules, verdict.matched, verdict.identities) = ([0; 2], [0; 2], [0; 2]);
    question.loopback = (asked.sender == asked.destination) as u32;
    let [high, low] = asked.port.raw().to_ne_bytes();
    question.port = PortKey { ports: 0, protocol: asked.protocol, port: [high, low], padding: 0 };
    question.bits = if asked.protocol == 0 { PortKey::ANY_BITS } else { PortKey::PORT_BITS };
    let [sender, receiver] = verdict.ends;
    if sender != 0 {
        let row = lists(sender, false, question);
        if row != OPEN {
            peers::<F>(question, asked.destination);
            verdict.identities[1] = question.peers[0];
            let denied = row == UNKNOWN || !is_allowed();
            (verdict.rules[0], verdict.matched[0]) = (question.rule, question.matched as u8);
            verdict.noted |= said(asked_flags::EGRESS, asked_flags::EGRESS_DENIED, denied);
            if denied && row != AUDITED {
                verdict.denied = verdicts::BY_SENDER;
                return row != UNKNOWN;
            }
            verdict.noted |= if denied { events::AUDITED } else { 0 };
        }
    }
    if receiver != 0 {
        let row = lists(receiver, true, question);
        if row != OPEN {
            let from = if question.loopback != 0 { asked.sender } else { asked.source };
            peers::<F>(question, from);
            verdict.identities[0] = if question.loopback != 0 { 0 } else { question.peers[0] };
            if question.peers[0] == HOST {
                // Somebody else behind the node's address.
                question.peers[0] = WORLD;
            }
            let denied = row == UNKNOWN || !is_allowed();
            (verdict.rules[1], verdict.matched[1]) = (question.rule, question.matched as u8);
            verdict.noted |= said(asked_flags::INGRESS, asked_flags::INGRESS_DENIED, denied);
            if denied && row != AUDITED {
                verdict.denied = verdicts::BY_RECEIVER;
                return row != UNKNOWN;
            }
            verdict.noted |= if denied { events::AUDITED } else { 0 };
        }
    }
    true
}

/// What an end says, among the bits that are noted.
#[inline(always)]
fn said(asked: u8, denies: u8, denied: bool) -> u32 {
    let bits = if denied { asked | denies } else { asked };
    (bits as u32) << events::ASKED_SHIFT
}

/// The interfaces of the sender and of the receiver, where they are pods of this node and asked here; else 0. At a pod's own
/// interface it is that pod, whatever address it claims to have. `known`: the receiver of a new flow, found before.
#[inline(always)]
fn ends<F: Family, H: Hook>(ctx: Context, asked: &Asked<F::Address>, known: Option<u32>) -> (u32, u32) {
    let receiver = || match known {
        Some(interface) => interface,
        None => interface::<F>(asked.destination),
    };
    let reply = asked.flags & flow_flags::REPLY != 0;
    let here = ctx.interface();
    match (H::POINT, reply) {
        (Point::FromPod, false) => (here, receiver()),
        (Point::FromPod, true) => (interface::<F>(asked.sender), here),
        (Point::ToPod, false) => (0, here),
        (Point::ToPod, true) => (here, 0),
        (_, false) => (0, receiver()),
        (_, true) => (interface::<F>(asked.sender), 0),
    }
}

#[inline(always)]
fn interface<F: Family>(address: F::Address) -> u32 {
    counters::lookup(Lookup::Route);
    // SAFETY: as in `route::resolve`.
    unsafe { F::endpoints().get(address) }.map_or(0, |endpoint| endpoint.interface)
}

/// What is known of an end.
type Row = u32;
/// No list says anything in this direction.
const OPEN: Row = 0;
/// There are lists.
const LISTED: Row = 1;
/// The same, and nothing is dropped.
const AUDITED: Row = 2;
/// Nothing is known of the pod yet.
const UNKNOWN: Row = 3;

#[inline(always)]
fn lists(interface: u32, ingress: bool, question: &mut Question) -> Row {
    counters::lookup(Lookup::Policy);
    (question.rule, question.matched) = (0, 0);
    // SAFETY: rows are replaced whole by user space; a reader keeps the old one until its program ends (RCU).
    let Some(row) = (unsafe { POLICIES.get(interface) }) else { return UNKNOWN };
    question.lists = if ingress { row.ingress } else { row.egress };
    let [a, b, c] = question.lists;
    match (a | b | c, row.flags & policy_flags::AUDIT) {
        (0, _) => OPEN,
        (_, 0) => LISTED,
        _ => AUDITED,
    }
}

/// Whom rows may name for an address.
#[inline(always)]
fn peers<F: Identities>(question: &mut Question, address: F::Address) {
    let identity = identity::of::<F>(address);
    let pods = if OF_CLUSTER.contains(&identity) { peer::PODS } else { 0 };
    question.peers = [identity, identity::prefix::<F>(address), pods, peer::ANYONE];
}

/// Goes through the tiers, and says which rule decided.
#[inline(never)]
fn is_allowed() -> bool {
    let Some(question) = question() else { return false };
    let mut allowed = true;
    for tier in 0..TIERS {
        let list = question.lists[tier];
        if list == 0 {
            continue;
        }
        search(list, tier as u32);
        if tier == UNRANKED_TIER {
            allowed = question.order != NONE || question.loopback != 0;
            if question.order == NONE {
                question.matched = 0;
                // SAFETY: one word.
                question.rule = if allowed { 0 } else { unsafe { LISTS.get(list) }.copied().unwrap_or(0) };
            }
            break;
        }
        if question.order != NONE && question.action != action::PASS as u32 {
            allowed = question.action == action::ALLOW as u32;
            break;
        }
        (question.rule, question.matched) = (0, 0);
    }
    allowed
}

/// No answer in a tier.
const NONE: u64 = u64::MAX;

/// Asks a list about each peer: the first answer counts in the tier without ranks, the lowest in the others.
#[inline(never)]
fn search(list: u32, tier: u32) {
    let Some(question) = question() else { return };
    question.order = NONE;
    for place in 0..question.peers.len() {
        let peer = question.peers[place];
        if peer == 0 {
            continue;
        }
        counters::lookup(Lookup::Policy);
        // SAFETY: as in `lists`.
        let Some(row) = (unsafe { PEERS.get(PolicyPeer { list, peer }) }) else { continue };
        let answer = if row.ports == 0 {
            let port = Be16::from_raw(u16::from_ne_bytes(question.port.port));
            if !row.only.matches(question.port.protocol, port) {
                continue;
            }
            &row.action
        } else {
            question.port.ports = row.ports;
            let Some(found) = PORTS.get(&Key::new(question.bits, question.port)) else { continue };
            found
        };
        let unranked = tier == UNRANKED_TIER as u32;
        let order = if unranked { 0 } else { (answer.rank as u64) << 2 | answer.action as u64 };
        if order < question.order || (order == question.order && answer.rule < question.rule) {
            question.order = order;
            question.action = answer.action as u32;
            question.rule = answer.rule;
            let narrows = if place < 3 { matched::PEER } else { 0 };
            question.matched = (answer.matched | narrows) as u32;
        }
        if unranked {
            return;
        }
    }
}

/// Asks about a packet at a pod that no flow is kept of, and that is otherwise passed for `reason`: ICMP messages, other
/// protocols, fragments that come alone. False: there is nothing to ask.
#[inline(never)]
pub fn untracked<F: Family, H: Hook>(ctx: Context, reason: Reason) -> bool {
    let Some(scratch) = F::scratch() else { return false };
    if scratch.noted & events::JUDGED != 0 || is_from_host::<H>(ctx) {
        return false;
    }
    (scratch.step, scratch.reason) = (step::PASS, reason);
    let Scratch { key, asked, noted, .. } = scratch;
    let read = *noted & events::READ != 0;
    let (source, destination) = if read { (key.source, key.destination) } else { Default::default() };
    (asked.sender, asked.source, asked.destination) = (source, source, destination);
    (asked.port, asked.protocol, asked.flags) = (Be16::default(), 0, 0);
    true
}

/// Notes an ICMP message that passes by itself: an error about a flow that is known, an answer, and what a link needs.
///
/// `error`: it was read as one; else its first word is still among the scratch's words.
#[inline(never)]
pub fn excuse<F: Family>(error: bool) -> bool {
    let Some(scratch) = F::scratch() else { return false };
    let Scratch { inner, reply_key, words, noted, .. } = scratch;
    let free = if error {
        *reply_key = inner.reversed();
        conntrack::find::<F>(inner).is_some() || conntrack::find::<F>(reply_key).is_some()
    } else {
        let [kind, ..] = words[0].to_ne_bytes();
        F::is_free_message(kind)
    };
    *noted |= if free { events::JUDGED } else { 0 };
    free
}
