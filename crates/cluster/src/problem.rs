//! What is wrong with an object: said with object, field and reason, and kept apart from every other object.

use std::fmt;

use model::{PodName, ServiceName};

/// A Kubernetes object that a [`Problem`] belongs to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectRef {
    /// As the API spells it: "Service", "EndpointSlice", "Node", "Pod", "Namespace", "TwinplaneIdentity", "TwinplaneEndpoint".
    pub kind: &'static str,
    /// Empty for an object without a namespace.
    pub namespace: String,
    pub name: String,
}

/// Why a part of an object is not programmed. The rest of the object, and every other object, is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    pub object: ObjectRef,
    /// Path of the field at fault, as "spec.ports\[0\].port".
    pub field: String,
    /// Lower case, without the object and the field.
    pub reason: String,
}

impl ObjectRef {
    /// The Service of that name.
    pub fn service(name: &ServiceName) -> Self {
        Self { kind: "Service", namespace: name.namespace.clone(), name: name.name.clone() }
    }

    pub(crate) fn slice(namespace: &str, name: &str) -> Self {
        Self { kind: "EndpointSlice", namespace: namespace.to_owned(), name: name.to_owned() }
    }

    pub(crate) fn pod(name: &PodName) -> Self {
        Self { kind: "Pod", namespace: name.namespace.clone(), name: name.name.clone() }
    }

    pub(crate) fn namespace(name: &str) -> Self {
        Self { kind: "Namespace", namespace: String::new(), name: name.to_owned() }
    }

    pub(crate) fn identity(name: &str) -> Self {
        Self { kind: "TwinplaneIdentity", namespace: String::new(), name: name.to_owned() }
    }

    pub(crate) fn endpoint(name: &PodName) -> Self {
        Self { kind: "TwinplaneEndpoint", namespace: name.namespace.clone(), name: name.name.clone() }
    }

    pub(crate) fn node(name: &str) -> Self {
        Self { kind: "Node", namespace: String::new(), name: name.to_owned() }
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.kind)?;
        if !self.namespace.is_empty() {
            write!(f, "{}/", self.namespace)?;
        }
        f.write_str(&self.name)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.object, self.field, self.reason)
    }
}

/// Collects the problems of one object while it is read.
#[derive(Debug)]
pub(crate) struct Report {
    object: ObjectRef,
    problems: Vec<Problem>,
}

impl Report {
    pub(crate) fn of(object: ObjectRef) -> Self {
        Self { object, problems: vec![] }
    }

    pub(crate) fn add(&mut self, field: impl Into<String>, reason: impl Into<String>) {
        self.problems.push(Problem {
            object: self.object.clone(),
            field: field.into(),
            reason: reason.into(),
        });
    }

    /// The value, or `None` with its error noted.
    pub(crate) fn take<T, E: fmt::Display>(
        &mut self,
        field: impl FnOnce() -> String,
        value: Result<T, E>,
    ) -> Option<T> {
        value.map_err(|error| self.add(field(), error.to_string())).ok()
    }

    pub(crate) fn finish(self) -> Vec<Problem> {
        self.problems
    }
}
