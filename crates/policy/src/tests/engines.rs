//! Manifests with lines; explain, simulate, diff, matrix, lint, suggest.

use model::{
    Protocol,
    policy::{L4, Verdict},
};
use serde_json::json;

use super::world::{labels, tcp, udp};
use crate::{
    diff::diff,
    explain::explain,
    lint::{Lint, lint},
    manifest,
    matrix::matrix,
    simulate::{self, Recorded},
    suggest::suggest,
    world::World,
};

const POLICIES: &str = "\
# The shop's policies.
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress:
    - from:
        - podSelector: {matchLabels: {role: frontend}}
      ports:
        - port: 80
    - from:
        - ipBlock: {cidr: 192.0.2.0/24}
      ports:
        - {port: 443}
---
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: no-smtp}
spec:
  tier: Admin
  priority: 10
  subject: {namespaces: {}}
  egress:
    - name: mail
      action: Deny
      to: [{networks: [0.0.0.0/0]}]
      protocols: [{tcp: {destinationPort: {number: 25}}}]
";

fn shop() -> World {
    let mut world = World::default()
        .with_pod("shop/web", "app=web", "10.0.1.1", "http=80")
        .with_pod("shop/front", "app=front,role=frontend", "10.0.1.2", "")
        .with_pod("shop/other", "app=other,role=other", "10.0.1.3", "");
    let troubles = manifest::read(&mut world, "shop.yaml", POLICIES);
    assert_eq!(troubles, []);
    world
}

