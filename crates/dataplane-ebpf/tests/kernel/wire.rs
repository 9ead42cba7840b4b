//! Frames as bytes: built from what they say, with right checksums.

use std::net::{IpAddr, SocketAddr};

pub(crate) const FIN: u8 = 1;
pub(crate) const SYN: u8 = 2;
pub(crate) const RST: u8 = 4;
pub(crate) const ACK: u8 = 16;

pub(crate) type Mac = [u8; 6];

/// A frame with ports.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) to: Mac,
    pub(crate) from: Mac,
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
    pub(crate) ttl: u8,
    pub(crate) body: Body,
}

#[derive(Clone, Debug)]
pub(crate) enum Body {
    Tcp {
        flags: u8,
        sequence: u32,
        acknowledgment: u32,
        payload: Vec<u8>,
    },
    Udp {
        payload: Vec<u8>,
    },
    /// One chunk of this type.
    Sctp {
        chunk: u8,
        payload: Vec<u8>,
    },
}

impl Frame {
    pub(crate) fn tcp(source: SocketAddr, destination: SocketAddr, flags: u8) -> Self {
        let body = Body::Tcp { flags, sequence: 1000, acknowledgment: 2000, payload: vec![] };
        Self::new(source, destination, body)
    }

    pub(crate) fn udp(source: SocketAddr, destination: SocketAddr) -> Self {
        Self::new(source, destination, Body::Udp { payload: b"question".to_vec() })
    }

    pub(crate) fn sctp(source: SocketAddr, destination: SocketAddr, chunk: u8) -> Self {
        Self::new(source, destination, Body::Sctp { chunk, payload: b"an odd number".to_vec() })
    }

    fn new(source: SocketAddr, destination: SocketAddr, body: Body) -> Self {
        Self { to: [2, 0, 0, 0, 0, 1], from: [2, 0, 0, 0, 0, 2], source, destination, ttl: 64, body }
    }

    /// The same packet after translation and one hop.
    pub(crate) fn translated(&self, source: SocketAddr, destination: SocketAddr) -> Self {
        Self { source, destination, ttl: self.ttl - 1, ..self.clone() }
    }

    pub(crate) fn macs(mut self, to: Mac, from: Mac) -> Self {
        (self.to, self.from) = (to, from);
        self
    }

    pub(crate) fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let (protocol, transport) = self.transport();
        frame(self.to, self.from, (self.source.ip(), self.destination.ip()), self.ttl, protocol, &transport)
    }

    /// Network header and payload, as an ICMP error quotes them.
    pub(crate) fn packet(&self) -> Vec<u8> {
        self.bytes()[14..].to_vec()
    }

    fn transport(&self) -> (u8, Vec<u8>) {
        let mut bytes = vec![];
        bytes.extend(self.source.port().to_be_bytes());
        bytes.extend(self.destination.port().to_be_bytes());
        let (protocol, field) = match &self.body {
            Body::Tcp { flags, sequence, acknowledgment, payload } => {
                bytes.extend(sequence.to_be_bytes());
                bytes.extend(acknowledgment.to_be_bytes());
                bytes.extend([0x50, *flags, 0xfa, 0xf0, 0, 0, 0, 0]);
                bytes.extend(payload);
                (6, 16)
            }
            Body::Udp { payload } => {
                bytes.extend((8 + payload.len() as u16).to_be_bytes());
                bytes.extend([0, 0]);
                bytes.extend(payload);
                (17, 6)
            }
            Body::Sctp { chunk, payload } => {
                bytes.extend([0xde, 0xad, 0xbe, 0xef, 0, 0, 0, 0, *chunk, 0]);
                bytes.extend((4 + payload.len() as u16).to_be_bytes());
                bytes.extend(payload);
                let sum = crc32c(&bytes);
                bytes[8..12].copy_from_slice(&sum.to_le_bytes());
                return (132, bytes);
            }
        };
        let sum =
            match checksum(&bytes, pseudo(self.source.ip(), self.destination.ip(), protocol, bytes.len())) {
                0 if protocol == 17 => 0xffff,
                sum => sum,
            };
        bytes[field..field + 2].copy_from_slice(&sum.to_be_bytes());
        (protocol, bytes)
    }
}

/// An ICMP error of either family.
pub(crate) fn icmp_error(addresses: (IpAddr, IpAddr), ttl: u8, kind: u8, code: u8, quoted: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind, code, 0, 0, 0, 0, 0, 0];
    bytes.extend(quoted);
    let (protocol, start) = match addresses.0 {
        IpAddr::V4(_) => (1, 0),
        IpAddr::V6(_) => (58, pseudo(addresses.0, addresses.1, 58, bytes.len())),
    };
    let sum = checksum(&bytes, start);
    bytes[2..4].copy_from_slice(&sum.to_be_bytes());
    frame([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2], addresses, ttl, protocol, &bytes)
}

fn frame(
    to: Mac,
    from: Mac,
    (source, destination): (IpAddr, IpAddr),
    ttl: u8,
    protocol: u8,
    payload: &[u8],
) -> Vec<u8> {
    let mut bytes = [to, from].concat();
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            bytes.extend([8, 0, 0x45, 0]);
            bytes.extend((20 + payload.len() as u16).to_be_bytes());
            bytes.extend([0, 0, 0x40, 0, ttl, protocol, 0, 0]);
            bytes.extend(source.octets());
            bytes.extend(destination.octets());
            let sum = checksum(&bytes[14..34], 0);
            bytes[24..26].copy_from_slice(&sum.to_be_bytes());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            bytes.extend((payload.len() as u16).to_be_bytes());
            bytes.extend([protocol, ttl]);
            bytes.extend(source.octets());
            bytes.extend(destination.octets());
        }
        mixed => panic!("two families in one packet: {mixed:?}"),
    }
    bytes.extend(payload);
    bytes
}

