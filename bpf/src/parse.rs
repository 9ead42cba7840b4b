//! Reads a plain packet's headers in place. The only way to packet bytes without a helper: every access is checked, here or
//! at compile time.

use abi::{Be16, Tuple, protocol};

use crate::{
    family::Family,
    kernel::{ETHERNET, Frame},
};

/// `N` bytes of a packet that lie before its end. Good until a helper moves the packet.
#[derive(Clone, Copy)]
pub struct Bytes<const N: usize>(usize);

/// Integers that may be read from and written to packets.
pub trait Word: Copy {}
impl Word for u8 {}
impl Word for u16 {}
impl Word for u32 {}

impl<const N: usize> Bytes<N> {
    /// The bytes from `offset` on, where they are in the linear part.
    #[inline(always)]
    pub fn at(frame: impl Frame, offset: usize) -> Option<Self> {
        let start = frame.data() + offset;
        if start + N > frame.data_end() { None } else { Some(Self(start)) }
    }

    /// `M` of these bytes, from `OFFSET` on.
    #[inline(always)]
    pub fn part<const OFFSET: usize, const M: usize>(self) -> Bytes<M> {
        const { assert!(OFFSET + M <= N) };
        Bytes(self.0 + OFFSET)
    }

    #[inline(always)]
    pub fn read<T: Word, const OFFSET: usize>(self) -> T {
        const { assert!(OFFSET + size_of::<T>() <= N) };
        // SAFETY: within the checked bytes. The address may be odd to the type, as in every network header: the BPF target
        // loads it as it is, where the kernel allows that.
        unsafe { *((self.0 + OFFSET) as *const T) }
    }

    /// A word by its index; 0 behind the end.
    #[inline(always)]
    pub fn word(self, index: usize) -> u32 {
        if 4 * index + 4 > N {
            return 0;
        }
        // SAFETY: as in `read`.
        unsafe { *((self.0 + 4 * index) as *const u32) }
    }

    #[inline(always)]
    pub fn write<T: Word, const OFFSET: usize>(self, value: T) {
        const { assert!(OFFSET + size_of::<T>() <= N) };
        // SAFETY: as in `read`; tc programs may write packets.
        unsafe { *((self.0 + OFFSET) as *mut T) = value }
    }
}

/// A packet with ports, as it is now.
pub struct Packet<F: Family> {
    pub ethernet: Bytes<ETHERNET>,
    pub network: F::Header,
    pub transport: Transport,
    pub tuple: Tuple<F::Address>,
    /// Flags of a TCP header, else 0.
    pub flags: u8,
}

/// What follows the network header.
#[derive(Clone, Copy)]
pub enum Transport {
    Tcp(Bytes<20>),
    Udp(Bytes<8>),
    /// Behind options or extension headers, or SCTP: only helpers reach it.
    Far(Far),
    /// A later fragment: addresses change, nothing else is there.
    Fragment,
}

/// A transport header somewhere in the packet.
#[derive(Clone, Copy)]
pub struct Far {
    pub protocol: u8,
    /// From the start of the frame.
    pub offset: u32,
    /// Bytes of the header, options included.
    pub header: u32,
    /// Bytes from its start to the packet's end.
    pub length: u32,
}

/// TCP flags (RFC 9293, section 3.1).
pub mod tcp {
    pub const FIN: u8 = 1;
    pub const SYN: u8 = 2;
    pub const RST: u8 = 4;
    pub const ACK: u8 = 16;
}

/// Reads a plain packet in place: TCP or UDP right behind the network header, not a fragment, its headers linear. Anything
/// else is for [`crate::inspect`].
#[inline(always)]
pub fn packet<F: Family>(frame: impl Frame) -> Option<Packet<F>> {
    let (ethernet, network, ports) = F::headers(frame)?;
    if !F::is_plain(network) {
        return None;
    }
    let protocol = F::protocol(network);
    let (transport, flags) = match protocol {
        protocol::TCP => {
            let header = Bytes::<20>::at(frame, F::TRANSPORT)?;
            (Transport::Tcp(header), header.read::<u8, 13>())
        }
        protocol::UDP => (Transport::Udp(ports), 0),
        _ => return None,
    };
    let (source, destination) = F::addresses(network);
    let tuple = Tuple {
        source,
        destination,
        source_port: Be16::from_raw(ports.read::<u16, 0>()),
        destination_port: Be16::from_raw(ports.read::<u16, 2>()),
        protocol,
        padding: [0; 3],
    };
    Some(Packet { ethernet, network, transport, tuple, flags })
}
