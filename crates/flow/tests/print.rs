//! Lines as the `hubble` command printed them for a real agent's flows.

use std::sync::Arc;

use flow::{
    event::{Endpoint, Event, Flow, Ip, L4, PolicyMatch, Seen, Service, TcpFlags, Time},
    mask::Mask,
    print::{Colour, Options, Output, Printer},
    proto::{
        flow::{
            self as wire, DropReason, LostEvent, LostEventSource, SocketTranslationPoint,
            TraceObservationPoint, TraceReason, TrafficDirection, Verdict,
        },
        observer::{GetFlowsResponse, get_flows_response::ResponseTypes},
        relay::{NodeState, NodeStatusEvent},
    },
    request::HUBBLE_MASK,
    testing::{at, syn},
};

const SYN_TIME: &str = "2025-11-23T03:55:02.934Z";

fn nanos(time: &str) -> i64 {
    let time: jiff::Timestamp = time.parse().unwrap();
    i64::try_from(time.as_nanosecond()).unwrap()
}

fn response(time: &str, flow: Flow) -> GetFlowsResponse {
    at(nanos(time), flow).to_response("vm").unwrap()
}

/// As the command asks for it: with its mask.
fn masked(response: GetFlowsResponse) -> GetFlowsResponse {
    let Some(ResponseTypes::Flow(flow)) = response.response_types else { panic!("not a flow") };
    let flow = Mask::new(HUBBLE_MASK).unwrap().apply(*flow);
    GetFlowsResponse { response_types: Some(ResponseTypes::Flow(Box::new(flow))), ..response }
}

fn line(options: Options, response: &GetFlowsResponse) -> String {
    let mut printer = Printer::new(options);
    let text = printer.print(response).unwrap();
    text.out + &text.err + &printer.finish()
}

fn endpoint(identity: u32) -> Arc<Endpoint> {
    Arc::new(Endpoint { identity, ..Endpoint::default() })
}

fn tcp(source: u16, destination: u16, flags: &[TcpFlags]) -> L4 {
    let flags = flags.iter().fold(TcpFlags::default(), |all, flag| all.with(*flag));
    L4::Tcp { source, destination, flags }
}

/// The way back of `flow`.
fn reply(flow: Flow) -> Flow {
    let ip = flow.ip.map(|ip| Ip { source: ip.destination, destination: ip.source, ..ip });
    let (source, destination) = (flow.destination, flow.source);
    Flow { ip, source, destination, is_reply: Some(true), ..flow }
}

fn to_network(flow: Flow) -> Flow {
    Flow { seen: Seen::Trace { point: TraceObservationPoint::ToNetwork, reason: TraceReason::New }, ..flow }
}

fn dropped(reason: DropReason, port: u16) -> Flow {
    Flow {
        verdict: Verdict::Dropped,
        seen: Seen::Drop(reason),
        is_reply: None,
        l4: tcp(if port == 9090 { 41046 } else { 52090 }, port, &[TcpFlags::SYN]),
        ..syn()
    }
}

