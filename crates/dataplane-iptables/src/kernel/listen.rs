//! Sockets that netfilter tells things unasked: events of connection tracking, packets that rules log.

use std::{
    io,
    num::NonZeroU16,
    os::fd::{AsFd, BorrowedFd},
};

use super::netlink::{ACK, Message, Netfilter, Request, attribute, messages};

/// `NFNLGRP_CONNTRACK_{NEW,UPDATE,DESTROY}`: groups 1 to 3.
const CONNTRACK_GROUPS: u32 = 0b111;

/// `NFNL_SUBSYS_ULOG` with `NFULNL_MSG_CONFIG`.
const CONFIGURE: u16 = 4 << 8 | 1;
/// `NFULA_CFG_*`.
const COMMAND: u16 = 1;
const MODE: u16 = 2;
const BATCH: u16 = 5;
const FLAGS: u16 = 6;
/// `NFULNL_CFG_CMD_BIND`, `NFULNL_COPY_PACKET`, `NFULNL_CFG_F_SEQ`.
const BIND: u8 = 1;
const COPY_PACKET: u8 = 2;
const NUMBERED: u16 = 1;
/// How much of a packet is copied, in bytes: the headers, and the extension headers that IPv6 packets really have.
const COPIED: u32 = 128;

/// One socket that is read and never written to.
pub(crate) struct Listener {
    netfilter: Netfilter,
    /// What [`Netfilter::lost`] said last.
    last: u32,
    lost: u64,
}

impl Listener {
    /// Events of connection tracking, with `room` for those nobody has read yet, in bytes.
    ///
    /// # Errors
    /// The kernel has no connection tracking, or refuses.
    pub(crate) fn tracking(room: usize) -> io::Result<Self> {
        Ok(Self::of(Netfilter::listen(CONNTRACK_GROUPS, room)?))
    }

    /// Packets logged to `group`, one a message, numbered from 0.
    ///
    /// # Errors
    /// `EBUSY` or `EPERM`: another program has the group. Else the kernel's refusal.
    pub(crate) fn log(group: NonZeroU16, room: usize) -> io::Result<Self> {
        let mut netfilter = Netfilter::listen(0, room)?;
        // `nfulnl_msg_config_mode`: range, mode, padding.
        let mode = [&COPIED.to_be_bytes()[..], &[COPY_PACKET, 0]].concat();
        // One message a packet: told at once, and each loss is one packet.
        let attributes = [
            attribute(COMMAND, &[BIND]),
            attribute(MODE, &mode),
            attribute(BATCH, &1_u32.to_be_bytes()),
            attribute(FLAGS, &NUMBERED.to_be_bytes()),
        ];
        let request = Request { kind: CONFIGURE, flags: ACK, resource: group.get(), ..Request::default() };
        // A packet that comes before the answer is passed over; the next one's number tells.
        netfilter.request(request, &attributes.concat(), |_| true)?;
        Ok(Self::of(netfilter))
    }

    fn of(netfilter: Netfilter) -> Self {
        Self { netfilter, last: 0, lost: 0 }
    }

    /// Hands every message of the next datagram to `each`; `false`: there is none now.
    ///
    /// # Errors
    /// The socket is broken. Losses are none.
    pub(crate) fn receive(&mut self, each: impl FnMut(Message<'_>)) -> io::Result<bool> {
        let Some(datagram) = self.netfilter.receive()? else { return Ok(false) };
        messages(datagram).for_each(each);
        Ok(true)
    }

    /// How many datagrams found no room since this socket was opened.
    ///
    /// # Errors
    /// The kernel does not say.
    pub(crate) fn lost(&mut self) -> io::Result<u64> {
        let now = self.netfilter.lost()?;
        self.lost += u64::from(now.wrapping_sub(self.last));
        self.last = now;
        Ok(self.lost)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.netfilter.as_fd()
    }
}
