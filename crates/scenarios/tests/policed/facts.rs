//! Facts about policies that take a kernel, each by its number in the name: connections, nodes, Services.

use std::{
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use model::{Family, Plane, Protocol, TrafficPolicy};
use scenarios::{
    places::{Node, Place, To, cluster_ip},
    planes::Setting,
    policed::{Mesh, Published, ask, carries},
};
use serde_json::{Value, json};

use super::{PATIENCE, WEB, name};

/// Less than a second SYN takes.
const SILENCE: Duration = Duration::from_millis(600);
const BOTH: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];

/// web serves on node B; friend and foe are on node A.
fn mesh(plane: Plane) -> Mesh {
    let mut mesh = Mesh::new(Setting::usual(plane));
    for (pod, node, last) in [("web", Node::B, 11), ("friend", Node::A, 12), ("foe", Node::A, 13)] {
        mesh.start(&name(pod), node, last, &[("role", pod)]);
    }
    mesh.listen(&name("web"), &BOTH.map(|protocol| (protocol, WEB)));
    mesh.program();
    mesh
}

/// web gets what `from` sends it.
fn only_from(mesh: &mut Mesh, from: Value) {
    let spec = json!({"podSelector": {"matchLabels": {"role": "web"}}, "ingress": [{"from": from}]});
    mesh.policy(&name("web"), spec);
    mesh.program();
}

fn pods(role: &str) -> Value {
    json!([{"podSelector": {"matchLabels": {"role": role}}}])
}

fn nobody(mesh: &mut Mesh) {
    let spec = json!({"podSelector": {"matchLabels": {"role": "web"}}, "policyTypes": ["Ingress", "Egress"]});
    mesh.policy(&name("web"), spec);
    mesh.program();
}

fn asks(mesh: &Mesh, from: &str, to: SocketAddr, protocol: Protocol, wanted: bool) {
    let patience = if wanted { PATIENCE } else { SILENCE };
    let answered = mesh.client(&name(from), false).run(|| ask(to, protocol, 1, patience));
    assert_eq!(answered, wanted, "{from} -> {to} {protocol:?}");
}

/// What was open before there was any policy goes on, through a restart too, where it may; and stops where it may not.
fn c2_c3_open_connections_meet_a_policy(plane: Plane) {
    for family in Family::ALL {
        let mut mesh = mesh(plane);
        let at = mesh.at(&name("web"), family, WEB);
        let [mut friend, mut foe] = ["friend", "foe"].map(|pod| mesh.connect(&name(pod), at));
        assert!(carries(&mut friend, PATIENCE) && carries(&mut foe, PATIENCE));
        only_from(&mut mesh, pods("friend"));
        assert!(carries(&mut friend, PATIENCE), "opened before: {family:?}");
        assert!(!carries(&mut foe, SILENCE), "allow to deny: {family:?}");
        let role = |mesh: &mut Mesh, role: &str| {
            mesh.world.pods.get_mut(&name("foe")).expect("a pod").labels =
                [("role".into(), role.into())].into();
            mesh.program();
        };
        role(&mut mesh, "friend");
        assert!(carries(&mut foe, PATIENCE), "deny to allow: {family:?}");
        role(&mut mesh, "foe");
        assert!(!carries(&mut foe, SILENCE), "allow to deny, by its labels: {family:?}");
        mesh.restart(|_| assert!(carries(&mut friend, PATIENCE)));
        assert!(carries(&mut friend, PATIENCE), "and through a restart: {family:?}");
        role(&mut mesh, "friend");
        // What it sent is sent again ever more seldom (RFC 6298, 5.5).
        assert!(carries(&mut foe, 6 * PATIENCE), "deny to allow after a restart: {family:?}");
    }
}

/// Whoever gets a pod's address has none of its flows, though it sends from the same port.
fn c4_an_address_that_is_used_again_inherits_nothing(plane: Plane) {
    let mut mesh = mesh(plane);
    only_from(&mut mesh, pods("friend"));
    let sends = |mesh: &Mesh, from: &str, at: SocketAddr| {
        mesh.client(&name(from), false).run(|| {
            let any = if at.is_ipv4() { "0.0.0.0:5000" } else { "[::]:5000" };
            let socket = UdpSocket::bind(any).expect("bind");
            socket.connect(at).expect("connect");
            socket.set_read_timeout(Some(SILENCE)).expect("timeout");
            socket.send(b"to web..").expect("sent");
            socket.recv(&mut [0; 8]).is_ok()
        })
    };
    for family in Family::ALL {
        assert!(sends(&mesh, "friend", mesh.at(&name("web"), family, WEB)));
    }
    mesh.end(&name("friend"));
    mesh.program();
    mesh.start(&name("heir"), Node::A, 12, &[("role", "heir")]);
    mesh.program();
    for family in Family::ALL {
        assert!(!sends(&mesh, "heir", mesh.at(&name("web"), family, WEB)), "{family:?}");
    }
}

