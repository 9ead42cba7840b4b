//! How the lists of built-in kinds merge: by which member their elements are told apart. The one table behind strategic
//! merge patches and server-side apply. Never knows field types; see `ops::intake`.

use crate::resource::{Builtin, Resource, Schema};

/// How a list's elements relate to a patch's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ListKind {
    /// Replaced as a whole.
    Atomic,
    /// A set of scalars.
    Set,
    /// Objects told apart by one member in strategic merge patches, and by one or more in applies.
    Map { merge_key: &'static str, apply_keys: &'static [&'static str] },
    /// Objects merged by a key in strategic merge patches, atomic in applies.
    MergeOnly { merge_key: &'static str },
}

/// A node in the tree of typed fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Type {
    /// No built-in knowledge: objects merge member by member, lists are atomic.
    Plain,
    Object(Builtin),
    Metadata,
    ServiceSpec,
    NodeSpec,
    NodeStatus,
    PodSpec,
    PodStatus,
    Container,
    WorkloadSpec,
    Conditions,
    PodTemplate,
    ServiceStatus,
}

/// What a member of a typed object is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Field {
    pub(crate) of: Type,
    pub(crate) list: ListKind,
    /// An object that an apply owns as a whole.
    pub(crate) atomic: bool,
}

const PLAIN: Field = Field { of: Type::Plain, list: ListKind::Atomic, atomic: false };

const fn object(of: Type) -> Field {
    Field { of, ..PLAIN }
}

const fn map(merge_key: &'static str, apply_keys: &'static [&'static str], of: Type) -> Field {
    Field { of, list: ListKind::Map { merge_key, apply_keys }, ..PLAIN }
}

const fn set() -> Field {
    Field { list: ListKind::Set, ..PLAIN }
}

const fn merge_only(merge_key: &'static str) -> Field {
    Field { list: ListKind::MergeOnly { merge_key }, ..PLAIN }
}

const fn atomic() -> Field {
    Field { atomic: true, ..PLAIN }
}

const CONDITIONS: Field = map("type", &["type"], Type::Plain);

impl Type {
    /// The type of a resource's objects.
    pub(crate) fn of(resource: &Resource) -> Self {
        match resource.schema {
            Schema::Builtin(builtin) => Self::Object(builtin),
            Schema::Custom(_) => Self::Plain,
        }
    }

    /// What is known about a member. Lists of objects give the elements' type.
    pub(crate) fn field(self, name: &str) -> Field {
        match (self, name) {
            (Self::Object(_), "metadata") | (Self::PodTemplate, "metadata") => object(Type::Metadata),
            (Self::Metadata, "ownerReferences") => map("uid", &["uid"], Type::Plain),
            (Self::Metadata, "finalizers") => set(),

            (Self::Object(Builtin::Service), "spec") => object(Type::ServiceSpec),
            (Self::Object(Builtin::Service), "status") => object(Type::ServiceStatus),
            (Self::ServiceSpec, "ports") => map("port", &["port", "protocol"], Type::Plain),
            (Self::ServiceSpec, "selector") => atomic(),
            (Self::ServiceStatus, "conditions") => CONDITIONS,

            (Self::Object(Builtin::Node), "spec") => object(Type::NodeSpec),
            (Self::Object(Builtin::Node), "status") => object(Type::NodeStatus),
            (Self::NodeSpec, "podCIDRs") => set(),
            (Self::NodeStatus, "addresses") => map("type", &["type"], Type::Plain),
            (Self::NodeStatus, "conditions") => CONDITIONS,

            (Self::Object(Builtin::Namespace), "status") => object(Type::Conditions),
            (Self::Object(Builtin::ServiceCidr), "status") => object(Type::Conditions),
            (Self::Conditions, "conditions") => CONDITIONS,

            (Self::Object(Builtin::Deployment | Builtin::ReplicaSet), "spec") => object(Type::WorkloadSpec),
            (Self::Object(Builtin::Deployment | Builtin::ReplicaSet), "status") => object(Type::Conditions),
            (Self::WorkloadSpec, "template") => object(Type::PodTemplate),
            (Self::WorkloadSpec, "selector") => atomic(),
            (Self::Object(Builtin::Pod), "spec") | (Self::PodTemplate, "spec") => object(Type::PodSpec),
            (Self::Object(Builtin::Pod), "status") => object(Type::PodStatus),
            (Self::PodSpec, "containers" | "initContainers" | "ephemeralContainers") => {
                map("name", &["name"], Type::Container)
            }
            (Self::PodSpec, "volumes") => map("name", &["name"], Type::Plain),
            (Self::PodSpec, "imagePullSecrets") => map("name", &["name"], Type::Plain),
            (Self::PodSpec, "hostAliases") => map("ip", &["ip"], Type::Plain),
            (Self::PodSpec, "schedulingGates") => map("name", &["name"], Type::Plain),
            (Self::PodSpec, "nodeSelector") => atomic(),
            (Self::PodSpec, "topologySpreadConstraints") => {
                map("topologyKey", &["topologyKey", "whenUnsatisfiable"], Type::Plain)
            }
            (Self::PodStatus, "conditions") => CONDITIONS,
            (Self::PodStatus, "podIPs") => map("ip", &["ip"], Type::Plain),
            (Self::PodStatus, "hostIPs") => merge_only("ip"),
            (Self::Container, "ports") => map("containerPort", &["containerPort", "protocol"], Type::Plain),
            (Self::Container, "env") => map("name", &["name"], Type::Plain),
            (Self::Container, "volumeMounts") => map("mountPath", &["mountPath"], Type::Plain),
            (Self::Container, "volumeDevices") => map("devicePath", &["devicePath"], Type::Plain),

            (Self::Object(Builtin::ServiceAccount), "secrets") => map("name", &["name"], Type::Plain),
            (Self::Object(Builtin::ServiceAccount), "imagePullSecrets") => {
                map("name", &["name"], Type::Plain)
            }
            _ => PLAIN,
        }
    }
}
