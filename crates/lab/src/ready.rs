//! What a lab still waits for, in words; `None` when nothing. Reads only.

use std::{io, time::Duration};

use k8s_openapi::{
    List, ListableResource,
    api::{
        apps::v1::Deployment,
        core::v1::{Event, Pod, Service},
    },
};
use kube::ResourceExt as _;
use serde::de::DeserializeOwned;

use crate::{
    edge::{EdgeStatus, TargetPool},
    http,
    lab::Lab,
    status::Status,
    up::Failure,
};

const ANSWER: Duration = Duration::from_secs(5);

/// An agent that does not answer yet.
pub(crate) fn agents(status: &Status) -> Option<String> {
    let node = status.nodes.iter().find(|node| !node.agent.ready)?;
    Some(format!("the agent of {}", node.name))
}

/// A pod that is not ready, a Service without its address.
pub(crate) fn workloads(lab: &Lab) -> Result<Option<String>, Failure> {
    let (deployments, pods, services) = (
        list::<Deployment>(lab, "/apis/apps/v1/deployments")?,
        list::<Pod>(lab, "/api/v1/pods")?,
        list::<Service>(lab, "/api/v1/services")?,
    );
    let pending = deployments.iter().find_map(deployment);
    Ok(pending.or_else(|| pods.iter().find_map(pod)).or_else(|| services.iter().find_map(service)))
}

/// A target pool that has not heard from every node, or from no healthy one.
pub(crate) fn nodes(lab: &Lab) -> Result<Option<String>, Failure> {
    let EdgeStatus { target_pools, .. } = lab.edge_status()?;
    Ok(target_pools.iter().find_map(pool))
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

fn pool(pool: &TargetPool) -> Option<String> {
    let unheard = pool.members.iter().find(|member| member.last_probe.is_none());
    if let Some(member) = unheard {
        return Some(format!("the first health check of {} for {}", member.node, pool.service));
    }
    let healthy = pool.members.iter().any(|member| member.health == crate::edge::Health::Healthy);
    (!healthy).then(|| format!("a healthy node for {}", pool.service))
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
