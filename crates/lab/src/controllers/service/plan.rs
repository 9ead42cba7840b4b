//! What a Service wants from the cloud, and what its object says when it has it. Pure.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{LoadBalancerIngress, LoadBalancerStatus, Service, ServiceSpec};
use model::{Family, Port, Protocol, ServiceName};

use crate::edge::{ForwardingRuleSpec, HealthCheckTarget};

/// As k8s.io/cloud-provider's, so that any client knows what it waits for.
pub(super) const FINALIZER: &str = "service.kubernetes.io/load-balancer-cleanup";
/// Names the pool, as `networking.gke.io/target-pool` does.
pub(super) const TARGET_POOL: &str = "lab.twinplane.dev/target-pool";

/// Where every node says whether it can take traffic (kube-proxy's `/healthz`).
const NODE_HEALTH_PORT: u16 = 10256;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// Not ours, or nothing left to do.
    Nothing,
    Balanced(ForwardingRuleSpec),
    /// Had a load balancer and must lose it.
    Cleaned,
}

/// What `service` wants.
pub(super) fn wish(service: &Service) -> Wish {
    let spec = service.spec.as_ref();
    let wanted = spec.is_some_and(|spec| {
        spec.type_.as_deref() == Some("LoadBalancer") && spec.load_balancer_class.is_none()
    });
    if wanted && service.metadata.deletion_timestamp.is_none() {
        return rule(service).map_or(Wish::Nothing, Wish::Balanced);
    }
    if has_finalizer(service) { Wish::Cleaned } else { Wish::Nothing }
}

fn rule(service: &Service) -> Option<ForwardingRuleSpec> {
    let (meta, spec) = (&service.metadata, service.spec.as_ref()?);
    let port = |number: i32| u16::try_from(number).ok().and_then(Port::new);
    let ports = spec.ports.iter().flatten().filter_map(|entry| {
        let protocol = entry.protocol.as_deref().unwrap_or("TCP").parse::<Protocol>().ok()?;
        Some((protocol, port(entry.port)?))
    });
    let local = spec.external_traffic_policy.as_deref() == Some("Local");
    // Until the API has given the Service its own port, the node's answers stand in.
    let own = spec.health_check_node_port.filter(|_| local).and_then(port);
    // A Service keeps the address it has, also when the edge starts afresh.
    let requested =
        spec.load_balancer_ip.as_deref().filter(|ip| !ip.is_empty()).and_then(|ip| ip.parse().ok());
    Some(ForwardingRuleSpec {
        uid: meta.uid.clone()?,
        service: ServiceName { namespace: meta.namespace.clone()?, name: meta.name.clone()? },
        families: families(spec),
        // Of a family's two, the first counts.
        requested_ips: requested.into_iter().chain(addresses(service)).collect(),
        ports: ports.collect(),
        health_check: HealthCheckTarget {
            port: own.or_else(|| Port::new(NODE_HEALTH_PORT))?,
            path: "/healthz".to_owned(),
        },
    })
}

/// Whether `wanted` asks for nothing but what the load balancer `has`. An address that was given is not news.
pub(super) fn same(has: &ForwardingRuleSpec, wanted: &ForwardingRuleSpec) -> bool {
    let given = |family: &Family| {
        let of = |spec: &ForwardingRuleSpec| {
            spec.requested_ips.iter().copied().find(|address| Family::of(*address) == *family)
        };
        of(wanted).or_else(|| of(has))
    };
    let requested_ips = wanted.families.iter().filter_map(given).collect();
    *has == ForwardingRuleSpec { requested_ips, ..wanted.clone() }
}

/// The families that the API server has given the Service.
fn families(spec: &ServiceSpec) -> Vec<Family> {
    let listed = spec.ip_families.iter().flatten().filter_map(|family| match family.as_str() {
        "IPv4" => Some(Family::V4),
        "IPv6" => Some(Family::V6),
        _ => None,
    });
    listed.collect()
}

/// The load-balancer addresses in the status.
pub(super) fn addresses(service: &Service) -> Vec<IpAddr> {
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = balancer.and_then(|balancer| balancer.ingress.as_ref());
    ingress.into_iter().flatten().filter_map(|entry| entry.ip.as_ref()?.parse().ok()).collect()
}

/// The Service with its status showing `addresses`.
pub(super) fn with_addresses(service: &Service, addresses: &[IpAddr]) -> Service {
    let mut written = service.clone();
    let entry = |address: &IpAddr| LoadBalancerIngress {
        ip: Some(address.to_string()),
        ip_mode: Some("VIP".to_owned()),
        ..LoadBalancerIngress::default()
    };
    let ingress = (!addresses.is_empty()).then(|| addresses.iter().map(entry).collect());
    written.status.get_or_insert_default().load_balancer = Some(LoadBalancerStatus { ingress });
    written
}

pub(super) fn has_finalizer(service: &Service) -> bool {
    service.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER)
}

