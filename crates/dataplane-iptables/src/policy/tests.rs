//! What is rendered of small tables, and what is written when they change.

mod random;
#[path = "../../tests/iptables/tables.rs"]
mod tables;
mod walk;

use std::sync::Arc;

use model::{
    Endpoint, IdentityId, MacAddress, PodName, Protocol,
    policy::{
        Action, Direction, EndpointPolicy, L4Match, ListId, Mode, Peer, PeerKey, PolicyKind, PolicyName,
        PolicyTable, PortAction, PortMap, PortPrefix, PortsId, Rank, RuleId, RuleList, RuleRef, Tier,
    },
};

use super::{named::RuleNames, *};

const FRIEND: IdentityId = IdentityId::from_raw(300);

fn pod() -> PodName {
    PodName { namespace: "d".into(), name: "web".into() }
}

fn said(rank: u32, action: Action, rule: u32) -> PortAction {
    PortAction { rank: Rank(rank), action, rule: RuleId(rule) }
}

fn tcp(first: u16, last: u16) -> Vec<L4Match> {
    PortPrefix::of_range(first, last).into_iter().map(|p| L4Match::Ports(Protocol::Tcp, p)).collect()
}

/// A node with one pod, 10.20.0.2 behind tpweb; 10.20.1.2 and fd00::2 are the friend's.
fn snapshot() -> Snapshot {
    let endpoint = Endpoint {
        pod: pod(),
        addresses: vec![[10, 20, 0, 2].into()],
        interface: "tpweb".into(),
        ifindex: 3,
        mac: MacAddress::default(),
        host_mac: MacAddress::default(),
        netns: None,
        l7: model::L7Visibility::default(),
    };
    let mut snapshot = Snapshot::default();
    snapshot.endpoints.insert(pod(), Arc::new(endpoint));
    snapshot.policy.endpoints.insert(pod(), EndpointPolicy::default());
    for (net, id) in [("10.20.0.2/32", 301), ("10.20.1.2/32", 300), ("fd00::2/128", 300), ("10.9.0.1/32", 1)]
    {
        snapshot.addresses.insert(net.parse().expect("prefix"), IdentityId::from_raw(id));
    }
    snapshot
}

type Rows<'a> = &'a [(Peer, Vec<(L4Match, PortAction)>)];

fn list(snapshot: &mut Snapshot, direction: Direction, tier: Tier, rows: Rows<'_>) {
    let table = &mut snapshot.policy;
    let id = ListId(1 + direction as u32 * 3 + tier as u32);
    let isolation = (tier == Tier::NetworkPolicy).then_some(RuleId(1));
    table.lists.insert(id, RuleList { direction, tier, isolation });
    for (peer, ports) in rows {
        let ports_id = PortsId(table.ports.len() as u32 + 1);
        table.ports.insert(ports_id, Arc::new(PortMap::new(ports.iter().copied())));
        table.peers.insert(PeerKey { list: id, peer: *peer }, ports_id);
    }
    let rule = RuleRef {
        policy: PolicyName { kind: PolicyKind::NetworkPolicy, namespace: "d".into(), name: "p".into() },
        direction,
        rule: None,
        name: None,
        line: None,
    };
    table.rules.insert(RuleId(1), Arc::new(rule));
    let endpoint = table.endpoints.get_mut(&pod()).expect("the pod");
    let lists = match direction {
        Direction::Ingress => &mut endpoint.ingress,
        Direction::Egress => &mut endpoint.egress,
    };
    match tier {
        Tier::Admin => lists.admin = Some(id),
        Tier::NetworkPolicy => lists.network_policy = Some(id),
        Tier::Baseline => lists.baseline = Some(id),
    }
}

