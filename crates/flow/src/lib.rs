//! Flow.
pub mod cursor;
pub mod event;
pub mod filter;
pub mod json;
pub mod mask;
pub mod names;
pub mod proto;
pub mod ring;
pub mod summary;
pub mod testing;
mod wire;
