//! Reading what Redis answers. An answer is never trusted: whatever does not have the expected form is an error, and
//! never a panic.

use crate::error::StoreError;
use crate::server::ServerLifetime;
use redis::{ServerError, Value};

/// The error for an outcome that is unknown, for this reason.
pub(crate) fn unavailable(reason: impl std::fmt::Display) -> StoreError {
    StoreError::Unavailable(reason.to_string())
}

/// The error for an answer of a form that this program does not know.
pub(crate) fn unexpected_reply() -> StoreError {
    unavailable("Redis answered in a form that this program does not know")
}

/// What a refusal by the server means.
pub(crate) fn refusal(error: &ServerError) -> StoreError {
    match error.code() {
        "OOM" => StoreError::Full,
        _ => unavailable(error),
    }
}

/// True if a connection that brings this refusal is useless for the time being: another server may be the right one by
/// now, or this one has forgotten the scripts.
pub(crate) fn wants_another_connection(error: &ServerError) -> bool {
    matches!(
        error.code(),
        "NOSCRIPT"
            | "READONLY"
            | "LOADING"
            | "MASTERDOWN"
            | "CLUSTERDOWN"
            | "MOVED"
            | "ASK"
            | "NOAUTH"
    )
}

/// True if a node of a cluster says that a slot is elsewhere, is being moved, or has no owner at present. Then nothing was
/// written.
pub(crate) fn is_redirect(error: &ServerError) -> bool {
    matches!(error.code(), "MOVED" | "ASK" | "TRYAGAIN" | "CLUSTERDOWN")
}

pub(crate) fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => Some(text),
        _ => None,
    }
}

pub(crate) fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Int(number) => u64::try_from(*number).ok(),
        _ => text(value)?.parse().ok(),
    }
}

pub(crate) fn array(value: &Value) -> Option<&[Value]> {
    match value {
        Value::Array(values) => Some(values),
        _ => None,
    }
}

/// A server's role and lifetime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServerState {
    pub(crate) is_primary: bool,
    pub(crate) lifetime: ServerLifetime,
}

/// Reads the answer of `INFO replication`.
pub(crate) fn server_state(info: &str) -> Option<ServerState> {
    let line = |start: &str| info.lines().find(|line| line.starts_with(start));
    Some(ServerState {
        is_primary: line("role:")? == "role:master",
        // The whole line, because the scripts store it like that.
        lifetime: line("master_replid:")?.into(),
    })
}

/// What a server does when its memory is full, from the answer of `INFO memory`.
pub(super) fn eviction_policy(info: &Value) -> Option<String> {
    let mut lines = text(info)?.lines();
    let policy = lines.find_map(|line| line.strip_prefix("maxmemory_policy:"))?;
    Some(policy.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_servers_state_is_read_from_info() {
        let info = "# Replication\r\nrole:master\r\nconnected_slaves:0\r\nmaster_replid:abc\r\nmaster_replid2:0\r\n";
        let state = server_state(info).unwrap();
        assert!(state.is_primary);
        assert_eq!(&*state.lifetime, "master_replid:abc");
        assert!(
            !server_state(&info.replace("master\r", "slave\r"))
                .unwrap()
                .is_primary
        );
        assert_eq!(server_state(""), None);
    }

    #[test]
    fn the_eviction_policy_is_read_from_info() {
        let bulk = |text: &str| Value::BulkString(text.into());
        let info = bulk("# Memory\r\nmaxmemory:0\r\nmaxmemory_policy:allkeys-lru\r\nx:y\r\n");
        assert_eq!(eviction_policy(&info).as_deref(), Some("allkeys-lru"));
        assert_eq!(eviction_policy(&bulk("")), None);
    }
}
