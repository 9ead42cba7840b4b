//! What a lab still waits for, in words; `None` when nothing. Reads only.

use std::{collections::BTreeSet, io, time::Duration};

use dataplane::ServiceRow;
use k8s_openapi::{
    List, ListableResource,
    api::{
        apps::v1::Deployment,
        core::v1::{Event, Node, Pod, PodIP, Service},
        discovery::v1::{Endpoint, EndpointSlice},
    },
};
use kube::ResourceExt as _;
use model::{Generation, TrafficPolicy};
use serde::{Deserialize, de::DeserializeOwned};

use crate::{
    edge::{EdgeStatus, Health, TargetPool},
    http,
    lab::Lab,
    up::Failure,
};

const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";
const ANSWER: Duration = Duration::from_secs(5);

/// An agent that does not answer yet, a relay that does not listen, a node that takes no pods yet: pods would all go to the others.
pub(crate) fn agents(lab: &Lab) -> Result<Option<String>, Failure> {
    let status = lab.status()?;
    if let Some(node) = status.nodes.iter().find(|node| !node.agent.ready) {
        return Ok(Some(format!("the agent of {}", node.name)));
    }
    if status.relay.is_some_and(|relay| !relay.process.ready) {
        return Ok(Some("the relay".to_owned()));
    }
    let nodes = list::<Node>(lab, "/api/v1/nodes")?;
    let is_ready = |name: &str| nodes.iter().any(|node| node.name_any() == name && node_ready(node));
    let waiting = status.nodes.iter().find(|node| !is_ready(&node.name));
    Ok(waiting.map(|node| format!("node {}: not ready", node.name)))
}

/// A pod that is not ready, a Service without its address or without its ready pods.
pub(crate) fn workloads(lab: &Lab) -> Result<Option<String>, Failure> {
    let (deployments, pods, services) = (
        list::<Deployment>(lab, "/apis/apps/v1/deployments")?,
        list::<Pod>(lab, "/api/v1/pods")?,
        list::<Service>(lab, "/api/v1/services")?,
    );
    let pending = deployments.iter().find_map(deployment).or_else(|| pods.iter().find_map(pod));
    if let Some(pending) = pending.or_else(|| services.iter().find_map(service)) {
        return Ok(Some(pending));
    }
    let serving = serving(&list(lab, SLICES)?);
    Ok(services.iter().find_map(|service| endpoints(service, &pods, &serving)))
}

/// A node that has not programmed everything, a target pool without a node that takes traffic.
pub(crate) fn nodes(lab: &Lab) -> Result<Option<String>, Failure> {
    let EdgeStatus { target_pools, .. } = lab.edge_status()?;
    let serving = serving(&list(lab, SLICES)?);
    let serves =
        |pool: &TargetPool| serving.contains(&(pool.service.namespace.clone(), pool.service.name.clone()));
    for node in &lab.topology().nodes {
        let answer = |path| match lab.agent_get(&node.name, path) {
            Err(error) if error.is_late() => Ok(None),
            answer => answer.map(Some),
        };
        let (Some(agent), Some(services)) = (answer("/v1/status")?, answer("/v1/services")?) else {
            // It answers between two writes, and one that writes many rules takes longer than an answer may.
            return Ok(Some(format!("{} to answer", node.name)));
        };
        let agent: Programmed = serde_json::from_slice(&agent)?;
        let services: Vec<ServiceRow> = serde_json::from_slice(&services)?;
        if let Some(what) = unprogrammed(&agent, &services, &target_pools, serves) {
            return Ok(Some(format!("{} to program {what}", node.name)));
        }
    }
    Ok(target_pools.iter().find_map(|pool| self::pool(pool, serves(pool))))
}

/// What is read of an agent's `GET /v1/status`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Programmed {
    waiting_for: Option<String>,
    generation: Generation,
    programmed: Generation,
    objects: Objects,
}

#[derive(Debug, Deserialize)]
struct Objects {
    pending: usize,
    failed: usize,
    refused: usize,
}

/// What an agent has still to program. An object that it reports as failed is not waited for.
fn unprogrammed(
    agent: &Programmed,
    services: &[ServiceRow],
    pools: &[TargetPool],
    serves: impl Fn(&TargetPool) -> bool,
) -> Option<String> {
    if let Some(what) = &agent.waiting_for {
        return Some(format!("anything: it waits for {what}"));
    }
    if agent.generation != agent.programmed || agent.objects.pending > 0 {
        return Some(format!("generation {} (now {})", agent.generation.0, agent.programmed.0));
    }
    let known = |pool: &TargetPool| {
        // Under policy Local a node may have no backend for outsiders.
        let complete = |row: &ServiceRow| {
            row.policy == TrafficPolicy::Local || !row.backends.is_empty() || !serves(pool)
        };
        services.iter().any(|row| row.frontend.ip() == pool.ip_address && complete(row))
    };
    let missing = pools.iter().find(|pool| !known(pool));
    let excused = agent.objects.failed + agent.objects.refused > 0;
    missing.filter(|_| !excused).map(|pool| format!("{} for {}", pool.ip_address, pool.service))
}

