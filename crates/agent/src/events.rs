//! Events on the objects that cannot be programmed, so that `kubectl describe` tells. Best effort.

use std::collections::BTreeSet;

use cluster::Problem;
use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference, Service},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
    jiff::Timestamp,
};
use kube::{Api, Client, api::PostParams};
use model::{Port, ServiceName};
use tokio::sync::mpsc;

const COMPONENT: &str = "twinplane-agent";
/// The same event again within one run is not written again; forgotten when so many are known.
const REMEMBERED: usize = 1024;

/// Something to tell about a Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Notice {
    service: ServiceName,
    reason: &'static str,
    message: String,
}

impl Notice {
    /// A part of a Service that is not programmed. Other kinds of objects have no reader of events.
    pub(crate) fn refused(problem: &Problem, node: &str) -> Option<Self> {
        (problem.object.kind == "Service").then(|| Self {
            service: ServiceName {
                namespace: problem.object.namespace.clone(),
                name: problem.object.name.clone(),
            },
            reason: "ServiceNotProgrammed",
            message: format!("node {node}: {}: {}", problem.field, problem.reason),
        })
    }

    /// The health-check port cannot be opened.
    pub(crate) fn health_check_failed(service: &ServiceName, port: Port, error: &std::io::Error) -> Self {
        Self {
            service: service.clone(),
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
            tracing::debug!(service = %notice.service, %error, "cannot write an Event");
        }
    }
}

async fn create(client: &Client, node: &str, notice: &Notice) -> Result<(), kube::Error> {
    let ServiceName { namespace, name } = &notice.service;
    let service = Api::<Service>::namespaced(client.clone(), namespace).get_metadata(name).await?;
    let now = Timestamp::now();
    let event = Event {
        metadata: ObjectMeta {
            namespace: Some(namespace.clone()),
            generate_name: Some(format!("{name}.")),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Service".into()),
            namespace: Some(namespace.clone()),
            name: Some(name.clone()),
            uid: service.metadata.uid,
            ..ObjectReference::default()
        },
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
