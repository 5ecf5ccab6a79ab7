//! Calls of chat as a person makes them in a shell.

use serde_json::Value;
use std::net::SocketAddr;
use std::process::Command;

/// Calls a method, for example `chat.v1.ChatService/Send`, and returns what grpcurl prints. A message of chat's is an object
/// without the fields that have their default, and so is an error.
///
/// # Panics
/// If grpcurl is not there, or prints no JSON.
#[must_use]
pub fn call(chat: SocketAddr, method: &str, request: &Value) -> Value {
    let mut command = Command::new("grpcurl");
    let (chat, request) = (chat.to_string(), request.to_string());
    command.args(["-plaintext", "-d", &request, &chat, method]);
    let output = command
        .output()
        .expect("install grpcurl, or run ./tests/run, which does");
    let printed = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    serde_json::from_str(&printed).unwrap_or_else(|_| panic!("{method}: {printed}"))
}
