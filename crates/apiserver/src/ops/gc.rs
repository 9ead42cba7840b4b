//! Garbage collection along owner references, done at once with the deletion that causes it.
//! Never touches an object that still has a living owner.

use serde_json::Value;

use super::delete::{self, DeleteOptions};
use crate::{
    meta::{self, Object, items, text},
    resource::Resource,
    state::State,
    store::{Key, Place},
};

/// Holds an owner until the dependents that block it are gone.
pub(super) const FOREGROUND: &str = "foregroundDeletion";
/// Holds an owner until its dependents no longer name it.
pub(super) const ORPHAN: &str = "orphan";

/// Deletes an object all of whose owners are gone already.
pub(super) fn check_owners(state: &mut State, resource: &Resource, object: &Object) {
    if items(object, &["metadata", "ownerReferences"]).is_empty() || meta::is_deleting(object) {
        return;
    }
    if !has_living_owner(state, object) {
        discard(state, &(resource.storage.clone(), Key::of(object)));
    }
}

/// What follows once an owner is removed: dependents without another owner go too.
pub(super) fn owner_removed(state: &mut State, owner: &Object) {
    for place in state.store.dependents(meta::uid(owner)) {
        if let Some(object) = state.store.get(&place.0, &place.1).cloned()
            && !has_living_owner(state, &object)
        {
            discard(state, &place);
        }
    }
    for reference in items(owner, &["metadata", "ownerReferences"]) {
        release_foreground(state, owner, reference);
    }
}

/// What follows once an owner is marked for deletion with a propagation finalizer.
pub(super) fn owner_deleting(state: &mut State, resource: &Resource, owner: &Object) {
    if meta::finalizers(owner).any(|finalizer| finalizer == ORPHAN) {
        for place in state.store.dependents(meta::uid(owner)) {
            disown(state, &place, meta::uid(owner));
        }
        drop_finalizer(state, resource, &Key::of(owner), ORPHAN);
    } else if meta::finalizers(owner).any(|finalizer| finalizer == FOREGROUND) {
        for place in state.store.dependents(meta::uid(owner)) {
            discard(state, &place);
        }
        if blocking(state, meta::uid(owner)).is_empty() {
            drop_finalizer(state, resource, &Key::of(owner), FOREGROUND);
        }
    }
}

/// Deletes every object of the kinds a definition defines, finalizers or not, as their kind goes.
pub(super) fn drop_custom_objects(state: &mut State, definition: &Object) {
    let storage = format!(
        "{}.{}",
        text(definition, &["spec", "names", "plural"]),
        text(definition, &["spec", "group"])
    );
    let Some(resource) = state.resource_of(&storage) else { return };
    let keys: Vec<Key> = state.store.list(&storage, None).map(|object| Key::of(object)).collect();
    for key in keys {
        if let Some(last) = state.erase(&resource, &key) {
            owner_removed(state, &last);
        }
    }
    state.store.drop_storage(&storage);
}

fn discard(state: &mut State, place: &Place) {
    if let Some(resource) = state.resource_of(&place.0) {
        // A NotFound means that an earlier step of the same collection removed it.
        let _ = delete::delete(state, &resource, &place.1, &DeleteOptions::default());
    }
}

/// Whether some owner exists, or is of a kind this server does not have and so cannot judge.
fn has_living_owner(state: &State, object: &Object) -> bool {
    items(object, &["metadata", "ownerReferences"]).iter().any(|reference| {
        let kind = state.registry.find_kind(text(reference, &["apiVersion"]), text(reference, &["kind"]));
        kind.is_none_or(|kind| {
            let namespace = if kind.namespaced { meta::namespace(object) } else { "" };
            state
                .store
                .get(&kind.storage, &Key::new(namespace, text(reference, &["name"])))
                .is_some_and(|owner| meta::uid(owner) == text(reference, &["uid"]))
        })
    })
}

/// Dependents that block an owner's foreground deletion.
fn blocking(state: &State, uid: &str) -> Vec<Place> {
    let blocks = |object: &Object| {
        items(object, &["metadata", "ownerReferences"])
            .iter()
            .any(|reference| text(reference, &["uid"]) == uid && reference["blockOwnerDeletion"] == true)
    };
    let mut places = state.store.dependents(uid);
    places.retain(|(storage, key)| state.store.get(storage, key).is_some_and(|object| blocks(object)));
    places
}

fn release_foreground(state: &mut State, dependent: &Object, reference: &Value) {
    let Some(resource) =
        state.registry.find_kind(text(reference, &["apiVersion"]), text(reference, &["kind"]))
    else {
        return;
    };
    let namespace = if resource.namespaced { meta::namespace(dependent) } else { "" };
    let key = Key::new(namespace, text(reference, &["name"]));
    let waiting = state.store.get(&resource.storage, &key).is_some_and(|owner| {
        meta::is_deleting(owner)
            && meta::uid(owner) == text(reference, &["uid"])
            && meta::finalizers(owner).any(|finalizer| finalizer == FOREGROUND)
    });
    if waiting && blocking(state, text(reference, &["uid"])).is_empty() {
        drop_finalizer(state, &resource, &key, FOREGROUND);
    }
}

fn disown(state: &mut State, place: &Place, uid: &str) {
    let (Some(resource), Some(object)) = (state.resource_of(&place.0), state.store.get(&place.0, &place.1))
    else {
        return;
    };
    let mut object = Object::clone(object);
    let metadata = meta::metadata(&mut object);
    if let Some(Value::Array(owners)) = metadata.get_mut("ownerReferences") {
        owners.retain(|owner| text(owner, &["uid"]) != uid);
        if owners.is_empty() {
            metadata.remove("ownerReferences");
        }
    }
    state.commit(&resource, object);
}

fn drop_finalizer(state: &mut State, resource: &Resource, key: &Key, finalizer: &str) {
    let Some(object) = state.store.get(&resource.storage, key) else { return };
    let mut object = Object::clone(object);
    meta::remove_finalizer(&mut object, finalizer);
    if delete::is_finished(resource, &object) {
        delete::finish(state, resource, object);
    } else {
        state.commit(resource, object);
    }
}
