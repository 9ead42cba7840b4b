//! What the normaliser must set aside, and what it must never.

use proptest::prelude::*;

use super::*;

fn vocabulary(entries: &[(&str, Role)]) -> Vocabulary {
    let mut vocabulary = Vocabulary::default();
    for (value, role) in entries {
        vocabulary.learn(*value, *role);
    }
    vocabulary
}

fn normal(text: &str, style: Style, entries: &[(&str, Role)]) -> String {
    Normaliser::new(&vocabulary(entries)).text(text, style)
}

#[test]
fn two_clusters_services_differ_only_by_allocation() {
    let left = normal(
        "NAME    TYPE           CLUSTER-IP    EXTERNAL-IP   PORT(S)        AGE\n\
         nginx   LoadBalancer   10.24.9.186   203.0.113.7   80:31057/TCP   50m",
        Style::Kubectl,
        &[("10.24.9.186", Role::ClusterIp), ("203.0.113.7", Role::Vip), ("31057", Role::NodePort)],
    );
    let right = normal(
        "NAME    TYPE           CLUSTER-IP   EXTERNAL-IP     PORT(S)        AGE\n\
         nginx   LoadBalancer   10.24.8.39   203.0.113.182   80:30574/TCP   47s",
        Style::Kubectl,
        &[("10.24.8.39", Role::ClusterIp), ("203.0.113.182", Role::Vip), ("30574", Role::NodePort)],
    );
    assert_eq!(left, right);
    assert_eq!(
        left.lines().last(),
        Some("nginx LoadBalancer <cluster-ip-1> <vip-1> 80:<node-port-1>/TCP <age>")
    );
}

#[test]
fn events_ages_and_repetitions_go() {
    assert_eq!(
        normal("  Normal  EnsuredLoadBalancer  45m (x4 over 49m)  service-controller", Style::Kubectl, &[]),
        normal("  Normal  EnsuredLoadBalancer  1s  service-controller", Style::Kubectl, &[]),
    );
}

#[test]
fn an_unknown_address_is_a_difference() {
    let known = [("10.20.0.8", Role::PodAddress)];
    assert_ne!(
        normal("Endpoints: 10.20.0.8:80", Style::Kubectl, &known),
        normal("Endpoints: 10.20.0.9:80", Style::Kubectl, &known)
    );
}

#[test]
fn a_known_value_inside_another_stays() {
    let known = [("10.20.0.8", Role::PodAddress), ("80", Role::NodePort)];
    assert_eq!(
        normal("10.20.0.81 110.20.0.8 8080 1.80", Style::Plain, &known),
        "10.20.0.81 110.20.0.8 8080 1.80"
    );
}

#[test]
fn a_repetition_is_not_a_permutation() {
    let known = [("10.20.0.8", Role::PodAddress), ("10.20.0.9", Role::PodAddress)];
    let text = |list| normal(list, Style::Plain, &known);
    assert_eq!(text("10.20.0.8,10.20.0.9"), text("10.20.0.9,10.20.0.8"), "which is first is chance");
    assert_ne!(text("10.20.0.8,10.20.0.9"), text("10.20.0.8,10.20.0.8"));
}

#[test]
fn a_timeout_setting_is_no_age() {
    let probe = |text| normal(text, Style::Kubectl, &[]);
    assert_ne!(probe("timeout=1s period=8s"), probe("timeout=1s period=9s"));
    assert_ne!(normal("6s", Style::Plain, &[]), normal("7s", Style::Plain, &[]));
}

#[test]
fn on_the_wire_only_the_clients_port_goes() {
    let ports = [("10.128.0.11", Role::Node), ("31999", Role::HealthCheckNodePort)];
    let wire = |text| normal(text, Style::Wire, &ports);
    let ask = "05:50:01.123456 IP 10.128.0.1.40312 > 10.128.0.11.31999: tcp 91";
    assert_eq!(wire(ask), "<time> IP 10.128.0.1.<source-port> > <node-1>.<health-check-port-1>: tcp <bytes>");
    assert_eq!(wire(ask), wire("06:51:02.5 IP 10.128.0.1.55555 > 10.128.0.11.31999: tcp 93"));
    assert_ne!(wire(ask), wire("05:50:01.123456 IP 10.128.0.1.40312 > 10.128.0.11.10256: tcp 91"));
    assert_ne!(wire("HTTP/1.1 200 OK"), wire("HTTP/1.1 503 Service Unavailable"));
}

