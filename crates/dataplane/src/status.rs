//! The programming state of one object, as the CLI and the API of the agent show it.

use model::{Generation, Snapshot};
use serde::{Deserialize, Serialize};

use crate::{Error, Key};

/// Where an object is on its way into the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ObjectState {
    /// The kernel has it.
    Programmed,
    /// On its way.
    Pending,
    /// The kernel refused it; it is tried again.
    Failed,
    /// A part of the object is invalid or taken by another one; the rest of it is programmed.
    Refused,
}

/// What became of one object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectStatus {
    /// "Service", "Pod", "Node", "EndpointSlice", "Address" or "Policy".
    pub kind: String,
    /// With namespace and port where it has one: `namespace/name:port`.
    pub name: String,
    pub state: ObjectState,
    /// Path of the field at fault, where one is.
    pub field: Option<String>,
    pub reason: Option<String>,
    /// Of the snapshot that last moved the object; 0 for one that never reached a snapshot.
    pub generation: Generation,
}

impl Key {
    /// Kind and name of the object behind the key.
    pub(crate) fn object(&self) -> (&'static str, String) {
        match self {
            Self::Service(id) => ("Service", format!("{id} ({} {:?})", id.protocol, id.family)),
            Self::Endpoint(pod) => ("Pod", pod.to_string()),
            Self::Peer(name) => ("Node", name.clone()),
            Self::Address(prefix) => ("Address", prefix.to_string()),
            Self::Policy => ("Policy", "(of this node's pods)".to_owned()),
            Self::Node => ("Node", "(this node)".to_owned()),
        }
    }

    pub(crate) fn is_in(&self, snapshot: &Snapshot) -> bool {
        match self {
            Self::Service(id) => snapshot.services.contains_key(id),
            Self::Endpoint(pod) => snapshot.endpoints.contains_key(pod),
            Self::Peer(name) => snapshot.peers.contains_key(name),
            Self::Address(prefix) => snapshot.addresses.contains_key(prefix),
            Self::Policy | Self::Node => true,
        }
    }
}

impl Error {
    /// The message with those of its causes, for a status line.
    pub fn with_causes(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        text
    }
}
