//! The kernel's socket monitoring (sock_diag(7), `include/uapi/linux/inet_diag.h`): who is connected where, and closing.
//!
//! Written by hand: no crate knows the socket storages' attributes.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsRawFd as _, BorrowedFd, OwnedFd},
};

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
/// `NLM_F_REQUEST | NLM_F_ACK`, `NLM_F_REQUEST | NLM_F_DUMP`.
const ACKNOWLEDGED: u16 = 0x5;
const DUMP: u16 = 0x301;
/// `NLM_F_DUMP_INTR`.
const INTERRUPTED: u16 = 0x10;
/// `NLMSG_ERROR`, `NLMSG_DONE`.
const ERROR: u16 = 2;
const DONE: u16 = 3;

/// `NLA_F_NESTED`.
const NESTED: u16 = 0x8000;
const REQUEST_STORAGES: u16 = 2; // INET_DIAG_REQ_SK_BPF_STORAGES
const REQUEST_MAP: u16 = 1; // SK_DIAG_BPF_STORAGE_REQ_MAP_FD
const STORAGES: u16 = 20; // INET_DIAG_SK_BPF_STORAGES
const STORAGE: u16 = 1; // SK_DIAG_BPF_STORAGE
const MAP_ID: u16 = 2; // SK_DIAG_BPF_STORAGE_MAP_ID
const MAP_VALUE: u16 = 3; // SK_DIAG_BPF_STORAGE_MAP_VALUE

/// `nlmsghdr`; `inet_diag_sockid`; the part of `inet_diag_msg` before and after it.
const HEADER: usize = 16;
const SOCKET_ID: usize = 48;
const BEFORE_ID: usize = 4;
const AFTER_ID: usize = 20;

/// Connected, or about to be: every state but CLOSE, TIME_WAIT, SYN_RECV and LISTEN (`include/net/tcp_states.h`). A connected
/// UDP socket is ESTABLISHED.
const CONNECTED: u32 = 1 << 1 | 1 << 2 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11;

/// A socket for requests about the network namespace it was opened in.
pub(super) struct Diag {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

/// A connected socket.
#[derive(Debug)]
pub(super) struct Found {
    family: u8,
    protocol: u8,
    /// Ports, addresses, interface and cookie: `struct inet_diag_sockid`.
    id: [u8; SOCKET_ID],
    attributes: Vec<u8>,
}

impl Found {
    pub(super) fn is_datagram(&self) -> bool {
        i32::from(self.protocol) == libc::IPPROTO_UDP
    }

    /// Where it is connected to; a mapped IPv4 address as the IPv4 address that it is.
    pub(super) fn peer(&self) -> SocketAddr {
        let port = u16::from_be_bytes([self.id[2], self.id[3]]);
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&self.id[20..36]);
        let ip = if i32::from(self.family) == libc::AF_INET {
            IpAddr::from([bytes[0], bytes[1], bytes[2], bytes[3]])
        } else {
            IpAddr::from(bytes).to_canonical()
        };
        SocketAddr::new(ip, port)
    }

    /// Low and high half of its number.
    pub(super) fn cookie(&self) -> [u32; 2] {
        [40, 44].map(|at| u32::from_ne_bytes([0, 1, 2, 3].map(|byte| self.id[at + byte])))
    }

    /// Its value in the storage of that number.
    pub(super) fn storage(&self, map: u32) -> Option<&[u8]> {
        let storages = attributes(&self.attributes).find(|(kind, _)| *kind == STORAGES)?.1;
        attributes(storages).filter(|(kind, _)| *kind == STORAGE).find_map(|(_, storage)| {
            let of = |wanted| attributes(storage).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
            (of(MAP_ID)? == map.to_ne_bytes()).then(|| of(MAP_VALUE)).flatten()
        })
    }
}

