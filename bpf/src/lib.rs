//! The datapath: what every packet of a node's pods and uplinks goes through.
//!
//! A packet enters at a [`hook`], is read by [`parse`], looked up once in [`conntrack`], rewritten by [`nat`] and sent on.
//! That is the fast path, for plain packets of flows that are known and steady. Everything else, options, extension headers,
//! fragments and SCTP among it, is read in full by [`inspect`], which drops what is broken, and goes on to [`slow`]: choose a
//! backend ([`service`]), find the way ([`route`]), open the flow ([`nat`]), then [`send`] it or refuse it ([`reject`]).
//! ICMP errors are translated by the packet they quote ([`icmp`]). [`hook::finish`] turns every outcome into an action and a count.
//!
//! Written once for both address families, generic over [`family::Family`]. Both objects (`bin/pod.rs`, `bin/uplink.rs`) hold
//! the same maps and share them by their pinned names.
//!
//! Beside packets, [`sock`] serves sockets (`bin/sock.rs`) by the same tables and the same choice. Only there: a process of the
//! node that calls an address of the node itself (its own node port, a VIP with a local route), whose packets go over `lo` and
//! never meet these hooks.
//!
//! Invariant: no packet is lost without a count, and no path here blocks on user space.

#![no_std]
#![cfg_attr(target_arch = "bpf", feature(core_intrinsics))]
#![cfg_attr(
    target_arch = "bpf",
    expect(internal_features, reason = "adding in one instruction: see `kernel::add`")
)]

pub mod checksum;
pub mod conntrack;
pub mod counters;
pub mod events;
pub mod family;
pub mod fragments;
pub mod headers;
pub mod hook;
pub mod icmp;
pub mod identity;
pub mod inspect;
pub mod kernel;
pub mod l7;
pub mod maps;
pub mod nat;
pub mod parse;
pub mod policy;
pub mod reject;
pub mod route;
pub mod sctp;
pub mod send;
pub mod service;
pub mod slow;
pub mod sock;
pub mod xdp;

pub use family::{Ipv4, Ipv6};
pub use hook::{FromPod, FromTunnel, FromWire, ToPod, ToWire, run};

/// What every object holds besides its programs: its licence for the kernel, and a panic handler that nothing reaches.
#[macro_export]
macro_rules! object {
    () => {
        #[panic_handler]
        fn panic(_: &core::panic::PanicInfo) -> ! {
            loop {}
        }

        #[unsafe(link_section = "license")]
        #[unsafe(no_mangle)]
        static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
    };
}
