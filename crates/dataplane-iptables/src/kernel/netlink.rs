//! Requests to netfilter's netlink (`linux/netfilter/nfnetlink.h`), what it tells unasked, and the attributes of both.
//!
//! Written by hand: netlink-packet-netfilter reads conntrack entries, but has neither the accounting subsystem
//! nor the raw tuple that a deletion must carry back unchanged.

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd},
};

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt,
        socket, sockopt,
    },
};

/// `NLM_F_REQUEST`.
const REQUEST: u16 = 0x1;
/// `NLM_F_ACK`.
pub(super) const ACK: u16 = 0x4;
/// `NLM_F_DUMP`.
pub(super) const DUMP: u16 = 0x300;
/// `NLM_F_CREATE`.
pub(crate) const CREATE: u16 = 0x400;
/// `NLM_F_DUMP_INTR`: the table changed while it was dumped; entries may be missing.
const DUMP_INTERRUPTED: u16 = 0x10;

/// `NLMSG_ERROR`, `NLMSG_DONE`.
const ERROR: u16 = 2;
const DONE: u16 = 3;

/// `nlmsghdr` and `nfgenmsg`.
const HEADER: usize = 16;
const GENERIC: usize = 4;
/// `NLA_F_NESTED | NLA_F_NET_BYTEORDER`.
const TYPE_FLAGS: u16 = 0xc000;
pub(super) const NESTED: u16 = 0x8000;

/// A socket for one request at a time.
pub(super) struct Netfilter {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

/// What to ask: `subsystem << 8 | operation`, flags, `AF_INET`/`AF_INET6`/`AF_UNSPEC`, and what of the subsystem's is meant
/// (`res_id`), 0 for most.
#[derive(Clone, Copy, Default)]
pub(super) struct Request {
    pub kind: u16,
    pub flags: u16,
    pub family: u8,
    pub resource: u16,
}

/// One message without its headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Message<'a> {
    /// `subsystem << 8 | operation`.
    pub kind: u16,
    /// `NLM_F_*`.
    pub flags: u16,
    pub attributes: &'a [u8],
}

/// Whether a dump saw the whole table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dump {
    Whole,
    Interrupted,
}

impl Netfilter {
    pub(super) fn open() -> io::Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkNetFilter,
        )?;
        Ok(Self { socket, buffer: vec![0; 1 << 16] })
    }

    /// Member of multicast groups (bit 0 is group 1), with room for messages nobody has read yet, in bytes.
    pub(super) fn listen(groups: u32, room: usize) -> io::Result<Self> {
        let netfilter = Self::open()?;
        setsockopt(&netfilter.socket, sockopt::RcvBufForce, &room)?;
        bind(netfilter.socket.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
        Ok(netfilter)
    }

    /// The next datagram, to be read by [`messages`]; `None`: there is none now.
    ///
    /// That others were lost is no error here: [`Self::lost`] counts them.
    pub(super) fn receive(&mut self) -> io::Result<Option<&[u8]>> {
        loop {
            match recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(length) => return Ok(Some(&self.buffer[..length])),
                Err(Errno::EINTR | Errno::ENOBUFS) => {}
                Err(Errno::EAGAIN) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// How many datagrams found no room, modulo 2^32 (`netlink_overrun` counts each in `sk_drops`).
    pub(super) fn lost(&self) -> io::Result<u32> {
        /// `SK_MEMINFO_DROPS` of `SK_MEMINFO_VARS` (`linux/sock_diag.h`).
        const DROPS: usize = 8;
        let mut values = [0_u32; 9];
        let mut length = size_of_val(&values) as libc::socklen_t;
        // SAFETY: the kernel writes at most `length` bytes to `values`, which has as many, and the length to `length`.
        let result = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_MEMINFO,
                values.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        if result == 0 { Ok(values[DROPS]) } else { Err(io::Error::last_os_error()) }
    }

    /// Sends a request and hands the attributes of every answer to `each`, until it says `false`.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub(super) fn request(
        &mut self,
        request: Request,
        attributes: &[u8],
        mut each: impl FnMut(&[u8]) -> bool,
    ) -> io::Result<Dump> {
        self.send(request, attributes)?;
        let mut dump = Dump::Whole;
        loop {
            let length = loop {
                // A signal came before the answer, which is still to be had.
                match recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::empty()) {
                    Err(Errno::EINTR) => {}
                    answer => break answer?,
                }
            };
            let mut rest = &self.buffer[..length];
            while let Some((kind, flags, body, tail)) = split_message(rest) {
                rest = tail;
                if flags & DUMP_INTERRUPTED != 0 {
                    dump = Dump::Interrupted;
                }
                match kind {
                    DONE => return error_of(body).map(|()| dump),
                    ERROR => return error_of(body).map(|()| dump),
                    _ => {
                        if !each(body.get(GENERIC..).unwrap_or_default()) {
                            return Ok(dump);
                        }
                    }
                }
            }
        }
    }

    fn send(&mut self, request: Request, attributes: &[u8]) -> io::Result<()> {
        let length = HEADER + GENERIC + attributes.len();
        let mut message = Vec::with_capacity(length);
        message.extend((length as u32).to_ne_bytes());
        message.extend(request.kind.to_ne_bytes());
        message.extend((request.flags | REQUEST).to_ne_bytes());
        // Sequence and port are zero: one request is in flight, and the kernel knows the socket.
        message.extend([0; 8]);
        message.extend([request.family, 0]);
        message.extend(request.resource.to_be_bytes());
        message.extend(attributes);
        send(self.socket.as_raw_fd(), &message, MsgFlags::empty())?;
        Ok(())
    }
}

