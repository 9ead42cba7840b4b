//! Whether an object's values make sense, in the real server's words. Never changes an object.

mod errors;
mod metadata;
pub(crate) mod names;

pub(crate) use errors::FieldErrors;

use crate::{meta::Object, resource::Resource};

/// Checks a new, defaulted object.
pub(crate) fn create(resource: &Resource, object: &Object, errors: &mut FieldErrors) {
    metadata::check(resource, object, errors);
}

/// Checks the next state of an object.
pub(crate) fn update(resource: &Resource, _old: &Object, object: &Object, errors: &mut FieldErrors) {
    metadata::check(resource, object, errors);
}

/// Checks an object of which only the status was written.
pub(crate) fn status(resource: &Resource, object: &Object, errors: &mut FieldErrors) {
    metadata::check(resource, object, errors);
}
