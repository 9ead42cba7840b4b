//! A whole agent in a network namespace of its own, against the embedded Kubernetes API, on the in-memory plane.
//!
//! Needs root. Every test has its own namespaces, and leaves none.

mod health;
mod identities;
mod network;
mod pods;
mod policies;
mod pressure;
mod services;
mod support;
