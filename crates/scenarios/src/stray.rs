//! TCP segments by hand, beside a flow that the kernel runs: one that no window takes, sent as the flow's backend.

use std::{
    net::SocketAddr,
    os::fd::{AsRawFd as _, OwnedFd},
    time::{Duration, Instant},
};

use model::{Family, Plane, Protocol};
use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, recvfrom, sendto,
        socket,
    },
};

use crate::{
    held::Held,
    places::{Place, Pod},
    world::World,
};

/// Beyond any window: they are 2^30 at most (RFC 7323, section 2.3).
const FAR: u32 = 0x5000_0000;
const ACK_AND_PUSH: u8 = 0x18;
const PATIENCE: Duration = Duration::from_secs(10);

/// A segment that came in.
#[derive(Clone, Copy, Debug)]
struct Seen {
    from: SocketAddr,
    to_port: u16,
    sequence: u32,
    acknowledged: u32,
    /// Bytes of payload.
    length: u32,
    reset: bool,
}

/// Sees all TCP that reaches an address, as the kernel sees it too.
struct Tap {
    socket: OwnedFd,
    address: SocketAddr,
}

impl Tap {
    /// In the calling thread's namespace.
    fn at(address: SocketAddr) -> Self {
        let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(family, SockType::Raw, flags, SockProtocol::Tcp).expect("raw socket");
        bind(socket.as_raw_fd(), &storage(address)).expect("bind");
        Self { socket, address }
    }

    /// What has come since the last call.
    fn seen(&self) -> Vec<Seen> {
        let mut seen = vec![];
        let mut buffer = vec![0; 1 << 16];
        loop {
            match recvfrom::<SockaddrStorage>(self.socket.as_raw_fd(), &mut buffer) {
                Ok((length, from)) => seen.extend(read(&buffer[..length], from.as_ref())),
                Err(Errno::EAGAIN) => return seen,
                Err(error) => panic!("receive TCP segments: {error}"),
            }
        }
    }

    fn wait(&self, what: &str, wanted: impl Fn(&Seen) -> bool) -> Seen {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(seen) = self.seen().into_iter().rfind(&wanted) {
                return seen;
            }
            assert!(Instant::now() < deadline, "no {what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// One byte, as the connection's own kernel would not send it.
    fn send(&self, to: SocketAddr, sequence: u32, acknowledged: u32) {
        let mut segment = [self.address.port().to_be_bytes(), to.port().to_be_bytes()].concat();
        segment.extend([sequence.to_be_bytes(), acknowledged.to_be_bytes()].concat());
        // Header of five words, window, no checksum yet, no urgent data, the byte.
        segment.extend([5 << 4, ACK_AND_PUSH, 1, 0, 0, 0, 0, 0, b'x']);
        let sum = checksum(&segment, self.address, to);
        segment[16..18].copy_from_slice(&sum.to_be_bytes());
        let target = storage(SocketAddr::new(to.ip(), 0));
        sendto(self.socket.as_raw_fd(), &segment, &target, MsgFlags::empty()).expect("send");
    }
}

/// A raw socket's port is a protocol (raw(7)).
fn storage(address: SocketAddr) -> SockaddrStorage {
    SocketAddr::new(address.ip(), 0).into()
}

/// `None` for what is cut short.
fn read(packet: &[u8], from: Option<&SockaddrStorage>) -> Option<Seen> {
    let from = from?;
    // IPv4 hands the header over as well.
    let (ip, header) = match (from.as_sockaddr_in(), from.as_sockaddr_in6()) {
        (Some(v4), _) => (v4.ip().into(), usize::from(packet.first()? & 15) * 4),
        (_, v6) => (v6?.ip().into(), 0),
    };
    let tcp = packet.get(header..)?;
    let two = |at: usize| Some(u16::from_be_bytes(*tcp.get(at..)?.first_chunk()?));
    let four = |at: usize| Some(u32::from_be_bytes(*tcp.get(at..)?.first_chunk()?));
    let data = usize::from(tcp.get(12)? >> 4) * 4;
    Some(Seen {
        from: SocketAddr::new(ip, two(0)?),
        to_port: two(2)?,
        sequence: four(4)?,
        acknowledged: four(8)?,
        length: tcp.len().checked_sub(data)? as u32,
        reset: tcp.get(13)? & 4 != 0,
    })
}

/// Over pseudo-header and segment (RFC 9293, section 3.1; RFC 8200, section 8.1).
fn checksum(segment: &[u8], from: SocketAddr, to: SocketAddr) -> u16 {
    let bytes = |address: SocketAddr| match address {
        SocketAddr::V4(address) => address.ip().octets().to_vec(),
        SocketAddr::V6(address) => address.ip().octets().to_vec(),
    };
    let mut covered = [bytes(from), bytes(to), segment.to_vec()].concat();
    covered.resize(covered.len().next_multiple_of(2), 0);
    let words = covered.chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let mut sum = words.sum::<u32>() + segment.len() as u32 + u32::from(Protocol::Tcp.number());
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

impl World {
    /// `backend` sends a pod, its client over TCP, a segment that is in no window, and the flow goes on. One plane keeps it
    /// from the client: connection tracking does not know it for one of the flow's, so its source would be the backend's,
    /// and the client would reset what it believes a stranger's. The other plane translates it like any.
    pub fn expect_out_of_window_does_no_harm(&self, held: &mut Held, backend: Pod) {
        let (Some(lab), Some(local)) = (&self.lab, held.local()) else { return };
        let served = SocketAddr::new(backend.address(Family::of(local.ip())), 8080);
        let tap = |place, at| lab.topology.place(place).run(|| Tap::at(at)).expect("enter namespace");
        let (at_client, at_backend) = (tap(held.probe.from, local), tap(Place::Pod(backend), served));
        held.expect(backend);
        let last = at_backend.wait("segment of the client's", |seen| seen.from == local);
        let far = last.acknowledged.wrapping_add(FAR);
        at_backend.send(local, far, last.sequence.wrapping_add(last.length));
        let is_ours = |seen: &Seen| seen.sequence == far && seen.to_port == local.port();
        if lab.plane == Plane::Ebpf {
            let seen = at_client.wait("segment out of the window", is_ours);
            assert_eq!(seen.from, held.probe.to, "from the frontend, as the flow's own");
        }
        for _ in 0..3 {
            held.expect(backend);
        }
        let late: Vec<_> = at_client.seen().into_iter().filter(is_ours).collect();
        assert!(late.is_empty(), "{late:?}");
        let resets: Vec<_> = at_backend.seen().into_iter().filter(|seen| seen.reset).collect();
        assert!(resets.is_empty(), "{resets:?}");
    }
}
