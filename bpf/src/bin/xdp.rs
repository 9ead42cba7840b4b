//! The object for an uplink's driver: `xdp_from_wire` on receipt.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod programs {
    use aya_ebpf::{macros::xdp, programs::XdpContext};
    use datapath::xdp::{Received, run};

    #[xdp]
    pub fn xdp_from_wire(ctx: XdpContext) -> u32 {
        run(Received::new(ctx.ctx))
    }

    datapath::object!();
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}
