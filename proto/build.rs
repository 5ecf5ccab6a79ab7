//! Compiles the contract with protox, so that nobody needs to install protoc.

use prost::Message;
use std::{env, error::Error, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=chat");
    let descriptors = protox::compile(["chat/v1/chat.proto"], ["."])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("chat_v1.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        .bytes(".chat.v1")
        .compile_fds(descriptors)?;
    Ok(())
}