pub(super) fn with_finalizer(service: &Service) -> Vec<String> {
    let mut finalizers = without_finalizer(service);
    finalizers.push(FINALIZER.to_owned());
    finalizers
}

pub(super) fn without_finalizer(service: &Service) -> Vec<String> {
    let mut finalizers = service.metadata.finalizers.clone().unwrap_or_default();
    finalizers.retain(|finalizer| finalizer != FINALIZER);
    finalizers
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn service(spec: Value, meta: Value) -> Service {
        let mut meta = meta;
        meta["name"] = "nginx".into();
        meta["namespace"] = "test".into();
        meta["uid"] = "c973ff85-4367-44bf-a586-378db41283ef".into();
        serde_json::from_value(json!({"metadata": meta, "spec": spec})).expect("service")
    }

    fn rule_of(service: &Service) -> ForwardingRuleSpec {
        match wish(service) {
            Wish::Balanced(rule) => rule,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn ports_and_health_check_follow_the_spec() {
        let ports = json!([{"port": 80}, {"port": 53, "protocol": "UDP", "name": "dns"}]);
        let cluster = rule_of(&service(json!({"type": "LoadBalancer", "ports": ports}), json!({})));
        let shown: Vec<_> =
            cluster.ports.iter().map(|(protocol, port)| format!("{protocol}/{}", port.get())).collect();
        assert_eq!(shown, ["TCP/80", "UDP/53"]);
        assert_eq!(cluster.health_check.port.get(), 10256);
        let local = json!({
            "type": "LoadBalancer", "ports": ports,
            "externalTrafficPolicy": "Local", "healthCheckNodePort": 32000,
        });
        assert_eq!(rule_of(&service(local.clone(), json!({}))).health_check.port.get(), 32000);
        let mut back = local;
        back["externalTrafficPolicy"] = "Cluster".into();
        assert_eq!(rule_of(&service(back, json!({}))).health_check.port.get(), 10256);
    }

    #[test]
    fn an_address_is_asked_for_or_kept() {
        let spec = json!({"type": "LoadBalancer", "ports": [], "ipFamilies": ["IPv4", "IPv6"]});
        assert_eq!(rule_of(&service(spec.clone(), json!({}))).requested_ips, [] as [IpAddr; 0]);
        assert_eq!(rule_of(&service(spec.clone(), json!({}))).families, [Family::V4, Family::V6]);
        let given = ["203.0.113.7", "2001:db8:203::7"].map(|text| text.parse::<IpAddr>().expect("address"));
        let kept = with_addresses(&service(spec, json!({})), &given);
        assert_eq!(rule_of(&kept).requested_ips, given);
        assert_eq!(addresses(&kept), given);
        let asked = json!({"type": "LoadBalancer", "ports": [], "loadBalancerIP": "203.0.113.9"});
        let asked = with_addresses(&service(asked, json!({})), &given);
        let first = rule_of(&asked).requested_ips[0];
        assert_eq!(first.to_string(), "203.0.113.9", "of a family's two the one asked for comes first");
    }

    #[test]
    fn the_address_that_was_given_is_no_news_and_another_is() {
        let spec = json!({"type": "LoadBalancer", "ports": [{"port": 80}], "ipFamilies": ["IPv4"]});
        let wanted = rule_of(&service(spec, json!({})));
        let given = |address: &str| vec![address.parse().expect("address")];
        let has = ForwardingRuleSpec { requested_ips: given("203.0.113.7"), ..wanted.clone() };
        assert!(same(&has, &wanted));
        assert!(same(&has, &has));
        assert!(!same(&has, &ForwardingRuleSpec { requested_ips: given("203.0.113.8"), ..wanted.clone() }));
        let both = vec![Family::V4, Family::V6];
        assert!(!same(&has, &ForwardingRuleSpec { families: both, ..wanted.clone() }));
        assert!(!same(&has, &ForwardingRuleSpec { ports: vec![], ..wanted }));
    }

    #[test]
    fn only_services_that_had_a_load_balancer_are_cleaned() {
        let finalizer = json!({"finalizers": [FINALIZER]});
        assert_eq!(wish(&service(json!({"type": "ClusterIP"}), json!({}))), Wish::Nothing);
        assert_eq!(wish(&service(json!({"type": "ClusterIP"}), finalizer.clone())), Wish::Cleaned);
        let mut deleted = finalizer;
        deleted["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        assert_eq!(wish(&service(json!({"type": "LoadBalancer"}), deleted)), Wish::Cleaned);
        let other = json!({"type": "LoadBalancer", "loadBalancerClass": "example.com/other"});
        assert_eq!(wish(&service(other, json!({}))), Wish::Nothing);
    }

    #[test]
    fn other_finalizers_stay() {
        let both = service(json!({}), json!({"finalizers": ["a/b", FINALIZER]}));
        assert_eq!(without_finalizer(&both), ["a/b"]);
        assert_eq!(with_finalizer(&both), ["a/b", FINALIZER]);
    }
}
