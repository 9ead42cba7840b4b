//! Whose an address is: the number of the longest prefix that holds it, in a table that user space keeps.

use abi::{V4, V6};
use aya_ebpf::{
    btf_maps::{LpmTrie, PerCpuArray, lpm_trie::Key},
    macros::btf_map,
};

use crate::{
    family::{Family, Ipv4, Ipv6},
    kernel::Context,
    maps::{IDENTITY_ROWS, PREFIX_ROWS},
    policy::{VERDICT_ROWS, Verdict},
};

/// What the table has for no address: nothing is known yet.
pub const UNKNOWN: u32 = 0;

type Table<A> = LpmTrie<A, u32, IDENTITY_ROWS>;
/// Prefixes that policies name, with numbers of their own.
type Prefixes<A> = LpmTrie<A, u32, PREFIX_ROWS>;

/// A family's table.
pub trait Identities: Family {
    fn identities() -> &'static Table<Self::Address>;
    fn prefixes() -> &'static Prefixes<Self::Address>;
    /// What policies decided last.
    fn verdicts() -> &'static PerCpuArray<Verdict<Self::Address>, VERDICT_ROWS>;
}

macro_rules! identities {
    ($family:ty, $address:ty, $map:ident, $prefixes:ident, $verdicts:ident) => {
        impl Identities for $family {
            fn identities() -> &'static Table<$address> {
                #[btf_map]
                static $map: Table<$address> = Table::new();
                &$map
            }

            fn prefixes() -> &'static Prefixes<$address> {
                #[btf_map]
                static $prefixes: Prefixes<$address> = Prefixes::new();
                &$prefixes
            }

            fn verdicts() -> &'static PerCpuArray<Verdict<$address>, VERDICT_ROWS> {
                #[btf_map]
                static $verdicts: PerCpuArray<Verdict<$address>, VERDICT_ROWS> = PerCpuArray::new();
                &$verdicts
            }
        }
    };
}
identities!(Ipv4, V4, IDENTITIES_V4, PREFIXES_V4, VERDICTS_V4);
identities!(Ipv6, V6, IDENTITIES_V6, PREFIXES_V6, VERDICTS_V6);

/// The identity of an address.
#[inline(always)]
pub fn of<F: Identities>(address: F::Address) -> u32 {
    let key = Key::new(<F::Address as abi::Address>::BITS, address);
    F::identities().get(&key).copied().unwrap_or(UNKNOWN)
}

/// The number of the longest prefix named by a policy that holds the address; 0: none does.
#[inline(always)]
pub fn prefix<F: Identities>(address: F::Address) -> u32 {
    let key = Key::new(<F::Address as abi::Address>::BITS, address);
    F::prefixes().get(&key).copied().unwrap_or(0)
}

/// The identity of a packet's source.
#[inline(always)]
pub fn of_source(ctx: Context) -> u32 {
    match ctx.protocol() {
        Ipv4::ETHERTYPE => source::<Ipv4>(ctx),
        Ipv6::ETHERTYPE => source::<Ipv6>(ctx),
        _ => UNKNOWN,
    }
}

#[inline(always)]
fn source<F: Identities>(ctx: Context) -> u32 {
    F::network(ctx).map_or(UNKNOWN, |(_, header)| of::<F>(F::addresses(header).0))
}
