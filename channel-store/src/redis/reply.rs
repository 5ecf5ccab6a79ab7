//! What Redis answers, taken apart without trust: whatever does not have the expected form is an error, never a panic.

use crate::publication::{Epoch, Payload, Position, Publication};
use crate::store::{Generation, LogPage, Standing, StoreError};
use bytes::Bytes;
use redis::{ServerError, Value};

/// The outcome is unknown, for this reason.
pub(super) fn unavailable(reason: impl std::fmt::Display) -> StoreError {
    StoreError::Unavailable(reason.to_string())
}

/// A reply that no script of ours gives.
pub(super) fn strange() -> StoreError {
    unavailable("an answer of unknown form")
}

/// What a refusal by the server means.
pub(super) fn refusal(error: &ServerError) -> StoreError {
    match error.code() {
        "OOM" => StoreError::Full,
        _ => unavailable(error),
    }
}

/// True if a connection that brings this refusal brings nothing else for the time being: another server may be the
/// right one by now, or this one has forgotten the scripts.
pub(super) fn wants_another_connection(error: &ServerError) -> bool {
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

/// True if a cluster's node says that a slot is elsewhere, on its way, or nobody's at present; nothing was written.
pub(super) fn is_redirect(error: &ServerError) -> bool {
    matches!(error.code(), "MOVED" | "ASK" | "TRYAGAIN" | "CLUSTERDOWN")
}

pub(super) fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => Some(text),
        _ => None,
    }
}

pub(super) fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Int(number) => u64::try_from(*number).ok(),
        _ => text(value)?.parse().ok(),
    }
}

/// A server's role and lifetime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServerState {
    pub(super) primary: bool,
    pub(super) generation: Generation,
}

/// Reads `INFO replication`.
pub(super) fn server_state(info: &str) -> Option<ServerState> {
    let line = |start: &str| info.lines().find(|line| line.starts_with(start));
    Some(ServerState {
        primary: line("role:")? == "role:master",
        // The whole line, as the scripts keep it.
        generation: line("master_replid:")?.into(),
    })
}

/// An entry's id: offset and time.
fn entry_id(id: &str) -> Option<(u64, u64)> {
    let (offset, time) = id.split_once('-')?;
    Some((offset.parse().ok()?, time.parse().ok()?))
}

/// What a topic brings: `epoch offset-milliseconds\n` and the payload. `known` spares a new epoch's text for each.
pub(super) fn announced(bytes: Vec<u8>, known: Option<&Epoch>) -> Option<Publication> {
    let bytes = Bytes::from(bytes);
    let end = bytes.iter().position(|&b| b == b'\n')?;
    let (epoch, id) = std::str::from_utf8(&bytes[..end]).ok()?.split_once(' ')?;
    let (offset, time) = entry_id(id)?;
    let epoch = known
        .filter(|known| known.as_str() == epoch)
        .cloned()
        .unwrap_or_else(|| Epoch::new(epoch));
    Some(Publication {
        position: Position { epoch, offset },
        time,
        payload: Payload::parse(bytes.slice(end + 1..))?,
    })
}

/// Reads the answer of `read.lua`.
pub(super) fn log_page(value: Value) -> Option<LogPage> {
    let Value::Array(fields) = value else {
        return None;
    };
    let [status, generation, last, table, epoch, offset, entries] =
        <[Value; 7]>::try_from(fields).ok()?;
    Some(LogPage {
        standing: match text(&status)? {
            "head" => Standing::Head,
            "ok" => Standing::Exact,
            "diverged" => Standing::Diverged,
            "trimmed" => Standing::Trimmed,
            "unknown" => Standing::Unknown,
            _ => return None,
        },
        generation: text(&generation)?.into(),
        position: Position {
            epoch: Epoch::new(text(&epoch)?),
            offset: number(&offset)?,
        },
        last: number(&last)?,
        entries: log_entries(entries, &epochs(text(&table)?))?,
    })
}

