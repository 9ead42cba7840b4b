//! Flow.
pub mod cursor;
pub mod event;
pub mod feed;
pub mod filter;
pub mod json;
pub mod mask;
pub mod names;
pub mod print;
pub mod proto;
pub mod request;
pub mod ring;
pub mod summary;
pub mod testing;
mod wire;
