//! Packets that are not plain: IPv4 options, IPv6 extension headers, fragments. Built from plain ones.

use crate::wire::Frame;

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;

fn is_v4(frame: &[u8]) -> bool {
    frame[12..14] == [8, 0]
}

/// Where the transport header of a plain frame is.
pub(super) fn transport(frame: &[u8]) -> usize {
    if is_v4(frame) { 34 } else { 54 }
}

/// Makes the length and the header checksum of an IPv4 frame right, or the length of an IPv6 one.
pub(super) fn settle(frame: &mut [u8]) {
    let length = frame.len() - 14;
    if !is_v4(frame) {
        frame[18..20].copy_from_slice(&(length as u16 - 40).to_be_bytes());
        return;
    }
    frame[16..18].copy_from_slice(&(length as u16).to_be_bytes());
    sum_header(frame);
}

pub(super) fn sum_header(frame: &mut [u8]) {
    let end = 14 + usize::from(frame[14] & 15) * 4;
    frame[24..26].fill(0);
    let sum: u32 = frame[14..end].chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    frame[24..26].copy_from_slice(&(!(folded as u16)).to_be_bytes());
}

/// A multiple of four bytes.
pub(super) fn with_options(frame: &[u8], options: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame.splice(34..34, options.iter().copied());
    frame[14] = 0x45 + options.len() as u8 / 4;
    settle(&mut frame);
    frame
}

/// Extension headers by their own numbers; each has its content without the number of the next.
pub(super) fn with_chain(frame: &[u8], chain: &[(u8, Vec<u8>)]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    let last = frame[20];
    let mut bytes = vec![];
    for (index, (_, content)) in chain.iter().enumerate() {
        bytes.push(chain.get(index + 1).map_or(last, |(number, _)| *number));
        bytes.extend(content);
    }
    frame[20] = chain[0].0;
    frame.splice(54..54, bytes);
    settle(&mut frame);
    frame
}

fn padding() -> Vec<u8> {
    vec![0, 1, 4, 0, 0, 0, 0]
}

pub(super) fn options(number: u8) -> (u8, Vec<u8>) {
    (number, padding())
}

pub(super) fn hop_by_hop() -> (u8, Vec<u8>) {
    options(HOP_BY_HOP)
}

pub(super) fn destination_options() -> (u8, Vec<u8>) {
    options(DESTINATION_OPTIONS)
}

pub(super) fn routing(kind: u8, segments_left: u8) -> (u8, Vec<u8>) {
    let mut content = vec![2, kind, segments_left, 0, 0, 0, 0];
    content.extend([0x20; 16]);
    (ROUTING, content)
}

pub(super) fn authentication() -> (u8, Vec<u8>) {
    let mut content = vec![4, 0, 0];
    content.extend([7; 20]);
    (AUTHENTICATION, content)
}

/// `offset` in bytes.
pub(super) fn fragment_header(identification: u32, offset: u16, more: bool) -> (u8, Vec<u8>) {
    let mut content = vec![0];
    content.extend((offset | u16::from(more)).to_be_bytes());
    content.extend(identification.to_be_bytes());
    (FRAGMENT, content)
}

/// Every way to be a whole packet that is not plain, each as what it makes of a plain one.
pub(super) fn decorations(frame: &[u8]) -> Vec<Vec<u8>> {
    if is_v4(frame) {
        let mut record_route = vec![7, 39, 4];
        record_route.resize(39, 0);
        record_route.push(0);
        let options: [&[u8]; 3] = [&[1; 4], &[148, 4, 0, 0, 1, 1, 1, 0], &record_route];
        return options.into_iter().map(|options| with_options(frame, options)).collect();
    }
    let mut long = vec![7];
    long.extend([1, 60]);
    long.resize(63, 0);
    let chains = [
        vec![hop_by_hop()],
        vec![(DESTINATION_OPTIONS, long)],
        vec![routing(2, 0)],
        vec![authentication()],
        // A whole packet in one fragment (RFC 6946).
        vec![fragment_header(7, 0, false)],
        vec![
            hop_by_hop(),
            destination_options(),
            routing(4, 0),
            fragment_header(8, 0, false),
            authentication(),
            destination_options(),
        ],
    ];
    chains.into_iter().map(|chain| with_chain(frame, &chain)).collect()
}

/// One fragment of a plain frame: `from..to` of what is behind its network header.
pub(super) fn fragment(frame: &[u8], identification: u16, (from, to): (usize, usize)) -> Vec<u8> {
    let start = transport(frame);
    let more = start + to < frame.len();
    let mut bytes = frame[..start].to_vec();
    bytes.extend(&frame[start + from..start + to]);
    if !is_v4(frame) {
        return with_chain(&bytes, &[fragment_header(identification.into(), from as u16, more)]);
    }
    bytes[18..20].copy_from_slice(&identification.to_be_bytes());
    bytes[20..22].copy_from_slice(&((from / 8) as u16 | u16::from(more) << 13).to_be_bytes());
    settle(&mut bytes);
    bytes
}

/// The whole frame in fragments of `size` bytes, a multiple of eight.
pub(super) fn fragments(frame: &Frame, identification: u16, size: usize) -> Vec<Vec<u8>> {
    let frame = frame.bytes();
    let length = frame.len() - transport(&frame);
    let starts = (0..length).step_by(size);
    starts.map(|from| fragment(&frame, identification, (from, length.min(from + size)))).collect()
}
