//! What the load balancer is told and what it shows: forwarding rules, target pools, health checks.
//!
//! Shaped as GCE's objects of the same names. Pure data; serialised as the CLI and the traces see it.

use std::{net::IpAddr, time::Duration};

use jiff::Timestamp;
use model::{Family, Port, Protocol, ServiceName};
use serde::{Deserialize, Serialize};

/// What a service controller asks for: one load-balanced Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ForwardingRuleSpec {
    /// The Service's uid: names of rule and pool derive from it, as a cloud's do.
    pub uid: String,
    pub service: ServiceName,
    /// Each gets an address, a rule and a pool of its own.
    pub families: Vec<Family>,
    /// `spec.loadBalancerIP`, or what the Service has; the edge chooses for families that are not among them.
    pub requested_ips: Vec<IpAddr>,
    /// What is forwarded; everything else to the address is dropped at the edge.
    pub ports: Vec<(Protocol, Port)>,
    pub health_check: HealthCheckTarget,
}

/// What is asked of every node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HealthCheckTarget {
    /// 10256 for policy Cluster, the Service's healthCheckNodePort for Local.
    pub port: Port,
    pub path: String,
}

/// How health is judged. Defaults are GKE's for a target pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HealthCheckTiming {
    #[serde(rename = "intervalMs", with = "millis")]
    pub interval: Duration,
    #[serde(rename = "timeoutMs", with = "millis")]
    pub timeout: Duration,
    /// Successes in a row until a node counts as healthy.
    pub healthy_threshold: u32,
    /// Failures in a row until a node counts as unhealthy.
    pub unhealthy_threshold: u32,
}

impl Default for HealthCheckTiming {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(8),
            timeout: Duration::from_secs(1),
            healthy_threshold: 1,
            unhealthy_threshold: 3,
        }
    }
}

/// A rule as `gcloud compute forwarding-rules list` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ForwardingRule {
    pub name: String,
    pub region: String,
    pub ip_address: IpAddr,
    pub ip_protocol: Protocol,
    pub ports: Vec<Port>,
    /// `<region>/targetPools/<name>`.
    pub target: String,
    pub service: ServiceName,
}

/// A pool as `gcloud compute target-pools describe` and `get-health` show it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TargetPool {
    pub name: String,
    pub region: String,
    pub service: ServiceName,
    pub ip_address: IpAddr,
    /// Always `NONE`: the 5-tuple decides.
    pub session_affinity: String,
    pub health_check: HealthCheck,
    pub members: Vec<Member>,
    /// The latest probes, oldest first; bounded.
    pub history: Vec<Probe>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HealthCheck {
    pub target: HealthCheckTarget,
    #[serde(flatten)]
    pub timing: HealthCheckTiming,
}

/// One node of a pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    pub node: String,
    pub address: IpAddr,
    pub health: Health,
    /// When `health` last changed.
    pub since: Timestamp,
    /// The kernel sends traffic there now: it is healthy, or no member is.
    pub receives_traffic: bool,
    pub last_probe: Option<Probe>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Health {
    Healthy,
    Unhealthy,
}

/// One health-check request and what came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Probe {
    /// When the request was sent.
    pub time: Timestamp,
    pub node: String,
    /// `http://10.128.0.11:10256/healthz`.
    pub url: String,
    /// Microseconds from sending the request to having the answer, or the failure.
    pub latency_us: u64,
    #[serde(flatten)]
    pub answer: ProbeAnswer,
    /// Set where this probe changed the node's health.
    pub transition: Option<Health>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "answer")]
pub enum ProbeAnswer {
    /// An HTTP answer; only 200 is a success.
    Http { status: u16, body: String },
    /// No answer: refused, unreachable, timed out.
    Failed { error: String },
}

impl ProbeAnswer {
    pub fn is_success(&self) -> bool {
        matches!(self, Self::Http { status: 200, .. })
    }
}

/// Everything the load balancer shows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EdgeStatus {
    pub forwarding_rules: Vec<ForwardingRule>,
    pub target_pools: Vec<TargetPool>,
}

/// The name of the rule and pool of the Service with this uid: `a` and the uid without dashes, cut to 32
/// characters (Kubernetes `DefaultLoadBalancerName`, k8s.io/cloud-provider).
pub fn load_balancer_name(uid: &str) -> String {
    let digits = uid.chars().filter(|c| *c != '-');
    std::iter::once('a').chain(digits).take(32).collect()
}

mod millis {
    use std::time::Duration;

    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(value.as_millis()).unwrap_or(u64::MAX))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_a_cloud_gives() {
        let name = load_balancer_name("c973ff85-4367-44bf-a586-378db41283ef");
        assert_eq!(name, "ac973ff85436744bfa586378db41283e");
        assert_eq!(name.len(), 32);
    }
}
