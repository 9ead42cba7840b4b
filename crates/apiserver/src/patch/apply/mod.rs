//! Server-side apply: an applier owns the fields it names, may not change another manager's without force, and gives up
//! (and removes, if nobody else wants them) the fields it names no more. Never stores anything.
//!
//! An object nobody has ever applied has no `managedFields`: all it has counts as the manager's `before-first-apply`
//! once somebody does, as the real server treats objects from before it tracked managers.

mod fields;
mod managers;
mod tree;

use serde_json::Value;

use self::{
    fields::{FieldSet, fields_of},
    managers::{Managers, Operation},
};
use crate::{
    meta::{self, Object},
    ops::Part,
    resource::Resource,
    schema::Type,
    status::{ApiError, ApplyConflict},
};

const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// Who applies what, when.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Applier<'a> {
    pub(crate) manager: &'a str,
    pub(crate) part: Part,
    /// Take fields over from other managers.
    pub(crate) force: bool,
    pub(crate) now: &'a str,
}

/// The managed fields of an object that an apply creates.
pub(crate) fn first(config: &Object, resource: &Resource, applier: Applier<'_>) -> Value {
    let mut managers = Managers::default();
    let applied = owned(config, resource, applier.part);
    managers.set(Operation::Apply, applier, &resource.api_version(), applied);
    managers.to_value()
}

/// The object after an apply, `managedFields` included.
pub(crate) fn apply(
    current: &Object,
    config: &Object,
    resource: &Resource,
    applier: Applier<'_>,
) -> Result<Object, ApiError> {
    let of = Type::of(resource);
    let mut managers = Managers::read(current);
    if managers.is_empty() {
        let before = Applier { manager: BEFORE_FIRST_APPLY, ..applier };
        let everything = fields::without_server_owned(fields_of(current, of));
        managers.set(Operation::Update, before, &resource.api_version(), everything);
    }
    let config = only_part(config, resource, applier.part);
    let applied = owned(&config, resource, applier.part);

    let mut conflicts = Vec::new();
    for other in managers.others_mut(Operation::Apply, applier) {
        let contested: Vec<_> = applied
            .intersection(&other.fields)
            .filter(|path| tree::differs(current, &config, path))
            .cloned()
            .collect();
        for path in contested {
            conflicts.push(ApplyConflict { manager: other.described(), field: fields::shown(&path) });
            other.fields.remove(&path);
        }
    }
    if !conflicts.is_empty() && !applier.force {
        return Err(ApiError::ApplyConflict(conflicts));
    }

    let before = managers.fields_of(Operation::Apply, applier);
    let others = managers.others_mut(Operation::Apply, applier);
    let kept_by_others: FieldSet = others.flat_map(|other| other.fields.iter().cloned()).collect();
    let mut merged = current.clone();
    // An element goes whole before its members would: without its keys it could not be found.
    for path in before.difference(&applied) {
        let wanted =
            |set: &FieldSet| set.range(path.clone()..).next().is_some_and(|next| next.starts_with(path));
        if !wanted(&kept_by_others) && !wanted(&applied) {
            tree::remove(&mut merged, path);
        }
    }
    tree::merge(&mut merged, &config, of);
    if before != applied || !conflicts.is_empty() || merged != *current {
        managers.set(Operation::Apply, applier, &resource.api_version(), applied);
    }
    managers.write(&mut merged);
    // Without a version the apply is to whatever there is.
    let version = match meta::resource_version(&config) {
        "" => meta::resource_version(current),
        version => version,
    };
    meta::metadata(&mut merged).insert("resourceVersion".into(), version.into());
    Ok(merged)
}

/// Gives the fields that a plain write changed to its manager, on objects that track managers.
pub(crate) fn record_update(current: &Object, object: &mut Object, resource: &Resource, writer: Applier<'_>) {
    let sent = meta::metadata(object).contains_key("managedFields");
    let mut managers = Managers::read(if sent { object } else { current });
    if managers.is_empty() {
        meta::metadata(object).remove("managedFields");
        return;
    }
    let of = Type::of(resource);
    let (old, new) = (fields_of(current, of), fields_of(object, of));
    let changed: FieldSet = new.iter().filter(|path| tree::differs(current, object, path)).cloned().collect();
    let removed: FieldSet = old.difference(&new).cloned().collect();
    let (changed, removed) = (fields::without_server_owned(changed), fields::without_server_owned(removed));
    if !changed.is_empty() || !removed.is_empty() {
        for other in managers.others_mut(Operation::Update, writer) {
            other.fields.retain(|path| !changed.contains(path) && !removed.contains(path));
        }
        let mut own = managers.fields_of(Operation::Update, writer);
        own.retain(|path| !removed.contains(path));
        own.extend(changed);
        managers.set(Operation::Update, writer, &resource.api_version(), own);
    }
    managers.write(object);
}

/// A configuration without what this request does not write.
fn only_part(config: &Object, resource: &Resource, part: Part) -> Object {
    let mut config = config.clone();
    if let Value::Object(members) = &mut config {
        members.retain(|key, _| match part {
            Part::Status => matches!(key.as_str(), "apiVersion" | "kind" | "metadata" | "status"),
            Part::Main | Part::Binding => key != "status" || !resource.status,
        });
    }
    config
}

fn owned(config: &Object, resource: &Resource, part: Part) -> FieldSet {
    fields::without_server_owned(fields_of(&only_part(config, resource, part), Type::of(resource)))
}

#[cfg(test)]
mod tests;
