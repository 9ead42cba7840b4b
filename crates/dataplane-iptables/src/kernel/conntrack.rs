//! The kernel's connection table by netlink (`linux/netfilter/nfnetlink_conntrack.h`): read, delete one entry.

use std::{io, net::SocketAddr};

use model::{Family, Protocol, told::Tuple};

use super::netlink::{ACK, DUMP, Dump, NESTED, Netfilter, Request, attribute, attributes, find, number};
use crate::told::tuple;

/// `NFNL_SUBSYS_CTNETLINK` with `IPCTNL_MSG_CT_{NEW,GET,DELETE,GET_STATS_CPU}`.
const CHANGE: u16 = 1 << 8;
const GET: u16 = 1 << 8 | 1;
const DELETE: u16 = 1 << 8 | 2;
const GET_STATISTICS: u16 = 1 << 8 | 4;

/// `CTA_*`.
const ORIGINAL: u16 = 1;
const REPLY: u16 = 2;
const PROTOCOL_INFO: u16 = 4;
const TIMEOUT: u16 = 7;
const MARK: u16 = 8;
const COUNTERS_ORIGINAL: u16 = 9;
const COUNTERS_REPLY: u16 = 10;
const ID: u16 = 12;
const ZONE: u16 = 18;
const MARK_MASK: u16 = 21;
/// `CTA_PROTOINFO_TCP` and `CTA_PROTOINFO_TCP_STATE`.
const TCP_INFO: u16 = 1;
const TCP_STATE: u16 = 1;
/// `CTA_COUNTERS_PACKETS`, `CTA_COUNTERS_BYTES`.
const PACKETS: u16 = 1;
const BYTES: u16 = 2;
/// `CTA_STATS_DROP`, an attribute of a CPU's statistics.
const NO_ROOM: u16 = 10;

/// How often a dump is started over when the table changed under it. A partial one is used after that.
const DUMP_ATTEMPTS: usize = 3;

/// Source and destination of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Direction {
    pub source: SocketAddr,
    pub destination: SocketAddr,
}

/// One entry of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub protocol: Protocol,
    /// As the client sent.
    pub original: Direction,
    /// As the answer is sent: from where the packets really go.
    pub reply: Direction,
    /// In the kernel's words (`tcp_conntrack_names`); only TCP has one.
    pub tcp_state: Option<&'static str>,
    pub timeout_seconds: Option<u64>,
    /// Both directions; only where `nf_conntrack_acct` is on.
    pub packets: Option<u64>,
    pub bytes: Option<u64>,
    /// What a deletion must carry.
    pub(crate) key: Vec<u8>,
}

/// The entries that `want` accepts, at most `limit`, by one dump of the table.
///
/// # Errors
/// The kernel has no connection tracking, or refuses.
pub(crate) fn entries(family: Family, limit: usize, want: impl Fn(&Entry) -> bool) -> io::Result<Vec<Entry>> {
    if limit == 0 {
        return Ok(vec![]);
    }
    until_whole(|| {
        let mut found = Vec::new();
        let request =
            Request { kind: GET, flags: DUMP, family: address_family(family), ..Request::default() };
        let dump = Netfilter::open()?.request(request, &[], |answer| {
            let wanted = Entry::read(answer).filter(|entry| want(entry));
            found.extend(wanted.map(|entry| Entry { key: key(answer), ..entry }));
            found.len() < limit
        })?;
        Ok((found, dump))
    })
}

/// A flow of any protocol, with its mark.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Marked {
    /// As the client sent.
    pub original: Tuple,
    /// As the answer is sent.
    pub reply: Tuple,
    pub mark: u32,
    key: Vec<u8>,
}

/// The flows that `want` accepts, by one dump of the table.
///
/// # Errors
/// The kernel has no connection tracking, or refuses.
pub(crate) fn marked(family: Family, want: impl Fn(&Tuple, &Tuple, u32) -> bool) -> io::Result<Vec<Marked>> {
    until_whole(|| {
        let mut found = Vec::new();
        let request =
            Request { kind: GET, flags: DUMP, family: address_family(family), ..Request::default() };
        let dump = Netfilter::open()?.request(request, &[], |answer| {
            let tuples = || Some((tuple::read(find(answer, ORIGINAL)?)?, tuple::read(find(answer, REPLY)?)?));
            if let Some((original, reply)) = tuples() {
                let mark = find(answer, MARK).map_or(0, number) as u32;
                if want(&original, &reply, mark) {
                    found.push(Marked { original, reply, mark, key: key(answer) });
                }
            }
            true
        })?;
        Ok((found, dump))
    })
}

