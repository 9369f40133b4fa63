//! Generates the wire and log formats from `unanimity/**/*.proto`, without protoc.

use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "unanimity/v1/common.proto",
        "unanimity/v1/coordinator.proto",
        "unanimity/v1/participant.proto",
        "unanimity/v1/peer.proto",
        "unanimity/log/v1/log.proto",
    ];
    println!("cargo:rerun-if-changed=unanimity");
    let descriptors = protox::compile(files, ["."])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), prost::Message::encode_to_vec(&descriptors))?;
    let mut config = prost_build::Config::new();
    config.bytes(["."]);
    tonic_prost_build::configure().compile_fds_with_config(descriptors, config)?;
    Ok(())
}
