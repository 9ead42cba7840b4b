//! What requests do to the state. Each operation is one step under the lock and either happens or does not.
//! Never speaks HTTP.

mod applying;
mod create;
mod delete;
mod gc;
mod intake;
mod namespace;
mod scale;
mod update;

pub(crate) use applying::apply;
pub(crate) use create::create;
pub(crate) use delete::{DeleteOptions, delete, delete_collection};
pub(crate) use scale::{apply_scale, scale_of};
pub(crate) use update::{Part, update};

use std::sync::Arc;

use crate::meta::Object;

/// What to do about fields that a kind does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum FieldValidation {
    Ignore,
    #[default]
    Warn,
    Strict,
}

/// How a write is to be done.
#[derive(Debug, Clone, Default)]
pub(crate) struct WriteOptions {
    /// Do all but store.
    pub(crate) dry_run: bool,
    /// Take fields over from other managers in an apply.
    pub(crate) force: bool,
    /// Who the change is recorded for.
    pub(crate) manager: String,
    pub(crate) validation: FieldValidation,
}

/// The object after a write.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) object: Arc<Object>,
    pub(crate) warnings: Vec<String>,
}
