//! Calls of scripts, and questions about many things that are on different servers.

use super::keys::Key;
use super::net::{Connection, refusal, unexpected_reply};
use crate::error::StoreError;
use futures_util::future::join_all;
use redis::{Cmd, Pipeline, Script, Value};
use std::collections::BTreeMap;

/// Begins the call of a script with its keys. The caller adds the arguments.
pub(super) fn call(script: &Script, keys: &[Key<'_>]) -> Cmd {
    let mut command = Cmd::new();
    call_into(&mut command, script, keys);
    command
}

/// Does the same as [`call`] in an empty command, whose buffers may have been made large enough before.
pub(super) fn call_into(command: &mut Cmd, script: &Script, keys: &[Key<'_>]) {
    command
        .arg("EVALSHA")
        .arg(script.get_hash())
        .arg(keys.len());
    for key in keys {
        command.arg(key);
    }
}

/// Things by the connection to the node that owns them.
pub(super) struct ByConnection {
    /// Each connection with the places of its things in the list.
    pub(super) parts: Vec<(Connection, Vec<usize>)>,
    /// The places of things to whose node there is no connection.
    pub(super) unreachable: Vec<(usize, StoreError)>,
}

/// Groups things by the connection to the node that owns them.
pub(super) fn by_connection<T>(
    things: &[T],
    connection: impl Fn(&T) -> Result<Connection, StoreError>,
) -> ByConnection {
    let mut parts: BTreeMap<u64, (Connection, Vec<usize>)> = BTreeMap::new();
    let mut unreachable = Vec::new();
    for (place, thing) in things.iter().enumerate() {
        match connection(thing) {
            Ok(connection) => {
                let part = parts.entry(connection.number);
                let (_, places) = part.or_insert_with(|| (connection, Vec::new()));
                places.push(place);
            }
            Err(error) => unreachable.push((place, error)),
        }
    }
    ByConnection {
        parts: parts.into_values().collect(),
        unreachable,
    }
}

/// An answer, with the connection that brought it.
pub(super) type Answer = (Connection, Value);

/// Commands that one pipeline of [`ask_each`] holds.
const ASKED_AT_ONCE: usize = 500;

/// Asks one question about each thing, at the node that owns it. The answers are in the order of the things. Each thing has
/// a result of its own: a node that can't be reached, or refuses, does not hide what the others answer.
pub(super) async fn ask_each<T>(
    things: &[T],
    connection: impl Fn(&T) -> Result<Connection, StoreError>,
    question: impl Fn(&T) -> Cmd,
) -> Vec<Result<Answer, StoreError>> {
    let ByConnection { parts, unreachable } = by_connection(things, connection);
    let asked = parts.iter().map(async |(connection, places)| {
        let mut replies = Vec::with_capacity(places.len());
        for places in places.chunks(ASKED_AT_ONCE) {
            let mut pipeline = Pipeline::with_capacity(places.len());
            for place in places {
                pipeline.add_command(question(&things[*place]));
            }
            match connection.request_unchecked(&pipeline).await {
                Ok(some) => replies.extend(some),
                Err(error) => return (replies, Some(error)),
            }
        }
        (replies, None)
    });
    let asked = join_all(asked).await;
    let mut answers: Vec<Result<Answer, StoreError>> = Vec::new();
    answers.resize_with(things.len(), || Err(unexpected_reply()));
    for (place, error) in unreachable {
        answers[place] = Err(error);
    }
    for ((connection, places), (replies, error)) in parts.iter().zip(asked) {
        // A refusal may tell that this connection can't be used any more, or that slots have moved. It is reported to the
        // caller below.
        let _ = connection.check(&replies);
        let mut replies = replies.into_iter();
        for place in places {
            answers[*place] = match (replies.next(), &error) {
                (Some(Value::ServerError(error)), _) => Err(refusal(&error)),
                (Some(reply), _) => Ok((connection.clone(), reply)),
                (None, Some(error)) => Err(error.clone()),
                (None, None) => Err(unexpected_reply()),
            };
        }
    }
    answers
}
