//! What is wanted of a tunnel, and what has to change for it.

use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().expect("address")
}

fn node(name: &str, addresses: &[&str], cidrs: &[&str]) -> Peer {
    Peer {
        name: name.into(),
        addresses: addresses.iter().map(|text| ip(text)).collect(),
        pod_cidrs: cidrs.iter().map(|text| text.parse().expect("prefix")).collect(),
    }
}

fn own() -> NodeConfig {
    let Peer { name, addresses, pod_cidrs } =
        node("a", &["10.128.0.11", "fd00::b"], &["10.20.0.0/24", "fd20::/64"]);
    NodeConfig { name, addresses, pod_cidrs, ..NodeConfig::default() }
}

fn state(peers: &[Peer]) -> State {
    let (state, problems) = wanted(Vxlan::default(), 1500, &own(), peers.iter());
    assert_eq!(problems, []);
    state
}

#[test]
fn network_identifiers_have_24_bits() {
    let port = Port::new(4789).expect("not 0");
    assert!(Vxlan::new((1 << 24) - 1, port).is_ok());
    for vni in [0, 1 << 24] {
        assert_eq!(Vxlan::new(vni, port), Err(InvalidVni(vni)));
    }
}

#[test]
fn ethernet_addresses_are_of_one_machine_locally_administered_and_differ() {
    let all: BTreeSet<_> = (0..1000).map(|i| mac_of(&format!("node-{i}"))).collect();
    assert_eq!(all.len(), 1000);
    assert!(all.iter().all(|mac| mac.0[0] & 3 == 2));
    assert_eq!(mac_of("a"), mac_of("a"));
}

#[test]
fn a_peer_is_a_neighbour_per_family_and_one_forwarding_entry() {
    let b = node("b", &["fd00::c", "10.128.0.12"], &["10.20.1.0/24", "fd20:0:0:1::/64"]);
    let state = state(&[b]);
    assert_eq!(state.device.local, Some(ip("10.128.0.11")));
    assert_eq!(state.mtu, 1450);
    let addresses: Vec<_> = state.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["10.20.0.0/32", "fd20::/128"]);
    let mac = mac_of("b");
    assert_eq!(state.neighbours, [(ip("10.20.1.0"), mac), (ip("fd20:0:0:1::"), mac)].into());
    assert_eq!(state.forwarding, [(mac, ip("10.128.0.12"))].into(), "in the underlay's family");
}

#[test]
fn an_ipv6_underlay_takes_more_of_the_mtu_and_a_peer_without_an_address_of_it_is_named() {
    let own = NodeConfig { addresses: vec![ip("fd00::b")], ..own() };
    let b = node("b", &["10.128.0.12"], &["10.20.1.0/24"]);
    let (state, problems) = wanted(Vxlan::default(), 1500, &own, [&b].into_iter());
    assert_eq!((state.mtu, state.forwarding.len()), (1430, 0));
    assert_eq!(problems[0].name, "b");
    assert_eq!(problems[0].reason.as_deref(), Some("no IPv6 InternalIP to send VXLAN packets to"));
}

#[test]
fn the_plan_makes_everything_and_then_nothing() {
    let state = state(&[node("b", &["10.128.0.12"], &["10.20.1.0/24"])]);
    let mac = mac_of("b");
    assert_eq!(
        plan(&state, None),
        [
            Step::Create(state.device, state.mac, 1450),
            Step::AddAddress("10.20.0.0/32".parse().expect("prefix")),
            Step::AddAddress("fd20::/128".parse().expect("prefix")),
            Step::SetUp,
            Step::SetForwarding(mac, ip("10.128.0.12")),
            Step::SetNeighbour(ip("10.20.1.0"), mac),
        ]
    );
    assert_eq!(plan(&state, Some(&state)), []);
}

#[test]
fn whatever_was_disturbed_is_put_right_and_nothing_else() {
    let b = node("b", &["10.128.0.12"], &["10.20.1.0/24"]);
    let state = state(&[b]);
    let (mac, stranger) = (mac_of("b"), MacAddress([2, 0, 0, 0, 0, 9]));
    let other = State {
        mtu: 1400,
        up: false,
        addresses: ["10.20.0.0/32", "192.0.2.1/32"].map(|net| net.parse().expect("prefix")).into(),
        neighbours: [(ip("10.20.1.0"), stranger), (ip("10.20.9.0"), mac)].into(),
        forwarding: [(mac, ip("10.128.0.99")), (stranger, ip("10.128.0.12"))].into(),
        ..state.clone()
    };
    assert_eq!(
        plan(&state, Some(&other)),
        [
            Step::SetMtu(1450),
            Step::AddAddress("fd20::/128".parse().expect("prefix")),
            Step::RemoveAddress("192.0.2.1/32".parse().expect("prefix")),
            Step::SetUp,
            Step::SetForwarding(mac, ip("10.128.0.12")),
            Step::SetNeighbour(ip("10.20.1.0"), mac),
            Step::RemoveNeighbour(ip("10.20.9.0")),
            Step::RemoveForwarding(stranger, ip("10.128.0.12")),
        ]
    );
}

#[test]
fn a_device_of_another_network_is_made_anew() {
    let state = state(&[]);
    let other =
        State { device: VxlanDevice { vni: 2, ..state.device }, addresses: BTreeSet::new(), ..state.clone() };
    let steps = plan(&state, Some(&other));
    assert_eq!(steps[..2], [Step::Remove, Step::Create(state.device, state.mac, 1450)]);
    assert!(steps.contains(&Step::SetUp));
}
