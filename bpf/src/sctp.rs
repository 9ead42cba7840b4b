//! SCTP's checksum (RFC 9260, appendix A): CRC32c over the whole packet, without addresses.
//!
//! A CRC is linear: changing the ports changes it by the CRC of their difference followed by as many zero bytes as the packet
//! has left, whatever these are. Zero bytes multiply by a power of x, which takes one multiplication per bit of their number.

use crate::{
    kernel::{Context, Summed},
    parse::Far,
};

/// Castagnoli's polynomial, bits reversed, as the checksum has them.
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// One bit of length each, up to 65,535 bytes.
const POWERS: usize = 16;
const NIBBLES: usize = 8;

/// Every nibble of a word, by its place, times `x^(8 * 2^k)` modulo the polynomial: looked up, because the verifier would
/// follow both ways of each of the 512 bits.
static SHIFTED: [[[u32; 16]; NIBBLES]; POWERS] = {
    let mut table = [[[0; 16]; NIBBLES]; POWERS];
    // x^8: bit 31 is x^0.
    let mut power = 1 << (31 - 8);
    let mut k = 0;
    while k < POWERS {
        let mut entry = 0;
        while entry < 16 * NIBBLES {
            let (nibble, value) = (entry / 16, entry % 16);
            table[k][nibble][value] = multiply(power, (value as u32) << (4 * nibble));
            entry += 1;
        }
        power = multiply(power, power);
        k += 1;
    }
    table
};

const fn multiply(a: u32, mut b: u32) -> u32 {
    let (mut product, mut bit) = (0, 0);
    while bit < 32 {
        if (a >> (31 - bit)) & 1 != 0 {
            product ^= b;
        }
        b = if b & 1 != 0 { (b >> 1) ^ POLYNOMIAL } else { b >> 1 };
        bit += 1;
    }
    product
}

/// What the checksum changes by when the first word of `length` bytes changes by `difference` (both by exclusive or, as
/// little-endian words).
#[inline(never)]
pub fn change(difference: u32, length: u32) -> u32 {
    let mut change = difference;
    for (k, shifted) in SHIFTED.iter().enumerate() {
        if length >> k & 1 != 0 {
            let before = change;
            change = 0;
            for (place, values) in shifted.iter().enumerate() {
                change ^= values[(before >> (4 * place)) as usize & 15];
            }
        }
    }
    change
}

/// Replaces the ports of a whole packet.
#[inline(always)]
pub fn rewrite(ctx: Context, far: Far, words: &mut [u32; 16], ports: u32) -> bool {
    let at = far.offset as usize;
    if !ctx.load(at, words, 12) {
        return false;
    }
    let (old, field) = (words[0], words[2]);
    if old == ports {
        return true;
    }
    // A partial checksum of SCTP is an empty field, and the device's to fill in (`skb->csum_not_inet`).
    let partial = match ctx.summed() {
        Summed::Partial => true,
        Summed::Whole => false,
        Summed::ByHelper => field == 0,
    };
    let difference = u32::from_le(old ^ ports);
    let sum = if partial { field } else { field ^ change(difference, far.length).to_le() };
    ctx.store_summed(at, &[ports], 4) && (partial || ctx.store_summed(at + 8, &[sum], 4))
}
