//! Who may talk to whom: what the slow path asks before it opens a flow, or keeps one that is older than the policy.
//!
//! ```text
//!  POLICIES   interface of a pod ─▶ lists, one per direction and tier
//!  PEERS      (list, peer) ─▶ one match with its action, or the number of several
//!  PORTS      (number, protocol, port prefix) ─▶ action
//!  LISTS      list ─▶ the rule that isolates
//!  RULES      rule ─▶ what it decided about, per CPU
//! ```

use crate::{Be16, Count, plain};

/// Tiers of a direction, in order of evaluation.
pub const TIERS: usize = 3;
/// The tier that is final wherever it has a list; the others are ranked.
pub const UNRANKED_TIER: usize = 1;

/// Value of `POLICIES`, by the interface index of a pod's veth, the host's end. List 0: none.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PolicyRow {
    pub ingress: [u32; TIERS],
    pub egress: [u32; TIERS],
    /// Of [`policy_flags`].
    pub flags: u32,
}

/// Bits of [`PolicyRow::flags`].
pub mod policy_flags {
    /// What is denied is told of, and let through.
    pub const AUDIT: u32 = 1;
}

/// Hash key of `PEERS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyPeer {
    pub list: u32,
    /// An identity, or one of [`peer`].
    pub peer: u32,
}

/// Peers that are no identity: above all numbers of those.
pub mod peer {
    /// Every pod that has an identity of the cluster.
    pub const PODS: u32 = u32::MAX - 1;
    pub const ANYONE: u32 = u32::MAX;
}

/// Value of `PEERS`: one match in place, or the number of several in `PORTS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerRow {
    /// 0: `only` counts.
    pub ports: u32,
    pub only: PortMatch,
    pub action: PortAction,
}

/// Protocols and ports.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortMatch {
    /// 0: any, ICMP among them.
    pub protocol: u8,
    /// Bits of `port` that count.
    pub length: u8,
    pub port: Be16,
}

impl PortMatch {
    /// Whether a packet of `protocol` (0: one without ports) to `port` is meant.
    #[inline(always)]
    pub fn matches(&self, protocol: u8, port: Be16) -> bool {
        // As one word of 32 bits, so that no length shifts everything out.
        let differ = (self.port.get() ^ port.get()) as u32;
        self.protocol == 0
            || (self.protocol == protocol && differ >> (16u32.wrapping_sub(self.length as u32) & 31) == 0)
    }
}

/// Prefix data of `PORTS`: `ports` is always matched whole. 32 bits: any packet; 40: a protocol; up to 56: ports.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortKey {
    pub ports: u32,
    pub protocol: u8,
    /// In network order, in bytes so that nothing lies between it and the protocol.
    pub port: [u8; 2],
    pub padding: u8,
}

impl PortKey {
    /// Bits of a key that means any packet.
    pub const ANY_BITS: u32 = 32;
    /// Bits of a key that means a whole protocol.
    pub const PROTOCOL_BITS: u32 = 40;
    /// Bits of a key that means one port.
    pub const PORT_BITS: u32 = 56;
}

/// Value of `PORTS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortAction {
    /// The lowest of a ranked tier decides.
    pub rank: u32,
    pub rule: u32,
    /// Of [`action`].
    pub action: u16,
    /// Of [`matched`], but for [`matched::PEER`], which follows from the row's peer.
    pub matched: u16,
}

/// Values of [`PortAction::action`]: of two of the same rank the lower one decides.
pub mod action {
    pub const ALLOW: u16 = 0;
    pub const DENY: u16 = 1;
    /// On to the next tier.
    pub const PASS: u16 = 2;
}

/// How narrow the row was that decided; no bit: none decided.
pub mod matched {
    /// A row did.
    pub const ROW: u16 = 1;
    /// For some peers only.
    pub const PEER: u16 = 1 << 1;
    /// For a whole protocol.
    pub const PROTOCOL: u16 = 1 << 2;
    /// For some ports of a protocol.
    pub const PORTS: u16 = 1 << 3;
}

/// What policies said of a packet: bits of [`crate::Event::policy`], for each end that is a pod of this node with a policy in
/// that direction.
pub mod asked_flags {
    pub const EGRESS: u8 = 1;
    pub const INGRESS: u8 = 1 << 1;
    /// The end was asked, and denies it.
    pub const EGRESS_DENIED: u8 = 1 << 2;
    pub const INGRESS_DENIED: u8 = 1 << 3;
}

/// Value of `RULES`, per CPU: packets that opened flows, or were the first after a change, or were denied.
pub type RuleCount = Count;

const _: () = assert!(
    size_of::<PolicyRow>() == 28
        && size_of::<PolicyPeer>() == 8
        && size_of::<PeerRow>() == 20
        && size_of::<PortKey>() == 8
);
plain!(PolicyRow, PolicyPeer, PeerRow, PortMatch, PortKey, PortAction);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_match_in_place_means_its_ports() {
        let matches = |protocol, length, port, of: (u8, u16)| {
            PortMatch { protocol, length, port: Be16::new(port) }.matches(of.0, Be16::new(of.1))
        };
        assert!(matches(0, 0, 0, (0, 0)) && matches(0, 0, 0, (17, 53)));
        assert!(matches(6, 0, 0, (6, 65_535)) && !matches(6, 0, 0, (17, 80)) && !matches(6, 0, 0, (0, 0)));
        assert!(matches(6, 16, 80, (6, 80)) && !matches(6, 16, 80, (6, 81)));
        assert!(matches(6, 1, 0x8000, (6, 0xffff)) && !matches(6, 1, 0x8000, (6, 0x7fff)));
        assert!(matches(6, 15, 80, (6, 81)) && !matches(6, 15, 80, (6, 82)));
    }
}
