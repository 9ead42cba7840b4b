//! The object for a pod's veth, host side: `from_pod` at ingress, `to_pod` at egress.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod programs {
    use aya_ebpf::{macros::classifier, programs::TcContext};
    use datapath::{FromPod, ToPod, kernel::Context, run};

    #[classifier]
    pub fn from_pod(ctx: TcContext) -> i32 {
        run::<FromPod>(Context::new(ctx.skb.skb))
    }

    #[classifier]
    pub fn to_pod(ctx: TcContext) -> i32 {
        run::<ToPod>(Context::new(ctx.skb.skb))
    }

    /// Never attached: tells user space the time that entries are stamped with.
    #[classifier]
    pub fn clock(_ctx: TcContext) -> i32 {
        datapath::kernel::jiffies() as i32
    }

    /// Never attached: answers whose a packet's source address is.
    #[classifier]
    pub fn identify(ctx: TcContext) -> i32 {
        datapath::identity::of_source(Context::new(ctx.skb.skb)) as i32
    }

    datapath::object!();
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}
