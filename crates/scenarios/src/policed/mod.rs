//! A cluster whose policies a plane enforces between real sockets: two nodes, pods that come and go, a client outside. What is
//! right is what the policies' oracle and the compiled table both say of the same world. Servers count what they were asked.

mod mesh;
mod services;
mod talk;

pub use mesh::{Client, Mesh};
pub use services::Published;
pub use talk::{Listens, Served, ask, carries};