/// The newest warning event: what a wait that took too long may have waited for.
pub(crate) fn warning(lab: &Lab) -> Option<String> {
    let mut events = list::<Event>(lab, "/api/v1/events").ok()?;
    events.retain(|event| event.type_.as_deref() == Some("Warning"));
    let event = events.into_iter().max_by_key(|event| event.metadata.resource_version.clone())?;
    let object = event.involved_object;
    let name = [object.kind, object.namespace, object.name].map(Option::unwrap_or_default).join(" ");
    Some(format!("{name}: {}", event.message.unwrap_or_default()))
}

fn deployment(deployment: &Deployment) -> Option<String> {
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let status = deployment.status.clone().unwrap_or_default();
    let seen = status.observed_generation >= deployment.metadata.generation;
    let ready = status.ready_replicas.unwrap_or(0);
    let name = title("Deployment", deployment);
    (!seen || ready < wanted).then(|| format!("{name}: {ready} of {wanted} pods ready"))
}

fn node_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

fn pod(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref();
    if status.and_then(|status| status.phase.as_deref()) == Some("Succeeded") {
        return None;
    }
    let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let ready = conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True");
    (!ready).then(|| format!("{}: not ready", title("Pod", pod)))
}

fn service(service: &Service) -> Option<String> {
    let balanced = service.spec.as_ref().and_then(|spec| spec.type_.as_deref()) == Some("LoadBalancer");
    let balancer = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let has_address =
        balancer.and_then(|balancer| balancer.ingress.as_ref()).is_some_and(|list| !list.is_empty());
    (balanced && !has_address).then(|| format!("{}: no address yet", title("Service", service)))
}

/// Namespace and name of every Service that has a ready endpoint.
fn serving(slices: &[EndpointSlice]) -> BTreeSet<(String, String)> {
    // Unset means ready (discovery/v1 EndpointConditions).
    let ready = |endpoint: &Endpoint| {
        endpoint.conditions.as_ref().and_then(|conditions| conditions.ready).unwrap_or(true)
    };
    let of = |slice: &EndpointSlice| {
        Some((slice.namespace()?, slice.labels().get("kubernetes.io/service-name")?.clone()))
    };
    slices.iter().filter(|slice| slice.endpoints.iter().any(ready)).filter_map(of).collect()
}

/// A Service that selects a pod (all are ready by now) of its family and has no ready endpoint yet.
fn endpoints(service: &Service, pods: &[Pod], serving: &BTreeSet<(String, String)>) -> Option<String> {
    let spec = service.spec.as_ref().filter(|spec| spec.type_.as_deref() != Some("ExternalName"))?;
    let selector = spec.selector.as_ref().filter(|selector| !selector.is_empty())?;
    let families = spec.ip_families.as_deref().unwrap_or_default();
    let reachable = |ip: &PodIP| families.iter().any(|family| (family == "IPv6") == ip.ip.contains(':'));
    let selected = |pod: &Pod| {
        let status = pod.status.as_ref();
        let ips = status.and_then(|status| status.pod_ips.as_deref()).unwrap_or_default();
        status.and_then(|status| status.phase.as_deref()) == Some("Running")
            && pod.metadata.deletion_timestamp.is_none()
            && pod.namespace() == service.namespace()
            && selector.iter().all(|(key, value)| pod.labels().get(key) == Some(value))
            && ips.iter().any(reachable)
    };
    let known = serving.contains(&(service.namespace()?, service.name_any()));
    (!known && pods.iter().any(selected)).then(|| format!("{}: no endpoints yet", title("Service", service)))
}

fn pool(pool: &TargetPool, serves: bool) -> Option<String> {
    let unheard = pool.members.iter().find(|member| member.last_probe.is_none());
    if let Some(member) = unheard {
        return Some(format!("the first health check of {} for {}", member.node, pool.service));
    }
    let healthy = pool.members.iter().any(|member| member.health == Health::Healthy);
    (serves && !healthy).then(|| format!("a healthy node for {}", pool.service))
}

fn title(kind: &str, object: &impl kube::Resource) -> String {
    format!("{kind} {}/{}", object.namespace().unwrap_or_default(), object.name_any())
}