fn pseudo(source: IpAddr, destination: IpAddr, protocol: u8, length: usize) -> u32 {
    let octets = |ip| match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    sum(&octets(source)) + sum(&octets(destination)) + u32::from(protocol) + length as u32
}

fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0))).sum()
}

fn checksum(bytes: &[u8], start: u32) -> u16 {
    let mut total = start + sum(bytes);
    while total >> 16 != 0 {
        total = (total & 0xffff) + (total >> 16);
    }
    !(total as u16)
}

/// RFC 9260, appendix A, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc)))
}

/// What a frame's checksum is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sum {
    Right,
    Wrong,
    /// UDP, sent without.
    None,
    /// Nowhere to be found: a fragment, a wrong length, another protocol.
    Unknown,
}

pub(crate) struct Sums {
    /// IPv6 has none, which is always right.
    pub(crate) header: Sum,
    pub(crate) transport: Sum,
}

/// Where a frame's transport is, and its checksum.
struct Place {
    start: usize,
    end: usize,
    /// Offset of the checksum.
    field: usize,
    pseudo: u32,
    protocol: u8,
}

pub(crate) fn sums(frame: &[u8]) -> Sums {
    let right = |holds| if holds { Sum::Right } else { Sum::Wrong };
    let header = match v4_header(frame) {
        Some(header) => right(checksum(header, 0) == 0),
        None if frame[12..14] == [8, 0] => Sum::Unknown,
        None => Sum::Right,
    };
    let transport = match place(frame) {
        None => Sum::Unknown,
        Some(place) if place.protocol == 17 && frame[place.field..place.field + 2] == [0, 0] => Sum::None,
        Some(place) if place.protocol == 132 => {
            let mut packet = frame[place.start..place.end].to_vec();
            packet[8..12].fill(0);
            right(frame[place.field..place.field + 4] == crc32c(&packet).to_le_bytes())
        }
        Some(place) => right(checksum(&frame[place.start..place.end], place.pseudo) == 0),
    };
    Sums { header, transport }
}

/// Puts the pseudo header's sum in place of the transport checksum, as a sender does whose device is to complete it.
pub(crate) fn leave_partial(frame: &mut [u8]) {
    let place = place(frame).expect("a transport checksum");
    frame[place.field..place.field + 2].copy_from_slice(&(!checksum(&[], place.pseudo)).to_be_bytes());
}

/// Makes the checksums right that can be found.
pub(crate) fn repair(frame: &mut [u8]) {
    if let Some(length) = v4_header(frame).map(<[u8]>::len) {
        frame[24..26].fill(0);
        let sum = checksum(&frame[14..14 + length], 0);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    }
    if let Some(place) = place(frame) {
        if place.protocol == 132 {
            frame[place.field..place.field + 4].fill(0);
            let sum = crc32c(&frame[place.start..place.end]);
            frame[place.field..place.field + 4].copy_from_slice(&sum.to_le_bytes());
            return;
        }
        frame[place.field..place.field + 2].fill(0);
        let sum = match checksum(&frame[place.start..place.end], place.pseudo) {
            0 if place.protocol == 17 => 0xffff,
            sum => sum,
        };
        frame[place.field..place.field + 2].copy_from_slice(&sum.to_be_bytes());
    }
}

fn v4_header(frame: &[u8]) -> Option<&[u8]> {
    let first = *frame.get(14)?;
    let length = usize::from(first & 15) * 4;
    if frame[12..14] != [8, 0] || first >> 4 != 4 || length < 20 {
        return None;
    }
    frame.get(14..14 + length)
}

fn place(frame: &[u8]) -> Option<Place> {
    let octets = |at: usize| <[u8; 16]>::try_from(&frame[at..at + 16]).expect("sixteen bytes");
    let word = |at: usize| usize::from(u16::from_be_bytes([frame[at], frame[at + 1]]));
    let (start, end, protocol, ends) = if let Some(header) = v4_header(frame) {
        if word(20) & 0x3fff != 0 {
            return None;
        }
        let ends = [26, 30].map(|at| IpAddr::from([frame[at], frame[at + 1], frame[at + 2], frame[at + 3]]));
        (14 + header.len(), 14 + word(16), frame[23], ends)
    } else if frame[12..14] == [0x86, 0xdd] && frame.len() >= 54 && frame[14] >> 4 == 6 {
        (54, 54 + word(18), frame[20], [22, 38].map(|at| IpAddr::from(octets(at))))
    } else {
        return None;
    };
    let length = frame.get(start..end)?.len();
    let (offset, shortest) = match (protocol, ends[0]) {
        (6, _) => (16, 20),
        (17, _) => (6, 8),
        (132, _) => (8, 16),
        (1, IpAddr::V4(_)) | (58, IpAddr::V6(_)) => (2, 8),
        _ => return None,
    };
    let pseudo = if protocol == 1 { 0 } else { pseudo(ends[0], ends[1], protocol, length) };
    (length >= shortest).then_some(Place { start, end, field: start + offset, pseudo, protocol })
}
