//! Hubble's messages and services, generated from `proto/`, and their descriptors. Never holds hand-written types.

use std::sync::LazyLock;

use prost_reflect::DescriptorPool;

/// `flow.*`: flows, filters and the events of an agent.
pub mod flow {
    tonic::include_proto!("flow");
}

/// `observer.Observer` and its messages.
#[expect(clippy::allow_attributes, clippy::allow_attributes_without_reason, reason = "generated code")]
pub mod observer {
    tonic::include_proto!("observer");
}

/// `peer.Peer` and its messages.
#[expect(clippy::allow_attributes, clippy::allow_attributes_without_reason, reason = "generated code")]
pub mod peer {
    tonic::include_proto!("peer");
}

/// `relay.*`: states of nodes.
pub mod relay {
    tonic::include_proto!("relay");
}

/// All four files and what they import, as an encoded `FileDescriptorSet`: what gRPC reflection serves.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The same, decoded: what JSON and field masks go by.
pub static DESCRIPTORS: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(FILE_DESCRIPTOR_SET).expect("the build script wrote a valid descriptor set")
});
