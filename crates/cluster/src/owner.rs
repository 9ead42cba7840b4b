//! Who claims places at this node: a Service, or a pod with host ports. Pure.

use std::fmt;

use k8s_openapi::jiff::Timestamp;
use model::{PodName, ServiceName};

use crate::problem::ObjectRef;

/// Compiled, reported and in conflict with others on its own. In order of precedence: Services before pods, as
/// kube-proxy's rules stand before those of the portmap plugin; Services by name, pods by age.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Owner {
    Service(ServiceName),
    Pod { since: Option<Timestamp>, name: PodName },
}

impl Owner {
    pub(crate) fn object(&self) -> ObjectRef {
        match self {
            Self::Service(name) => ObjectRef::service(name),
            Self::Pod { name, .. } => ObjectRef::pod(name),
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.object().fmt(f)
    }
}