#[test]
fn compact_lines() {
    let with = |source: &str, destination: &str, flow: Flow| Flow {
        ip: Some(Ip {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            source_xlated: None,
            encrypted: false,
        }),
        ..flow
    };
    let verdict = Flow {
        seen: Seen::PolicyVerdict(PolicyMatch::L3L4),
        ..Flow { seen: syn().seen, ..dropped(DropReason::PolicyDenied, 9090) }
    };
    let echo = Flow { l4: L4::IcmpV4 { kind: 8, code: 0 }, ..syn() };
    let answer = Flow { l4: L4::Udp { source: 5353, destination: 35662 }, ..reply(syn()) };
    let service = Some(Arc::new(Service { name: "echo".into(), namespace: "test".into() }));
    let from_service = Flow {
        l4: tcp(80, 46674, &[TcpFlags::SYN, TcpFlags::ACK]),
        source: endpoint(23938),
        destination: endpoint(2),
        source_service: service,
        is_reply: Some(true),
        ..to_network(with("10.244.0.11", "10.0.20.254", syn()))
    };
    for (time, flow, expected) in [
        (
            SYN_TIME,
            syn(),
            "Nov 23 03:55:02.934: 10.244.0.10:44092 (ID:27793) -> 10.244.0.11:8080 (ID:23938) to-endpoint FORWARDED (TCP Flags: SYN)",
        ),
        (
            SYN_TIME,
            Flow { l4: tcp(8080, 44092, &[TcpFlags::SYN, TcpFlags::ACK]), ..reply(syn()) },
            "Nov 23 03:55:02.934: 10.244.0.10:44092 (ID:27793) <- 10.244.0.11:8080 (ID:23938) to-endpoint FORWARDED (TCP Flags: SYN, ACK)",
        ),
        (
            "2025-11-23T03:55:02.935Z",
            Flow { l4: tcp(44092, 8080, &[TcpFlags::ACK, TcpFlags::FIN]), ..syn() },
            "Nov 23 03:55:02.935: 10.244.0.10:44092 (ID:27793) -> 10.244.0.11:8080 (ID:23938) to-endpoint FORWARDED (TCP Flags: ACK, FIN)",
        ),
        (
            "2025-11-23T03:55:02.935Z",
            verdict,
            "Nov 23 03:55:02.935: 10.244.0.10:41046 (ID:27793) <> 10.244.0.11:9090 (ID:23938) policy-verdict:none TRAFFIC_DIRECTION_UNKNOWN DENIED (TCP Flags: SYN)",
        ),
        (
            "2025-11-23T03:55:02.935Z",
            dropped(DropReason::PolicyDenied, 9090),
            "Nov 23 03:55:02.935: 10.244.0.10:41046 (ID:27793) <> 10.244.0.11:9090 (ID:23938) Policy denied DROPPED (TCP Flags: SYN)",
        ),
        (
            "2025-11-23T03:55:03.537Z",
            dropped(DropReason::PolicyDeny, 9002),
            "Nov 23 03:55:03.537: 10.244.0.10:52090 (ID:27793) <> 10.244.0.11:9002 (ID:23938) Policy denied by denylist DROPPED (TCP Flags: SYN)",
        ),
        (
            "2025-11-23T03:55:02.935Z",
            answer,
            "Nov 23 03:55:02.935: 10.244.0.10:35662 (ID:27793) <- 10.244.0.11:5353 (ID:23938) to-endpoint FORWARDED (UDP)",
        ),
        (
            "2025-11-23T03:46:01.461Z",
            echo,
            "Nov 23 03:46:01.461: 10.244.0.10 (ID:27793) -> 10.244.0.11 (ID:23938) to-endpoint FORWARDED (ICMPv4 EchoRequest)",
        ),
        (
            "2025-11-23T03:55:05.185Z",
            from_service,
            "Nov 23 03:55:05.185: 10.0.20.254:46674 (world) <- test/echo:80 (ID:23938) to-network FORWARDED (TCP Flags: SYN, ACK)",
        ),
    ] {
        let response = masked(response(time, flow));
        assert_eq!(line(Options::default(), &response), format!("{expected}\n"));
    }
}

#[test]
fn compact_lines_with_the_nodes_name() {
    let flow = Flow {
        ip: Some(Ip {
            source: "10.0.20.1".parse().unwrap(),
            destination: "10.255.255.53".parse().unwrap(),
            source_xlated: None,
            encrypted: false,
        }),
        l4: L4::Udp { source: 33860, destination: 53 },
        source: endpoint(1),
        destination: endpoint(2),
        ..to_network(syn())
    };
    let options = Options { node_name: true, ..Options::default() };
    assert_eq!(
        line(options, &masked(response("2025-11-23T04:04:49.259Z", flow))),
        "Nov 23 04:04:49.259 [vm]: 10.0.20.1:33860 (host) -> 10.255.255.53:53 (world) to-network FORWARDED (UDP)\n"
    );
}

