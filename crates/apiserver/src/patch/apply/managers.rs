//! `metadata.managedFields`. Never decides who wins a field.

use serde_json::{Value, json};

use super::{
    Applier,
    fields::{self, FieldSet},
};
use crate::{
    meta::{self, Object, items, text},
    ops::Part,
};

/// How a manager came by its fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Apply,
    Update,
}

impl Operation {
    const fn name(self) -> &'static str {
        match self {
            Self::Apply => "Apply",
            Self::Update => "Update",
        }
    }
}

/// One manager's fields.
#[derive(Debug, Clone)]
pub(super) struct Manager {
    name: String,
    operation: Operation,
    subresource: &'static str,
    api_version: String,
    time: String,
    pub(super) fields: FieldSet,
}

impl Manager {
    fn is(&self, operation: Operation, applier: Applier<'_>) -> bool {
        self.name == applier.manager
            && self.operation == operation
            && self.subresource == subresource(applier.part)
    }

    /// As conflict messages name it.
    pub(super) fn described(&self) -> String {
        let mut text = format!("{:?}", self.name);
        if !self.subresource.is_empty() {
            text.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if self.operation == Operation::Update {
            text.push_str(&format!(" using {}", self.api_version));
            if !self.time.is_empty() {
                text.push_str(&format!(" at {}", self.time));
            }
        }
        text
    }
}

const fn subresource(part: Part) -> &'static str {
    match part {
        Part::Main => "",
        Part::Status => "status",
        Part::Binding => "binding",
    }
}

/// All managers of an object.
#[derive(Debug, Clone, Default)]
pub(super) struct Managers(Vec<Manager>);

impl Managers {
    /// Reads an object's; entries without a manager or fields are none.
    pub(super) fn read(object: &Object) -> Self {
        let entries = items(object, &["metadata", "managedFields"]).iter();
        let read = entries.map(|entry| Manager {
            name: text(entry, &["manager"]).to_owned(),
            operation: if entry["operation"] == "Apply" { Operation::Apply } else { Operation::Update },
            subresource: match text(entry, &["subresource"]) {
                "status" => "status",
                "binding" => "binding",
                _ => "",
            },
            api_version: text(entry, &["apiVersion"]).to_owned(),
            time: text(entry, &["time"]).to_owned(),
            fields: fields::from_value(&entry["fieldsV1"]),
        });
        Self(read.filter(|manager| !manager.name.is_empty() && !manager.fields.is_empty()).collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn others_mut<'a>(
        &'a mut self,
        operation: Operation,
        applier: Applier<'a>,
    ) -> impl Iterator<Item = &'a mut Manager> {
        self.0.iter_mut().filter(move |manager| !manager.is(operation, applier))
    }

    pub(super) fn fields_of(&self, operation: Operation, applier: Applier<'_>) -> FieldSet {
        let own = self.0.iter().find(|manager| manager.is(operation, applier));
        own.map(|manager| manager.fields.clone()).unwrap_or_default()
    }

    /// Gives a manager exactly these fields.
    pub(super) fn set(
        &mut self,
        operation: Operation,
        applier: Applier<'_>,
        api_version: &str,
        fields: FieldSet,
    ) {
        self.0.retain(|manager| !manager.is(operation, applier));
        self.0.push(Manager {
            name: applier.manager.to_owned(),
            operation,
            subresource: subresource(applier.part),
            api_version: api_version.to_owned(),
            time: applier.now.to_owned(),
            fields,
        });
    }

    pub(super) fn to_value(&self) -> Value {
        let entries = self.0.iter().filter(|manager| !manager.fields.is_empty()).map(|manager| {
            let mut entry = json!({
                "manager": manager.name,
                "operation": manager.operation.name(),
                "apiVersion": manager.api_version,
                "time": manager.time,
                "fieldsType": "FieldsV1",
                "fieldsV1": fields::to_value(&manager.fields),
            });
            if !manager.subresource.is_empty() {
                entry["subresource"] = manager.subresource.into();
            }
            entry
        });
        entries.collect()
    }

    pub(super) fn write(&self, object: &mut Object) {
        let value = self.to_value();
        let metadata = meta::metadata(object);
        if meta::is_empty(&value) {
            metadata.remove("managedFields");
        } else {
            metadata.insert("managedFields".into(), value);
        }
    }
}
