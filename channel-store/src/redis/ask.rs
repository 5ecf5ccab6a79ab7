//! Calls of scripts: one, or many at once to whichever nodes they concern.

use super::connection::Connection;
use super::reply::{refusal, strange};
use crate::store::StoreError;
use futures_util::future::try_join_all;
use redis::{Cmd, Pipeline, Script, Value};
use std::collections::BTreeMap;

/// Begins the call of a script with its keys.
pub(super) fn call(script: &Script, keys: &[String]) -> Cmd {
    let mut command = redis::cmd("EVALSHA");
    command.arg(script.get_hash()).arg(keys.len()).arg(keys);
    command
}

/// One answer; what the server refuses is an error.
pub(super) async fn one(connection: &Connection, command: Cmd) -> Result<Value, StoreError> {
    let mut pipeline = Pipeline::with_capacity(1);
    pipeline.add_command(command);
    match connection.request(&pipeline, 0, 1).await?.pop() {
        Some(Value::ServerError(error)) => Err(refusal(&error)),
        Some(reply) => Ok(reply),
        None => Err(strange()),
    }
}

/// Asks the nodes that own things one question for each thing; answers in their order, with the connection that
/// brought each.
pub(super) async fn ask_each<T>(
    things: &[T],
    connection: impl Fn(&T) -> Result<Connection, StoreError>,
    question: impl Fn(&T) -> Cmd,
) -> Result<Vec<(Connection, Value)>, StoreError> {
    let mut parts: BTreeMap<u64, (Connection, Vec<usize>, Pipeline)> = BTreeMap::new();
    for (index, thing) in things.iter().enumerate() {
        let connection = connection(thing)?;
        let part = parts.entry(connection.number);
        let (_, indices, pipeline) =
            part.or_insert_with(|| (connection, Vec::new(), Pipeline::new()));
        indices.push(index);
        pipeline.add_command(question(thing));
    }
    let answers = parts
        .into_values()
        .map(async |(connection, indices, pipeline)| {
            let replies = connection.request(&pipeline, 0, indices.len()).await?;
            if replies.len() != indices.len() {
                return Err(strange());
            }
            let replies = indices.into_iter().zip(replies);
            Ok(replies.map(move |(index, reply)| (index, (connection.clone(), reply))))
        });
    let mut answers: Vec<_> = try_join_all(answers).await?.into_iter().flatten().collect();
    answers.sort_unstable_by_key(|(index, _)| *index);
    Ok(answers.into_iter().map(|(_, answer)| answer).collect())
}