#[test]
fn a_whole_flow_says_more() {
    let denied = Flow {
        seen: Seen::PolicyVerdict(PolicyMatch::L3L4),
        verdict: Verdict::Forwarded,
        direction: TrafficDirection::Ingress,
        ..syn()
    };
    assert!(
        line(Options::default(), &response(SYN_TIME, denied))
            .contains(" policy-verdict:L3-L4 INGRESS ALLOWED (")
    );
    let socket = Flow {
        seen: Seen::Socket {
            point: SocketTranslationPoint::SockXlatePointPreDirectionFwd,
            cookie: 1,
            cgroup: 2,
        },
        verdict: Verdict::Traced,
        l4: tcp(0, 80, &[]),
        ..syn()
    };
    assert!(
        line(Options::default(), &response(SYN_TIME, socket))
            .ends_with("10.244.0.10 (ID:27793) -> 10.244.0.11:80 (ID:23938) pre-xlate-fwd TRACED (TCP)\n")
    );
}

#[test]
fn names_and_ipv6() {
    let pod = |name: &str| {
        Arc::new(Endpoint {
            identity: 300,
            namespace: "shop".into(),
            pod: name.into(),
            ..Endpoint::default()
        })
    };
    let flow = Flow {
        ip: Some(Ip {
            source: "fd00::1".parse().unwrap(),
            destination: "fd00::2".parse().unwrap(),
            source_xlated: None,
            encrypted: false,
        }),
        source: pod("web-1"),
        destination_names: Some(Arc::new(["a.example".into(), "b.example".into()])),
        ..syn()
    };
    let response = response(SYN_TIME, flow);
    let text = line(Options::default(), &response);
    assert!(text.contains(": shop/web-1:44092 (ID:300) -> a.example,b.example:8080 (ID:23938) "), "{text}");
    let numeric = Options { ip_translation: false, ..Options::default() };
    let text = line(numeric, &response);
    assert!(text.contains(": [fd00::1]:44092 (ID:300) -> [fd00::2]:8080 (ID:23938) "), "{text}");
}

#[test]
fn what_others_sent_cannot_move_the_cursor() {
    let mut response = response(SYN_TIME, syn());
    if let Some(ResponseTypes::Flow(flow)) = &mut response.response_types {
        flow.summary = "\u{1b}[2J\nforged".into();
    }
    assert!(line(Options::default(), &response).ends_with("(^[[2J\\nforged)\n"));
}

#[test]
fn colours() {
    let options = Options { colour: Colour::Always, ..Options::default() };
    let text = line(options, &response(SYN_TIME, syn()));
    assert_eq!(
        text,
        "Nov 23 03:55:02.934: \u{1b}[36m10.244.0.10:\u{1b}[33m44092\u{1b}[0m\u{1b}[0m \u{1b}[35m(ID:27793)\u{1b}[0m -> \
         \u{1b}[36m10.244.0.11:\u{1b}[33m8080\u{1b}[0m\u{1b}[0m \u{1b}[35m(ID:23938)\u{1b}[0m to-endpoint \
         \u{1b}[32mFORWARDED\u{1b}[0m (TCP Flags: SYN)\n"
    );
    let text = line(options, &response(SYN_TIME, dropped(DropReason::PolicyDenied, 9090)));
    assert!(text.contains("Policy denied \u{1b}[31mDROPPED\u{1b}[0m "), "{text}");
}

