//! Ports of fragmented datagrams: the first fragment has them, later ones are looked up.
//!
//! Nothing is held back or put together: each fragment goes its own way, and the receiver puts them together, or discards
//! them where they overlap. A later fragment that overtakes the first is left to the stack, and its datagram is lost.

use abi::{Config, FragmentKey, FragmentPorts, Tuple};

use crate::{family::Family, headers::Headers, kernel};

/// How long a datagram's fragments may be on their way (`IP_FRAG_TIME` in `include/net/ip.h`).
const SECONDS: u32 = 30;

/// IPv6 has the protocol in the first fragment only: what later ones name may be a header before it (RFC 8200, section 4.5).
#[inline(always)]
fn key<F: Family>(headers: &Headers, tuple: &Tuple<F::Address>) -> FragmentKey<F::Address> {
    FragmentKey {
        source: tuple.source,
        destination: tuple.destination,
        identification: headers.identification,
        protocol: if F::FRAGMENTS_NAME_PROTOCOL { tuple.protocol } else { 0 },
        padding: [0; 3],
    }
}

/// A full table forgets the oldest datagram; its fragments then go the stack's way.
#[inline(always)]
pub fn remember<F: Family>(headers: &Headers, tuple: &Tuple<F::Address>) {
    let ports = FragmentPorts {
        source: tuple.source_port,
        destination: tuple.destination_port,
        seen: kernel::jiffies(),
        protocol: tuple.protocol,
        padding: [0; 3],
    };
    let _ = F::fragments().insert(key::<F>(headers, tuple), ports, 0);
}

/// Completes `tuple`; false where the first fragment was not seen.
#[inline(always)]
pub fn recall<F: Family>(headers: &Headers, tuple: &mut Tuple<F::Address>, config: &Config) -> bool {
    let key = key::<F>(headers, tuple);
    let Some(ports) = F::fragments().get_ptr(key) else { return false };
    // SAFETY: an LRU row is replaced by an atomic pointer swap or reused whole; a mixed read costs one fragment.
    let FragmentPorts { source, destination, seen, protocol, .. } = unsafe { *ports };
    if kernel::jiffies().wrapping_sub(seen) > SECONDS.wrapping_mul(config.hz) {
        // Another datagram had the same number.
        return false;
    }
    (tuple.source_port, tuple.destination_port, tuple.protocol) = (source, destination, protocol);
    true
}
