//! Addresses and ports in network order.

use core::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use crate::{maglev, plain};

/// A port, or another 16-bit field, in network order.
#[repr(transparent)]
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Be16(u16);

impl Be16 {
    pub const fn new(host: u16) -> Self {
        Self(host.to_be())
    }

    /// From the bytes as they lie in a packet, read as one word.
    pub const fn from_raw(raw: u16) -> Self {
        Self(raw)
    }

    pub const fn raw(self) -> u16 {
        self.0
    }

    pub const fn get(self) -> u16 {
        u16::from_be(self.0)
    }
}

impl fmt::Debug for Be16 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.get(), f)
    }
}

/// An IPv4 address, as it lies in a packet.
#[repr(transparent)]
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct V4(pub u32);

/// An IPv6 address, as it lies in a packet. Words, so that it is aligned to four bytes, as in every header.
#[repr(transparent)]
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct V6(pub [u32; 4]);

/// An address that fits the maps of one family.
pub trait Address: Copy + Default + Ord + fmt::Debug + 'static {
    /// Length in bits.
    const BITS: u32;

    /// `None` for an address of the other family.
    fn from_ip(ip: IpAddr) -> Option<Self>;

    fn to_ip(self) -> IpAddr;

    /// As it lies in a packet, followed by zeros.
    fn words(self) -> [u32; 4];

    /// All its bits as one word, for hashing.
    fn mix(self) -> u32;

    /// Takes its bits, as every machine reads them, into a [`crate::maglev`] hash.
    fn fold(self, state: u64) -> u64;
}

impl Address for V4 {
    const BITS: u32 = 32;

    fn from_ip(ip: IpAddr) -> Option<Self> {
        match ip {
            IpAddr::V4(ip) => Some(Self(u32::from_ne_bytes(ip.octets()))),
            IpAddr::V6(_) => None,
        }
    }

    fn to_ip(self) -> IpAddr {
        Ipv4Addr::from(self.0.to_ne_bytes()).into()
    }

    #[inline(always)]
    fn words(self) -> [u32; 4] {
        [self.0, 0, 0, 0]
    }

    #[inline(always)]
    fn mix(self) -> u32 {
        self.0
    }

    #[inline(always)]
    fn fold(self, state: u64) -> u64 {
        maglev::mix(state, u32::from_be(self.0) as u64)
    }
}

impl Address for V6 {
    const BITS: u32 = 128;

    fn from_ip(ip: IpAddr) -> Option<Self> {
        let IpAddr::V6(ip) = ip else { return None };
        let bytes = ip.octets();
        Some(Self(core::array::from_fn(|i| {
            u32::from_ne_bytes([bytes[4 * i], bytes[4 * i + 1], bytes[4 * i + 2], bytes[4 * i + 3]])
        })))
    }

    fn to_ip(self) -> IpAddr {
        let mut bytes = [0; 16];
        for (chunk, word) in bytes.chunks_exact_mut(4).zip(self.0) {
            chunk.copy_from_slice(&word.to_ne_bytes());
        }
        Ipv6Addr::from(bytes).into()
    }

    #[inline(always)]
    fn words(self) -> [u32; 4] {
        self.0
    }

    #[inline(always)]
    fn mix(self) -> u32 {
        let [a, b, c, d] = self.0;
        a ^ b.rotate_left(8) ^ c.rotate_left(16) ^ d.rotate_left(24)
    }

    #[inline(always)]
    fn fold(self, state: u64) -> u64 {
        let [a, b, c, d] = self.0.map(|word| u32::from_be(word) as u64);
        maglev::mix(maglev::mix(state, a << 32 | b), c << 32 | d)
    }
}

impl fmt::Debug for V4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.to_ip(), f)
    }
}

impl fmt::Debug for V6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.to_ip(), f)
    }
}

plain!(Be16, V4, V6);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_round_trip_and_lie_as_in_a_packet() {
        let v4 = V4::from_ip([10, 24, 0, 1].into()).expect("v4");
        assert_eq!(v4.0.to_ne_bytes(), [10, 24, 0, 1]);
        assert_eq!(v4.to_ip(), IpAddr::from([10, 24, 0, 1]));
        let ip: IpAddr = "fd00:1::7".parse().expect("address");
        let v6 = V6::from_ip(ip).expect("v6");
        assert_eq!(v6.0[0].to_ne_bytes(), [0xfd, 0, 0, 1]);
        assert_eq!(v6.to_ip(), ip);
        assert_eq!(V4::from_ip(ip), None);
    }

    #[test]
    fn ports_are_in_network_order() {
        assert_eq!(Be16::new(0x1234).raw().to_ne_bytes(), [0x12, 0x34]);
        assert_eq!(Be16::new(8080).get(), 8080);
    }
}
