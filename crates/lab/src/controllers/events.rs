//! Events as `kubectl describe` shows them: core/v1, one object per (involved object, reason, message), counted.
//!
//! An event that cannot be written is logged and lost: no controller depends on one.

use std::{collections::HashMap, sync::Arc};

use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use tokio::sync::Mutex;

use super::{meta::api_time, world::Kind};

/// How many different events are remembered for counting; then counting starts afresh.
const REMEMBERED: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Severity {
    Normal,
    Warning,
}

/// What happened, without the object it happened to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) severity: Severity,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

impl Note {
    pub(super) fn normal(reason: &'static str, message: impl Into<String>) -> Self {
        Self { severity: Severity::Normal, reason, message: message.into() }
    }

    pub(super) fn warning(reason: &'static str, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, reason, message: message.into() }
    }
}

#[derive(PartialEq, Eq, Hash)]
struct Same {
    uid: Option<String>,
    field_path: Option<String>,
    reason: &'static str,
    message: String,
}

struct Written {
    name: String,
    count: i32,
}

/// Writes events in the name of one component.
#[derive(Clone)]
pub(super) struct Recorder {
    client: Client,
    component: &'static str,
    host: Option<String>,
    written: Arc<Mutex<HashMap<Same, Written>>>,
}

impl Recorder {
    pub(super) fn new(client: Client, component: &'static str, host: Option<String>) -> Self {
        Self { client, component, host, written: Arc::default() }
    }

    /// Records `note` on `object`.
    pub(super) async fn record<K: Kind>(&self, object: &K, note: Note) {
        self.record_on(object.object_ref(&()), note).await;
    }

    /// Records `note` on what `involved` names (a container by its field path, for example).
    pub(super) async fn record_on(&self, involved: ObjectReference, note: Note) {
        tracing::debug!(object = ?involved.name, reason = note.reason, message = note.message, "event");
        if let Err(error) = self.write(involved, &note).await {
            tracing::warn!(reason = note.reason, %error, "event not recorded");
        }
    }

    async fn write(&self, involved: ObjectReference, note: &Note) -> kube::Result<()> {
        let namespace = involved.namespace.clone().unwrap_or_else(|| "default".to_owned());
        let api = Api::<Event>::namespaced(self.client.clone(), &namespace);
        let same = Same {
            uid: involved.uid.clone(),
            field_path: involved.field_path.clone(),
            reason: note.reason,
            message: note.message.clone(),
        };
        let now = api_time(Timestamp::now());
        let mut written = self.written.lock().await;
        if let Some(before) = written.get_mut(&same) {
            before.count += 1;
            let patch = serde_json::json!({"count": before.count, "lastTimestamp": now});
            match api.patch(&before.name, &PatchParams::default(), &Patch::Merge(patch)).await {
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                answer => return answer.map(drop),
            }
        }
        let event = self.event(involved, &namespace, note);
        let name = event.metadata.name.clone().unwrap_or_default();
        api.create(&PostParams::default(), &event).await?;
        if written.len() >= REMEMBERED {
            written.clear();
        }
        written.insert(same, Written { name, count: 1 });
        Ok(())
    }

    fn event(&self, involved: ObjectReference, namespace: &str, note: &Note) -> Event {
        let now = Timestamp::now();
        let object = involved.name.clone().unwrap_or_default();
        let severity = match note.severity {
            Severity::Normal => "Normal",
            Severity::Warning => "Warning",
        };
        Event {
            metadata: ObjectMeta {
                name: Some(format!("{object}.{:016x}", now.as_nanosecond())),
                namespace: Some(namespace.to_owned()),
                ..ObjectMeta::default()
            },
            type_: Some(severity.to_owned()),
            reason: Some(note.reason.to_owned()),
            message: Some(note.message.clone()),
            count: Some(1),
            first_timestamp: Some(api_time(now)),
            last_timestamp: Some(api_time(now)),
            source: Some(EventSource { component: Some(self.component.to_owned()), host: self.host.clone() }),
            reporting_component: Some(self.component.to_owned()),
            reporting_instance: self.host.clone(),
            involved_object: involved,
            ..Event::default()
        }
    }
}
