//! Named packet counters of the kernel (`nfacct`): rewriting rules does not reset them.

use std::io;

use super::netlink::{ACK, CREATE, DUMP, Netfilter, Request, attribute, attributes, number};

/// `NFNL_SUBSYS_ACCT` with `NFNL_MSG_ACCT_{NEW,GET,DEL}` (`linux/netfilter/nfnetlink_acct.h`).
const NEW: u16 = 7 << 8;
const GET: u16 = 7 << 8 | 1;
const DELETE: u16 = 7 << 8 | 3;
/// `NFACCT_NAME`, `NFACCT_PKTS`, `NFACCT_BYTES`.
const NAME: u16 = 1;
const PACKETS: u16 = 2;
const BYTES: u16 = 3;

const AF_UNSPEC: u8 = 0;

/// A counter as it is now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub name: String,
    pub packets: u64,
    pub bytes: u64,
}

/// Makes the counter `name` unless it exists.
///
/// # Errors
/// The kernel has no accounting, or refuses.
pub(crate) fn ensure(name: &str) -> io::Result<()> {
    let request = Request { kind: NEW, flags: ACK | CREATE, family: AF_UNSPEC, ..Request::default() };
    match Netfilter::open()?.request(request, &named(name), |_| true) {
        // The kernel says EBUSY for a counter that exists.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EEXIST)) => Ok(()),
        other => other.map(|_| ()),
    }
}

/// Makes the counter `count.name` say what `count` does.
///
/// # Errors
/// The kernel has no accounting, or a rule uses the counter.
pub(crate) fn set(count: &Count) -> io::Result<()> {
    // The kernel takes a value for a new counter only (`nfnl_acct_new`).
    remove(&count.name)?;
    let value = |kind, number: u64| attribute(kind, &number.to_be_bytes());
    let request = Request { kind: NEW, flags: ACK | CREATE, family: AF_UNSPEC, ..Request::default() };
    let attributes = [named(&count.name), value(PACKETS, count.packets), value(BYTES, count.bytes)].concat();
    Netfilter::open()?.request(request, &attributes, |_| true).map(|_| ())
}

/// Removes the counter `name`; one that does not exist is no error.
///
/// # Errors
/// A rule still uses it.
pub(crate) fn remove(name: &str) -> io::Result<()> {
    let request = Request { kind: DELETE, flags: ACK, family: AF_UNSPEC, ..Request::default() };
    match Netfilter::open()?.request(request, &named(name), |_| true) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        other => other.map(|_| ()),
    }
}

/// All counters.
///
/// # Errors
/// The kernel has no accounting.
pub(crate) fn all() -> io::Result<Vec<Count>> {
    let mut counts = Vec::new();
    let request = Request { kind: GET, flags: DUMP, family: AF_UNSPEC, ..Request::default() };
    Netfilter::open()?.request(request, &[], |answer| {
        let mut count = Count::default();
        for (kind, value) in attributes(answer) {
            match kind {
                NAME => count.name = String::from_utf8_lossy(value).trim_end_matches('\0').to_owned(),
                PACKETS => count.packets = number(value),
                BYTES => count.bytes = number(value),
                _ => {}
            }
        }
        counts.push(count);
        true
    })?;
    Ok(counts)
}

fn named(name: &str) -> Vec<u8> {
    attribute(NAME, &[name.as_bytes(), &[0]].concat())
}
