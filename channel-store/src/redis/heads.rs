//! Where many logs end, asked in one go.
//!
//! The server's role and lifetime are asked before and after, on the same connection: if both are the same primary's,
//! all answers between are that lifetime's (RECOVERY.md, section 4).

use super::connection::Connection;
use super::keys::Keys;
use super::reply::{number, server_state, strange, text, unavailable};
use super::scripts::SCRIPTS;
use crate::name::ChannelName;
use crate::publication::{Epoch, Position};
use crate::{Head, StoreError};
use redis::{Pipeline, Value};

/// The lives that a touch gives, as texts, where a channel itself doesn't say.
pub(super) struct Lives {
    pub(super) log_seconds: String,
    pub(super) channel_seconds: String,
    /// Of a channel without members where nothing was ever said.
    pub(super) empty_seconds: String,
}

/// Looks only, or touches if lives are given.
pub(super) async fn heads(
    connection: &Connection,
    keys: &Keys,
    channels: &[ChannelName],
    touch: Option<&Lives>,
) -> Result<Vec<Option<Head>>, StoreError> {
    let mut pipeline = Pipeline::with_capacity(channels.len() + 2);
    pipeline.cmd("INFO").arg("replication");
    for channel in channels {
        let keys = keys.of(channel);
        match touch {
            None => pipeline.cmd("HMGET").arg(keys.meta()).arg("e").arg("n"),
            Some(lives) => {
                let lasting = keys.lasting();
                let hash = SCRIPTS.touch.get_hash();
                pipeline.cmd("EVALSHA").arg(hash).arg(lasting.len());
                for key in lasting {
                    pipeline.arg(key);
                }
                pipeline
                    .arg(&lives.log_seconds)
                    .arg(&lives.channel_seconds)
                    .arg(&lives.empty_seconds)
            }
        };
    }
    pipeline.cmd("INFO").arg("replication");

    let replies = connection.request(&pipeline, 0, pipeline.len()).await?;
    let [before, heads @ .., after] = &replies[..] else {
        return Err(strange());
    };
    let state = |info| text(info).and_then(server_state).ok_or_else(strange);
    let server = state(before)?;
    if !server.primary || state(after)? != server {
        return Err(unavailable("the server has changed meanwhile"));
    }
    if heads.len() != channels.len() {
        return Err(strange());
    }
    heads
        .iter()
        .map(|reply| {
            let position = end_of_log(reply).ok_or_else(strange)?;
            Ok(position.map(|position| Head {
                position,
                generation: server.generation.clone(),
            }))
        })
        .collect()
}

/// Reads epoch and offset; `Some(None)`: there is no life.
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
