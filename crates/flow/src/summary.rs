//! The last column of a flow's line: what the packet or message was. Never says what was not seen.

use model::told::Traffic;

use crate::{
    event::{End, Flow, L4, TcpFlags},
    proto::flow::{Dns, Http, L7FlowType, Layer7, layer7::Record},
};

/// As Hubble fills `Summary`; empty where nothing is known. What Hubble has no field for comes behind: that a flow ended,
/// and how much it was.
pub fn summary(flow: &Flow) -> String {
    let end = match flow.rare().end {
        None => return of_packet(flow),
        Some(End { traffic: None }) => "ended".to_owned(),
        Some(End { traffic: Some(Traffic { packets, bytes }) }) => {
            format!("ended: {packets} packets, {bytes} bytes")
        }
    };
    match of_packet(flow) {
        packet if packet.is_empty() => end,
        packet => format!("{packet}; {end}"),
    }
}

fn of_packet(flow: &Flow) -> String {
    match (flow.l7(), flow.l4) {
        (Some(l7), _) => of_l7(l7),
        (None, L4::Tcp { flags, .. }) if flags != TcpFlags::default() => format!("TCP Flags: {flags}"),
        // A socket was translated: there is no packet yet.
        (None, L4::Tcp { .. }) => "TCP".into(),
        (None, L4::Udp { .. }) => "UDP".into(),
        (None, L4::Sctp { .. }) => "SCTP".into(),
        (None, L4::IcmpV4 { kind, code }) => format!("ICMPv4 {}", icmp_v4(kind, code)),
        (None, L4::IcmpV6 { kind, code }) => format!("ICMPv6 {}", icmp_v6(kind, code)),
        (None, L4::Vrrp) => "VRRP".into(),
        (None, L4::Igmp) => "IGMP".into(),
        (None, L4::Unknown) => String::new(),
    }
}

impl std::fmt::Display for TcpFlags {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut separator = "";
        for (flag, name) in Self::ALL {
            if self.contains(flag) {
                write!(f, "{separator}{name}")?;
                separator = ", ";
            }
        }
        Ok(())
    }
}

fn of_l7(l7: &Layer7) -> String {
    match &l7.record {
        Some(Record::Dns(dns)) => of_dns(dns, l7.r#type()),
        Some(Record::Http(http)) => of_http(http, l7),
        Some(Record::Kafka(kafka)) => format!("Kafka {} topic {}", kafka.api_key, kafka.topic),
        None => String::new(),
    }
}

fn of_http(http: &Http, l7: &Layer7) -> String {
    let request = format!("{} {}", http.method, http.url);
    match l7.r#type() {
        // What it answers was not seen.
        L7FlowType::Response if http.method.is_empty() => format!("{} {}", http.protocol, http.code),
        L7FlowType::Response => {
            let milliseconds = l7.latency_ns / 1_000_000;
            format!("{} {} {milliseconds}ms ({request})", http.protocol, http.code)
        }
        L7FlowType::Request | L7FlowType::Sample | L7FlowType::UnknownL7Type => {
            format!("{} {request}", http.protocol)
        }
    }
}

fn of_dns(dns: &Dns, kind: L7FlowType) -> String {
    let types = dns.qtypes.join(",");
    if kind != L7FlowType::Response {
        return format!("DNS Query {} {types}", dns.query);
    }
    let mut parts = Vec::new();
    if dns.rcode != 0 {
        parts.push(format!("RCode: {}", rcode(dns.rcode)));
    }
    if !dns.ips.is_empty() {
        parts.push(format!("\"{}\"", dns.ips.join(",")));
    }
    if !dns.cnames.is_empty() {
        parts.push(format!("CNAMEs: \"{}\"", dns.cnames.join(",")));
    }
    parts.push(format!("TTL: {}", dns.ttl));
    let mut source = dns.observation_source.clone();
    if let Some(first) = source.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    format!("DNS Answer {} ({source} {} {types})", parts.join(" "), dns.query)
}

