//! Patches of every form a client may send, each a pure function of the current object. Never stores anything.

pub(crate) mod apply;
mod json;
mod merge;
mod strategic;

pub(crate) use json::json_patch;
pub(crate) use merge::merge;
pub(crate) use strategic::strategic;
