//! Reads a packet's headers. The only way into packet bytes: every access is checked, here or at compile time.

use abi::{Be16, Reason, Tuple, protocol};

use crate::{
    family::Family,
    fragments,
    kernel::{Context, ETHERNET, Frame},
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
    /// A later fragment: addresses change, nothing else is there.
    Fragment,
}

/// TCP flags (RFC 9293, section 3.1).
pub mod tcp {
    pub const FIN: u8 = 1;
    pub const SYN: u8 = 2;
    pub const RST: u8 = 4;
    pub const ACK: u8 = 16;
}

/// A packet that is not simply one with ports.
pub enum Irregular {
    Icmp,
    Pass(Reason),
}

/// Reads the headers, making them linear first where they are not.
#[inline(always)]
pub fn packet<F: Family>(ctx: Context) -> Result<Packet<F>, Irregular> {
    match read::<F>(ctx) {
        Err(Irregular::Pass(Reason::PassedUnparsed)) if ctx.pull(F::TRANSPORT as u32 + 20) => read::<F>(ctx),
        other => other,
    }
}

#[inline(always)]
fn read<F: Family>(ctx: Context) -> Result<Packet<F>, Irregular> {
    const UNPARSED: Irregular = Irregular::Pass(Reason::PassedUnparsed);
    let Some((ethernet, network, ports)) = F::headers(ctx) else { return Err(UNPARSED) };
    if !F::is_plain(network) {
        return Err(UNPARSED);
    }
    let protocol = F::protocol(network);
    let (source, destination) = F::addresses(network);
    let mut tuple = Tuple {
        source,
        destination,
        source_port: Be16::default(),
        destination_port: Be16::default(),
        protocol,
        padding: [0; 3],
    };
    if F::is_later_fragment(network) && (protocol == protocol::TCP || protocol == protocol::UDP) {
        return match fragments::recall::<F>(network, &mut tuple) {
            true => Ok(Packet { ethernet, network, transport: Transport::Fragment, tuple, flags: 0 }),
            false => Err(Irregular::Pass(Reason::PassedFragment)),
        };
    }
    let (transport, flags) = match protocol {
        protocol::TCP => {
            let Some(header) = Bytes::<20>::at(ctx, F::TRANSPORT) else { return Err(UNPARSED) };
            (Transport::Tcp(header), header.read::<u8, 13>())
        }
        protocol::UDP => (Transport::Udp(ports), 0),
        number if number == F::ICMP => return Err(Irregular::Icmp),
        number if F::is_extension(number) => return Err(UNPARSED),
        _ => return Err(Irregular::Pass(Reason::PassedProtocol)),
    };
    tuple.source_port = Be16::from_raw(ports.read::<u16, 0>());
    tuple.destination_port = Be16::from_raw(ports.read::<u16, 2>());
    if F::is_first_fragment(network) {
        fragments::remember::<F>(network, &tuple);
    }
    Ok(Packet { ethernet, network, transport, tuple, flags })
}
