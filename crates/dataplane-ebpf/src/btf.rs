//! What the loader must know of the running kernel's types: where `sk_buff.ip_summed` lies, and the number of a kfunc.
//!
//! Reads the raw BTF of `/sys/kernel/btf/vmlinux` (Documentation/bpf/btf.rst); aya's own reader does not give members of
//! anonymous structs.

use std::fs;

const VMLINUX: &str = "/sys/kernel/btf/vmlinux";
const HEADER: usize = 24;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_FUNC: u32 = 12;

/// Where a bit field lies in its struct.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BitField {
    pub(crate) byte: u32,
    pub(crate) shift: u32,
}

/// The parsed table; offsets into the raw bytes by type id.
pub(crate) struct KernelTypes {
    bytes: Vec<u8>,
    types: Vec<usize>,
    strings: usize,
}

impl KernelTypes {
    /// `None` where the kernel has no BTF, or one that we cannot read.
    pub(crate) fn of_running_kernel() -> Option<Self> {
        Self::parse(fs::read(VMLINUX).ok()?)
    }

    fn parse(bytes: Vec<u8>) -> Option<Self> {
        let mut this = Self { bytes, types: vec![0], strings: 0 };
        let header = this.word(4)? as usize;
        if header < HEADER || this.bytes.get(..2)? != 0xeb9fu16.to_ne_bytes() {
            return None;
        }
        let (start, length) = (this.word(8)? as usize, this.word(12)? as usize);
        this.strings = header + this.word(16)? as usize;
        let (mut at, end) = (header + start, header + start + length);
        while at < end {
            this.types.push(at);
            let (kind, count) = this.kind(at)?;
            at += 12 + trailer(kind, count)?;
        }
        Some(this)
    }

    /// The id of a kernel function.
    pub(crate) fn function(&self, name: &str) -> Option<u32> {
        self.find(KIND_FUNC, name).map(|id| id as u32)
    }

    /// A bit field by name, in a struct or the anonymous structs within.
    pub(crate) fn bit_field(&self, of: &str, name: &str) -> Option<BitField> {
        let bits = self.member(self.find(KIND_STRUCT, of)?, name)?;
        Some(BitField { byte: bits / 8, shift: bits % 8 })
    }

    fn member(&self, id: usize, name: &str) -> Option<u32> {
        let at = *self.types.get(id)?;
        let (kind, count) = self.kind(at)?;
        if kind != KIND_STRUCT && kind != KIND_UNION {
            return None;
        }
        // With the flag set, the upper eight bits of an offset are a bit field's size.
        let mask = if self.word(at + 4)? >> 31 != 0 { 0x00ff_ffff } else { u32::MAX };
        (0..count).find_map(|index| {
            let member = at + 12 + 12 * index;
            let offset = self.word(member + 8)? & mask;
            if self.string_is(member, name)? {
                return Some(offset);
            }
            let anonymous = self.string_is(member, "")?;
            anonymous
                .then(|| self.member(self.word(member + 4)? as usize, name).map(|inner| offset + inner))
                .flatten()
        })
    }

    fn find(&self, kind: u32, name: &str) -> Option<usize> {
        (1..self.types.len()).find(|id| {
            let at = self.types[*id];
            self.kind(at).is_some_and(|(found, _)| found == kind) && self.string_is(at, name) == Some(true)
        })
    }

    /// Kind, and number of members, parameters or values.
    fn kind(&self, at: usize) -> Option<(u32, usize)> {
        let info = self.word(at + 4)?;
        Some((info >> 24 & 0x1f, (info & 0xffff) as usize))
    }

    /// Whether the name whose offset is stored at `at` is `name`.
    fn string_is(&self, at: usize, name: &str) -> Option<bool> {
        let start = self.strings + self.word(at)? as usize;
        let bytes = self.bytes.get(start..start + name.len() + 1)?;
        Some(bytes.strip_suffix(&[0]) == Some(name.as_bytes()))
    }

    fn word(&self, at: usize) -> Option<u32> {
        let bytes = self.bytes.get(at..at + 4)?;
        Some(u32::from_ne_bytes(bytes.try_into().ok()?))
    }
}

/// Bytes that follow the twelve common ones, by kind (`include/uapi/linux/btf.h`).
fn trailer(kind: u32, count: usize) -> Option<usize> {
    Some(match kind {
        // Pointer, forward, typedef, qualifiers, function, float, type tag.
        2 | 7..=12 | 16 | 18 => 0,
        // Integer, variable, declaration tag.
        1 | 14 | 17 => 4,
        // Array.
        3 => 12,
        // Struct, union, data section, 64-bit enumeration.
        4 | 5 | 15 | 19 => 12 * count,
        // Enumeration, function prototype.
        6 | 13 => 8 * count,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_kernel_tells_where_ip_summed_lies() {
        let Some(types) = KernelTypes::of_running_kernel() else {
            eprintln!("skipped: no {VMLINUX}");
            return;
        };
        let field = types.bit_field("sk_buff", "ip_summed").expect("every sk_buff has it");
        // Two bits that do not cross a byte (`include/linux/skbuff.h`).
        assert!(field.byte > 0 && field.shift <= 6, "{field:?}");
        assert_eq!(types.bit_field("sk_buff", "no_such_member"), None);
        assert!(types.function("tcp_v4_rcv").is_some());
        assert_eq!(types.function("no_such_function"), None);
    }

    #[test]
    fn garbage_is_no_type_table() {
        assert!(KernelTypes::parse(vec![]).is_none());
        assert!(KernelTypes::parse(vec![0xff; 64]).is_none());
    }
}
