//! Compiles the protobuf files of Hubble's gRPC surface, without a protoc on the machine.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let files = ["flow/flow.proto", "observer/observer.proto", "peer/peer.proto", "relay/relay.proto"];
    let descriptors = protox::compile(files, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    let mut config = tonic_prost_build::Config::new();
    config.enable_type_names();
    tonic_prost_build::configure()
        // `Flow` is by far the largest of the three members.
        .boxed(".observer.GetFlowsResponse.response_types.flow")
        .boxed(".observer.ExportEvent.response_types.flow")
        .compile_fds_with_config(descriptors, config)?;
    Ok(())
}
