//! Events on the objects that cannot be programmed, so that `kubectl describe` tells. Best effort.

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
use tokio::sync::mpsc;

const COMPONENT: &str = "twinplane-agent";
/// The same event again within one run is not written again; forgotten when so many are known.
const REMEMBERED: usize = 1024;

/// What there is something to tell about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Service,
    NetworkPolicy,
}

/// Something to tell about an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Notice {
    kind: Kind,
    object: ServiceName,
    reason: &'static str,
    message: String,
}

impl Notice {
    /// A part of an object that is not programmed. Other kinds have no reader of events, or no namespace to write them to.
    pub(crate) fn refused(problem: &Problem, node: &str) -> Option<Self> {
        let (kind, reason) = match problem.object.kind {
            "Service" => (Kind::Service, "ServiceNotProgrammed"),
            "NetworkPolicy" => (Kind::NetworkPolicy, "PolicyNotProgrammed"),
            _ => return None,
        };
        Some(Self {
            kind,
            object: ServiceName {
                namespace: problem.object.namespace.clone(),
                name: problem.object.name.clone(),
            },
            reason,
            message: format!("node {node}: {}: {}", problem.field, problem.reason),
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
    };
    let now = Timestamp::now();
    let event = Event {
        metadata: ObjectMeta {
            namespace: Some(namespace.clone()),
            generate_name: Some(format!("{name}.")),
            ..ObjectMeta::default()
        },
        involved_object,
        type_: Some("Warning".into()),
        reason: Some(notice.reason.into()),
        message: Some(notice.message.clone()),
        source: Some(EventSource { component: Some(COMPONENT.into()), host: Some(node.to_owned()) }),
        reporting_component: Some(COMPONENT.into()),
        reporting_instance: Some(node.to_owned()),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        count: Some(1),
        ..Event::default()
    };
    Api::namespaced(client.clone(), namespace).create(&PostParams::default(), &event).await.map(drop)
}

/// The object as it is now, by its UID.
async fn reference<K>(client: &Client, namespace: &str, name: &str) -> Result<ObjectReference, kube::Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let object = Api::<K>::namespaced(client.clone(), namespace).get_metadata(name).await?;
    Ok(ObjectReference {
        api_version: Some(K::api_version(&()).into_owned()),
        kind: Some(K::kind(&()).into_owned()),
        namespace: Some(namespace.to_owned()),
        name: Some(name.to_owned()),
        uid: object.metadata.uid,
        ..ObjectReference::default()
    })
}
