//! Compiles the contracts with protox, so that nobody needs to install protoc.

use prost::Message;
use std::{env, error::Error, fs, path::PathBuf};

const FILES: [&str; 5] = [
    "chat/v1/chat_service.proto",
    "chat/v1/user_service.proto",
    "chat/v1/node_service.proto",
    "connector/v1/connector.proto",
    "connector/v1/commands.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    for folder in ["chat", "connector", "google"] {
        println!("cargo:rerun-if-changed={folder}");
    }
    let descriptors = protox::compile(FILES, ["."])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("contract.binpb"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .bytes(".chat.v1")
        .bytes(".connector.v1")
        .extern_path(".google.rpc", "::tonic_types::pb")
        .compile_fds(descriptors)?;
    Ok(())
}
