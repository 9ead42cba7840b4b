//! Connection tracking's events as moments of flows. Pure.
//!
//! An update carries the protocol's state only where the packet changed it (`ctnetlink_conntrack_event`), so that the new state
//! says what packet it was: the rows of `tcp_conntracks` (`nf_conntrack_proto_tcp.c`) by which a state is entered. States that
//! only an ACK leads to are no moments.
//!
//! Events are gathered per flow and read the state when they are sent (`nf_ct_deliver_cached_events`): of two packets that change
//! a flow at once on two CPUs, as FINs that cross, one may be told of as the other, or not at all.

use model::told::{Moment, Side, Tracked, Traffic, Transport};

use super::tuple;
use crate::kernel::netlink::{CREATE, Message, find, number};

/// `NFNL_SUBSYS_CTNETLINK` with `IPCTNL_MSG_CT_{NEW,DELETE}`.
pub(crate) const NEW: u16 = 1 << 8;
pub(crate) const DELETE: u16 = 1 << 8 | 2;

/// `CTA_*`.
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const STATUS: u16 = 3;
const PROTOCOL_INFO: u16 = 4;
const COUNTERS_ORIGINAL: u16 = 9;
const COUNTERS_REPLY: u16 = 10;
/// `CTA_COUNTERS_PACKETS`, `CTA_COUNTERS_BYTES`.
const PACKETS: u16 = 1;
const BYTES: u16 = 2;
/// `IPS_SEEN_REPLY`, `IPS_ASSURED` (`linux/netfilter/nf_conntrack_common.h`).
const SEEN_REPLY: u64 = 1 << 1;
const ASSURED: u64 = 1 << 2;

/// `CTA_PROTOINFO_TCP` and what of it is read.
const TCP_INFO: u16 = 1;
const TCP_STATE: u16 = 1;
const TCP_FLAGS_ORIGINAL: u16 = 4;
const TCP_FLAGS_REPLY: u16 = 5;
/// `IP_CT_TCP_FLAG_CLOSE_INIT`: sent the first FIN.
const CLOSE_INIT: u8 = 1 << 2;
/// `enum tcp_conntrack`.
const SYN_SENT: u64 = 1;
const SYN_RECEIVED: u64 = 2;
const FIN_WAIT: u64 = 4;
const LAST_ACK: u64 = 6;
const CLOSE: u64 = 8;

/// What an event tells; `None`: of no moment, or it cannot be read.
pub(crate) fn read(message: Message<'_>) -> Option<Tracked> {
    let attributes = message.attributes;
    let original = tuple::read(find(attributes, ORIGINAL)?)?;
    let reply = tuple::read(find(attributes, REPLY)?)?;
    let is_tcp = matches!(original.transport, Transport::Tcp { .. });
    let status = find(attributes, STATUS).map_or(0, number);
    let info = find(attributes, PROTOCOL_INFO);
    let tcp = info.and_then(|info| find(info, TCP_INFO)).unwrap_or_default();
    let state = find(tcp, TCP_STATE).map(number);
    let moment = match message.kind {
        DELETE => Moment::Ended { refused: state == Some(CLOSE) && status & SEEN_REPLY == 0 },
        NEW if message.flags & CREATE != 0 => Moment::Began { syn: state == Some(SYN_SENT) },
        NEW if is_tcp => of_tcp(state?, tcp)?,
        // Of other protocols neither a new state nor becoming assured is a moment.
        NEW if info.is_none() && status & (SEEN_REPLY | ASSURED) == SEEN_REPLY => Moment::Answered,
        _ => return None,
    };
    let traffic = match moment {
        Moment::Ended { .. } => traffic(attributes),
        _ => None,
    };
    Some(Tracked { moment, original, reply, traffic })
}

fn of_tcp(state: u64, info: &[u8]) -> Option<Moment> {
    let began_to_close = |side| find(info, side).and_then(<[u8]>::first).is_some_and(|f| f & CLOSE_INIT != 0);
    Some(match state {
        SYN_RECEIVED => Moment::Answered,
        FIN_WAIT => {
            let from = match (began_to_close(TCP_FLAGS_ORIGINAL), began_to_close(TCP_FLAGS_REPLY)) {
                (true, false) => Some(Side::Client),
                (false, true) => Some(Side::Server),
                _ => None,
            };
            Moment::Closing { from }
        }
        LAST_ACK => Moment::Closed,
        CLOSE => Moment::Reset,
        _ => return None,
    })
}

fn traffic(attributes: &[u8]) -> Option<Traffic> {
    let both = |kind| {
        let counted = |direction| find(attributes, direction).and_then(|counters| find(counters, kind));
        let (sent, answered) = (counted(COUNTERS_ORIGINAL)?, counted(COUNTERS_REPLY)?);
        Some(number(sent).saturating_add(number(answered)))
    };
    Some(Traffic { packets: both(PACKETS)?, bytes: both(BYTES)? })
}