#[test]
fn an_explanation_names_the_policy_and_the_line() {
    let world = shop();
    let allowed = explain(&world, &world.connection("shop/front", "shop/web", tcp(80))).expect("decided");
    assert_eq!(allowed.judgement.verdict(), Verdict::Allow);
    let text = allowed.to_string();
    assert!(text.contains("ingress to shop/web: allowed: NetworkPolicy tier: NetworkPolicy shop/web ingress[0] (shop.yaml:8)"), "{text}");
    let mail = explain(&world, &world.connection("shop/front", "203.0.113.9", tcp(25))).expect("decided");
    assert!(
        mail.to_string().contains(r#"ClusterNetworkPolicy no-smtp egress[0] "mail" (shop.yaml:25)"#),
        "{mail}"
    );
}

#[test]
fn a_denial_names_what_the_nearest_rules_lack() {
    let world = shop();
    let explained = explain(&world, &world.connection("shop/front", "shop/web", tcp(8080))).expect("decided");
    let nearest = explained.judgement.ingress.as_ref().expect("a pod").nearest();
    assert_eq!(nearest[0].rule.rule, Some(0), "the wrong port is nearer than the wrong peer");
    let text = explained.to_string();
    assert!(text.contains("port: 8080/TCP is not 80/TCP"), "{text}");
    let other = explain(&world, &world.connection("shop/other", "shop/web", tcp(80))).expect("decided");
    assert!(other.to_string().contains("peer: pod shop/other is not role=frontend"), "{other}");
}

#[test]
fn what_cannot_be_decided_says_why() {
    let world = shop().with_pod("shop/twin", "", "10.0.1.1", "");
    let why = world.party("10.0.1.1".parse().expect("address")).expect_err("two of them");
    assert_eq!(why.to_string(), "cannot decide: address 10.0.1.1 belongs to pods shop/twin and shop/web");
}

#[test]
fn an_unknown_field_closes_its_rule_and_is_reported_with_its_line() {
    let text = POLICIES.replace("{role: frontend}}", "{role: frontend}, matchTaste: [sweet]}");
    let mut world = shop();
    let troubles = manifest::read(&mut world, "x.yaml", &text);
    let told: Vec<_> = troubles.iter().map(ToString::to_string).collect();
    assert_eq!(told.len(), 1);
    let field = "x.yaml:9: unknown field spec.ingress[0].from[0].podSelector.matchTaste: ";
    assert!(told[0].starts_with(field), "{told:?}");
    super::world::denied(&world, "shop/front", "shop/web", tcp(80));
    super::world::allowed(&world, "192.0.2.7", "shop/web", tcp(443));
    let text = POLICIES.replace("action: Deny", "action: Accept\n      unless: raining");
    let mut world = shop().with_policy("shop/deny", json!({"podSelector": {}, "policyTypes": ["Egress"]}));
    assert_eq!(manifest::read(&mut world, "x.yaml", &text).len(), 1);
    super::world::denied(&world, "shop/front", "203.0.113.9", tcp(25));
}

#[test]
fn a_broken_document_hides_no_other() {
    let mut world = World::default();
    let troubles = manifest::read(&mut world, "x.yaml", &format!("a: [\n---\n{POLICIES}"));
    assert_eq!((troubles.len(), world.network_policies.len()), (1, 1));
    let lines =
        world.network_policies.values().next().and_then(|written| written.lines.clone()).expect("lines");
    assert_eq!(lines.rules.values().copied().collect::<Vec<_>>(), [10, 14]);
}

#[test]
fn a_simulation_finds_what_a_policy_would_break_and_open() {
    let before = shop();
    let after = before.clone().with_policy(
        "shop/web",
        json!({"podSelector": {"matchLabels": {"app": "web"}},
            "ingress": [{"from": [{"podSelector": {"matchLabels": {"role": "other"}}}], "ports": [{"port": 80}]}]}),
    );
    let simulation = simulate::everything(&before, &after);
    let named = |moved: &[simulate::Moved]| {
        let text = |m: &simulate::Moved| format!("{} {}", m.connection.source, m.connection.l4);
        moved
            .iter()
            .filter(|m| !m.connection.source.to_string().starts_with("192"))
            .map(text)
            .collect::<Vec<_>>()
    };
    assert_eq!(named(&simulation.newly_denied), ["shop/front (10.0.1.2) 80/TCP"]);
    assert_eq!(named(&simulation.newly_allowed), ["shop/other (10.0.1.3) 80/TCP"]);
    assert!(simulation.newly_denied.iter().any(|m| m.connection.source.to_string().starts_with("192.0.2.")));
    assert!(simulate::everything(&before, &before).is_quiet());
}

#[test]
fn recorded_flows_are_judged_with_the_labels_of_then() {
    let before = shop();
    let after = before.clone().with_policy(
        "shop/web",
        json!({"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [{"from": [{"podSelector": {"matchLabels": {"v": "2"}}}]}]}),
    );
    let connection = before.connection("shop/front", "shop/web", tcp(80));
    let now = simulate::recorded(&before, &after, &[connection.clone().into()]);
    assert_eq!((now.newly_denied.len(), now.newly_allowed.len()), (1, 0));
    let then = Some([labels("kubernetes.io/metadata.name=shop"), labels("role=frontend,v=2")]);
    let recorded = Recorded { connection, labels: [then, None] };
    assert!(simulate::recorded(&before, &after, &[recorded]).is_quiet());
}

#[test]
fn a_difference_is_in_policies_and_in_connections() {
    let before = shop();
    let mut after = World::default();
    assert_eq!(manifest::read(&mut after, "new.yaml", &POLICIES.replace("port: 80", "port: 8080")), []);
    after.cluster_network_policies.clear();
    let found = diff(&before, &after);
    let names =
        |set: &std::collections::BTreeSet<_>| set.iter().map(ToString::to_string).collect::<Vec<String>>();
    assert_eq!(names(&found.changed), ["NetworkPolicy shop/web"]);
    assert_eq!(names(&found.removed), ["ClusterNetworkPolicy no-smtp"]);
    assert!(found.added.is_empty() && found.only_before.is_empty());
    assert!(!found.connections.newly_denied.is_empty() && !found.connections.newly_allowed.is_empty());
    let same = diff(&before, &before);
    assert!(same.changed.is_empty() && same.connections.is_quiet());
}

#[test]
fn a_matrix_is_a_table_and_a_picture() {
    let matrix = matrix(&shop(), tcp(80));
    let text = matrix.to_string();
    let signs: Vec<_> = text.lines().skip(1).map(|line| line.rsplit(' ').next().expect("signs")).collect();
    assert_eq!(signs, ["#..", ".#X", "..#"], "{text}");
    let svg = matrix.to_svg();
    assert_eq!((svg.matches("<rect").count(), svg.matches("denied").count()), (9, 1));
}

#[test]
fn lint_finds_what_was_hardly_meant() {
    let world = shop()
        .with_pod("kube-system/dns", "k8s-app=kube-dns", "10.0.9.1", "dns=53/UDP")
        .with_pod("kube-system/local", "k8s-app=node-local-dns", "10.0.9.2", "")
        .with_policy("shop/a", json!({"podSelector": {}, "egress": []}))
        .with_policy("shop/b", json!({"podSelector": {"matchLabels": {"app": "gone"}}}))
        .with_policy(
            "shop/c",
            json!({"podSelector": {"matchLabels": {"app": "front"}}, "policyTypes": ["Egress"],
            "egress": [{"to": [{"ipBlock": {"cidr": "10.0.1.0/24"}}], "ports": [{"port": "nope"}]}]}),
        )
        .with_policy("shop/d", json!({"podSelector": {}, "ingress": [{"from": [{}]}]}));
    let found = lint(&world);
    let of = |name: &str| {
        found
            .iter()
            .filter(|f| f.policy.name == name)
            .map(|f| f.lint)
            .collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(of("a"), [Lint::EgressWithoutType].into());
    assert_eq!(of("b"), [Lint::SelectsNothing].into());
    let c = [Lint::UnknownPortName, Lint::BlockOverPods, Lint::DnsBlocked, Lint::NodeLocalDnsBlocked];
    assert_eq!(of("c"), c.into());
    assert_eq!(of("d"), [Lint::Invalid].into());
    assert_eq!(lint(&shop()), []);
}

#[test]
fn suggested_policies_allow_what_was_seen_and_nothing_else() {
    let world = World::default()
        .with_namespace("shop", "")
        .with_pod("shop/web-1", "app=web,pod-template-hash=1", "10.0.1.1", "")
        .with_pod("shop/web-2", "app=web,pod-template-hash=2", "10.0.1.2", "")
        .with_pod("shop/db", "app=db", "10.0.1.3", "")
        .with_pod("kube-system/dns", "k8s-app=kube-dns", "10.0.9.1", "");
    let seen = [
        world.connection("shop/web-1", "shop/db", tcp(5432)),
        world.connection("shop/web-2", "kube-system/dns", udp(53)),
        world.connection("192.0.2.7", "shop/web-1", tcp(80)),
        world.connection("shop/web-1", "shop/db", L4::Other),
    ];
    let suggestion = suggest(&world, "shop", &seen);
    let names: Vec<_> = suggestion.policies.iter().filter_map(|p| p.metadata.name.as_deref()).collect();
    assert_eq!(names, ["allow-db", "allow-web"]);
    assert_eq!(suggestion.blocked, [seen[3].clone()]);
    let mut after = world.clone();
    suggestion.policies.iter().for_each(|policy| after.set_network_policy(policy.clone(), None));
    for connection in &seen[..3] {
        let judged = explain(&after, connection).expect("decided").judgement;
        assert_eq!(judged.verdict(), Verdict::Allow, "{connection:?}");
    }
    super::world::allowed(&after, "shop/web-2", "shop/db", tcp(5432));
    super::world::denied(&after, "shop/db", "shop/web-1", tcp(80));
    super::world::denied(&after, "shop/web-1", "shop/db", L4::Port(Protocol::Udp, 5432));
}