/// All chains, the generated names replaced by their order.
fn shown(snapshot: &Snapshot, family: Family, log: Option<u16>) -> String {
    let rendered = render::render(snapshot, family, log.and_then(NonZeroU16::new));
    let mut text = String::new();
    let fixed = [names::POLICY, names::POLICY_HELD].map(|name| (name, &rendered.fixed[name]));
    let lists = rendered.lists.iter().map(|(name, lines)| (name.as_str(), lines));
    for (name, lines) in fixed.into_iter().chain(lists) {
        for line in lines {
            text.push_str(&format!("{name} {line}\n"));
        }
    }
    let mut order: Vec<_> = rendered.lists.keys().filter_map(|n| Some((text.find(n.as_str())?, n))).collect();
    order.sort();
    for (number, (_, name)) in order.into_iter().enumerate() {
        text = text.replace(name.as_str(), &format!("LIST{number}"));
    }
    text
}

#[test]
fn an_isolated_pod_gets_what_its_rows_allow() {
    let mut snapshot = snapshot();
    let allow = said(0, Action::Allow, 2);
    let ports = tcp(1000, 2000).into_iter().map(|l4| (l4, allow)).collect();
    let rows = [(Peer::Identity(FRIEND), ports), (Peer::Pods, vec![(L4Match::Any, allow)])];
    list(&mut snapshot, Direction::Ingress, Tier::NetworkPolicy, &rows);
    assert_eq!(
        shown(&snapshot, Family::V4, Some(7)),
        "TWINPLANE-POLICY -m conntrack --ctstate RELATED,ESTABLISHED -m connmark ! --mark 0x100000/0x100000 -j RETURN\n\
         TWINPLANE-POLICY -j TWINPLANE-HELD\n\
         TWINPLANE-POLICY -i tpweb -o tpweb -j RETURN\n\
         TWINPLANE-POLICY -o tpweb -j LIST0\n\
         TWINPLANE-HELD -m connmark --mark 0x100000/0x100000 -m conntrack --ctdir REPLY -j NFLOG --nflog-prefix dropped_policy --nflog-group 7\n\
         TWINPLANE-HELD -m connmark --mark 0x100000/0x100000 -m conntrack --ctdir REPLY -j DROP\n\
         TWINPLANE-HELD -m connmark --mark 0x100000/0x100000 -m conntrack --ctstate RELATED -j NFLOG --nflog-prefix dropped_policy --nflog-group 7\n\
         TWINPLANE-HELD -m connmark --mark 0x100000/0x100000 -m conntrack --ctstate RELATED -j DROP\n\
         LIST0 -p tcp -m tcp --dport 1000:2000 -m set --match-set tp4-i-300 src -j RETURN\n\
         LIST0 -m set --match-set tp4-pods src -j RETURN\n\
         LIST0 -j NFLOG --nflog-prefix \"dropped_policy PEI6Z46UDVN25L6A\" --nflog-group 7\n\
         LIST0 -m comment --comment \"NetworkPolicy d/p isolates ingress\" -j DROP\n"
    );
    let sets = render::render(&snapshot, Family::V4, None).sets;
    let sizes: Vec<_> = sets.iter().map(|(name, members)| (name.to_string(), members.len())).collect();
    assert_eq!(sizes, [("tp4-i-300".to_owned(), 1), ("tp4-pods".to_owned(), 2)]);
}

