//! Breaks frames: in one place at a time, mostly a field that a parser looks at.

use fastrand::Rng;

use crate::wire::repair;

const PROTOCOLS: [u8; 12] = [0, 1, 2, 6, 17, 43, 44, 51, 58, 60, 132, 255];
const FRAGMENTS: [[u8; 2]; 6] = [[0x20, 0], [0x20, 1], [0, 1], [0, 185], [0x40, 0], [0x80, 0]];

/// Swaps addresses and ports, as in an answer; checksums stay right.
pub(crate) fn turn_around(frame: &mut [u8]) {
    let (addresses, length) = if is_v4(frame) { (26, 4) } else { (22, 16) };
    for (at, length) in [(addresses, length), (addresses + 2 * length, 2)] {
        if let Some(pair) = frame.get_mut(at..at + 2 * length) {
            let (source, destination) = pair.split_at_mut(length);
            source.swap_with_slice(destination);
        }
    }
}

/// One change; every other time the checksums are made right again.
pub(crate) fn mutate(frame: &mut Vec<u8>, rng: &mut Rng) {
    let transport = if is_v4(frame) { 34 } else { 54 };
    let (length, time_to_live, protocol) = if is_v4(frame) { (16, 22, 23) } else { (18, 21, 20) };
    match rng.u8(..13) {
        0 => frame.truncate(rng.usize(15..=frame.len())),
        1 => {
            let at = rng.usize(14..frame.len());
            frame[at] = rng.u8(..);
        }
        2 => set(frame, length, &rng.u16(..).to_be_bytes()),
        3 => set(frame, length, &rng.u16(..80).to_be_bytes()),
        4 => set(frame, time_to_live, &[rng.u8(..2)]),
        5 => set(frame, 14, &[rng.u8(..)]),
        6 => options(frame),
        7 => {
            set(frame, 18, &rng.u16(..3).to_be_bytes());
            set(frame, 20, &FRAGMENTS[rng.usize(..FRAGMENTS.len())]);
        }
        8 => {
            if frame.get(protocol) == Some(&17) {
                set(frame, transport + 6, &[0, 0]);
            }
            // Not to be repaired.
            return;
        }
        9 => set(frame, protocol, &[PROTOCOLS[rng.usize(..PROTOCOLS.len())]]),
        // Data offset, flags.
        10 => set(frame, transport + 12, &[rng.u8(..), rng.u8(..)]),
        11 => set(frame, 12, &[[8, 0], [0x86, 0xdd], [8, 6], [0x81, 0]][rng.usize(..4)]),
        _ => frame.extend((0..rng.usize(1..40)).map(|_| rng.u8(..))),
    }
    if rng.bool() {
        repair(frame);
    }
}

/// Random bytes behind the start of an IP header, which is often plausible.
pub(crate) fn noise(rng: &mut Rng) -> Vec<u8> {
    let v4 = rng.bool();
    let mut frame: Vec<u8> = (0..rng.usize(15..200)).map(|_| rng.u8(..)).collect();
    set(&mut frame, 12, if v4 { &[8, 0] } else { &[0x86, 0xdd] });
    frame[14] = if v4 { 0x40 | rng.u8(4..16) } else { 0x60 };
    if rng.bool() {
        set(&mut frame, if v4 { 23 } else { 20 }, &[PROTOCOLS[rng.usize(..PROTOCOLS.len())]]);
    }
    if rng.bool() {
        set(&mut frame, 20, &[0, 0]);
        repair(&mut frame);
    }
    frame
}

/// The kernel runs no program by hand over less than a network header (`bpf_prog_test_run_skb`).
pub(crate) fn lengthen(frame: &mut Vec<u8>) {
    let shortest = match frame[12..14] {
        [8, 0] => 34,
        [0x86, 0xdd] => 54,
        _ => 15,
    };
    frame.resize(frame.len().max(shortest), 0);
}

/// Four bytes of IPv4 options, or something like a header in between.
fn options(frame: &mut Vec<u8>) {
    if is_v4(frame) && frame.len() >= 34 {
        frame[14] = 0x46;
        let total = u16::from_be_bytes([frame[16], frame[17]]).wrapping_add(4);
        set(frame, 16, &total.to_be_bytes());
        frame.splice(34..34, [1; 4]);
    }
}

fn set(frame: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(field) = frame.get_mut(at..at + bytes.len()) {
        field.copy_from_slice(bytes);
    }
}

fn is_v4(frame: &[u8]) -> bool {
    frame[12..14] == [8, 0]
}