#[test]
fn dict_and_table() {
    let first = response(SYN_TIME, syn());
    let second = response(SYN_TIME, dropped(DropReason::PolicyDenied, 9090));
    let all = |output: Output, node_name: bool| {
        let mut printer = Printer::new(Options { output, node_name, ..Options::default() });
        let mut text = String::new();
        for response in [&first, &second] {
            text += &printer.print(response).unwrap().out;
        }
        text + &printer.finish()
    };
    assert_eq!(
        all(Output::Dict, true),
        "  TIMESTAMP: Nov 23 03:55:02.934
       NODE: vm
     SOURCE: 10.244.0.10:44092
DESTINATION: 10.244.0.11:8080
       TYPE: to-endpoint
    VERDICT: FORWARDED
    SUMMARY: TCP Flags: SYN
------------
  TIMESTAMP: Nov 23 03:55:02.934
       NODE: vm
     SOURCE: 10.244.0.10:41046
DESTINATION: 10.244.0.11:9090
       TYPE: Policy denied
    VERDICT: DROPPED
    SUMMARY: TCP Flags: SYN
"
    );
    assert_eq!(
        all(Output::Tab, false),
        "TIMESTAMP             SOURCE              DESTINATION        TYPE            VERDICT     SUMMARY
Nov 23 03:55:02.934   10.244.0.10:44092   10.244.0.11:8080   to-endpoint     FORWARDED   TCP Flags: SYN
Nov 23 03:55:02.934   10.244.0.10:41046   10.244.0.11:9090   Policy denied   DROPPED     TCP Flags: SYN
"
    );
}

#[test]
fn losses() {
    let lost = LostEvent {
        source: LostEventSource::HubbleRingBuffer.into(),
        num_events_lost: 12,
        ..LostEvent::default()
    };
    let event = Event { time: Time(0), body: flow::event::Body::Lost(lost) };
    let response = event.to_response("vm").unwrap();
    assert_eq!(line(Options::default(), &response), "EVENTS LOST: HUBBLE_RING_BUFFER CPU(0) 12\n");
    let json = Options { output: Output::Jsonpb, ..Options::default() };
    assert_eq!(
        line(json, &response),
        "{\"lost_events\":{\"source\":\"HUBBLE_RING_BUFFER\",\"num_events_lost\":\"12\"},\"node_name\":\"vm\",\
         \"time\":\"1970-01-01T00:00:00Z\"}\n"
    );
}

#[test]
fn trouble_with_nodes_goes_to_stderr() {
    let status = |state: NodeState| GetFlowsResponse {
        node_name: "relay".into(),
        time: Some(prost_types::Timestamp { seconds: 0, nanos: 0 }),
        response_types: Some(ResponseTypes::NodeStatus(NodeStatusEvent {
            state_change: state.into(),
            node_names: vec!["a".into(), "b".into()],
            message: "no route".into(),
        })),
    };
    let print = |state| Printer::new(Options::default()).print(&status(state)).unwrap();
    assert_eq!(
        print(NodeState::NodeUnavailable).err,
        "Jan  1 00:00:00.000 [relay]: 2 nodes are unavailable: a, b\n"
    );
    assert_eq!(
        print(NodeState::NodeError).err,
        "Jan  1 00:00:00.000 [relay]: Error \"no route\" on 2 nodes: a, b\n"
    );
    assert_eq!(print(NodeState::NodeConnected), flow::print::Text::default());
    assert!(print(NodeState::NodeUnavailable).out.is_empty());
}

#[test]
fn dns_requests_have_their_source() {
    let l7 = wire::Layer7 {
        r#type: wire::L7FlowType::Request.into(),
        latency_ns: 0,
        record: Some(wire::layer7::Record::Dns(wire::Dns {
            query: "name.".into(),
            qtypes: vec!["A".into()],
            observation_source: "proxy".into(),
            ..wire::Dns::default()
        })),
    };
    let flow = Flow { seen: Seen::L7(Box::new(l7)), l4: L4::Udp { source: 1, destination: 53 }, ..syn() };
    let text = line(Options::default(), &response(SYN_TIME, flow));
    assert!(text.ends_with(" dns-request proxy FORWARDED (DNS Query name. A)\n"), "{text}");
}
