//! What `app.set('connectorConfig', …)` of a project says, as `key=value`.

use super::notes::Notes;
use std::path::PathBuf;

/// What of it has a counterpart.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ConnectorConfig {
    /// Seconds between heartbeats.
    pub(super) heartbeat: Option<u32>,
    /// Seconds between heartbeats of Socket.IO.
    pub(super) socketio_heartbeat: Option<u32>,
    /// Seconds that they may be overdue.
    pub(super) socketio_timeout: Option<u32>,
    /// Routes have short codes.
    pub(super) uses_dictionary: bool,
    /// The file with routes of the project itself.
    pub(super) dictionary: Option<PathBuf>,
}

/// What is in the place of keys without a counterpart.
const INSTEAD: [(&str, &str); 16] = [
    (
        "connector",
        "a connector speaks every protocol at its port, and tells them apart itself",
    ),
    (
        "useProtobuf",
        "bodies are JSON on the sockets of clients. Clients that know protobuf send JSON when the handshake names no protos",
    ),
    (
        "useCrypto",
        "encrypt the connections with TLS (docs/tls.md)",
    ),
    ("ssl", "tls.certificate and tls.key (docs/tls.md)"),
    (
        "timeout",
        "a client that is silent for two heartbeats is dropped",
    ),
    (
        "disconnectOnTimeout",
        "a client that is silent for two heartbeats is always dropped",
    ),
    ("setNoDelay", "it is always on"),
    ("distinctHost", "listen has the address"),
    (
        "handshake",
        "a hook or tokens decide who may log in (docs/access.md)",
    ),
    (
        "checkClient",
        "a hook or tokens decide who may log in (docs/access.md)",
    ),
    (
        "blacklistFun",
        "back ends block users (docs/access.md), and a firewall blocks addresses",
    ),
    ("useHostFilter", "a firewall blocks addresses"),
    ("useAsyncCoder", "nothing of yours runs in a connector"),
    (
        "transports",
        "Socket.IO's clients may use WebSockets and polls",
    ),
    ("heartbeats", "heartbeats are always on"),
    ("closeTimeout", "--idle-timeout and --handshake-timeout"),
];

/// Reads `key=value` for each key.
pub(super) fn read(given: &[String], notes: &mut Notes) -> Result<ConnectorConfig, String> {
    let mut config = ConnectorConfig::default();
    for pair in given {
        let (key, value) = pair.split_once('=').ok_or_else(|| {
            format!("--connector-config {pair}: expected KEY=VALUE, such as heartbeat=3")
        })?;
        let seconds = || match value.parse::<u32>() {
            Ok(seconds @ 1..) => Ok(Some(seconds)),
            _ => Err(format!(
                "--connector-config {key}: expected a whole number of seconds, such as {key}=3"
            )),
        };
        match key {
            "heartbeat" => config.heartbeat = seconds()?,
            "heartbeatInterval" => config.socketio_heartbeat = seconds()?,
            "heartbeatTimeout" => config.socketio_timeout = seconds()?,
            "useDict" => {
                config.uses_dictionary = match value {
                    "true" => true,
                    "false" => false,
                    _ => {
                        return Err("--connector-config useDict: expected true or false".to_owned());
                    }
                }
            }
            // What was off has nothing to be replaced.
            _ if value == "false" => {}
            _ => {
                let known = INSTEAD.iter().find(|(name, _)| *name == key);
                let instead = known.map_or("", |(_, instead)| instead);
                let colon = if instead.is_empty() { "" } else { ": " };
                notes.for_connectors(&format!(
                    "connectorConfig.{key} has no counterpart{colon}{instead}"
                ));
            }
        }
    }
    Ok(config)
}
