//! Reading a stretch of a channel's log, and judging the position that it follows.

use super::connection::Connection;
use super::keys::{ChannelKeys, Keys};
use super::reply::{epochs, log_entries, log_page, strange, text};
use super::scripts::SCRIPTS;
use crate::name::ChannelName;
use crate::publication::Epoch;
use crate::store::{LogPage, Since, Standing, StoreError};
use redis::{Cmd, Pipeline, Value};

/// Reads over one connection.
pub(super) async fn read(
    connection: &Connection,
    keys: &Keys,
    channel_seconds: &str,
    channel: &ChannelName,
    since: &Since,
    limit: usize,
) -> Result<LogPage, StoreError> {
    let keys = keys.of(channel);
    // Entries that pass through a script cost six times as much. So the script only judges, and the entries that follow
    // an exact position, the normal case, come beside it.
    if let (Since::Position(position), 1..) = (since, limit) {
        let mut stretch = redis::cmd("XRANGE");
        stretch
            .arg(keys.log())
            .arg(position.offset.saturating_add(1))
            .arg("+")
            .arg("COUNT")
            .arg(limit);
        let (page, _) = judged(connection, &keys, channel_seconds, since, stretch).await?;
        if page.standing == Standing::Exact {
            return Ok(page);
        }
    }
    let mut alone = Pipeline::with_capacity(1);
    alone.add_command(script(&keys, channel_seconds, since, limit));
    let mut answer = connection.request(&alone, 0, 1).await?;
    answer.pop().and_then(log_page).ok_or_else(strange)
}

/// Judges a position, and takes a stretch of the log in the same transaction. The stretch is the caller's choice: it
/// need not follow the answer's position. Answers the newest epoch, too.
pub(super) async fn judged(
    connection: &Connection,
    keys: &ChannelKeys,
    channel_seconds: &str,
    since: &Since,
    stretch: Cmd,
) -> Result<(LogPage, Epoch), StoreError> {
    let mut transaction = Pipeline::with_capacity(2);
    transaction
        .atomic()
        .add_command(script(keys, channel_seconds, since, 0))
        .add_command(stretch);
    let answer = connection
        .request(&transaction, transaction.len() + 1, 1)
        .await?;
    let Some(Value::Array(replies)) = answer.into_iter().next() else {
        return Err(strange());
    };
    connection.examine(&replies)?;
    let [judgement, entries] = <[Value; 2]>::try_from(replies).map_err(|_| strange())?;
    let table = table(&judgement).ok_or_else(strange)?;
    let mut page = log_page(judgement).ok_or_else(strange)?;
    page.entries = log_entries(entries, &table).ok_or_else(strange)?;
    let (newest, _) = table.into_iter().next_back().ok_or_else(strange)?;
    Ok((page, newest))
}

fn script(keys: &ChannelKeys, channel_seconds: &str, since: &Since, count: usize) -> Cmd {
    let (epoch, offset) = match since {
        Since::Head => ("", 0),
        // Without a text it would be none; no epoch is called so.
        Since::Position(it) if it.epoch.as_str().is_empty() => ("-", it.offset),
        Since::Position(it) => (it.epoch.as_str(), it.offset),
    };
    let mut command = Cmd::new();
    command.arg("EVALSHA").arg(SCRIPTS.read.get_hash()).arg(4);
    for key in keys.read() {
        command.arg(key);
    }
    command
        .arg(epoch)
        .arg(offset)
        .arg(count)
        .arg(channel_seconds);
    command
}

fn table(judgement: &Value) -> Option<Vec<(Epoch, u64)>> {
    let Value::Array(fields) = judgement else {
        return None;
    };
    Some(epochs(text(fields.get(3)?)?))
}
