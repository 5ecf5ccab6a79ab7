//! Reading a stretch of a channel's log, and judging the position that it begins at.
//!
//! The script counts the bytes of what it gives, so that an answer has a bound whatever the publications' sizes are.

use super::ask::one;
use super::connection::Connection;
use super::keys::ChannelKeys;
use super::reply::{Read, log_page, strange};
use super::scripts::SCRIPTS;
use super::seconds;
use crate::publication::{Epoch, Position};
use crate::rules::{EMPTY_LIFE, READ_BYTES};
use crate::{HistoryPage, HistoryRange};
use crate::{LogPage, Since, StoreError};

/// Reads what follows a position over one connection. Only who asks for the head may begin an epoch.
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

/// Reads one page of history over one connection.
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
        // Whether or not it stands: what follows is all that is held.
        HistoryRange::Oldest => (Since::Position(before_all()), "after"),
    };
    let read = ask(connection, keys, &since, (limit, direction), false).await?;
    let Read { page, newest, more } = read;
    let judgement = (page.standing, page.position);
    Ok(HistoryPage::new(
        range,
        judgement,
        newest,
        page.entries,
        more,
    ))
}

/// Where a channel without a life ends.
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
        // Without a text it would be none; no epoch is called so.
        Since::Position(it) if it.epoch.as_str().is_empty() => ("-", it.offset),
        Since::Position(it) => (it.epoch.as_str(), it.offset),
    };
    let mut command = redis::cmd("EVALSHA");
    command.arg(SCRIPTS.read.get_hash()).arg(4);
    for key in keys.read() {
        command.arg(key);
    }
    command.arg(epoch).arg(offset).arg(count).arg(READ_BYTES);
    command.arg(direction);
    command.arg(if begins {
        seconds(EMPTY_LIFE)
    } else {
        String::new()
    });
    let reply = one(connection, command).await?;
    log_page(reply).ok_or_else(strange)
}
