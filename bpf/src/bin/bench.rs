//! Never shipped into a node: puts the same packet in front of the datapath at every repetition of a test run, which would
//! otherwise go on with what the last repetition made of it.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod programs {
    use aya_ebpf::{
        bindings::xdp_action,
        btf_maps::Array,
        macros::{btf_map, classifier, xdp},
        programs::{TcContext, XdpContext},
    };
    use datapath::{
        FromPod, FromWire,
        checksum::{Delta, adjust},
        kernel::{Context, Frame},
        parse::Bytes,
        run,
        xdp::{self, Received},
    };

    /// Ethernet, IPv4 and TCP headers, to the next word.
    const WORDS: usize = 14;

    #[repr(C)]
    struct Template {
        words: [u32; WORDS],
        /// Not 0: every repetition is a flow of its own. 1: by source port, then by the low half of the source address; 2: by
        /// that half, then by port.
        vary: u32,
        count: u32,
    }

    #[btf_map]
    static TEMPLATE: Array<Template, 1> = Array::new();

    #[classifier]
    pub fn empty(_ctx: TcContext) -> i32 {
        datapath::kernel::NEXT
    }

    #[classifier]
    pub fn restore(ctx: TcContext) -> i32 {
        restored(Context::new(ctx.skb.skb)) as i32
    }

    #[classifier]
    pub fn from_pod(ctx: TcContext) -> i32 {
        let ctx = Context::new(ctx.skb.skb);
        restored(ctx);
        run::<FromPod>(ctx)
    }

    #[classifier]
    pub fn from_wire(ctx: TcContext) -> i32 {
        let ctx = Context::new(ctx.skb.skb);
        restored(ctx);
        run::<FromWire>(ctx)
    }

    #[xdp]
    pub fn xdp_empty(_ctx: XdpContext) -> u32 {
        xdp_action::XDP_PASS
    }

    #[xdp]
    pub fn xdp_restore(ctx: XdpContext) -> u32 {
        restored(Received::new(ctx.ctx)) as u32
    }

    #[xdp]
    pub fn xdp_from_wire(ctx: XdpContext) -> u32 {
        let frame = Received::new(ctx.ctx);
        restored(frame);
        xdp::run(frame)
    }

    #[inline(always)]
    fn restored(frame: impl Frame) -> bool {
        let (Some(packet), Some(template)) = (Bytes::<{ 4 * WORDS }>::at(frame, 0), TEMPLATE.get_ptr_mut(0))
        else {
            return false;
        };
        // SAFETY: one test run at a time.
        let template = unsafe { &mut *template };
        let w = &template.words;
        packet.write::<u32, 0>(w[0]);
        packet.write::<u32, 4>(w[1]);
        packet.write::<u32, 8>(w[2]);
        packet.write::<u32, 12>(w[3]);
        packet.write::<u32, 16>(w[4]);
        packet.write::<u32, 20>(w[5]);
        packet.write::<u32, 24>(w[6]);
        packet.write::<u32, 28>(w[7]);
        packet.write::<u32, 32>(w[8]);
        packet.write::<u32, 36>(w[9]);
        packet.write::<u32, 40>(w[10]);
        packet.write::<u32, 44>(w[11]);
        packet.write::<u32, 48>(w[12]);
        packet.write::<u32, 52>(w[13]);
        if template.vary != 0 {
            template.count = template.count.wrapping_add(1);
            let (low, high) = (template.count as u16, (template.count >> 16) as u16);
            // Never 0, of which there are no ports.
            let port = if template.vary == 1 { low } else { packet.read::<u16, 34>() ^ high };
            packet.write::<u16, 34>(port);
            let (old, new) = (packet.read::<u16, 28>(), if template.vary == 1 { high } else { low });
            packet.write::<u16, 28>(new);
            // A first packet with a wrong one is dropped.
            let sum = adjust(packet.read::<u16, 24>(), Delta::none().word(old, new).fold());
            packet.write::<u16, 24>(sum);
        }
        true
    }

    datapath::object!();
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}