impl Diag {
    pub(super) fn open() -> io::Result<Self> {
        let socket = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkSockDiag,
        )?;
        Ok(Self { socket, buffer: vec![0; 1 << 16] })
    }

    /// # Errors
    /// `Unsupported`: the kernel cannot close sockets (`CONFIG_INET_DIAG_DESTROY`).
    pub(super) fn probe(&mut self) -> io::Result<()> {
        // No socket is at port 0.
        let nobody = Found {
            family: libc::AF_INET as u8,
            protocol: libc::IPPROTO_UDP as u8,
            id: [0; SOCKET_ID],
            attributes: vec![],
        };
        match self.destroy(&nobody) {
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                Err(io::Error::new(io::ErrorKind::Unsupported, "needs CONFIG_INET_DIAG_DESTROY"))
            }
            Err(error) => Err(error),
            Ok(_) => Ok(()),
        }
    }

    /// Every connected socket of a family and protocol, with its values in these storages.
    ///
    /// # Errors
    /// `Interrupted`: sockets came and went meanwhile, and some may be missing.
    pub(super) fn dump(
        &mut self,
        family: u8,
        protocol: u8,
        storages: &[BorrowedFd<'_>],
    ) -> io::Result<Vec<Found>> {
        let maps: Vec<u8> = storages
            .iter()
            .flat_map(|map| attribute(REQUEST_MAP, &(map.as_raw_fd() as u32).to_ne_bytes()))
            .collect();
        let request = request(family, protocol, CONNECTED, &[0; SOCKET_ID]);
        self.send(SOCK_DIAG_BY_FAMILY, DUMP, &request, &attribute(REQUEST_STORAGES | NESTED, &maps))?;
        let (mut found, mut whole) = (vec![], true);
        self.answers(|kind, flags, body| {
            whole &= flags & INTERRUPTED == 0;
            match kind {
                DONE => return Some(Ok(())),
                ERROR => return Some(error_of(body)),
                _ => {}
            }
            if let Some(id) = body.get(BEFORE_ID..BEFORE_ID + SOCKET_ID) {
                found.push(Found {
                    family: body[0],
                    protocol,
                    id: id.try_into().expect("as long as it was cut"),
                    attributes: body.get(BEFORE_ID + SOCKET_ID + AFTER_ID..).unwrap_or_default().to_vec(),
                });
            }
            None
        })?;
        if whole { Ok(found) } else { Err(io::ErrorKind::Interrupted.into()) }
    }

    /// Closes a socket; its owner's next call says `ECONNABORTED`. False where it is gone already.
    pub(super) fn destroy(&mut self, found: &Found) -> io::Result<bool> {
        let request = request(found.family, found.protocol, u32::MAX, &found.id);
        self.send(SOCK_DESTROY, ACKNOWLEDGED, &request, &[])?;
        let answer = self.answers(|kind, _, body| (kind == ERROR).then(|| error_of(body)));
        match answer {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn send(&mut self, kind: u16, flags: u16, request: &[u8], attributes: &[u8]) -> io::Result<()> {
        let length = HEADER + request.len() + attributes.len();
        let mut message = Vec::with_capacity(length);
        message.extend((length as u32).to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend(flags.to_ne_bytes());
        // Sequence and port are zero: one request is in flight, and the kernel knows the socket.
        message.extend([0; 8]);
        message.extend(request);
        message.extend(attributes);
        send(self.socket.as_raw_fd(), &message, MsgFlags::empty())?;
        Ok(())
    }

    /// Hands kind, flags and body of each message to `each`, until it has the result.
    fn answers(&mut self, mut each: impl FnMut(u16, u16, &[u8]) -> Option<io::Result<()>>) -> io::Result<()> {
        loop {
            let length = recv(self.socket.as_raw_fd(), &mut self.buffer, MsgFlags::empty())?;
            let mut rest = &self.buffer[..length];
            while let Some(header) = rest.get(..HEADER) {
                let size = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
                let Some(body) = rest.get(HEADER..size) else { break };
                let kind = u16::from_ne_bytes([header[4], header[5]]);
                let flags = u16::from_ne_bytes([header[6], header[7]]);
                if let Some(result) = each(kind, flags, body) {
                    return result;
                }
                rest = rest.get(size.next_multiple_of(4)..).unwrap_or_default();
            }
        }
    }
}

/// `struct inet_diag_req_v2`.
fn request(family: u8, protocol: u8, states: u32, id: &[u8; SOCKET_ID]) -> Vec<u8> {
    let mut bytes = vec![family, protocol, 0, 0];
    bytes.extend(states.to_ne_bytes());
    bytes.extend(id);
    bytes
}

/// `nlmsgerr`: a negative errno, or zero for an acknowledgement.
fn error_of(body: &[u8]) -> io::Result<()> {
    let number = body.get(..4).and_then(|bytes| bytes.try_into().ok()).map_or(0, i32::from_ne_bytes);
    if number == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-number)) }
}

/// One attribute. Every value here is a multiple of four bytes.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(4 + value.len());
    bytes.extend((4 + value.len() as u16).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes
}

/// Attributes in turn: type without its flags, and value.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?) & !NESTED;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storage_is_found_by_its_maps_number() {
        let storage = |map: u32, value: &[u8]| {
            let inner = [attribute(MAP_ID, &map.to_ne_bytes()), attribute(MAP_VALUE, value)].concat();
            attribute(STORAGE | NESTED, &inner)
        };
        let storages = [storage(7, &[7; 16]), storage(8, &[8; 40])].concat();
        let attributes = [attribute(1, &[0; 4]), attribute(STORAGES | NESTED, &storages)].concat();
        let found = Found { family: 2, protocol: 6, id: [0; SOCKET_ID], attributes };
        assert_eq!(found.storage(8), Some(&[8; 40][..]));
        assert_eq!(found.storage(7), Some(&[7; 16][..]));
        assert_eq!(found.storage(9), None);
    }

    #[test]
    fn a_socket_is_read_as_the_kernel_writes_it() {
        let mut id = [0; SOCKET_ID];
        id[2..4].copy_from_slice(&8080u16.to_be_bytes());
        id[20..24].copy_from_slice(&[10, 20, 0, 5]);
        id[40..44].copy_from_slice(&7u32.to_ne_bytes());
        let mut found = Found { family: 2, protocol: 17, id, attributes: vec![] };
        assert_eq!(found.peer(), "10.20.0.5:8080".parse().expect("address"));
        assert_eq!((found.cookie(), found.is_datagram()), ([7, 0], true));
        found.family = 10;
        found.id[20..36].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 20, 0, 6]);
        assert_eq!(found.peer(), "10.20.0.6:8080".parse().expect("address"));
    }

    #[test]
    fn truncated_attributes_end_the_list() {
        assert_eq!(attributes(&[9, 0, 1, 0, 1]).count(), 0);
        assert_eq!(attributes(&[2, 0]).count(), 0);
    }
}