/// The epochs of a log with their first offsets, oldest first, from the table's text.
pub(super) fn epochs(table: &str) -> Vec<(Epoch, u64)> {
    table
        .split(' ')
        .filter_map(|entry| {
            let (id, start) = entry.split_once('@')?;
            Some((Epoch::new(id), start.parse().ok()?))
        })
        .collect()
}

/// Reads a stretch of the log; each entry belongs to the last epoch that began at its offset or before.
pub(super) fn log_entries(value: Value, epochs: &[(Epoch, u64)]) -> Option<Vec<Publication>> {
    let Value::Array(entries) = value else {
        return None;
    };
    entries
        .into_iter()
        .map(|entry| {
            let Value::Array(entry) = entry else {
                return None;
            };
            let [id, fields] = <[Value; 2]>::try_from(entry).ok()?;
            let Value::Array(mut fields) = fields else {
                return None;
            };
            let Some(Value::BulkString(data)) = fields.pop() else {
                return None;
            };
            let (offset, time) = entry_id(text(&id)?)?;
            let (epoch, _) = epochs.iter().rev().find(|(_, start)| *start <= offset)?;
            Some(Publication {
                position: Position {
                    epoch: epoch.clone(),
                    offset,
                },
                time,
                payload: Payload::parse(data.into())?,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.into())
    }

    #[test]
    fn an_announcement_is_taken_apart() {
        let epoch = Epoch::new("e1");
        let publication =
            announced(b"e1 7-1700\nr\0u\0{\"a\":\"\n\"}".to_vec(), Some(&epoch)).unwrap();
        assert_eq!(publication.position, Position { epoch, offset: 7 });
        assert_eq!(publication.time, 1700);
        assert_eq!(publication.payload.route(), "r");
        assert_eq!(publication.payload.body(), b"{\"a\":\"\n\"}");
    }

    #[test]
    fn what_is_no_announcement_is_refused() {
        for bytes in [
            "",
            "\n",
            "e1 7\nr\0u\0{}",
            "e1 x-1\nr\0u\0{}",
            "e1 7-1\n{}",
            "7-1\nr\0u\0{}",
        ] {
            assert_eq!(announced(bytes.into(), None), None, "{bytes:?}");
        }
    }

    #[test]
    fn entries_belong_to_the_last_epoch_that_began_before_them() {
        let entry = |id: &str| {
            Value::Array(vec![
                bulk(id),
                Value::Array(vec![bulk("d"), bulk("r\0u\0{}")]),
            ])
        };
        let entries = Value::Array(vec![entry("4-1"), entry("5-1"), entry("6-1")]);
        let entries = log_entries(entries, &epochs("a@1 b@5 c@6")).unwrap();
        let labels: Vec<&str> = entries.iter().map(|e| e.position.epoch.as_str()).collect();
        assert_eq!(labels, ["a", "b", "c"]);
    }

    #[test]
    fn a_servers_state_is_read_from_info() {
        let info = "# Replication\r\nrole:master\r\nconnected_slaves:0\r\nmaster_replid:abc\r\nmaster_replid2:0\r\n";
        let state = server_state(info).unwrap();
        assert!(state.primary);
        assert_eq!(&*state.generation, "master_replid:abc");
        assert!(
            !server_state(&info.replace("master\r", "slave\r"))
                .unwrap()
                .primary
        );
        assert_eq!(server_state(""), None);
    }

    #[test]
    fn a_page_of_another_form_is_refused() {
        assert!(log_page(Value::Nil).is_none());
        assert!(log_page(Value::Array(vec![bulk("ok")])).is_none());
        let page = |status: &str| {
            Value::Array(vec![
                bulk(status),
                bulk("master_replid:a"),
                Value::Int(3),
                bulk("a@1"),
                bulk("a"),
                Value::Int(3),
                Value::Array(vec![]),
            ])
        };
        assert_eq!(log_page(page("ok")).unwrap().standing, Standing::Exact);
        assert!(log_page(page("fine")).is_none());
    }
}
