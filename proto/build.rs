//! Compiles the contracts with protox, so that nobody needs to install protoc.

use prost::Message;
use std::{env, error::Error, fs, path::PathBuf};

/// What chat serves.
const SERVED: [&str; 5] = [
    "chat/v1/chat_service.proto",
    "chat/v1/user_service.proto",
    "chat/v1/node_service.proto",
    "connector/v1/connector.proto",
    "connector/v1/commands.proto",
];
/// What operators implement. Chat must not describe it, because it does not serve it.
const IMPLEMENTED: [&str; 2] = [
    "route/v1/route_handler.proto",
    "access/v1/access_hook.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    for folder in ["access", "chat", "connector", "route", "google"] {
        println!("cargo:rerun-if-changed={folder}");
    }
    let served = protox::compile(SERVED, ["."])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("contract.binpb"), served.encode_to_vec())?;
    let all = protox::compile(SERVED.iter().chain(&IMPLEMENTED), ["."])?;
    tonic_prost_build::configure()
        .bytes(".chat.v1")
        .bytes(".connector.v1")
        .bytes(".route.v1.HandleRequest")
        .bytes(".access.v1.AuthorizeSendRequest")
        .extern_path(".google.rpc", "::tonic_types::pb")
        .compile_fds(all)?;
    Ok(())
}
