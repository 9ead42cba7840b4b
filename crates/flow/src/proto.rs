//! Hubble's messages and services, generated from `proto/`, and their descriptors. Never holds hand-written types.

use std::sync::LazyLock;

use prost_reflect::DescriptorPool;

/// Wraps generated code, which follows its generator's style and not ours.
macro_rules! generated {
    ($(#[$doc:meta])* $name:ident = $package:literal) => {
        $(#[$doc])*
        #[expect(clippy::all, reason = "generated code")]
        pub mod $name {
            tonic::include_proto!($package);
        }
    };
}

generated!(
    /// `flow.*`: flows, filters and the events of an agent.
    flow = "flow"
);
generated!(
    /// `observer.Observer` and its messages.
    observer = "observer"
);
generated!(
    /// `peer.Peer` and its messages.
    peer = "peer"
);
generated!(
    /// `relay.*`: states of nodes.
    relay = "relay"
);

/// All four files and what they import, as an encoded `FileDescriptorSet`: what gRPC reflection serves.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The same, decoded: what JSON and field masks go by.
pub static DESCRIPTORS: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(FILE_DESCRIPTOR_SET).expect("the build script wrote a valid descriptor set")
});
