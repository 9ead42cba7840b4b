//! Which ports masquerading may use.

use std::{fs, ops::RangeInclusive};

const LOCAL_RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";
/// The kernel's default (`net/ipv4/af_inet.c`).
const DEFAULT_LOCAL_RANGE: RangeInclusive<u16> = 32_768..=60_999;
/// Kubernetes' default `--service-node-port-range`.
const NODE_PORTS: RangeInclusive<u16> = 30_000..=32_767;

/// The largest range that nothing else on the node takes source ports from.
///
/// A masqueraded flow and a socket of the node must never send from the same port to the same backend: their replies could
/// not be told apart. Sockets that connect draw from `ip_local_port_range`; node ports are listened on by nobody but are
/// frontends; ports below 1024 belong to services that bind them to connect. Listening sockets elsewhere do no harm: a
/// backend does not call from the port it serves on.
pub(crate) fn masquerade_range() -> RangeInclusive<u16> {
    let text = fs::read_to_string(LOCAL_RANGE).unwrap_or_default();
    largest_gap(parse(&text).unwrap_or(DEFAULT_LOCAL_RANGE))
}

fn parse(text: &str) -> Option<RangeInclusive<u16>> {
    let mut numbers = text.split_whitespace().map(str::parse);
    Some(numbers.next()?.ok()?..=numbers.next()?.ok()?)
}

fn largest_gap(local: RangeInclusive<u16>) -> RangeInclusive<u16> {
    let mut taken = [1..=1023, NODE_PORTS, local];
    taken.sort_by_key(|range| *range.start());
    let (mut best, mut free) = (0..=0, 1u32);
    for range in taken.into_iter().chain([u16::MAX..=u16::MAX]) {
        let end = u32::from(*range.start());
        if end > free && end - free > u32::from(*best.end() - *best.start()) {
            best = free as u16..=(end - 1) as u16;
        }
        free = free.max(u32::from(*range.end()) + 1);
    }
    // A node that gives all its ports to sockets leaves none: the node-port range is at least not drawn from.
    if best == (0..=0) { NODE_PORTS } else { best }
}

/// The larger part of `range` without `port`; where `port` is all of it, `range` itself.
pub(crate) fn without(range: RangeInclusive<u16>, port: u16) -> RangeInclusive<u16> {
    if !range.contains(&port) || range.start() == range.end() {
        return range;
    }
    let (first, last) = range.into_inner();
    if port - first > last - port { first..=port - 1 } else { port + 1..=last }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_free_range_is_taken() {
        assert_eq!(largest_gap(DEFAULT_LOCAL_RANGE), 1024..=29_999);
        assert_eq!(largest_gap(1024..=40_000), 40_001..=65_534);
        assert_eq!(largest_gap(10_000..=60_999), 1024..=9_999);
        assert_eq!(largest_gap(1024..=65_535), NODE_PORTS);
    }

    #[test]
    fn a_port_is_left_out_by_taking_the_larger_side() {
        assert_eq!(without(1024..=29_999, 8472), 8473..=29_999);
        assert_eq!(without(1024..=29_999, 29_000), 1024..=28_999);
        assert_eq!(without(1024..=29_999, 1024), 1025..=29_999);
        assert_eq!(without(1024..=29_999, 29_999), 1024..=29_998);
        assert_eq!(without(1024..=29_999, 40_000), 1024..=29_999);
        assert_eq!(without(7..=7, 7), 7..=7);
    }

    #[test]
    fn the_kernels_text_is_read() {
        assert_eq!(parse("32768\t60999\n"), Some(32_768..=60_999));
        assert_eq!(parse(""), None);
        assert_eq!(parse("99999 3"), None);
    }
}