fn list<K: ListableResource + DeserializeOwned>(lab: &Lab, path: &str) -> Result<Vec<K>, Failure> {
    let api = lab.status()?.api.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected))?;
    let body = http::get_tcp(api, path, ANSWER).and_then(http::Response::success)?;
    Ok(serde_json::from_slice::<List<K>>(&body)?.items)
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::*;

    #[test]
    fn a_deployment_is_waited_for_until_its_newest_state_is_ready() {
        let with = |generation, observed, ready| {
            from_value(json!({
                "metadata": { "namespace": "n", "name": "d", "generation": generation },
                "spec": { "replicas": 3, "selector": {}, "template": {} },
                "status": { "observedGeneration": observed, "readyReplicas": ready },
            }))
            .expect("a Deployment")
        };
        assert_eq!(deployment(&with(1, 1, 3)), None);
        assert_eq!(deployment(&with(1, 1, 2)).as_deref(), Some("Deployment n/d: 2 of 3 pods ready"));
        assert!(deployment(&with(2, 1, 3)).is_some());
    }

    #[test]
    fn an_agent_is_waited_for_until_it_knows_every_address() {
        let agent = |programmed, pending, failed| Programmed {
            waiting_for: None,
            generation: Generation(2),
            programmed: Generation(programmed),
            objects: Objects { pending, failed, refused: 0 },
        };
        let pool = from_value(json!({
            "name": "a1", "region": "lab", "service": { "namespace": "n", "name": "s" },
            "ipAddress": "203.0.113.1", "sessionAffinity": "NONE", "members": [], "history": [],
            "healthCheck": {
                "target": { "port": 10256, "path": "/healthz" },
                "intervalMs": 8000, "timeoutMs": 1000, "healthyThreshold": 1, "unhealthyThreshold": 3,
            },
        }));
        let pools = [pool.expect("a pool")];
        let pending = |agent: &Programmed, rows: &[ServiceRow], pools: &[TargetPool], serves| {
            unprogrammed(agent, rows, pools, |_| serves)
        };
        assert!(pending(&agent(1, 0, 0), &[], &[], true).is_some(), "an old generation");
        assert!(pending(&agent(2, 1, 0), &[], &[], true).is_some(), "an object pending");
        assert_eq!(pending(&agent(2, 0, 0), &[], &[], true), None);
        let missing = pending(&agent(2, 0, 0), &[], &pools, true);
        assert_eq!(missing.as_deref(), Some("203.0.113.1 for n/s"));
        assert_eq!(pending(&agent(2, 0, 1), &[], &pools, true), None, "a failure is reported elsewhere");
        let row = |policy: &str| {
            vec![
                from_value::<ServiceRow>(json!({
                    "service": null, "portName": "", "kind": "LoadBalancer", "frontend": "203.0.113.1:80",
                    "protocol": "TCP", "policy": policy, "backends": [], "affinitySeconds": null, "sourceRanges": [],
                }))
                .expect("a row"),
            ]
        };
        assert!(
            pending(&agent(2, 0, 0), &row("Cluster"), &pools, true).is_some(),
            "its pods are not there yet"
        );
        assert_eq!(pending(&agent(2, 0, 0), &row("Cluster"), &pools, false), None, "it has none");
        assert_eq!(pending(&agent(2, 0, 0), &row("Local"), &pools, true), None, "they are on other nodes");
    }

    #[test]
    fn a_service_is_waited_for_until_its_ready_pods_are_endpoints() {
        let service = |families: serde_json::Value, app: &str| {
            from_value::<Service>(json!({"metadata": {"namespace": "n", "name": "s"},
                "spec": {"selector": {"app": app}, "ipFamilies": families}}))
            .expect("a Service")
        };
        let pods = [from_value::<Pod>(json!({
            "metadata": {"namespace": "n", "name": "p", "labels": {"app": "web"}},
            "status": {"phase": "Running", "podIPs": [{"ip": "10.20.0.2"}]},
        }))
        .expect("a Pod")];
        let slice = |ready: bool| {
            from_value::<EndpointSlice>(json!({
                "metadata": {"namespace": "n", "name": "s-x", "labels": {"kubernetes.io/service-name": "s"}},
                "addressType": "IPv4", "endpoints": [{"addresses": ["10.20.0.2"], "conditions": {"ready": ready}}],
            }))
            .expect("a slice")
        };
        let pending =
            |service: &Service, slices: &[EndpointSlice]| endpoints(service, &pods, &serving(slices));
        let web = service(json!(["IPv4"]), "web");
        assert_eq!(pending(&web, &[]).as_deref(), Some("Service n/s: no endpoints yet"));
        assert!(pending(&web, &[slice(false)]).is_some());
        assert_eq!(pending(&web, &[slice(true)]), None);
        assert_eq!(pending(&service(json!(["IPv4"]), "other"), &[]), None, "it selects nobody");
        assert_eq!(pending(&service(json!(["IPv6"]), "web"), &[]), None, "its family has no pod");
    }

    #[test]
    fn only_load_balanced_services_are_waited_for() {
        let with = |kind: &str, ingress| {
            from_value(json!({
                "metadata": { "namespace": "n", "name": "s" },
                "spec": { "type": kind },
                "status": { "loadBalancer": { "ingress": ingress } },
            }))
            .expect("a Service")
        };
        assert_eq!(service(&with("NodePort", json!([]))), None);
        assert_eq!(service(&with("LoadBalancer", json!([]))).as_deref(), Some("Service n/s: no address yet"));
        assert_eq!(service(&with("LoadBalancer", json!([{ "ip": "203.0.113.1" }]))), None);
    }
}