/// Sets the bits of `mask` in the mark of each flow that is there still to those of `value`; returns how many there were.
///
/// # Errors
/// The kernel's refusal; flows before it are marked.
pub(crate) fn mark(family: Family, flows: &[Marked], value: u32, mask: u32) -> io::Result<usize> {
    let mut netfilter = Netfilter::open()?;
    let mark = [attribute(MARK, &value.to_be_bytes()), attribute(MARK_MASK, &mask.to_be_bytes())].concat();
    let mut marked = 0;
    for flow in flows {
        let request =
            Request { kind: CHANGE, flags: ACK, family: address_family(family), ..Request::default() };
        match netfilter.request(request, &[&flow.key[..], &mark].concat(), |_| true) {
            Ok(_) => marked += 1,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(marked)
}

/// Starts a dump over while the table changes under it; what the last attempt saw is used all the same.
fn until_whole<T>(mut attempt: impl FnMut() -> io::Result<(T, Dump)>) -> io::Result<T> {
    for _ in 1..DUMP_ATTEMPTS {
        if let (found, Dump::Whole) = attempt()? {
            return Ok(found);
        }
    }
    attempt().map(|(found, _)| found)
}

/// Deletes exactly these entries; returns how many there were still.
///
/// # Errors
/// The kernel's refusal; entries before it are gone.
pub(crate) fn delete(family: Family, entries: &[Entry]) -> io::Result<usize> {
    let mut netfilter = Netfilter::open()?;
    let mut deleted = 0;
    for entry in entries {
        let request =
            Request { kind: DELETE, flags: ACK, family: address_family(family), ..Request::default() };
        match netfilter.request(request, &entry.key, |_| true) {
            Ok(_) => deleted += 1,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(deleted)
}

/// Packets of this network namespace that connection tracking dropped itself: there was no room for their flow
/// (`nf_conntrack_in`, "too stressed to deal").
///
/// # Errors
/// The kernel has no connection tracking, or refuses.
pub(crate) fn dropped() -> io::Result<u64> {
    let mut dropped = 0;
    let request =
        Request { kind: GET_STATISTICS, flags: DUMP, family: libc::AF_UNSPEC as u8, ..Request::default() };
    Netfilter::open()?.request(request, &[], |cpu| {
        dropped += find(cpu, NO_ROOM).map_or(0, number);
        true
    })?;
    Ok(dropped)
}

impl Entry {
    /// Without its key, which most entries of a dump never need. `None` for a protocol that no Service can have.
    fn read(answer: &[u8]) -> Option<Self> {
        let (protocol, original) = direction(find(answer, ORIGINAL)?)?;
        let (_, reply) = direction(find(answer, REPLY)?)?;
        let state = find(answer, PROTOCOL_INFO).and_then(|info| find(info, TCP_INFO));
        let both = |kind| {
            let counted = |direction| find(answer, direction).and_then(|c| find(c, kind)).map(number);
            Some(counted(COUNTERS_ORIGINAL)? + counted(COUNTERS_REPLY)?)
        };
        Some(Self {
            protocol,
            original,
            reply,
            tcp_state: state.and_then(|info| find(info, TCP_STATE)).map(tcp_state),
            timeout_seconds: find(answer, TIMEOUT).map(number),
            packets: both(PACKETS),
            bytes: both(BYTES),
            key: vec![],
        })
    }
}

/// The original tuple as it came, the zone, and the id, so that a successor with the same tuple is spared.
fn key(answer: &[u8]) -> Vec<u8> {
    let parts = attributes(answer).filter_map(|(kind, value)| match kind {
        ORIGINAL => Some(attribute(ORIGINAL | NESTED, value)),
        ID | ZONE => Some(attribute(kind, value)),
        _ => None,
    });
    parts.flatten().collect()
}

fn direction(bytes: &[u8]) -> Option<(Protocol, Direction)> {
    let tuple = tuple::read(bytes)?;
    let protocol = Protocol::from_number(tuple.transport.protocol())?;
    let (source, destination) = tuple.transport.ports()?;
    let direction = Direction {
        source: SocketAddr::new(tuple.source, source),
        destination: SocketAddr::new(tuple.destination, destination),
    };
    Some((protocol, direction))
}

/// `enum tcp_conntrack` (`linux/netfilter/nf_conntrack_tcp.h`).
fn tcp_state(value: &[u8]) -> &'static str {
    const NAMES: [&str; 10] = [
        "NONE",
        "SYN_SENT",
        "SYN_RECV",
        "ESTABLISHED",
        "FIN_WAIT",
        "CLOSE_WAIT",
        "LAST_ACK",
        "TIME_WAIT",
        "CLOSE",
        "SYN_SENT2",
    ];
    NAMES.get(number(value) as usize).copied().unwrap_or("UNKNOWN")
}

const fn address_family(family: Family) -> u8 {
    (match family {
        Family::V4 => libc::AF_INET,
        Family::V6 => libc::AF_INET6,
    }) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In the words of `/proc`: a heading, and a line of hexadecimal numbers for each CPU.
    #[test]
    fn dropped_packets_are_those_of_the_kernels_own_statistics() {
        let text = std::fs::read_to_string("/proc/thread-self/net/stat/nf_conntrack").expect("statistics");
        let mut lines = text.lines();
        let column =
            lines.next().and_then(|heading| heading.split_whitespace().position(|word| word == "drop"));
        let column = column.expect("a column of that name");
        let of_cpu = |line: &str| {
            let word = line.split_whitespace().nth(column).expect("a number");
            u64::from_str_radix(word, 16).expect("hexadecimal")
        };
        assert_eq!(dropped().expect("asked"), lines.map(of_cpu).sum::<u64>());
    }

    #[test]
    fn an_interrupted_dump_is_started_over_and_used_in_the_end() {
        let run = |whole_at: usize| {
            let mut attempts = 0;
            let found = until_whole(|| {
                attempts += 1;
                Ok((attempts, if attempts >= whole_at { Dump::Whole } else { Dump::Interrupted }))
            });
            found.expect("no refusal")
        };
        assert_eq!([run(1), run(2), run(3), run(9)], [1, 2, 3, 3]);
        let refused = until_whole::<()>(|| Err(io::ErrorKind::PermissionDenied.into()));
        assert_eq!(refused.expect_err("refused").kind(), io::ErrorKind::PermissionDenied);
    }
}
