//! Kubernetes manifests: read with the line of everything in them, applied, and blamed by line when refused.
//!
//! Whatever refuses an object, the parser or the API, the report names file, line, object and field.

mod apply;
mod many;
mod read;

use std::fmt;

use yaml::{Node, Value};

pub use apply::{Applied, ApplyError, Report, apply};
pub(crate) use many::many;
pub use read::{Error as ReadError, Source, read};

/// One object of one document.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    file: String,
    /// Lines of the file before the document.
    offset: u64,
    api_version: String,
    kind: String,
    namespace: Option<String>,
    name: String,
    root: Node,
}

/// Why one object was refused: `svc.yaml:12: Service netflow-test/nginx: spec.ports[1].port: Duplicate value`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    pub file: String,
    /// From 1.
    pub line: u64,
    /// Kind and name, where the document has them.
    pub object: Option<String>,
    /// In Kubernetes' notation.
    pub field: Option<String>,
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.file, self.line)?;
        for part in [&self.object, &self.field].into_iter().flatten() {
            write!(f, "{part}: ")?;
        }
        f.write_str(&self.message)
    }
}

impl Manifest {
    /// What every object must have before the API can be asked about it.
    fn new(file: &str, offset: u64, root: Node) -> Result<Self, Problem> {
        let text = |field: &[&str]| {
            field.iter().try_fold(&root, |node, key| node.get(key)).and_then(Node::text).map(str::to_owned)
        };
        let found = match &root.value {
            Value::Mapping(_) => None,
            Value::Sequence(_) => Some("a list"),
            Value::Scalar(_) => Some("a scalar"),
        };
        let problem = |object: Option<String>, field: Option<&str>, message: String| Problem {
            file: file.to_owned(),
            line: offset + root.locate(field.unwrap_or_default()),
            object,
            field: field.map(str::to_owned),
            message,
        };
        if let Some(found) = found {
            return Err(problem(None, None, format!("want an object, found {found}")));
        }
        let required = |object, field| problem(object, Some(field), "Required value".to_owned());
        let namespace = text(&["metadata", "namespace"]);
        let name = text(&["metadata", "name"]);
        let kind = text(&["kind"]).ok_or_else(|| required(None, "kind"))?;
        let object = || Some(title(&kind, namespace.as_deref(), name.as_deref().unwrap_or_default()));
        let api_version = text(&["apiVersion"]).ok_or_else(|| required(object(), "apiVersion"))?;
        let name = name.clone().ok_or_else(|| required(object(), "metadata.name"))?;
        Ok(Self { file: file.to_owned(), offset, api_version, kind, namespace, name, root })
    }

    /// `Service netflow-test/nginx`
    pub fn object(&self) -> String {
        title(&self.kind, self.namespace.as_deref(), &self.name)
    }

    /// The line of a field in its file; of the nearest parent that exists, where it does not.
    pub fn line(&self, field: &str) -> u64 {
        self.offset + self.root.locate(field)
    }

    /// What is wrong with `field` of this object.
    fn problem(&self, field: Option<&str>, message: impl Into<String>) -> Problem {
        Problem {
            file: self.file.clone(),
            line: self.line(field.unwrap_or_default()),
            object: Some(self.object()),
            field: field.map(str::to_owned),
            message: message.into(),
        }
    }
}

fn title(kind: &str, namespace: Option<&str>, name: &str) -> String {
    match namespace {
        Some(namespace) => format!("{kind} {namespace}/{name}"),
        None => format!("{kind} {name}"),
    }
}
