//! The kinds the server knows: built-in ones and those that CustomResourceDefinitions add. Never holds objects.

mod builtin;
mod custom;
mod registry;

use std::sync::Arc;

pub(crate) use builtin::Builtin;
pub(crate) use custom::{Column, CustomKind};
pub(crate) use registry::Registry;

/// One served resource: a kind in one group and version.
#[derive(Debug, Clone)]
pub(crate) struct Resource {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) kind: String,
    pub(crate) plural: String,
    pub(crate) singular: String,
    pub(crate) short_names: Vec<String>,
    pub(crate) categories: Vec<String>,
    pub(crate) namespaced: bool,
    /// Whether `/status` exists and the main resource leaves `status` alone.
    pub(crate) status: bool,
    pub(crate) scale: Option<ScalePaths>,
    /// Where objects are kept; versions and views of one kind share it.
    pub(crate) storage: Arc<str>,
    pub(crate) schema: Schema,
}

/// Where `/scale` finds its numbers, as member names from the object's root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ScalePaths {
    pub(crate) spec: Vec<String>,
    pub(crate) status: Vec<String>,
    /// A selector as text (custom kinds) or a LabelSelector (built-in kinds).
    pub(crate) selector: Option<Vec<String>>,
}

/// What is known about a kind's fields.
#[derive(Debug, Clone)]
pub(crate) enum Schema {
    Builtin(Builtin),
    Custom(Arc<CustomKind>),
}

impl Resource {
    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    pub(crate) fn list_kind(&self) -> String {
        match &self.schema {
            Schema::Builtin(_) => format!("{}List", self.kind),
            Schema::Custom(custom) => custom.list_kind.clone(),
        }
    }

    pub(crate) fn builtin(&self) -> Option<Builtin> {
        match self.schema {
            Schema::Builtin(builtin) => Some(builtin),
            Schema::Custom(_) => None,
        }
    }

    pub(crate) fn is(&self, builtin: Builtin) -> bool {
        self.builtin() == Some(builtin)
    }
}
