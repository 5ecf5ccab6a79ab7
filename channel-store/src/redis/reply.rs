//! What Redis answers, taken apart without trust: whatever does not have the expected form is an error, never a panic.

use crate::publication::{Epoch, Payload, Position, Publication};
use crate::{Generation, LogPage, Standing, StoreError};
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

/// A join or login came too late, by this time of the server.
pub(super) fn late(now: &Value) -> StoreError {
    number(now).map_or_else(strange, |now| StoreError::Late { now })
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

/// What a server does when its memory is full, as `INFO memory` has it.
pub(super) fn eviction_policy(info: &Value) -> Option<String> {
    let mut lines = text(info)?.lines();
    let policy = lines.find_map(|line| line.strip_prefix("maxmemory_policy:"))?;
    Some(policy.to_owned())
}

/// An entry's id: offset and time.
fn entry_id(id: &str) -> Option<(u64, u64)> {
    let (offset, time) = id.split_once('-')?;
    Some((offset.parse().ok()?, time.parse().ok()?))
}

/// Publications as a topic brings them, which follow one another in the log: `epoch offset-milliseconds`, the lengths of
/// all but the last, newline, and the payloads back to back.
#[derive(Debug)]
pub(super) struct Run {
    /// Of the next one.
    position: Position,
    time: u64,
    lengths: Bytes,
    /// Of those that are left; `None`: nothing is.
    payloads: Option<Bytes>,
}

impl Run {
    /// `known` spares a new epoch's text for each.
    pub(super) fn parse(bytes: Vec<u8>, known: Option<&Epoch>) -> Option<Self> {
        let bytes = Bytes::from(bytes);
        let end = bytes.iter().position(|&b| b == b'\n')?;
        let head = std::str::from_utf8(&bytes[..end]).ok()?;
        let (epoch, rest) = head.split_once(' ')?;
        let id = rest.split(' ').next()?;
        let (offset, time) = entry_id(id)?;
        let epoch = known
            .filter(|known| known.as_str() == epoch)
            .cloned()
            .unwrap_or_else(|| Epoch::new(epoch));
        Some(Self {
            position: Position { epoch, offset },
            time,
            lengths: bytes.slice(end - (rest.len() - id.len())..end),
            payloads: Some(bytes.slice(end + 1..)),
        })
    }

    /// That of all of them.
    pub(super) fn epoch(&self) -> &Epoch {
        &self.position.epoch
    }

    fn next_payload(&mut self) -> Option<Bytes> {
        let mut payloads = self.payloads.take()?;
        if self.lengths.is_empty() {
            return Some(payloads);
        }
        // A space before each.
        let lengths = self.lengths.split_off(1);
        let digits = lengths.iter().take_while(|byte| **byte != b' ').count();
        let length = std::str::from_utf8(&lengths[..digits]).ok()?.parse().ok()?;
        self.lengths = lengths.slice(digits..);
        if payloads.len() < length {
            return None;
        }
        let payload = payloads.split_to(length);
        self.payloads = Some(payloads);
        Some(payload)
    }
}

impl Iterator for Run {
    type Item = Publication;

    /// What is no publication ends the run, and leaves a gap at most, which the next one shows.
    fn next(&mut self) -> Option<Publication> {
        let payload = self.next_payload().and_then(Payload::parse);
        let position = self.position.clone();
        self.position.offset = self.position.offset.saturating_add(1);
        if payload.is_none() {
            self.payloads = None;
        }
        Some(Publication {
            position,
            time: self.time,
            payload: payload?,
        })
    }
}

/// What `read.lua` answers.
pub(super) struct Read {
    pub(super) page: LogPage,
    /// The end of the log.
    pub(super) newest: Position,
    /// There is more in the direction that was asked for.
    pub(super) more: bool,
}

/// Reads the answer of `read.lua`.
pub(super) fn log_page(value: Value) -> Option<Read> {
    let Value::Array(fields) = value else {
        return None;
    };
    let [
        status,
        generation,
        last,
        table,
        epoch,
        offset,
        more,
        entries,
    ] = <[Value; 8]>::try_from(fields).ok()?;
    let epochs = epochs(text(&table)?);
    let page = LogPage {
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
        entries: log_entries(entries, &epochs)?,
    };
    Some(Read {
        newest: Position {
            epoch: (epochs.last()).map_or_else(|| Epoch::new(""), |(newest, _)| newest.clone()),
            offset: page.last,
        },
        more: number(&more)? == 1,
        page,
    })
}

/// The epochs of a log with their first offsets, oldest first, from the table's text.
fn epochs(table: &str) -> Vec<(Epoch, u64)> {
    table
        .split(' ')
        .filter_map(|entry| {
            let (id, start) = entry.split_once('@')?;
            Some((Epoch::new(id), start.parse().ok()?))
        })
        .collect()
}

/// Reads a stretch of the log, ids and data in turn; each entry belongs to the last epoch that began at its offset or before.
fn log_entries(value: Value, epochs: &[(Epoch, u64)]) -> Option<Vec<Publication>> {
    let Value::Array(entries) = value else {
        return None;
    };
    let mut items = entries.into_iter();
    let pairs = std::iter::from_fn(|| Some((items.next()?, items.next())));
    pairs
        .map(|(id, data)| {
            let Some(Value::BulkString(data)) = data else {
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
        let mut run =
            Run::parse(b"e1 7-1700\nr\0u\0{\"a\":\"\n\"}".to_vec(), Some(&epoch)).unwrap();
        let publication = run.next().unwrap();
        assert!(run.next().is_none());
        assert_eq!(publication.position, Position { epoch, offset: 7 });
        assert_eq!(publication.time, 1700);
        assert_eq!(publication.payload.route(), "r");
        assert_eq!(publication.payload.body(), b"{\"a\":\"\n\"}");
    }

    #[test]
    fn a_run_is_taken_apart_by_its_lengths() {
        let run = Run::parse(b"e1 7-1700 7 8\nr\0u\0{1}q\0uu\0{2}r\0\0{}".to_vec(), None).unwrap();
        let run: Vec<_> = run
            .map(|it| {
                let body = String::from_utf8(it.payload.body().to_vec()).unwrap();
                (it.position.offset, it.payload.sender().to_owned(), body)
            })
            .collect();
        let expected = [(7, "u", "{1}"), (8, "uu", "{2}"), (9, "", "{}")];
        let expected = expected.map(|(offset, sender, body)| (offset, sender.into(), body.into()));
        assert_eq!(run, expected);
    }

    #[test]
    fn a_run_ends_at_what_is_no_publication() {
        for bytes in [
            "e1 7-1 99\nr\0u\0{}",
            "e1 7-1 \nr\0u\0{}",
            "e1 7-1 x\nr\0u\0{}",
            "e1 7-1 2\nr\0u\0{}",
        ] {
            assert_eq!(
                Run::parse(bytes.into(), None).unwrap().count(),
                0,
                "{bytes:?}"
            );
        }
        let run = Run::parse("e1 7-1 6\nr\0u\0{}{}".into(), None).unwrap();
        assert_eq!(run.count(), 1);
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
            let run = Run::parse(bytes.into(), None);
            assert_eq!(run.and_then(|mut run| run.next()), None, "{bytes:?}");
        }
    }

    #[test]
    fn entries_belong_to_the_last_epoch_that_began_before_them() {
        let ids = ["4-1", "5-1", "6-1"];
        let items = ids.iter().flat_map(|id| [bulk(id), bulk("r\0u\0{}")]);
        let entries = Value::Array(items.collect());
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
    fn what_a_full_server_does_is_read_from_info() {
        let info = bulk("# Memory\r\nmaxmemory:0\r\nmaxmemory_policy:allkeys-lru\r\nx:y\r\n");
        assert_eq!(eviction_policy(&info).as_deref(), Some("allkeys-lru"));
        assert_eq!(eviction_policy(&bulk("")), None);
    }

    #[test]
    fn an_entry_without_its_data_is_refused() {
        let entries = Value::Array(vec![bulk("4-1")]);
        assert!(log_entries(entries, &epochs("a@1")).is_none());
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
                Value::Int(0),
                Value::Array(vec![]),
            ])
        };
        assert_eq!(log_page(page("ok")).unwrap().page.standing, Standing::Exact);
        assert!(log_page(page("fine")).is_none());
    }
}
