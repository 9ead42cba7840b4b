//! Frames as bytes: the first packet of a flow, and what became of it. Pure.

use std::net::{IpAddr, SocketAddr};

use model::{Protocol, oracle::Packet};

const ETHERNET: usize = 14;
const TTL: u8 = 64;

/// A TCP SYN, a UDP datagram or an SCTP INIT, with right checksums.
pub(crate) fn build(packet: &Packet) -> Vec<u8> {
    let ends = (packet.source.ip(), packet.destination.ip());
    let mut transport =
        [packet.source.port().to_be_bytes(), packet.destination.port().to_be_bytes()].concat();
    transport.extend(match packet.protocol {
        Protocol::Tcp => &[0, 0, 3, 232, 0, 0, 0, 0, 0x50, SYN, 0xfa, 0xf0, 0, 0, 0, 0][..],
        Protocol::Udp => b"\0\x10\0\0question",
        // Verification tag and checksum; an INIT chunk (RFC 9260, 3.3.2).
        Protocol::Sctp => {
            &[0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 20, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1]
        }
    });
    let number = packet.protocol.number();
    let internet = || !fold(sum(&transport) + pseudo(ends, number, transport.len()));
    let (field, checksum) = match packet.protocol {
        Protocol::Tcp => (16, internet().to_be_bytes().to_vec()),
        // All ones for none: zero means that there is no checksum (RFC 768).
        Protocol::Udp => (6, if internet() == 0 { !0 } else { internet() }.to_be_bytes().to_vec()),
        Protocol::Sctp => (8, crc32c(&transport).to_le_bytes().to_vec()),
    };
    transport[field..field + checksum.len()].copy_from_slice(&checksum);
    [link(&ends.0), network(ends, number, transport.len()), transport].concat()
}

const SYN: u8 = 2;

fn link(ip: &IpAddr) -> Vec<u8> {
    let kind = if ip.is_ipv4() { [0x08, 0x00] } else { [0x86, 0xdd] };
    [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2][..], &kind].concat()
}

fn network((source, destination): (IpAddr, IpAddr), protocol: u8, payload: usize) -> Vec<u8> {
    let length = |length: usize| u16::try_from(length).expect("a small packet").to_be_bytes();
    let (source, destination, payload_length) = (octets(source), octets(destination), length(payload));
    if source.len() == 16 {
        let head = [&[0x60, 0, 0, 0][..], &payload_length, &[protocol, TTL]].concat();
        return [head, source, destination].concat();
    }
    let head = [&[0x45, 0][..], &length(20 + payload), &[0, 0, 0x40, 0, TTL, protocol, 0, 0]].concat();
    let mut header = [head, source, destination].concat();
    let sum = !fold(sum(&header));
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    header
}

/// Source and destination of a TCP, UDP or SCTP packet without options.
///
/// # Errors
/// What is wrong with it: it is cut short, or a checksum does not fit.
pub(crate) fn ends(frame: &[u8]) -> Result<(SocketAddr, SocketAddr), &'static str> {
    let v4 = frame.get(12..14).ok_or("frame is cut short")? == [8, 0];
    let (header, at, size) = if v4 { (20, 12, 4) } else { (40, 8, 16) };
    let packet = &frame[ETHERNET..];
    let transport = packet.get(header..).filter(|rest| rest.len() >= 8).ok_or("frame is cut short")?;
    let ip = |at: usize| match <[u8; 4]>::try_from(&packet[at..at + size]) {
        Ok(octets) => IpAddr::from(octets),
        Err(_) => IpAddr::from(<[u8; 16]>::try_from(&packet[at..at + 16]).expect("sixteen bytes")),
    };
    let (source, destination) = (ip(at), ip(at + size));
    let protocol = packet[if v4 { 9 } else { 6 }];
    if v4 && fold(sum(&packet[..header])) != 0xffff {
        return Err("header checksum is wrong");
    }
    let right = if protocol == Protocol::Sctp.number() {
        let (head, rest) = transport.split_at(8);
        rest.get(..4)
            == Some(&crc32c(&[head, &[0; 4], rest.get(4..).unwrap_or_default()].concat()).to_le_bytes())
    } else {
        fold(sum(transport) + pseudo((source, destination), protocol, transport.len())) == 0xffff
    };
    if !right {
        return Err("transport checksum is wrong");
    }
    let port = |at: usize| u16::from_be_bytes([transport[at], transport[at + 1]]);
    Ok((SocketAddr::new(source, port(0)), SocketAddr::new(destination, port(2))))
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

fn pseudo((source, destination): (IpAddr, IpAddr), protocol: u8, length: usize) -> u32 {
    sum(&octets(source)) + sum(&octets(destination)) + u32::from(protocol) + length as u32
}

/// RFC 1071, not folded.
fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]))).sum()
}

/// RFC 9260, appendix A, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc)))
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_is_read_back_and_a_flipped_bit_is_noticed() {
        for (source, destination) in [("10.0.0.1:40000", "10.24.0.1:80"), ("[fd00::1]:40000", "[fd00::2]:53")]
        {
            for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
                let (source, destination) =
                    (source.parse().expect("address"), destination.parse().expect("address"));
                let mut frame = build(&Packet { source, destination, protocol });
                assert_eq!(ends(&frame), Ok((source, destination)));
                let last = frame.len() - 1;
                frame[last] ^= 1;
                assert_eq!(ends(&frame), Err("transport checksum is wrong"));
                assert_eq!(ends(&frame[..20]), Err("frame is cut short"));
            }
        }
    }
}
