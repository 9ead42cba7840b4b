//! The object for a node's uplinks: `from_wire` at ingress, `to_wire` at egress; and for its tunnel: `from_tunnel` at ingress.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod programs {
    use aya_ebpf::{macros::classifier, programs::TcContext};
    use datapath::{FromTunnel, FromWire, ToWire, kernel::Context, run};

    #[classifier]
    pub fn from_wire(ctx: TcContext) -> i32 {
        run::<FromWire>(Context::new(ctx.skb.skb))
    }

    #[classifier]
    pub fn from_tunnel(ctx: TcContext) -> i32 {
        run::<FromTunnel>(Context::new(ctx.skb.skb))
    }

    #[classifier]
    pub fn to_wire(ctx: TcContext) -> i32 {
        run::<ToWire>(Context::new(ctx.skb.skb))
    }

    datapath::object!();
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}
