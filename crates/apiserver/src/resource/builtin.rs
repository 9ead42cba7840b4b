//! The built-in kinds. Never says how their fields behave; see `defaulting`, `validation` and `schema`.

use std::sync::Arc;

use super::{Resource, ScalePaths, Schema};

/// A kind the server has without a CustomResourceDefinition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Builtin {
    ConfigMap,
    CustomResourceDefinition,
    Deployment,
    EndpointSlice,
    Endpoints,
    Event,
    IpAddress,
    Lease,
    LimitRange,
    Namespace,
    NetworkPolicy,
    Node,
    Pod,
    ReplicaSet,
    ResourceQuota,
    Secret,
    Service,
    ServiceAccount,
    ServiceCidr,
}

const CLUSTER: u8 = 1;
const STATUS: u8 = 2;
const SCALE: u8 = 4;

/// group, version, kind, plural, short names, categories, flags, kind of object.
type Row = (
    &'static str,
    &'static str,
    &'static str,
    &'static str,
    &'static [&'static str],
    &'static [&'static str],
    u8,
    Builtin,
);

/// Group order is the order discovery shows; the first row of a kind is its storage.
const ROWS: &[Row] = &[
    ("", "v1", "ConfigMap", "configmaps", &["cm"], &[], 0, Builtin::ConfigMap),
    ("", "v1", "Endpoints", "endpoints", &["ep"], &[], 0, Builtin::Endpoints),
    ("", "v1", "Event", "events", &["ev"], &[], 0, Builtin::Event),
    ("", "v1", "LimitRange", "limitranges", &["limits"], &[], 0, Builtin::LimitRange),
    ("", "v1", "Namespace", "namespaces", &["ns"], &[], CLUSTER | STATUS, Builtin::Namespace),
    ("", "v1", "Node", "nodes", &["no"], &[], CLUSTER | STATUS, Builtin::Node),
    ("", "v1", "Pod", "pods", &["po"], &["all"], STATUS, Builtin::Pod),
    ("", "v1", "ResourceQuota", "resourcequotas", &["quota"], &[], STATUS, Builtin::ResourceQuota),
    ("", "v1", "Secret", "secrets", &[], &[], 0, Builtin::Secret),
    ("", "v1", "ServiceAccount", "serviceaccounts", &["sa"], &[], 0, Builtin::ServiceAccount),
    ("", "v1", "Service", "services", &["svc"], &["all"], STATUS, Builtin::Service),
    (
        "apiextensions.k8s.io",
        "v1",
        "CustomResourceDefinition",
        "customresourcedefinitions",
        &["crd", "crds"],
        &["api-extensions"],
        CLUSTER | STATUS,
        Builtin::CustomResourceDefinition,
    ),
    ("apps", "v1", "Deployment", "deployments", &["deploy"], &["all"], STATUS | SCALE, Builtin::Deployment),
    ("apps", "v1", "ReplicaSet", "replicasets", &["rs"], &["all"], STATUS | SCALE, Builtin::ReplicaSet),
    ("events.k8s.io", "v1", "Event", "events", &["ev"], &[], 0, Builtin::Event),
    (
        "networking.k8s.io",
        "v1",
        "NetworkPolicy",
        "networkpolicies",
        &["netpol"],
        &[],
        0,
        Builtin::NetworkPolicy,
    ),
    ("networking.k8s.io", "v1", "IPAddress", "ipaddresses", &["ip"], &[], CLUSTER, Builtin::IpAddress),
    (
        "networking.k8s.io",
        "v1",
        "ServiceCIDR",
        "servicecidrs",
        &[],
        &[],
        CLUSTER | STATUS,
        Builtin::ServiceCidr,
    ),
    ("coordination.k8s.io", "v1", "Lease", "leases", &[], &[], 0, Builtin::Lease),
    ("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices", &[], &[], 0, Builtin::EndpointSlice),
];

/// Every built-in resource, in discovery order.
pub(super) fn resources() -> Vec<Arc<Resource>> {
    ROWS.iter().map(|row| Arc::new(resource(row))).collect()
}

fn resource(row: &Row) -> Resource {
    let (group, version, kind, plural, short_names, categories, flags, builtin) = *row;
    let strings = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
    let path = |text: &str| text.split('.').map(str::to_owned).collect();
    let storage = ROWS
        .iter()
        .find(|row| row.7 == builtin)
        .map_or_else(|| plural.to_owned(), |row| format!("{}.{}", row.3, row.0));
    Resource {
        group: group.to_owned(),
        version: version.to_owned(),
        kind: kind.to_owned(),
        plural: plural.to_owned(),
        singular: kind.to_lowercase(),
        short_names: strings(short_names),
        categories: strings(categories),
        namespaced: flags & CLUSTER == 0,
        status: flags & STATUS != 0,
        scale: (flags & SCALE != 0).then(|| ScalePaths {
            spec: path("spec.replicas"),
            status: path("status.replicas"),
            selector: Some(path("spec.selector")),
        }),
        storage: storage.into(),
        schema: Schema::Builtin(builtin),
    }
}

impl Builtin {
    /// Whether `metadata.generation` counts changes of what is wanted.
    pub(crate) const fn has_generation(self) -> bool {
        matches!(
            self,
            Self::Deployment
                | Self::ReplicaSet
                | Self::NetworkPolicy
                | Self::EndpointSlice
                | Self::CustomResourceDefinition
                | Self::Pod
        )
    }
}
