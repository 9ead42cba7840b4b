//! Where a packet's transport header is, whatever lies before it: IPv4 options, IPv6 extension headers, fragmentation.
//!
//! Read by helper calls at any offset: the outer packet of the slow path, and the packet that an ICMP error quotes. The fast
//! path reads plain packets in place ([`crate::parse`]) and never comes here.

use abi::{Be16, Reason, Tuple, protocol};

use crate::{
    family::Family,
    kernel::{Context, ETHERNET},
};

/// Words of the longest IPv4 header, and one.
pub const BUFFER_WORDS: usize = 16;
/// What a chain of IPv6 extension headers may have at most (RFC 8504, section 5.3, lets receivers choose).
pub const CHAIN_HEADERS: u32 = 6;
pub const CHAIN_BYTES: u32 = 512;
/// Longest datagram that fragments may make.
const DATAGRAM: u32 = 65_535;

/// How much of its datagram a packet is.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Whole, the transport header right behind the network header.
    Plain = 0,
    /// Whole, with options, extension headers, or a protocol that the fast path does not know.
    Whole = 1,
    /// The fragment with the transport header.
    First = 2,
    /// A fragment without.
    Later = 3,
}

/// What the headers say. Offsets are from the start of the frame.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Headers {
    pub transport: u32,
    /// Bytes from there to the packet's end, by the network header's word.
    pub length: u32,
    /// Of the datagram, as it lies in the packet; 0 where it is not fragmented.
    pub identification: u32,
    /// Of this fragment in its datagram, in bytes.
    pub fragment_offset: u32,
    /// Bytes of the transport header, options included.
    pub transport_header: u32,
    /// One's-complement sum of an IPv4 header: all ones where it is right. IPv6 has none, which is right.
    pub header_sum: u16,
    /// TCP flags, or their counterparts ([`crate::inspect`]); 0: none.
    pub flags: u8,
    pub shape: Shape,
}

impl Headers {
    /// Starts over: a whole packet up to `end`.
    #[inline(always)]
    pub fn begin(&mut self, length: u32, header_sum: u16) {
        *self = Self {
            transport: 0,
            length,
            identification: 0,
            fragment_offset: 0,
            transport_header: 0,
            header_sum,
            flags: 0,
            shape: Shape::Plain,
        };
    }

    /// By the fragment's place in its datagram.
    #[inline(always)]
    pub fn fragment(&mut self, identification: u32, offset: u32, more: bool) {
        self.identification = identification;
        self.fragment_offset = offset;
        self.shape = match (offset, more) {
            (0, false) => Shape::Whole,
            (0, true) => Shape::First,
            _ => Shape::Later,
        };
    }

    #[inline(always)]
    pub fn is_fragment(&self) -> bool {
        matches!(self.shape, Shape::First | Shape::Later)
    }

    /// Reaches beyond the largest datagram ("ping of death").
    #[inline(always)]
    pub fn runs_over(&self) -> bool {
        self.fragment_offset + self.length > DATAGRAM
    }
}

/// The end of the packet at `at` by its own word; packets to be cut into segments may be longer than the word can say (BIG
/// TCP), and then it is 0.
#[inline(always)]
pub fn length_by_word(ctx: Context, at: u32, word: u32, added: u32) -> u32 {
    if word == 0 && at == ETHERNET as u32 && ctx.segment_payload() != 0 {
        ctx.length().wrapping_sub(at)
    } else {
        word + added
    }
}

/// A tuple without ports yet.
#[inline(always)]
pub fn addressed<F: Family>(
    tuple: &mut Tuple<F::Address>,
    source: F::Address,
    destination: F::Address,
    protocol: u8,
) {
    *tuple = Tuple {
        source,
        destination,
        source_port: Be16::default(),
        destination_port: Be16::default(),
        protocol,
        padding: [0; 3],
    };
}

/// Reads the packet at `at`, once for all who ask.
#[inline(never)]
pub fn walk<F: Family>(ctx: Context, at: u32, quoted: bool) -> Result<(), Reason> {
    let Some(scratch) = F::scratch() else { return Err(Reason::DroppedInternal) };
    let (headers, tuple) = match quoted {
        true => (&mut scratch.quoted, &mut scratch.inner),
        false => (&mut scratch.headers, &mut scratch.key),
    };
    F::walk(ctx, at, &mut scratch.words, headers, tuple)
}

/// Has ports where TCP has them.
#[inline(always)]
pub fn is_tracked(number: u8) -> bool {
    number == protocol::TCP || number == protocol::UDP || number == protocol::SCTP
}
