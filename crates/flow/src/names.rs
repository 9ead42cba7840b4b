//! Hubble's words for numbers: drop reasons, observation points, identities, event types. One definition each, used for
//! printing, filters and flags. Never decides what a flow is.

use crate::{
    event::PolicyMatch,
    proto::flow::{SocketTranslationPoint, TraceObservationPoint},
};

/// `event_type.type` of a flow (Cilium's monitor message types).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum EventType {
    Drop = 1,
    Capture = 3,
    Trace = 4,
    PolicyVerdict = 5,
    TraceSock = 7,
    L7 = 129,
}

impl EventType {
    /// With the name that `--type` takes.
    pub const ALL: [(Self, &'static str); 6] = [
        (Self::Capture, "capture"),
        (Self::Drop, "drop"),
        (Self::L7, "l7"),
        (Self::PolicyVerdict, "policy-verdict"),
        (Self::Trace, "trace"),
        (Self::TraceSock, "trace-sock"),
    ];

    pub fn from_number(number: i32) -> Option<Self> {
        Self::ALL.into_iter().map(|(kind, _)| kind).find(|kind| *kind as i32 == number)
    }
}

/// Points with the number of the datapath (`event_type.sub_type`) and their name.
pub const TRACE_POINTS: [(TraceObservationPoint, u8, &str); 14] = {
    use TraceObservationPoint as P;
    [
        (P::ToEndpoint, 0, "to-endpoint"),
        (P::ToProxy, 1, "to-proxy"),
        (P::ToHost, 2, "to-host"),
        (P::ToStack, 3, "to-stack"),
        (P::ToOverlay, 4, "to-overlay"),
        (P::FromEndpoint, 5, "from-endpoint"),
        (P::FromProxy, 6, "from-proxy"),
        (P::FromHost, 7, "from-host"),
        (P::FromStack, 8, "from-stack"),
        (P::FromOverlay, 9, "from-overlay"),
        (P::FromNetwork, 10, "from-network"),
        (P::ToNetwork, 11, "to-network"),
        (P::FromCrypto, 12, "from-crypto"),
        (P::ToCrypto, 13, "to-crypto"),
    ]
};

/// The name of a point by the datapath's number.
pub fn trace_point(sub_type: i32) -> String {
    TRACE_POINTS
        .iter()
        .find(|(_, number, _)| i32::from(*number) == sub_type)
        .map_or_else(|| sub_type.to_string(), |(_, _, name)| (*name).to_owned())
}

/// The name of a point; an unknown one has none.
pub fn trace_point_name(point: TraceObservationPoint) -> &'static str {
    TRACE_POINTS.iter().find(|(known, ..)| *known == point).map_or("", |(_, _, name)| *name)
}

/// The datapath's number of a point; an unknown one has none that could be told apart, so the highest.
pub fn trace_sub_type(point: TraceObservationPoint) -> i32 {
    TRACE_POINTS
        .iter()
        .find(|(known, ..)| *known == point)
        .map_or(i32::from(u8::MAX), |(_, number, _)| i32::from(*number))
}

/// `pre-xlate-fwd` and its like.
pub fn socket_point(point: SocketTranslationPoint) -> &'static str {
    use SocketTranslationPoint as P;
    match point {
        P::SockXlatePointPreDirectionFwd => "pre-xlate-fwd",
        P::SockXlatePointPostDirectionFwd => "post-xlate-fwd",
        P::SockXlatePointPreDirectionRev => "pre-xlate-rev",
        P::SockXlatePointPostDirectionRev => "post-xlate-rev",
        P::SockXlatePointUnknown => P::SockXlatePointUnknown.as_str_name(),
    }
}

impl PolicyMatch {
    const ALL: [Self; 7] =
        [Self::None, Self::L3Only, Self::L3L4, Self::L4Only, Self::All, Self::L3Proto, Self::ProtoOnly];

    /// By `policy_match_type`; one that is not known is none.
    pub fn of(number: u32) -> Self {
        Self::ALL.into_iter().find(|kind| *kind as u32 == number).unwrap_or_default()
    }

    /// As flows print it, by `policy_match_type`; a number without a name prints as itself.
    pub fn name(number: u32) -> String {
        let name = match Self::ALL.into_iter().find(|kind| *kind as u32 == number) {
            Some(Self::None) => "none",
            Some(Self::L3Only) => "L3-Only",
            Some(Self::L3L4) => "L3-L4",
            Some(Self::L4Only) => "L4-Only",
            Some(Self::All) => "all",
            Some(Self::L3Proto) => "L3-Proto",
            Some(Self::ProtoOnly) => "Proto-Only",
            None => return number.to_string(),
        };
        name.to_owned()
    }
}

/// Identities with a fixed meaning, and 0, which says that nobody looked.
pub fn reserved_identities() -> impl Iterator<Item = (u32, &'static str)> {
    let reserved = model::Reserved::ALL.into_iter().map(|reserved| (reserved.id().get(), reserved.name()));
    std::iter::once((0, "unknown")).chain(reserved)
}