impl AsFd for Netfilter {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Messages in turn.
pub(crate) fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let (kind, flags, body, rest) = split_message(bytes)?;
        bytes = rest;
        Some(Message { kind, flags, attributes: body.get(GENERIC..).unwrap_or_default() })
    })
}

/// Kind, flags, what follows the header, and the messages behind it.
fn split_message(bytes: &[u8]) -> Option<(u16, u16, &[u8], &[u8])> {
    let header = bytes.get(..HEADER)?;
    let length = u32::from_ne_bytes(header[..4].try_into().ok()?) as usize;
    let kind = u16::from_ne_bytes([header[4], header[5]]);
    let flags = u16::from_ne_bytes([header[6], header[7]]);
    let body = bytes.get(HEADER..length)?;
    Some((kind, flags, body, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

/// What `NLMSG_ERROR` and `NLMSG_DONE` begin with: a negative errno, or zero where all went well.
fn error_of(body: &[u8]) -> io::Result<()> {
    let number = body.get(..4).and_then(|bytes| bytes.try_into().ok()).map_or(0, i32::from_ne_bytes);
    if number == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-number)) }
}

/// One attribute, padded.
pub(crate) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(4 + value.len().next_multiple_of(4));
    bytes.extend((4 + value.len() as u16).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// Attributes in turn: type without its flags, and value.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?) & !TYPE_FLAGS;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The value of the first attribute of a kind.
pub(crate) fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

/// A number in network byte order, as netfilter's attributes have them.
pub(crate) fn number(value: &[u8]) -> u64 {
    value.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_read_back_as_written() {
        let inner = attribute(1, &[1, 2, 3, 4, 5]);
        let bytes = [attribute(2 | NESTED, &inner), attribute(3, &7u32.to_be_bytes())].concat();
        assert_eq!(find(&bytes, 2).and_then(|nested| find(nested, 1)), Some(&[1, 2, 3, 4, 5][..]));
        assert_eq!(find(&bytes, 3).map(number), Some(7));
        assert_eq!(find(&bytes, 4), None);
    }

    #[test]
    fn truncated_attributes_end_the_list() {
        assert_eq!(attributes(&[9, 0, 1, 0, 1]).count(), 0);
        assert_eq!(attributes(&[2, 0]).count(), 0);
    }
}
