//! Ports of fragmented datagrams: the first fragment has them, later ones are looked up. IPv4 only.

use abi::{Be16, FragmentKey, FragmentPorts, Tuple};

use crate::family::Family;

#[inline(always)]
fn key<F: Family>(network: F::Header, tuple: &Tuple<F::Address>) -> FragmentKey<F::Address> {
    FragmentKey {
        source: tuple.source,
        destination: tuple.destination,
        identification: F::identification(network),
        protocol: tuple.protocol,
        padding: 0,
    }
}

/// A full table forgets the oldest datagram; its fragments then go the stack's way.
#[inline(always)]
pub fn remember<F: Family>(network: F::Header, tuple: &Tuple<F::Address>) {
    let ports = FragmentPorts { source: tuple.source_port, destination: tuple.destination_port };
    let _ = F::fragments().insert(key::<F>(network, tuple), ports, 0);
}

/// Completes `tuple`; false where the first fragment was not seen.
#[inline(always)]
pub fn recall<F: Family>(network: F::Header, tuple: &mut Tuple<F::Address>) -> bool {
    let key = key::<F>(network, tuple);
    let Some(ports) = F::fragments().get_ptr(key) else { return false };
    // SAFETY: an LRU row is replaced by an atomic pointer swap or reused whole; a mixed read costs one fragment.
    let FragmentPorts { source, destination } = unsafe { *ports };
    tuple.source_port = Be16::from_raw(source.raw());
    tuple.destination_port = Be16::from_raw(destination.raw());
    true
}