/// RFC 1035 and 2136, in the words that Hubble's parser has for them.
pub(crate) fn rcode(code: u32) -> String {
    let name = match code {
        1 => "Format Error",
        2 => "Server Failure ",
        3 => "Non-Existent Domain",
        4 => "Not Implemented",
        5 => "Query Refused",
        6 => "Name Exists when it should not",
        7 => "RR Set Exists when it should not",
        8 => "RR Set that should exist does not",
        9 => "Server Not Authoritative for zone",
        10 => "Name not contained in zone",
        _ => return code.to_string(),
    };
    name.into()
}

/// RFC 792.
fn icmp_v4(kind: u8, code: u8) -> String {
    let unreachable = ["Net", "Host", "Protocol", "Port", "FragmentationNeeded", "SourceRoutingFailed"];
    let name = match kind {
        0 => "EchoReply",
        3 => match unreachable.get(usize::from(code)) {
            Some(what) => return format!("DestinationUnreachable({what})"),
            None => return format!("DestinationUnreachable(Code: {code})"),
        },
        4 => "SourceQuench",
        5 => return format!("Redirect(Code: {code})"),
        8 => "EchoRequest",
        9 => "RouterAdvertisement",
        10 => "RouterSolicitation",
        11 if code == 0 => "TimeExceeded(TTLExceeded)",
        11 => "TimeExceeded(FragmentReassemblyTimeExceeded)",
        12 => "ParameterProblem",
        13 => "TimestampRequest",
        14 => "TimestampReply",
        _ => return format!("{kind}({code})"),
    };
    name.into()
}

/// RFC 4443 and 4861.
fn icmp_v6(kind: u8, code: u8) -> String {
    let unreachable =
        ["NoRouteToDst", "AdminProhibited", "BeyondScopeOfSrc", "Address", "Port", "SrcAddressFailedPolicy"];
    let name = match kind {
        1 => match unreachable.get(usize::from(code)) {
            Some(what) => return format!("DestinationUnreachable({what})"),
            None => return format!("DestinationUnreachable(Code: {code})"),
        },
        2 => "PacketTooBig",
        3 if code == 0 => "TimeExceeded(HopLimitExceeded)",
        3 => "TimeExceeded(FragmentReassemblyTimeExceeded)",
        4 => "ParameterProblem",
        128 => "EchoRequest",
        129 => "EchoReply",
        133 => "RouterSolicitation",
        134 => "RouterAdvertisement",
        135 => "NeighborSolicitation",
        136 => "NeighborAdvertisement",
        137 => "Redirect",
        _ => return format!("{kind}({code})"),
    };
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tcp_flags_are_named_in_hubbles_order() {
        let flags = TcpFlags::FIN.with(TcpFlags::ACK);
        assert_eq!(flags.to_string(), "ACK, FIN");
        assert_eq!(TcpFlags::ACK.with(TcpFlags::SYN).to_string(), "SYN, ACK");
        assert_eq!(TcpFlags::PSH.with(TcpFlags::ACK).to_string(), "ACK, PSH");
    }

    #[test]
    fn dns_questions_and_answers() {
        let dns = Dns {
            query: "name.".into(),
            qtypes: vec!["A".into()],
            ips: vec!["1.2.3.4".into()],
            ttl: 30,
            observation_source: "proxy".into(),
            ..Dns::default()
        };
        assert_eq!(of_dns(&dns, L7FlowType::Request), "DNS Query name. A");
        assert_eq!(of_dns(&dns, L7FlowType::Response), r#"DNS Answer "1.2.3.4" TTL: 30 (Proxy name. A)"#);
        let missing = Dns { ips: vec![], rcode: 3, ..dns };
        assert_eq!(
            of_dns(&missing, L7FlowType::Response),
            "DNS Answer RCode: Non-Existent Domain TTL: 30 (Proxy name. A)"
        );
    }

    #[test]
    fn http_requests_and_responses() {
        let http = Http {
            method: "GET".into(),
            url: "http://nginx/".into(),
            protocol: "HTTP/1.1".into(),
            code: 200,
            ..Http::default()
        };
        let l7 = |kind: L7FlowType| Layer7 {
            r#type: kind.into(),
            latency_ns: 1_900_000,
            record: Some(Record::Http(http.clone())),
        };
        assert_eq!(of_l7(&l7(L7FlowType::Request)), "HTTP/1.1 GET http://nginx/");
        assert_eq!(of_l7(&l7(L7FlowType::Response)), "HTTP/1.1 200 1ms (GET http://nginx/)");
    }
}
