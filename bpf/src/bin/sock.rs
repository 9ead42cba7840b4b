//! The object for a cgroup: socket load balancing.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod programs {
    use aya_ebpf::{macros::cgroup_sock_addr, programs::SockAddrContext};
    use datapath::sock::{Call, InIpv4, InIpv6, Mapped, connect, getpeername, recvmsg, sendmsg};

    #[cgroup_sock_addr(connect4)]
    pub fn connect4(context: SockAddrContext) -> i32 {
        connect::<InIpv4>(Call::new(context))
    }

    #[cgroup_sock_addr(connect6)]
    pub fn connect6(context: SockAddrContext) -> i32 {
        let call = Call::new(context);
        if call.is_mapped() { connect::<Mapped>(call) } else { connect::<InIpv6>(call) }
    }

    /// Mapped addresses, too: the kernel unwraps them first (`udpv6_sendmsg`).
    #[cgroup_sock_addr(sendmsg4)]
    pub fn sendmsg4(context: SockAddrContext) -> i32 {
        sendmsg::<InIpv4>(Call::new(context))
    }

    #[cgroup_sock_addr(sendmsg6)]
    pub fn sendmsg6(context: SockAddrContext) -> i32 {
        sendmsg::<InIpv6>(Call::new(context))
    }

    #[cgroup_sock_addr(recvmsg4)]
    pub fn recvmsg4(context: SockAddrContext) -> i32 {
        recvmsg::<InIpv4>(Call::new(context))
    }

    #[cgroup_sock_addr(recvmsg6)]
    pub fn recvmsg6(context: SockAddrContext) -> i32 {
        let call = Call::new(context);
        if call.is_mapped() { recvmsg::<Mapped>(call) } else { recvmsg::<InIpv6>(call) }
    }

    #[cgroup_sock_addr(getpeername4)]
    pub fn getpeername4(context: SockAddrContext) -> i32 {
        getpeername::<InIpv4>(Call::new(context))
    }

    #[cgroup_sock_addr(getpeername6)]
    pub fn getpeername6(context: SockAddrContext) -> i32 {
        let call = Call::new(context);
        if call.is_mapped() { getpeername::<Mapped>(call) } else { getpeername::<InIpv6>(call) }
    }

    datapath::object!();
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}