/// Of what does not fit a packet, every piece is judged as its first one.
fn c5_fragments_are_judged_as_their_datagram(plane: Plane) {
    let mut mesh = mesh(plane);
    let ports = json!([{"protocol": "UDP", "port": WEB}]);
    let spec = json!({"podSelector": {"matchLabels": {"role": "web"}},
        "ingress": [{"from": pods("friend"), "ports": ports}]});
    mesh.policy(&name("web"), spec);
    mesh.program();
    for family in Family::ALL {
        let at = mesh.at(&name("web"), family, WEB);
        for (from, wanted) in [("friend", true), ("foe", false)] {
            let answered = mesh.client(&name(from), false).run(|| {
                let any = if at.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let socket = UdpSocket::bind(any).expect("bind");
                socket.connect(at).expect("connect");
                socket.set_read_timeout(Some(if wanted { PATIENCE } else { SILENCE })).expect("timeout");
                socket.send(&[7; 4000]).expect("sent");
                socket.recv(&mut [0; 4096]).is_ok_and(|length| length == 4000)
            });
            assert_eq!(answered, wanted, "{from}: {family:?}");
        }
        let foe = mesh.address(&name("foe"), family);
        assert_eq!(mesh.served(&name("web")).by((Protocol::Udp, WEB), foe), 0);
    }
}

/// The own node, from either of its addresses, always reaches its pods; the other node is whoever its address is.
fn h1_h3_h4_the_own_node_is_exempt_and_others_are_not(plane: Plane) {
    let mut mesh = mesh(plane);
    nobody(&mut mesh);
    for (family, protocol) in
        Family::ALL.into_iter().flat_map(|family| BOTH.map(|protocol| (family, protocol)))
    {
        let at = mesh.at(&name("web"), family, WEB);
        assert!(mesh.elsewhere(Place::Host(Node::B), || ask(at, protocol, 1, PATIENCE)), "{at} {protocol:?}");
        assert!(!mesh.elsewhere(Place::Host(Node::A), || ask(at, protocol, 1, SILENCE)), "{at} {protocol:?}");
        if protocol == Protocol::Udp {
            let second = SocketAddr::new(Node::B.second_addresses().of(family), 0);
            let heard = mesh.elsewhere(Place::Host(Node::B), || {
                let socket = UdpSocket::bind(second).expect("bind");
                socket.set_read_timeout(Some(PATIENCE)).expect("timeout");
                socket.send_to(b"a probe.", at).expect("sent");
                socket.recv(&mut [0; 8]).is_ok()
            });
            assert!(heard, "{second} -> {at}");
        }
    }
}

/// By its Service a pod reaches itself, whatever isolates it.
fn v2_a_pod_reaches_itself_by_its_service(plane: Plane) {
    let mut mesh = mesh(plane);
    let service = Published { number: 1, port: (Protocol::Tcp, 80), target: WEB, outside: None };
    mesh.publish(service, &[name("web")]);
    nobody(&mut mesh);
    for family in Family::ALL {
        asks(&mesh, "web", SocketAddr::new(cluster_ip(1).of(family), 80), Protocol::Tcp, true);
        asks(&mesh, "web", mesh.at(&name("web"), family, WEB), Protocol::Tcp, true);
    }
}

/// Under Local policy a block sees the client; under Cluster policy it sees the node that masquerades, which is not exempt where
/// it is the pod's own. The iptables plane judges before sources are translated: for it this is about Local policy only.
fn v3_h2_clients_from_outside_are_judged_by_the_address_that_arrives(plane: Plane) {
    // The iptables plane asks before its node masquerades, the eBPF plane after it (docs/policy.md).
    for (policy, seen) in [(TrafficPolicy::Local, true), (TrafficPolicy::Cluster, plane == Plane::Iptables)] {
        let mut mesh = mesh(plane);
        let service = Published { number: 1, port: (Protocol::Tcp, 80), target: WEB, outside: Some(policy) };
        let node_port = service.node_port();
        mesh.publish(service, &[name("web")]);
        let block = |family| {
            let client = Place::Client.address(family);
            json!({"ipBlock": {"cidr": ipnet::IpNet::from(client).to_string()}})
        };
        for allowed in [true, false] {
            match allowed {
                true => only_from(&mut mesh, Family::ALL.into_iter().map(block).collect()),
                false => nobody(&mut mesh),
            }
            mesh.topology.route_vips(Node::B);
            for at in Family::ALL
                .into_iter()
                .flat_map(|family| [To::vip(80).of(family), To::node(Node::B, node_port).of(family)])
            {
                let wanted = allowed && seen;
                let patience = if wanted { PATIENCE } else { SILENCE };
                let answered = mesh.elsewhere(Place::Client, || ask(at, Protocol::Tcp, 1, patience));
                assert_eq!(answered, wanted, "{at} under {policy:?}, block {allowed}");
            }
        }
    }
}

super::on_both_planes! {
    c2_c3_open_connections_meet_a_policy
    c4_an_address_that_is_used_again_inherits_nothing
    c5_fragments_are_judged_as_their_datagram
    h1_h3_h4_the_own_node_is_exempt_and_others_are_not
    v2_a_pod_reaches_itself_by_its_service
    v3_h2_clients_from_outside_are_judged_by_the_address_that_arrives
}
