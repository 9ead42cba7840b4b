//! The slow path's last step: sends a packet by the entry of its tuple.

use abi::{Reason, protocol};

use crate::{
    conntrack, events,
    family::{Family, Scratch},
    headers::{Headers, Shape},
    hook::{Hook, Outcome},
    kernel::{Context, ETHERNET},
    nat,
    parse::{self, Far, Packet, Transport},
};

#[inline(never)]
pub fn run<F: Family, H: Hook>(ctx: Context) -> Outcome {
    let Some(scratch) = F::scratch() else { return Outcome::drop(Reason::DroppedInternal) };
    let Scratch { key, headers, reason, flow, noted, .. } = scratch;
    if *noted & events::COPIED != 0
        && let Some(packet) = parse::packet::<F>(ctx)
    {
        // Counted again, from nothing.
        (flow.packets, flow.bytes) = (0, 0);
        return nat::forward::<F, H>(ctx, &packet, flow, *reason);
    }
    let Some(flow) = conntrack::find::<F>(key) else { return Outcome::drop(Reason::DroppedTableFull) };
    let (headers, reason) = (*headers, *reason);
    if headers.shape == Shape::Plain
        && let Some(packet) = parse::packet::<F>(ctx)
    {
        return nat::forward::<F, H>(ctx, &packet, flow, reason);
    }
    let moved = key.source_port != flow.source_port || key.destination_port != flow.destination_port;
    if headers.shape == Shape::First && key.protocol == protocol::SCTP && moved {
        // The checksum depends on how many bytes follow in all.
        return Outcome::drop(Reason::DroppedFragment);
    }
    let transport = transport(key.protocol, &headers);
    if F::network(ctx).is_none() && !ctx.pull(F::TRANSPORT as u32) {
        return Outcome::drop(Reason::DroppedInternal);
    }
    let Some((ethernet, network)) = F::network(ctx) else { return Outcome::drop(Reason::DroppedInternal) };
    let packet = Packet { ethernet, network, transport, tuple: *key, flags: headers.flags };
    nat::forward::<F, H>(ctx, &packet, flow, reason)
}

#[inline(always)]
fn transport(protocol: u8, headers: &Headers) -> Transport {
    if headers.shape == Shape::Later {
        return Transport::Fragment;
    }
    Transport::Far(Far {
        protocol,
        offset: headers.transport,
        header: headers.transport_header,
        length: headers.length,
    })
}

/// Network header with options or extension headers, without the frame's own.
#[inline(always)]
pub fn network_length(far: Far) -> u32 {
    far.offset - ETHERNET as u32
}
