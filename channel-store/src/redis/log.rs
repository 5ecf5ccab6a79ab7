//! Reading a channel's log: stretches of it, and where it ends.
//!
//! The script counts the bytes of what it answers, so that an answer is bounded however large the publications are.

use super::call::call;
use super::keys::{ChannelKeys, Keys};
use super::net::{Connection, array, number, server_state, text, unavailable, unexpected_reply};
use super::publish::position;
use super::run::entry_id;
use super::scripts::SCRIPTS;
use super::seconds;
use crate::error::StoreError;
use crate::feed::Head;
use crate::name::ChannelName;
use crate::page::{Continuity, HistoryPage, HistoryRange, LogPage, Since};
use crate::publication::{Epoch, Payload, Position, Publication};
use crate::rules::{EMPTY_LIFE, READ_BYTES};
use crate::server::ServerLifetime;
use crate::watch::Look;
use redis::{Pipeline, Value};
use std::time::Duration;

/// The life of a channel that does not expire.
const LONG: Duration = Duration::from_secs(365 * 24 * 3600);

/// Reads what follows a position, over one connection. Only a reader that asks for the head may begin an epoch.
pub(super) async fn read(
    connection: &Connection,
    keys: &ChannelKeys,
    since: &Since,
    limit: usize,
) -> Result<LogPage, StoreError> {
    let begins = matches!(since, Since::Head);
    let read = ask(connection, keys, since, (limit, "after"), begins).await?;
    Ok(read.page)
}

/// Reads one page of history, over one connection.
pub(super) async fn history(
    connection: &Connection,
    keys: &ChannelKeys,
    range: &HistoryRange,
    limit: usize,
) -> Result<HistoryPage, StoreError> {
    let (since, direction) = match range {
        HistoryRange::After(position) => (Since::Position(position.clone()), "after"),
        HistoryRange::UpTo(position) => (Since::Position(position.clone()), "upto"),
        HistoryRange::Newest => (Since::Head, "upto"),
        // Whatever becomes of this position: what follows it is all that the log holds.
        HistoryRange::Oldest => (Since::Position(before_all()), "after"),
    };
    let read = ask(connection, keys, &since, (limit, direction), false).await?;
    let Read { page, newest, more } = read;
    let judgement = (page.continuity, page.position);
    Ok(HistoryPage::new(
        range,
        judgement,
        newest,
        page.entries,
        more,
    ))
}

/// See [`ChannelStore::trim`](crate::ChannelStore::trim).
pub(super) async fn trim(
    connection: &Connection,
    keys: &ChannelKeys,
    upto: &Position,
) -> Result<Option<u64>, StoreError> {
    let (epoch, offset) = as_argument(upto);
    let mut command = call(&SCRIPTS.trim, &keys.trim());
    command.arg(epoch).arg(offset);
    let reply = connection.request_one(command).await?;
    if reply == Value::Nil {
        return Ok(None);
    }
    let held = match array(&reply) {
        Some([word, end @ ..]) if text(word) == Some("mismatch") => {
            let end = position(end).ok_or_else(unexpected_reply)?;
            return Err(StoreError::PositionMismatch { end });
        }
        Some([_, held]) => number(held),
        _ => None,
    };
    held.map(Some).ok_or_else(unexpected_reply)
}

/// A position as the scripts take it. They take an empty text for no position. No epoch is called "-".
fn as_argument(position: &Position) -> (&str, u64) {
    match position.epoch.as_str() {
        "" => ("-", position.offset),
        epoch => (epoch, position.offset),
    }
}

/// Where a channel ends that does not exist.
fn before_all() -> Position {
    Position {
        epoch: Epoch::new(""),
        offset: 0,
    }
}

async fn ask(
    connection: &Connection,
    keys: &ChannelKeys,
    since: &Since,
    (count, direction): (usize, &str),
    begins: bool,
) -> Result<Read, StoreError> {
    let (epoch, offset) = match since {
        Since::Head => ("", 0),
        Since::Position(it) => as_argument(it),
    };
    let empty_life = begins.then(|| seconds(EMPTY_LIFE));
    let mut command = call(&SCRIPTS.read, &keys.read());
    command
        .arg(epoch)
        .arg(offset)
        .arg(count)
        .arg(READ_BYTES)
        .arg(direction)
        .arg(empty_life.unwrap_or_default());
    let reply = connection.request_one(command).await?;
    log_page(reply).ok_or_else(unexpected_reply)
}

/// The lives that a touch gives, as the script takes them. They hold where the channel itself does not say.
pub(super) struct Lives {
    pub(super) log_seconds: String,
    pub(super) channel_seconds: String,
    /// The life of a channel without members whose log holds nothing but joins and leaves.
    pub(super) empty_seconds: String,
}

/// Asks where the logs of several channels end, and touches the channels if lives are given.
///
/// The server's role and lifetime are asked before and after, over the same connection. If it is one lifetime of a primary
/// both times, all answers in between are of that lifetime.
pub(super) async fn heads(
    connection: &Connection,
    keys: &Keys,
    channels: &[ChannelName],
    touch: Option<&Lives>,
) -> Result<Vec<Option<Head>>, StoreError> {
    let mut pipeline = Pipeline::with_capacity(channels.len() + 2);
    pipeline.cmd("INFO").arg("replication");
    for channel in channels {
        let keys = keys.of_channel(channel);
        match touch {
            None => pipeline.cmd("HMGET").arg(keys.meta()).arg("e").arg("n"),
            Some(lives) => {
                let mut touch = call(&SCRIPTS.touch, &keys.lasting());
                touch
                    .arg(&lives.log_seconds)
                    .arg(&lives.channel_seconds)
                    .arg(&lives.empty_seconds);
                pipeline.add_command(touch)
            }
        };
    }
    pipeline.cmd("INFO").arg("replication");

    let replies = connection.request(&pipeline).await?;
    let (heads, lifetime) = of_one_lifetime(&replies)?;
    heads
        .iter()
        .map(|reply| {
            let position = end_of_log(reply).ok_or_else(unexpected_reply)?;
            Ok(position.map(|position| Head {
                position,
                lifetime: lifetime.clone(),
            }))
        })
        .collect()
}

