//! One's-complement sums (RFC 1071, 1624), in the machine's own byte order: the sum of swapped words is the swapped sum.

/// A difference to be added to a checksum: what comes in, less what goes out.
#[derive(Clone, Copy)]
pub struct Delta(u32);

impl Delta {
    #[inline(always)]
    pub const fn none() -> Self {
        Self(0)
    }

    /// Replaces one 16-bit word.
    #[inline(always)]
    pub fn word(self, old: u16, new: u16) -> Self {
        Self(self.0 + !old as u32 + new as u32)
    }

    /// Replaces one 32-bit word.
    #[inline(always)]
    pub fn long(self, old: u32, new: u32) -> Self {
        self.word(old as u16, new as u16).word((old >> 16) as u16, (new >> 16) as u16)
    }

    /// Adds a difference that is folded already.
    #[inline(always)]
    pub fn and(self, folded: u16) -> Self {
        Self(self.0 + folded as u32)
    }

    /// Folded; 0 exactly where nothing changes.
    #[inline(always)]
    pub fn fold(self) -> u16 {
        match fold(self.0) {
            // Minus zero: every word was replaced by itself.
            0xffff => 0,
            folded => folded,
        }
    }
}

/// Adds the carries back in.
#[inline(always)]
pub fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// The checksum field after a change: fields hold the inverted sum.
#[inline(always)]
pub fn adjust(field: u16, delta: u16) -> u16 {
    !fold(!field as u32 + delta as u32)
}

/// The unfolded sum of some words.
#[inline(always)]
pub fn sum(words: &[u32]) -> u32 {
    let mut total = 0;
    for word in words {
        total += (word & 0xffff) + (word >> 16);
    }
    total
}