/// A pass goes on behind its tier, whose end does, too; what a stronger rule says comes first.
#[test]
fn tiers_follow_each_other_and_rows_their_ranks() {
    let mut snapshot = snapshot();
    let admin = [
        (Peer::Anyone, vec![(L4Match::Any, said(9, Action::Deny, 3))]),
        (Peer::Identity(FRIEND), vec![(tcp(80, 80)[0], said(2, Action::Pass, 4))]),
    ];
    list(&mut snapshot, Direction::Egress, Tier::Admin, &admin);
    list(
        &mut snapshot,
        Direction::Egress,
        Tier::Baseline,
        &[(Peer::Pods, vec![(L4Match::Any, said(1, Action::Deny, 5))])],
    );
    let text = shown(&snapshot, Family::V6, None);
    assert_eq!(
        text.split_once("TWINPLANE-HELD -m").expect("held").0,
        "TWINPLANE-POLICY -m conntrack --ctstate RELATED,ESTABLISHED -m connmark ! --mark 0x100000/0x100000 -j RETURN\n\
         TWINPLANE-POLICY -j TWINPLANE-HELD\n\
         TWINPLANE-POLICY -p ipv6-icmp -m conntrack --ctstate UNTRACKED -j RETURN\n\
         TWINPLANE-POLICY -i tpweb -j LIST0\n"
    );
    for line in [
        "LIST0 -p tcp -m tcp --dport 80 -m set --match-set tp6-i-300 dst -g LIST1\nLIST0 -j DROP\nLIST0 -g LIST1\n",
        "LIST1 -m set --match-set tp6-pods dst -j DROP\n",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
}

#[test]
fn a_pod_of_which_nothing_is_known_gets_and_sends_nothing() {
    let mut snapshot = snapshot();
    snapshot.policy.endpoints.clear();
    let text = shown(&snapshot, Family::V4, None);
    assert!(
        text.contains("TWINPLANE-POLICY -i tpweb -j DROP\nTWINPLANE-POLICY -o tpweb -j DROP\n"),
        "{text}"
    );
}

#[test]
fn an_audited_pod_is_kept_from_nothing() {
    let mut snapshot = snapshot();
    list(&mut snapshot, Direction::Ingress, Tier::NetworkPolicy, &[]);
    snapshot.policy.endpoints.get_mut(&pod()).expect("the pod").mode = Mode::Audit;
    let text = shown(&snapshot, Family::V4, Some(7));
    let list = "LIST0 -j NFLOG --nflog-prefix \"audited_policy PEI6Z46UDVN25L6A\" --nflog-group 7\n\
                LIST0 -m comment --comment \"NetworkPolicy d/p isolates ingress\" -g TWINPLANE-AUDIT\n";
    assert!(text.ends_with(list), "{text}");
}

/// A hole in a block is one of the block's set, and what the hole's own rows say comes from its own.
#[test]
fn prefixes_are_sets_that_never_change() {
    let mut snapshot = snapshot();
    let (block, hole) = (IdentityId::local(0), IdentityId::local(1));
    snapshot.policy.prefixes.insert("10.0.0.0/8".parse().expect("prefix"), block);
    let rows = [(Peer::Identity(block), vec![(L4Match::Any, said(0, Action::Allow, 2))])];
    list(&mut snapshot, Direction::Egress, Tier::NetworkPolicy, &rows);
    let before = render::render(&snapshot, Family::V4, None).sets;
    snapshot.policy.prefixes.insert("10.1.0.0/16".parse().expect("prefix"), hole);
    let after = render::render(&snapshot, Family::V4, None).sets;
    assert_eq!((before.len(), after.len()), (1, 1));
    assert_ne!(before.keys().next(), after.keys().next());
    assert_eq!(after.values().next().map(BTreeMap::len), Some(2));
    assert!(render::render(&snapshot, Family::V6, None).sets.is_empty(), "the family has none of it");
}

#[test]
fn a_flow_is_denied_by_the_table_whatever_it_was_addressed_to() {
    use model::told::{Transport, Tuple};
    let tuple = |source: [u8; 4], destination: [u8; 4], from, to| Tuple {
        source: source.into(),
        destination: destination.into(),
        transport: Transport::Tcp { source: from, destination: to },
    };
    let mut snapshot = snapshot();
    let allow = said(0, Action::Allow, 2);
    list(
        &mut snapshot,
        Direction::Ingress,
        Tier::NetworkPolicy,
        &[(Peer::Identity(FRIEND), vec![(tcp(8080, 8080)[0], allow)])],
    );
    let denies = |client: [u8; 4], port| {
        let original = tuple(client, [10, 24, 0, 1], 40_000, 80);
        let reply = tuple([10, 20, 0, 2], client, port, 40_000);
        Judge::new(&snapshot).denies(&original, &reply)
    };
    assert!(!denies([10, 20, 1, 2], 8080), "the friend");
    assert!(denies([10, 20, 1, 2], 8081), "another port");
    assert!(denies([10, 20, 1, 3], 8080), "somebody else");
    assert!(!denies([10, 9, 0, 1], 8081), "the node");
    assert!(!denies([10, 20, 0, 2], 8081), "itself, by way of a Service");
}
