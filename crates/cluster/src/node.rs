//! Node objects, read once: this node's own configuration, and where other nodes' pods are. Pure.

use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::core::v1 as core;
use model::Peer;

use crate::{
    address::{parse_cidr, parse_ip},
    problem::{ObjectRef, Problem, Report},
};

const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
/// Set by the cluster autoscaler on a node that it is about to remove.
const TO_BE_DELETED_TAINT: &str = "ToBeDeletedByClusterAutoscaler";

/// What of a Node object concerns a dataplane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) internal_ips: Vec<IpAddr>,
    pub(crate) external_ips: Vec<IpAddr>,
    pub(crate) pod_cidrs: Vec<IpNet>,
    pub(crate) zone: Option<String>,
    pub(crate) eligible: bool,
}

/// Reads `object`.
pub(crate) fn read(object: &core::Node) -> Option<(Node, Vec<Problem>)> {
    let name = object.metadata.name.clone()?;
    let mut report = Report::of(ObjectRef::node(&name));
    let spec = object.spec.as_ref();
    let tainted = spec
        .and_then(|spec| spec.taints.as_ref())
        .is_some_and(|taints| taints.iter().any(|taint| taint.key == TO_BE_DELETED_TAINT));
    let node = Node {
        internal_ips: addresses(object, "InternalIP", &mut report),
        external_ips: addresses(object, "ExternalIP", &mut report),
        pod_cidrs: pod_cidrs(spec, &mut report),
        zone: object.metadata.labels.as_ref().and_then(|labels| labels.get(ZONE_LABEL)).cloned(),
        eligible: object.metadata.deletion_timestamp.is_none() && !tainted,
        name,
    };
    Some((node, report.finish()))
}

impl Node {
    pub(crate) fn to_peer(&self) -> Peer {
        Peer {
            name: self.name.clone(),
            addresses: self.internal_ips.clone(),
            pod_cidrs: self.pod_cidrs.clone(),
        }
    }
}

fn addresses(object: &core::Node, kind: &str, report: &mut Report) -> Vec<IpAddr> {
    let listed = object.status.as_ref().and_then(|status| status.addresses.as_ref());
    let listed = listed.into_iter().flatten().enumerate().filter(|(_, address)| address.type_ == kind);
    listed
        .filter_map(|(i, entry)| {
            report.take(|| format!("status.addresses[{i}].address"), parse_ip(&entry.address))
        })
        .collect()
}

fn pod_cidrs(spec: Option<&core::NodeSpec>, report: &mut Report) -> Vec<IpNet> {
    let Some(spec) = spec else { return vec![] };
    let listed = spec.pod_cidrs.iter().flatten().enumerate();
    let mut all: Vec<_> = listed.map(|(i, cidr)| (format!("spec.podCIDRs[{i}]"), cidr)).collect();
    if all.is_empty() {
        all.extend(spec.pod_cidr.as_ref().map(|cidr| ("spec.podCIDR".to_owned(), cidr)));
    }
    all.retain(|(_, cidr)| !cidr.is_empty());
    all.into_iter().filter_map(|(field, cidr)| report.take(|| field, parse_cidr(cidr))).collect()
}
