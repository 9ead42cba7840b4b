//! Options of the kernel's connection tracking. Pure.

use super::values::Period;
use crate::sysctl::Conntrack;

/// The kernel's connection tracking, as kube-proxy's flags of these names set it. The iptables dataplane's only: the other
/// has a table of its own. Zero leaves the kernel's value alone.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct ConntrackArgs {
    /// Entries of connection tracking for each core; 0 leaves the limit alone
    #[arg(long, value_name = "ENTRIES", default_value_t = Conntrack::default().max_per_core)]
    conntrack_max_per_core: u32,
    /// Entries of connection tracking at least
    #[arg(long, value_name = "ENTRIES", default_value_t = Conntrack::default().min)]
    conntrack_min: u32,
    /// Idle time of established TCP flows, as 24h or 90s; 0s leaves it alone
    #[arg(long, value_name = "TIME", default_value = "24h")]
    conntrack_tcp_timeout_established: Period,
    /// Idle time of TCP flows that one side has closed
    #[arg(long, value_name = "TIME", default_value = "1h")]
    conntrack_tcp_timeout_close_wait: Period,
    /// Forward TCP packets outside the window instead of dropping them as invalid
    #[arg(long)]
    conntrack_tcp_be_liberal: bool,
    /// Idle time of UDP flows that were not answered
    #[arg(long, value_name = "TIME", default_value = "0s")]
    conntrack_udp_timeout: Period,
    /// Idle time of UDP flows that were answered
    #[arg(long, value_name = "TIME", default_value = "0s")]
    conntrack_udp_timeout_stream: Period,
}

impl From<ConntrackArgs> for Conntrack {
    fn from(args: ConntrackArgs) -> Self {
        Self {
            max_per_core: args.conntrack_max_per_core,
            min: args.conntrack_min,
            tcp_established: args.conntrack_tcp_timeout_established.0,
            tcp_close_wait: args.conntrack_tcp_timeout_close_wait.0,
            tcp_be_liberal: args.conntrack_tcp_be_liberal,
            udp: args.conntrack_udp_timeout.0,
            udp_stream: args.conntrack_udp_timeout_stream.0,
        }
    }
}