#[test]
fn a_health_answers_times_go_and_its_verdict_stays() {
    let answer = |updated: &str, eligible| {
        let body = format!(r#"{{"lastUpdated": "{updated}","nodeEligible": {eligible}}}"#);
        normal(&body, Style::Wire, &[])
    };
    let go = "2026-11-23 05:50:01.1234 +0000 UTC m=+12.3";
    assert_eq!(answer(go, true), answer("2026-11-23T06:00:00.5Z", true));
    assert_ne!(answer(go, true), answer(go, false));
}

#[test]
fn requests_are_compared_by_status_wait_and_who_the_client_seems_to_be() {
    let known = [("10.128.0.11", Role::Node), ("10.128.0.12", Role::Node), ("198.51.100.10", Role::Client)];
    let row = |text| normal(text, Style::Requests, &known);
    let kept = row("+   0.000 s  took    3.204 ms  200 client=198.51.100.10");
    assert_eq!(kept, "200 at once client=<client>");
    assert_eq!(kept, row("+   9.120 s  took   41.000 ms  200 client=198.51.100.10"));
    assert_ne!(kept, row("+   0.000 s  took 1003.000 ms  200 client=198.51.100.10"));
    assert_ne!(kept, row("+   0.000 s  took    3.204 ms  503 client=198.51.100.10"));
    let hidden = row("+   0.000 s  took    3.204 ms  200 client=10.128.0.11");
    assert_ne!(kept, hidden);
    assert_eq!(
        hidden,
        row("+   0.000 s  took    3.204 ms  200 client=10.128.0.12"),
        "the hash chose the node"
    );
    assert_ne!(
        row("+   0.000 s  took    3.204 ms  --- refused (curl: 7)"),
        row("+   0.000 s  took 6000.912 ms  --- timed out (curl: 28)")
    );
}

/// A value of the form its role allocates; disjoint between roles.
fn value_of(role: Role) -> BoxedStrategy<String> {
    match role {
        Role::ClusterIp => (0..16_u8, 1..255_u8).prop_map(|(a, b)| format!("10.24.{a}.{b}")).boxed(),
        Role::PodAddress => (0..2_u8, 2..255_u8).prop_map(|(a, b)| format!("10.20.{a}.{b}")).boxed(),
        Role::NodePort => (30_000..32_768_u16).prop_map(|port| port.to_string()).boxed(),
        _ => "nginx-[0-9a-f]{10}-[a-z0-9]{5}".boxed(),
    }
}

/// A text with holes, as (literal, index of the value that fills the hole behind it).
fn template() -> impl Strategy<Value = Vec<(String, usize)>> {
    prop::collection::vec(("[ :/,(=][ :/,()=A-Z\\n]{0,6}[ :/,(=]", 0..6_usize), 0..12)
}

const ROLES: [Role; 6] =
    [Role::ClusterIp, Role::PodAddress, Role::PodAddress, Role::NodePort, Role::Pod, Role::Pod];

fn values() -> impl Strategy<Value = Vec<String>> {
    let distinct = |values: &Vec<String>| {
        let set = values.iter().collect::<std::collections::BTreeSet<_>>();
        set.len() == values.len()
    };
    ROLES.map(value_of).to_vec().prop_filter("distinct", distinct)
}

fn fill(template: &[(String, usize)], values: &[String]) -> String {
    template.iter().map(|(literal, hole)| format!("{literal}{}", values[*hole])).collect()
}

fn known(values: &[String]) -> Vocabulary {
    let mut vocabulary = Vocabulary::default();
    for (value, role) in values.iter().zip(ROLES) {
        vocabulary.learn(value, role);
    }
    vocabulary
}

proptest! {
    #[test]
    fn renaming_what_was_allocated_changes_nothing(template in template(), left in values(), right in values()) {
        let (a, b) = (known(&left), known(&right));
        prop_assert_eq!(
            Normaliser::new(&a).text(&fill(&template, &left), Style::Plain),
            Normaliser::new(&b).text(&fill(&template, &right), Style::Plain)
        );
    }

    /// Filling the same holes from the same values in another pattern must show, unless it is a renaming.
    #[test]
    fn another_pattern_of_the_same_values_shows(
        literals in prop::collection::vec("[ :/,(=][ :/,()=A-Z]{0,6}[ :/,(=]", 1..12),
        left in prop::collection::vec(0..6_usize, 12),
        right in prop::collection::vec(0..6_usize, 12),
        values in values(),
    ) {
        let with = |holes: &[usize]| literals.iter().cloned().zip(holes.iter().copied()).collect::<Vec<_>>();
        let (left, right) = (with(&left), with(&right));
        let pattern = |template: &[(String, usize)]| {
            let mut first = BTreeMap::<Role, Vec<usize>>::new();
            let place = |(_, hole): &(String, usize)| {
                let seen = first.entry(ROLES[*hole]).or_default();
                let number = seen.iter().position(|known| known == hole).unwrap_or_else(|| {
                    seen.push(*hole);
                    seen.len() - 1
                });
                (ROLES[*hole], number)
            };
            template.iter().map(place).collect::<Vec<_>>()
        };
        let vocabulary = known(&values);
        let text = |template: &[(String, usize)]| Normaliser::new(&vocabulary).text(&fill(template, &values), Style::Plain);
        prop_assert_eq!(text(&left) == text(&right), pattern(&left) == pattern(&right));
    }

    #[test]
    fn normalising_twice_is_normalising_once(text in "([ -~]|\\n){0,200}", values in values(), seed in template()) {
        let vocabulary = known(&values);
        let text = format!("{text} {}", fill(&seed, &values));
        for style in [Style::Plain, Style::Kubectl, Style::Wire] {
            let once = Normaliser::new(&vocabulary).text(&text, style);
            prop_assert_eq!(&Normaliser::new(&vocabulary).text(&once, style), &once);
        }
    }

    /// A word that nobody allocated is never set aside.
    #[test]
    fn a_changed_word_shows(before in "[a-z ]{0,20}", word in "[a-z]{1,8}", other in "[a-z]{1,8}", values in values()) {
        prop_assume!(word != other);
        let vocabulary = known(&values);
        for style in [Style::Plain, Style::Kubectl, Style::Wire, Style::Requests] {
            let text = |word: &str| {
                Normaliser::new(&vocabulary).text(&format!("{before} {word} {}", values[0]), style)
            };
            prop_assert_ne!(text(&word), text(&other));
        }
    }
}
