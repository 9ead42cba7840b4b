//! What user space tells the datapath, in one element of an array map.

use crate::{Be16, V4, V6, plain};

/// The only element of the map `CONFIG`.
///
/// User space rewrites it whole; the kernel copies it by aligned words (`array_map_update_elem`), so that a reader
/// sees each word either old or new.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Flows validated under another revision take the slow path again. Never 0: that marks a flow as not yet validated.
    pub revision: u32,
    /// Jiffies per second (`CONFIG_HZ`).
    pub hz: u32,
    /// First port that masquerading may use, in host order.
    pub masquerade_first: u32,
    /// How many ports from there on.
    pub masquerade_ports: u32,
    /// The address that masquerades; all zero where the node has none in the family.
    pub node_v4: V4,
    pub node_v6: V6,
    /// Interface index of the tunnel to other nodes' pods; 0: there is none.
    pub tunnel: u32,
    /// The address that masquerades what leaves through the tunnel; all zero where the node's does.
    pub tunnel_v4: V4,
    pub tunnel_v6: V6,
    pub timeouts: Timeouts,
    /// Interface index of the tunnel that packets for backends on other nodes enter whole, so that those answer the client
    /// themselves (direct server return); 0: they are masqueraded.
    pub direct_return: u32,
    /// After how long a flow that goes on is told of again, in [`crate::coarse`] units: 0 for with every packet, more than that
    /// clock counts for never.
    pub event_interval: u32,
    /// What any endpoint of this node lets be read of its packets, of [`crate::l7_flags`]; 0: nobody's are looked into.
    pub l7: u32,
    /// An [`crate::EventLevel`].
    pub event_level: u32,
    /// Not 0: policies are in force. What goes to and comes from pods is asked about, and tracked.
    pub policy: u32,
}

/// Idle times after which an entry is dead, in jiffies.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// TCP, before the handshake is through.
    pub tcp_opening: u32,
    pub tcp_established: u32,
    /// TCP, one side has sent FIN.
    pub tcp_half_closed: u32,
    /// TCP, both sides have sent FIN, or one RST.
    pub tcp_closed: u32,
    /// UDP, before a reply was seen.
    pub udp_unanswered: u32,
    pub udp: u32,
    pub sctp_established: u32,
    /// SCTP, before its handshake is through or once one side has shut down.
    pub sctp_unsettled: u32,
}

impl Config {
    /// Whether a packet to this port may be the reply to a masqueraded flow.
    #[inline(always)]
    pub fn masquerades(&self, port: Be16) -> bool {
        (port.get() as u32).wrapping_sub(self.masquerade_first) < self.masquerade_ports
    }
}

const _: () = assert!(size_of::<Config>() == 4 * (4 + 2 * (1 + 4) + 1 + 8 + 1 + 4));
plain!(Config);
