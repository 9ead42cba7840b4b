//! Which packets are measured, where they arrive, and where they must land.

use std::net::SocketAddr;

use model::Family::V4;
use scenarios::places::{Place, Pod, VIP};

use crate::{
    plane,
    wire::{ACK, Frame, SYN},
};

/// What a program answers (`TCX_NEXT`, `TCX_DROP`, `TCX_REDIRECT`, `XDP_PASS`, `XDP_TX`).
pub(super) const NEXT: i32 = -1;
pub(super) const DROP: i32 = 2;
pub(super) const REDIRECT: i32 = 7;
pub(super) const PASS: i32 = 2;
pub(super) const TRANSMIT: i32 = 3;

pub(super) const CLUSTER_IP: &str = "10.24.0.10:80";
pub(super) const REFUSED: &str = "10.24.0.11:80";

/// A packet in front of a program, and what must become of it.
pub(super) struct Case {
    pub(super) id: &'static str,
    pub(super) what: &'static str,
    pub(super) program: &'static str,
    /// Where it arrives.
    pub(super) device: &'static str,
    pub(super) frame: Frame,
    /// Every repetition is a flow of its own; the table has room, or is full.
    pub(super) new: Option<Room>,
    /// What they differ by, where they are.
    pub(super) vary: Vary,
    pub(super) answer: i32,
    /// Where it is addressed to afterwards.
    pub(super) lands: SocketAddr,
}

#[derive(Clone, Copy)]
pub(super) enum Vary {
    /// The source port: all between the same two ends.
    Port = 1,
    /// The source address.
    Ends = 2,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Room {
    Free,
    /// Measured last: established flows of other rows are evicted, too.
    Full,
}

impl Case {
    /// Every packet of it is an event.
    pub(super) fn is_told(&self) -> bool {
        self.new.is_some() || self.answer == DROP || self.id == "refused-rst"
    }

    pub(super) fn is_xdp(&self) -> bool {
        self.program.starts_with("xdp_")
    }
}

pub(super) fn at(text: &str) -> SocketAddr {
    text.parse().expect("a socket address")
}

pub(super) fn cases() -> Vec<Case> {
    let pod = SocketAddr::new(Pod::A1.address(V4), 40000);
    let backend = SocketAddr::new(Pod::B1.address(V4), 8080);
    let (client, vip) = (SocketAddr::new(Place::Client.address(V4), 50000), SocketAddr::new(VIP.of(V4), 80));
    let (cluster_ip, stranger) = (at(CLUSTER_IP), at("10.128.0.11:22"));
    let new_client = SocketAddr::new(client.ip(), 1);
    let case = |id, what, (program, device), frame, (answer, lands)| Case {
        id,
        what,
        program,
        device,
        frame,
        new: None,
        vary: Vary::Port,
        answer,
        lands,
    };
    let (from_pod, from_wire) = (("from_pod", "tpa1"), ("from_wire", plane::UPLINK));
    let driver = ("xdp_from_wire", plane::UPLINK);
    let tcp = Frame::tcp;
    vec![
        case(
            "pod-clusterip-est",
            "pod to ClusterIP to remote pod, established",
            from_pod,
            tcp(pod, cluster_ip, ACK),
            (REDIRECT, backend),
        ),
        Case {
            new: Some(Room::Free),
            ..case(
                "pod-clusterip-new",
                "the same, new flow, table with room",
                from_pod,
                tcp(pod, cluster_ip, SYN),
                (REDIRECT, backend),
            )
        },
        case(
            "lb-snat-tc-est",
            "client to LoadBalancer to remote pod with SNAT, established",
            from_wire,
            tcp(client, vip, ACK),
            (REDIRECT, backend),
        ),
        case(
            "no-service-tc",
            "a packet that concerns no service",
            from_wire,
            tcp(client, stranger, ACK),
            (NEXT, stranger),
        ),
        case(
            "lb-snat-xdp-est",
            "client to LoadBalancer to remote pod with SNAT, in the driver",
            driver,
            tcp(client, vip, ACK),
            (TRANSMIT, backend),
        ),
        case(
            "no-service-xdp",
            "a packet that concerns no service, in the driver",
            driver,
            tcp(client, stranger, ACK),
            (PASS, stranger),
        ),
        case(
            "pod-clusterip-reply",
            "ClusterIP's answer into the pod, established",
            from_wire,
            tcp(backend, pod, ACK),
            (REDIRECT, pod),
        ),
        case(
            "pod-clusterip-udp-est",
            "pod to ClusterIP over UDP, established",
            from_pod,
            Frame::udp(pod, cluster_ip),
            (REDIRECT, backend),
        ),
        case(
            "refused-rst",
            "no endpoints: answered by a reset",
            from_pod,
            tcp(pod, at(REFUSED), SYN),
            (REDIRECT, pod),
        ),
        Case {
            new: Some(Room::Free),
            ..case(
                "lb-snat-tc-new",
                "client to LoadBalancer, new flow, table with room",
                from_wire,
                tcp(new_client, vip, SYN),
                (REDIRECT, backend),
            )
        },
        Case {
            new: Some(Room::Full),
            ..case(
                "pod-clusterip-new-full",
                "pod to ClusterIP, new flow, full table evicts",
                from_pod,
                tcp(pod, cluster_ip, SYN),
                (REDIRECT, backend),
            )
        },
    ]
}