/// The name of a reserved identity.
pub fn reserved_identity(number: u32) -> Option<&'static str> {
    reserved_identities().find(|(known, _)| *known == number).map(|(_, name)| name)
}

/// What a drop reason reads as in a line; a number without a text prints as itself.
pub fn drop_reason(number: u8) -> String {
    DROP_TEXTS
        .iter()
        .find(|(known, _)| *known == number)
        .map_or_else(|| number.to_string(), |(_, text)| (*text).to_owned())
}

/// Hubble's texts, which are not its enum's names (Cilium `pkg/monitor/api/drop.go`).
const DROP_TEXTS: &[(u8, &str)] = &[
    (0, "Success"),
    (2, "Invalid packet"),
    (130, "Invalid source mac"),
    (131, "Invalid destination mac"),
    (132, "Invalid source ip"),
    (133, "Policy denied"),
    (134, "Invalid packet"),
    (135, "CT: Truncated or invalid header"),
    (136, "Fragmentation needed"),
    (137, "CT: Unknown L4 protocol"),
    (138, "CT: Can't create entry from packet"),
    (139, "Unsupported L3 protocol"),
    (140, "Missed tail call"),
    (141, "Error writing to packet"),
    (142, "Unknown L4 protocol"),
    (143, "Unknown ICMPv4 code"),
    (144, "Unknown ICMPv4 type"),
    (145, "Unknown ICMPv6 code"),
    (146, "Unknown ICMPv6 type"),
    (147, "Error retrieving tunnel key"),
    (148, "Error retrieving tunnel options"),
    (149, "Invalid Geneve option"),
    (150, "Unknown L3 target address"),
    (151, "Stale or unroutable IP"),
    (152, "No matching local container found"),
    (153, "Error while correcting L3 checksum"),
    (154, "Error while correcting L4 checksum"),
    (155, "CT: Map insertion failed"),
    (156, "Invalid IPv6 extension header"),
    (157, "IP fragmentation not supported"),
    (158, "Service backend not found"),
    (160, "No tunnel/encapsulation endpoint (datapath BUG!)"),
    (161, "NAT 46/64 not enabled"),
    (162, "Reached EDT rate-limiting drop horizon"),
    (163, "Unknown connection tracking state"),
    (164, "Local host is unreachable"),
    (165, "No configuration available to perform policy decision"),
    (166, "Unsupported L2 protocol"),
    (167, "No mapping for NAT masquerade"),
    (168, "Unsupported protocol for NAT masquerade"),
    (169, "FIB lookup failed"),
    (170, "Encapsulation traffic is prohibited"),
    (171, "Invalid identity"),
    (172, "Unknown sender"),
    (173, "NAT not needed"),
    (174, "Is a ClusterIP"),
    (175, "First logical datagram fragment not found"),
    (176, "Forbidden ICMPv6 message"),
    (177, "Denied by LB src range check"),
    (178, "Socket lookup failed"),
    (179, "Socket assign failed"),
    (180, "Proxy redirection not supported for protocol"),
    (181, "Policy denied by denylist"),
    (182, "VLAN traffic disallowed by VLAN filter"),
    (183, "Incorrect VNI from VTEP"),
    (184, "Failed to update or lookup TC buffer"),
    (185, "No SID was found for the IP address"),
    (186, "SRv6 state was removed during tail call"),
    (187, "L3 translation from IPv4 to IPv6 failed (NAT46)"),
    (188, "L3 translation from IPv6 to IPv4 failed (NAT64)"),
    (189, "Authentication required"),
    (190, "No conntrack map found"),
    (191, "No nat map found"),
    (192, "Invalid ClusterID"),
    (193, "Unsupported packet protocol for DSR encapsulation"),
    (194, "No egress gateway found"),
    (195, "Traffic is unencrypted"),
    (196, "TTL exceeded"),
    (197, "No node ID found"),
    (198, "Rate limited"),
    (199, "IGMP handled"),
    (200, "IGMP subscribed"),
    (201, "Multicast handled"),
    (202, "Host datapath not ready"),
    (203, "Endpoint policy program not available"),
    (204, "No Egress IP configured"),
    (205, "Punt to proxy"),
    (206, "No device"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::flow::DropReason;

    #[test]
    fn every_drop_reason_has_a_text() {
        for number in 1..=u8::MAX {
            let named = DropReason::try_from(i32::from(number)).is_ok();
            assert!(!named || drop_reason(number) != number.to_string(), "reason {number}");
        }
        assert_eq!(drop_reason(250), "250");
    }

    #[test]
    fn points_are_known_both_ways() {
        for (point, number, name) in TRACE_POINTS {
            assert_eq!(trace_sub_type(point), i32::from(number));
            assert_eq!(trace_point(i32::from(number)), name);
        }
    }
}
