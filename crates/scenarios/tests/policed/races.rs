//! Policies that change while everybody asks. Facts L5, L8 and L9; the oracle is who says what is right.

use model::{Family, Plane, Protocol};
use scenarios::{
    places::Node,
    planes::Setting,
    policed::{Listens, Mesh, Published, ask},
};
use serde_json::{Value, json};

use super::{
    PATIENCE, WEB,
    load::{Load, denied_and_then_fenced, places},
    name,
};

/// Open to everybody.
const OPEN: Listens = (Protocol::Udp, 9090);
const SERVERS: [(&str, [u8; 2]); 2] = [("web", [1, 2]), ("side", [3, 4])];

fn from(role: &str) -> Value {
    json!({"podSelector": {"matchLabels": {"role": role}}})
}

/// Two pods that serve friends, and a port for everybody; `more`: further rules.
fn policy(mesh: &mut Mesh, policy: &str, more: &[Value]) {
    let mut rules =
        vec![json!({"from": [from("friend")]}), json!({"ports": [{"protocol": "UDP", "port": OPEN.1}]})];
    rules.extend(more.iter().cloned());
    mesh.policy(&name(policy), json!({"podSelector": {"matchLabels": {"app": "web"}}, "ingress": rules}));
}

/// web and side serve on different nodes; friend may, foe and foe2 may not, turn may or may not.
fn mesh(plane: Plane) -> Mesh {
    // Room for all that the load opens.
    let mut mesh = Mesh::new(Setting { flows: 1 << 18, ..Setting::usual(plane) });
    let pods = [
        ("web", Node::B, "app", "web"),
        ("side", Node::A, "app", "web"),
        ("friend", Node::A, "role", "friend"),
        ("foe", Node::A, "role", "foe"),
        ("foe2", Node::B, "role", "foe"),
        ("turn", Node::A, "role", "foe"),
    ];
    for (number, (pod, node, key, value)) in pods.into_iter().enumerate() {
        mesh.start(&name(pod), node, 11 + number as u8, &[(key, value)]);
    }
    for (server, numbers) in SERVERS {
        mesh.listen(&name(server), &[(Protocol::Tcp, WEB), (Protocol::Udp, WEB), OPEN]);
        for (number, protocol) in numbers.into_iter().zip([Protocol::Tcp, Protocol::Udp]) {
            let port = (protocol, WEB);
            mesh.publish(Published { number, port, target: WEB, outside: None }, &[name(server)]);
        }
    }
    policy(&mut mesh, "web", &[]);
    mesh.program();
    mesh
}

/// What is programmed counts from then on: turn is served, or not one of its packets arrives.
fn settled(mesh: &Mesh, round: u64, server: &str, allowed: bool) {
    let (_, numbers) = SERVERS.into_iter().find(|(name, _)| *name == server).expect("a server");
    let (turn, server) = (name("turn"), name(server));
    let at = places(mesh, &server, &numbers, Protocol::Udp);
    let client = mesh.client(&turn, false);
    for family in Family::ALL {
        let l4 = model::policy::L4::Port(Protocol::Udp, WEB);
        assert_eq!(mesh.allows(&turn, &server, family, l4), allowed);
    }
    if allowed {
        client.run(|| {
            for at in &at {
                assert!(ask(*at, Protocol::Udp, round, PATIENCE), "round {round}: {at} was lost");
            }
        });
    } else {
        let open = mesh.at(&server, Family::V4, OPEN.1);
        denied_and_then_fenced(&client, &at, round, open);
        assert_eq!(mesh.served(&server).asked((Protocol::Udp, WEB), round), 0, "round {round}");
    }
}

fn label(mesh: &mut Mesh, pod: &str, key: &str, value: &str) {
    let labels = &mut mesh.world.pods.get_mut(&name(pod)).expect("a pod").labels;
    *labels = [(key.to_owned(), value.to_owned())].into();
}