/// Asks where the logs of several channels end and when the channels expire, and changes nothing. It asks as [`heads`] does.
pub(super) async fn looks(
    connection: &Connection,
    keys: &Keys,
    channels: &[ChannelName],
) -> Result<Vec<Look>, StoreError> {
    let mut pipeline = Pipeline::with_capacity(2 * channels.len() + 2);
    pipeline.cmd("INFO").arg("replication");
    for channel in channels {
        let keys = keys.of_channel(channel);
        pipeline.cmd("HMGET").arg(keys.meta()).arg("e").arg("n");
        pipeline.cmd("TTL").arg(keys.meta());
    }
    pipeline.cmd("INFO").arg("replication");
    let replies = connection.request(&pipeline).await?;
    let (looks, lifetime) = of_one_lifetime(&replies)?;
    let look = |pair: &[Value]| {
        let end = end_of_log(&pair[0])?;
        let life = match &pair[1] {
            // No key of a channel is without a life, unless somebody has tampered with it.
            Value::Int(-1) => LONG,
            // It has expired between the two commands.
            Value::Int(-2) => Duration::ZERO,
            life => Duration::from_secs(number(life)?),
        };
        Some(Look {
            life: end.is_some().then_some(life),
            head: Head {
                position: end.unwrap_or_else(before_all),
                lifetime: lifetime.clone(),
            },
        })
    };
    let looks = looks.chunks_exact(2).map(look);
    looks.collect::<Option<_>>().ok_or_else(unexpected_reply)
}

/// What stands between two questions about the server, if it was one lifetime of a primary both times.
fn of_one_lifetime(replies: &[Value]) -> Result<(&[Value], ServerLifetime), StoreError> {
    let [before, between @ .., after] = replies else {
        return Err(unexpected_reply());
    };
    let state = |info| {
        text(info)
            .and_then(server_state)
            .ok_or_else(unexpected_reply)
    };
    let server = state(before)?;
    if !server.is_primary || state(after)? != server {
        return Err(unavailable(
            "the server has changed its role or restarted meanwhile",
        ));
    }
    Ok((between, server.lifetime))
}

/// Reads epoch and last offset. `Some(None)`: the channel does not exist.
pub(super) fn end_of_log(reply: &Value) -> Option<Option<Position>> {
    let Value::Array(fields) = reply else {
        return None;
    };
    match &fields[..] {
        [Value::Nil, _] => Some(None),
        [epoch, offset] => Some(Some(Position {
            epoch: Epoch::new(text(epoch)?),
            offset: number(offset)?,
        })),
        _ => None,
    }
}

/// What `read.lua` answers.
struct Read {
    page: LogPage,
    /// The end of the log.
    newest: Position,
    /// True if there is more in the direction that was asked for.
    more: bool,
}

/// Reads the answer of `read.lua`.
fn log_page(value: Value) -> Option<Read> {
    let Value::Array(fields) = value else {
        return None;
    };
    let [status, lifetime, last, table, epoch, offset, more, entries] =
        <[Value; 8]>::try_from(fields).ok()?;
    let epochs = epochs(text(&table)?);
    let page = LogPage {
        continuity: match text(&status)? {
            "contiguous" => Continuity::Contiguous,
            "diverged" => Continuity::Diverged,
            "trimmed" => Continuity::Trimmed,
            "unknown" => Continuity::Unknown,
            _ => return None,
        },
        lifetime: text(&lifetime)?.into(),
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

/// Reads the table of a log's epochs, oldest first, each with its first offset.
fn epochs(table: &str) -> Vec<(Epoch, u64)> {
    table
        .split(' ')
        .filter_map(|entry| {
            let (id, start) = entry.split_once('@')?;
            Some((Epoch::new(id), start.parse().ok()?))
        })
        .collect()
}

/// Reads entries of the log: each is an id and its data. An entry belongs to the last epoch that began at its offset or before.
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
    fn entries_belong_to_the_last_epoch_that_began_before_them() {
        let ids = ["4-1", "5-1", "6-1"];
        let items = ids.iter().flat_map(|id| [bulk(id), bulk("r\0u\0{}")]);
        let entries = Value::Array(items.collect());
        let entries = log_entries(entries, &epochs("a@1 b@5 c@6")).unwrap();
        let labels: Vec<&str> = entries.iter().map(|e| e.position.epoch.as_str()).collect();
        assert_eq!(labels, ["a", "b", "c"]);
    }

    #[test]
    fn an_entry_without_its_data_is_refused() {
        let entries = Value::Array(vec![bulk("4-1")]);
        assert!(log_entries(entries, &epochs("a@1")).is_none());
    }

    #[test]
    fn a_page_with_an_unexpected_form_is_refused() {
        assert!(log_page(Value::Nil).is_none());
        assert!(log_page(Value::Array(vec![bulk("contiguous")])).is_none());
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
        assert_eq!(
            log_page(page("contiguous")).unwrap().page.continuity,
            Continuity::Contiguous
        );
        assert!(log_page(page("fine")).is_none());
    }
}
