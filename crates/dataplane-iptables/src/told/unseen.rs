//! What flows of this plane never show, and why: as the status says it.

use dataplane::Unseen;

use crate::kernel::sysctl;

/// By nature, in the order of what is missed most.
const ALWAYS: [(&str, &str); 10] = [
    (
        "packets between a flow's first, its first answer, its FINs or RST and its end",
        "connection tracking tells of changes of state only; long flows are not told of while they last",
    ),
    (
        "one of two packets that change a flow at once, as FINs that cross",
        "connection tracking tells of both as one, or of the second twice",
    ),
    ("verdicts of what got through", "no rule gives one: FORWARDED is never said"),
    ("which side closed second, or sent a RST", "the state of a TCP flow does not tell"),
    ("interface and observation point", "connection tracking knows neither; a logged packet has its device"),
    (
        "drops by others",
        "only rules of this plane log: not those of other programs, of routing, or of a full connection table",
    ),
    ("identities as of the packet", "they are looked up by address when the event is read"),
    ("when exactly", "events have the time at which the agent read them, some 10 ms later under load"),
    ("sockets of the node's own loopback", "left out: both ends are 127.0.0.0/8 or ::1"),
    ("DNS and HTTP", "no payload is read"),
];

/// `told`: flows are told of at all.
pub(crate) fn unseen(told: bool) -> Vec<Unseen> {
    let of = |(what, why): (&str, &str)| Unseen { what: what.to_owned(), why: why.to_owned() };
    if !told {
        return vec![of(("any flow", "flows are off (agent option --flows)"))];
    }
    let is = |name, value| sysctl::read(name).is_ok_and(|now| now == value);
    let mut all = vec![];
    if is(sysctl::CONNTRACK_EVENTS, 0) {
        all.push(("all but what rules stop", "net.netfilter.nf_conntrack_events is 0"));
    }
    if is(sysctl::CONNTRACK_EVENTS, 2) {
        all.push(("flows that are older than the agent", "net.netfilter.nf_conntrack_events is 2, not 1"));
    }
    if is(sysctl::CONNTRACK_ACCOUNTING, 0) {
        all.push(("packets and bytes of a flow", "net.netfilter.nf_conntrack_acct is 0"));
    }
    all.into_iter().chain(ALWAYS).map(of).collect()
}