/// As peer and as subject. Those whose labels do not change are served or kept out all along.
fn l5_labels_change_under_load(plane: Plane) {
    let mut mesh = mesh(plane);
    let friends = Load::start(&mesh, &["friend"], &[], &SERVERS);
    let foes = Load::start(&mesh, &[], &["foe", "foe2"], &SERVERS[..1]);
    let rounds = if plane == Plane::Ebpf { 150 } else { 50 };
    for round in 1..=rounds {
        let peer = round % 2 == 0;
        for step in [1, 0] {
            let allowed = step == 1;
            let round = round * 2 + step;
            match peer {
                true => label(&mut mesh, "turn", "role", if allowed { "friend" } else { "foe" }),
                false => label(&mut mesh, "side", "app", if allowed { "free" } else { "web" }),
            }
            mesh.program();
            settled(&mesh, round, "side", allowed);
        }
    }
    friends.finish();
    foes.finish();
}

/// The rules of a round; turn is allowed in even ones.
fn rules(round: u64) -> Vec<Value> {
    let turn = json!({"from": [from("foe")], "ports": [{"protocol": "UDP", "port": WEB, "endPort": u64::from(WEB) + round % 5}]});
    let others = json!({"from": [from(&format!("nobody-{}", round % 7)), {"namespaceSelector": {"matchLabels": {"team": "t"}}}]});
    let block = json!({"from": [
        {"ipBlock": {"cidr": "10.20.0.0/16", "except": ["10.20.0.0/17", "10.20.128.0/17"]}},
        {"ipBlock": {"cidr": format!("192.0.{}.0/24", round % 3)}}]});
    let mut rules = match round % 3 {
        0 => vec![others, block],
        1 => vec![block],
        _ => vec![],
    };
    if round.is_multiple_of(2) {
        rules.insert(0, turn);
    }
    rules
}

/// What old and new allow is never dropped, what both deny never passes; also where the policy that allows is another one.
fn l8_updates_during_a_flood(plane: Plane) {
    let mut mesh = mesh(plane);
    for foe in ["foe", "foe2"] {
        label(&mut mesh, foe, "role", "never");
    }
    mesh.program();
    let load = Load::start(&mesh, &["friend"], &["foe", "foe2"], &SERVERS);
    for round in 1..=1000 {
        let (now, before) = if round % 8 < 4 { ("web", "other") } else { ("other", "web") };
        mesh.world.network_policies.remove(&name(before));
        policy(&mut mesh, now, &rules(round));
        mesh.program();
        if round % 5 < 2 {
            settled(&mesh, round, "web", round.is_multiple_of(2));
        }
    }
    load.finish();
}

/// Agents go, what is to be true changes, and others come: nobody who is kept out gets in meanwhile, nobody else loses anything.
fn l9_planes_restart_under_load(plane: Plane) {
    let mut mesh = mesh(plane);
    let load = Load::start(&mesh, &["friend"], &["foe", "foe2"], &SERVERS);
    for round in 1..=6 {
        let role = if round % 2 == 0 { "foe" } else { "friend" };
        mesh.restart(|mesh| {
            settled(mesh, 100 + round, "web", round % 2 == 0);
            label(mesh, "turn", "role", role);
            mesh.world.network_policies.clear();
            policy(mesh, &format!("web-{round}"), &[json!({"from": [from("somebody")]})]);
        });
        settled(&mesh, 200 + round, "web", round % 2 == 1);
    }
    load.finish();
}

mod ebpf {
    use model::Plane::Ebpf;

    #[test]
    fn l5_labels_change_under_load() {
        super::l5_labels_change_under_load(Ebpf);
    }

    #[test]
    fn l8_updates_during_a_flood() {
        super::l8_updates_during_a_flood(Ebpf);
    }

    #[test]
    fn l9_planes_restart_under_load() {
        super::l9_planes_restart_under_load(Ebpf);
    }
}

mod iptables {
    use model::Plane::Iptables;

    #[test]
    fn l5_labels_change_under_load() {
        super::l5_labels_change_under_load(Iptables);
    }

    #[test]
    fn l9_planes_restart_under_load() {
        super::l9_planes_restart_under_load(Iptables);
    }
}
