//! What explanations say, and their exit codes.

use policy::manifest;

use super::*;

const OBJECTS: &str = "\
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {nodeName: a, containers: []}
status: {podIP: 10.0.1.1}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress:
    - from:
        - podSelector: {matchLabels: {role: frontend}}
";

fn known() -> Known {
    known_of(OBJECTS)
}

fn known_of(objects: &str) -> Known {
    let mut known = Known::default();
    assert_eq!(manifest::read(&mut known.world, "shop.yaml", objects), []);
    known.services.insert("10.96.0.9".parse().expect("address"), "shop/web".into());
    known
}

fn ask(source: &str, destination: &str) -> Answer {
    ask_of(&known(), source, destination)
}

fn ask_of(known: &Known, source: &str, destination: &str) -> Answer {
    let [source, destination] = [source, destination].map(|end| end.parse::<End>().expect("an end"));
    let port: PortArg = "80".parse().expect("a port");
    answers(known, connections(&known.world, [&source, &destination], port.0, None))
}

#[test]
fn a_denial_is_explained_to_the_line() {
    let denied = ask("192.0.2.1", "shop/web");
    assert_eq!(denied.verdict, Some(Verdict::Deny));
    let text = denied.to_string();
    assert!(text.contains("isolated by NetworkPolicy shop/web"), "{text}");
    assert!(text.contains("nearest: NetworkPolicy shop/web ingress[0] (shop.yaml:13)"), "{text}");
}

#[test]
fn an_audited_denial_passes_unless_the_other_end_drops_it() {
    let audit = "labels: {app: web}, annotations: {twinplane.dev/policy: audit}";
    let mut known = known_of(&OBJECTS.replace("labels: {app: web}}", &format!("{audit}}}")));
    let audited = ask_of(&known, "192.0.2.1", "shop/web");
    assert_eq!((audited.verdict, audited.audited, audited.exit()), (Some(Verdict::Deny), true, 0));
    let text = audited.to_string();
    assert!(
        text.starts_with("192.0.2.1 -> shop/web (10.0.1.1) 80/TCP: audited (denied, and let through)"),
        "{text}"
    );
    assert!(text.contains("ingress to shop/web: audited"), "{text}");
    let client = "\
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: other}
spec: {nodeName: a, containers: []}
status: {podIP: 10.0.1.2}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: client, namespace: other}
spec: {podSelector: {}, policyTypes: [Egress]}
";
    assert_eq!(manifest::read(&mut known.world, "other.yaml", client), []);
    let denied = ask_of(&known, "other/client", "shop/web");
    assert_eq!((denied.verdict, denied.audited, denied.exit()), (Some(Verdict::Deny), false, 1));
    let of_namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: other, annotations: {twinplane.dev/policy: audit}}\n";
    assert_eq!(manifest::read(&mut known.world, "namespace.yaml", of_namespace), []);
    assert_eq!(ask_of(&known, "other/client", "shop/web").exit(), 0, "both ends are audited");
}

#[test]
fn both_families_are_told_of_where_they_differ() {
    let dual = OBJECTS.replace("podIP: 10.0.1.1", "podIPs: [{ip: 10.0.1.1}, {ip: 'fd00::1'}]");
    let block =
        dual.replace("- podSelector: {matchLabels: {role: frontend}}", "- ipBlock: {cidr: 10.0.0.0/8}");
    let client = "\
---
apiVersion: v1
kind: Pod
metadata: {name: client, namespace: shop}
spec: {nodeName: a, containers: []}
status: {podIPs: [{ip: 10.0.1.2}, {ip: 'fd00::2'}]}
";
    let differs = ask_of(&known_of(&format!("{block}{client}")), "shop/client", "shop/web");
    assert_eq!(differs.verdict, Some(Verdict::Allow));
    let other = differs.other_family.as_ref().expect("IPv6");
    assert_eq!((other.verdict, other.exit()), (Some(Verdict::Deny), 1));
    let text = differs.to_string();
    assert!(
        text.contains("in IPv6 it differs:\nshop/client (fd00::2) -> shop/web (fd00::1) 80/TCP: denied"),
        "{text}"
    );
    let same = ask_of(&known_of(&format!("{dual}{client}")), "shop/client", "shop/web");
    assert!(same.verdict == Some(Verdict::Deny) && same.other_family.is_none());
}

#[test]
fn what_cannot_be_decided_begins_so() {
    let service = ask("shop/web", "10.96.0.9").to_string();
    assert!(service.starts_with("Cannot be decided: 10.96.0.9 is the address of"), "{service}");
    assert!(service.contains("Service shop/web"), "{service}");
    assert_eq!(ask("shop/gone", "shop/web").verdict, None);
}

#[test]
fn drops_among_flows_are_explained_with_the_labels_of_then() {
    let folder = tempfile::tempdir().expect("folder");
    let lines = [
        flows::tests::line("DROPPED", 80, "other"),
        flows::tests::line("DROPPED", 80, "frontend"),
        flows::tests::line("FORWARDED", 80, "frontend"),
    ];
    let known = known();
    let recording = flows::read(&known.world, &flows::tests::file(&folder, &lines)).expect("read");
    let mut world = known.world.clone();
    let verdicts: Vec<_> = recording
        .recorded()
        .filter(|(_, tally)| tally.dropped > 0)
        .map(|(recorded, _)| simulate::judge(&mut world, &recorded).expect("decided").verdict())
        .collect();
    assert_eq!(verdicts, [Verdict::Allow, Verdict::Deny], "by label: frontend, other");
    assert_eq!(world.pods, known.world.pods, "nothing is left behind");
}
