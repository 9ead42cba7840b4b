//! One system call of a socket, as a cgroup hook sees it, and where it has the other side's address.

use core::ptr;

use abi::{Be16, V4, V6};
use aya_ebpf::{
    bindings::{bpf_sock, bpf_sock_addr},
    helpers::generated as helper,
    programs::SockAddrContext,
};

use super::state::State;
use crate::{
    family::{Family, Ipv4, Ipv6},
    identity::Identities,
};

/// Cookie of the node's own network namespace. Set at load.
#[unsafe(no_mangle)]
static HOST_NAMESPACE: u64 = 0;
/// 1 where a program may choose the error of a call (`bpf_set_retval`). Set at load.
#[unsafe(no_mangle)]
static CAN_FAIL: u32 = 0;

/// The high half of a mapped IPv4 address, less the zeros in front of it.
const MAPPED: u32 = 0x0000_ffffu32.to_be();

/// A call of the process that runs.
///
/// Fields are read and written one by one: the verifier takes only the widths they have.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Call(*mut bpf_sock_addr);

macro_rules! read {
    // SAFETY: the kernel passes a valid context; the verifier rewrites the access.
    ($call:ident.$($field:tt)+) => { unsafe { ptr::read_volatile(&raw const (*$call.0).$($field)+) } };
}

macro_rules! write {
    // SAFETY: as above; these fields may be written.
    ($call:ident.($($field:tt)+), $value:expr) => {
        unsafe { ptr::write_volatile(&raw mut (*$call.0).$($field)+, $value) }
    };
}

impl Call {
    #[inline(always)]
    pub fn new(context: SockAddrContext) -> Self {
        Self(context.sock_addr)
    }

    #[inline(always)]
    pub(super) fn context(self) -> SockAddrContext {
        SockAddrContext::new(self.0)
    }

    #[inline(always)]
    pub(super) fn socket(self) -> *mut bpf_sock {
        read!(self.__bindgen_anon_1.sk)
    }

    #[inline(always)]
    pub fn protocol(self) -> u8 {
        read!(self.protocol) as u8
    }

    #[inline(always)]
    pub fn port(self) -> Be16 {
        Be16::from_raw(read!(self.user_port) as u16)
    }

    #[inline(always)]
    pub fn set_port(self, port: Be16) {
        write!(self.(user_port), port.raw() as u32);
    }

    /// Low and high half of the socket's number: never used twice.
    #[inline(always)]
    pub fn cookie(self) -> [u32; 2] {
        // SAFETY: takes the context.
        halves(unsafe { helper::bpf_get_socket_cookie(self.0.cast()) })
    }

    /// Low and high half of the number of the socket's network namespace: never used twice.
    #[inline(always)]
    pub fn namespace(self) -> [u32; 2] {
        // SAFETY: takes the context.
        halves(unsafe { helper::bpf_get_netns_cookie(self.0.cast()) })
    }

    /// Whether the socket is of the node itself, and of no pod.
    #[inline(always)]
    pub fn is_of_host(self) -> bool {
        // SAFETY: reads a constant that the loader set; volatile, so that the compiler does not fold its initial value.
        self.namespace() == halves(unsafe { ptr::read_volatile(&raw const HOST_NAMESPACE) })
    }

    /// Whether an IPv6 socket's other side is an IPv4 address.
    #[inline(always)]
    pub fn is_mapped(self) -> bool {
        read!(self.user_ip6[0]) == 0 && read!(self.user_ip6[1]) == 0 && read!(self.user_ip6[2]) == MAPPED
    }

    /// Sets the error that the call ends with. False where this kernel cannot.
    #[inline(always)]
    pub fn fail(self, error: i32) -> bool {
        // SAFETY: reads a constant that the loader set, as above.
        if unsafe { ptr::read_volatile(&raw const CAN_FAIL) } == 0 {
            return false;
        }
        // SAFETY: takes a number; the verifier does not look at it where the constant is 0.
        unsafe { helper::bpf_set_retval(-error) == 0 }
    }
}

#[inline(always)]
fn halves(number: u64) -> [u32; 2] {
    [number as u32, (number >> 32) as u32]
}

/// Where a call has the other side's address.
pub trait Place {
    type Family: Identities;
    type State: State<Self::Family>;

    fn address(call: Call) -> <Self::Family as Family>::Address;
    fn set_address(call: Call, address: <Self::Family as Family>::Address);
}

/// An IPv4 address at an IPv4 hook.
pub struct InIpv4;
/// An IPv6 address.
pub struct InIpv6;
/// An IPv4 address at an IPv6 hook.
pub struct Mapped;

impl Place for InIpv4 {
    type Family = Ipv4;
    type State = Ipv4;

    #[inline(always)]
    fn address(call: Call) -> V4 {
        V4(read!(call.user_ip4))
    }

    #[inline(always)]
    fn set_address(call: Call, address: V4) {
        write!(call.(user_ip4), address.0);
    }
}

impl Place for InIpv6 {
    type Family = Ipv6;
    type State = Ipv6;

    #[inline(always)]
    fn address(call: Call) -> V6 {
        V6([
            read!(call.user_ip6[0]),
            read!(call.user_ip6[1]),
            read!(call.user_ip6[2]),
            read!(call.user_ip6[3]),
        ])
    }

    #[inline(always)]
    fn set_address(call: Call, address: V6) {
        let [a, b, c, d] = address.0;
        write!(call.(user_ip6[0]), a);
        write!(call.(user_ip6[1]), b);
        write!(call.(user_ip6[2]), c);
        write!(call.(user_ip6[3]), d);
    }
}

impl Place for Mapped {
    type Family = Ipv4;
    type State = Ipv4;

    #[inline(always)]
    fn address(call: Call) -> V4 {
        V4(read!(call.user_ip6[3]))
    }

    #[inline(always)]
    fn set_address(call: Call, address: V4) {
        write!(call.(user_ip6[3]), address.0);
    }
}
