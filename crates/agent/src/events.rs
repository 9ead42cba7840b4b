//! Events on the objects that cannot be programmed, so that `kubectl describe` tells. Best effort.
//!
//! What is wrong with a policy is the same on every node: its Event's name follows from what it says, so that it is there once.

use std::collections::BTreeSet;

use cluster::Problem;
use k8s_openapi::{
    api::{
        core::v1::{Event, EventSource, ObjectReference, Service},
        networking::v1::NetworkPolicy,
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
    jiff::Timestamp,
};
use kube::{Api, Client, Resource, api::PostParams, core::NamespaceResourceScope};
use model::{Port, ServiceName};
use policy::v1alpha2::ClusterNetworkPolicy;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

const COMPONENT: &str = "twinplane-agent";
const POLICY_REASON: &str = "PolicyNotProgrammed";
/// Where Events on objects without a namespace are.
const EVENTS_OF_CLUSTER: &str = "default";
/// Characters of an object's name in its Event's: there is room for what makes it unique.
const NAME: usize = 200;
/// The same event again within one run is not written again; forgotten when so many are known.
const REMEMBERED: usize = 1024;

/// What there is something to tell about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Service,
    NetworkPolicy,
    ClusterNetworkPolicy,
}

/// Something to tell about an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Notice {
    kind: Kind,
    object: ServiceName,
    reason: &'static str,
    message: String,
    /// All nodes have the same to tell.
    shared: bool,
}

impl Notice {
    /// A part of an object that is not programmed. Other kinds have no reader of events.
    pub(crate) fn refused(problem: &Problem, node: &str) -> Option<Self> {
        let (kind, reason) = match problem.object.kind {
            "Service" => (Kind::Service, "ServiceNotProgrammed"),
            "NetworkPolicy" => (Kind::NetworkPolicy, POLICY_REASON),
            "ClusterNetworkPolicy" => (Kind::ClusterNetworkPolicy, POLICY_REASON),
            _ => return None,
        };
        let shared = kind != Kind::Service;
        let what = format!("{}: {}", problem.field, problem.reason);
        Some(Self {
            kind,
            object: ServiceName {
                namespace: problem.object.namespace.clone(),
                name: problem.object.name.clone(),
            },
            reason,
            message: if shared { what } else { format!("node {node}: {what}") },
            shared,
        })
    }

    /// The health-check port cannot be opened.
    pub(crate) fn health_check_failed(service: &ServiceName, port: Port, error: &std::io::Error) -> Self {
        Self {
            kind: Kind::Service,
            object: service.clone(),
            reason: "FailedToStartServiceHealthcheck",
            message: format!(
                "failed to start healthcheck {service:?} on port {port}: {error}",
                service = service.to_string()
            ),
            shared: false,
        }
    }
}

/// Writes an Event for each notice, once.
pub(crate) async fn write(client: Client, node: String, mut notices: mpsc::Receiver<Notice>) {
    let mut written = BTreeSet::new();
    while let Some(notice) = notices.recv().await {
        if written.len() >= REMEMBERED {
            written.clear();
        }
        if !written.insert(notice.clone()) {
            continue;
        }
        if let Err(error) = create(&client, &node, &notice).await {
            tracing::debug!(object = %notice.object, %error, "cannot write an Event");
        }
    }
}

async fn create(client: &Client, node: &str, notice: &Notice) -> Result<(), kube::Error> {
    let ServiceName { namespace, name } = &notice.object;
    let involved_object = match notice.kind {
        Kind::Service => reference::<Service>(client, namespace, name).await?,
        Kind::NetworkPolicy => reference::<NetworkPolicy>(client, namespace, name).await?,
        Kind::ClusterNetworkPolicy => {
            let object = Api::<ClusterNetworkPolicy>::all(client.clone()).get_metadata(name).await?;
            referred::<ClusterNetworkPolicy>(name, None, object.metadata.uid)
        }
    };
    let namespace = if namespace.is_empty() { EVENTS_OF_CLUSTER } else { namespace };
    let unique =
        notice.shared.then(|| unique_name(notice, involved_object.uid.as_deref().unwrap_or_default()));
    let now = Timestamp::now();
    let event = Event {
        metadata: ObjectMeta {
            namespace: Some(namespace.to_owned()),
            generate_name: unique.is_none().then(|| format!("{name}.")),
            name: unique,
            ..ObjectMeta::default()
        },
        involved_object,
        type_: Some("Warning".into()),
        reason: Some(notice.reason.into()),
        message: Some(notice.message.clone()),
        source: Some(EventSource {
            component: Some(COMPONENT.into()),
            host: (!notice.shared).then(|| node.to_owned()),
        }),
        reporting_component: Some(COMPONENT.into()),
        reporting_instance: Some(node.to_owned()),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        count: Some(1),
        ..Event::default()
    };
    match Api::namespaced(client.clone(), namespace).create(&PostParams::default(), &event).await {
        // Another node told it.
        Err(kube::Error::Api(status)) if notice.shared && status.code == 409 => Ok(()),
        done => done.map(drop),
    }
}

/// The same for the same words about the same object.
fn unique_name(notice: &Notice, uid: &str) -> String {
    let mut hash = Sha256::new();
    for part in [uid, notice.reason, &notice.message] {
        hash.update(part);
        hash.update([0]);
    }
    let [a, b, c, d, e, f, g, h, ..]: [u8; 32] = hash.finalize().into();
    let name: String = notice.object.name.chars().take(NAME).collect();
    format!("{name}.{:016x}", u64::from_be_bytes([a, b, c, d, e, f, g, h]))
}

/// The object as it is now, by its UID.
async fn reference<K>(client: &Client, namespace: &str, name: &str) -> Result<ObjectReference, kube::Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let object = Api::<K>::namespaced(client.clone(), namespace).get_metadata(name).await?;
    Ok(referred::<K>(name, Some(namespace.to_owned()), object.metadata.uid))
}

fn referred<K: Resource<DynamicType = ()>>(
    name: &str,
    namespace: Option<String>,
    uid: Option<String>,
) -> ObjectReference {
    ObjectReference {
        api_version: Some(K::api_version(&()).into_owned()),
        kind: Some(K::kind(&()).into_owned()),
        namespace,
        name: Some(name.to_owned()),
        uid,
        ..ObjectReference::default()
    }
}
