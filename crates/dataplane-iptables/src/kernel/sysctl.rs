//! Kernel settings under `/proc/sys/net`, which shows those of the reading thread's network namespace.

use std::{fs, io, path::PathBuf};

/// Packets from loopback addresses may be routed: node ports on 127.0.0.1 need it.
pub(crate) const ROUTE_LOCALNET: &str = "ipv4/conf/all/route_localnet";
/// Out-of-window TCP packets are not INVALID.
pub(crate) const TCP_BE_LIBERAL: &str = "netfilter/nf_conntrack_tcp_be_liberal";
pub(crate) const CONNTRACK_COUNT: &str = "netfilter/nf_conntrack_count";
pub(crate) const CONNTRACK_MAX: &str = "netfilter/nf_conntrack_max";
/// Whether flows' packets and bytes are counted.
pub(crate) const CONNTRACK_ACCOUNTING: &str = "netfilter/nf_conntrack_acct";
/// Whether flows are told of: 0 never, 1 always, 2 those that begin while somebody listens.
pub(crate) const CONNTRACK_EVENTS: &str = "netfilter/nf_conntrack_events";

/// # Errors
/// The kernel has no such setting, or it is no number.
pub(crate) fn read(name: &str) -> io::Result<u64> {
    let text = fs::read_to_string(path(name))?;
    text.trim().parse().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// # Errors
/// The kernel's refusal.
pub(crate) fn write(name: &str, value: u64) -> io::Result<()> {
    fs::write(path(name), value.to_string())
}

fn path(name: &str) -> PathBuf {
    PathBuf::from("/proc/sys/net").join(name)
}
