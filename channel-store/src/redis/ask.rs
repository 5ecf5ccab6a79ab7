//! Calls of scripts: one, or many at once to whichever nodes they concern.

use super::connection::Connection;
use super::reply::{refusal, strange};
use crate::StoreError;
use futures_util::future::{join_all, try_join_all};
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

/// Which connections own these things, each with the places of its own among them.
pub(super) fn by_connection<T>(
    things: &[T],
    connection: impl Fn(&T) -> Result<Connection, StoreError>,
) -> Result<Vec<(Connection, Vec<usize>)>, StoreError> {
    let mut parts: BTreeMap<u64, (Connection, Vec<usize>)> = BTreeMap::new();
    for (index, thing) in things.iter().enumerate() {
        let connection = connection(thing)?;
        let part = parts.entry(connection.number);
        let (_, indices) = part.or_insert_with(|| (connection, Vec::new()));
        indices.push(index);
    }
    Ok(parts.into_values().collect())
}

/// Answers that came by connection, in the order of the things.
pub(super) fn in_order<A>(parts: Vec<(Vec<usize>, Vec<A>)>) -> Result<Vec<A>, StoreError> {
    let mut answers = Vec::new();
    for (indices, its) in parts {
        if its.len() != indices.len() {
            return Err(strange());
        }
        answers.extend(indices.into_iter().zip(its));
    }
    answers.sort_unstable_by_key(|(index, _)| *index);
    Ok(answers.into_iter().map(|(_, answer)| answer).collect())
}

/// Asks the nodes that own things one question for each thing; answers in their order, with the connection that
/// brought each.
pub(super) async fn ask_each<T>(
    things: &[T],
    connection: impl Fn(&T) -> Result<Connection, StoreError>,
    question: impl Fn(&T) -> Cmd,
) -> Result<Vec<(Connection, Value)>, StoreError> {
    let parts = by_connection(things, connection)?.into_iter();
    let questions = parts.map(|(connection, indices)| {
        let mut pipeline = Pipeline::with_capacity(indices.len());
        for index in &indices {
            pipeline.add_command(question(&things[*index]));
        }
        (connection, indices, pipeline)
    });
    let answers = questions.map(async |(connection, indices, pipeline)| {
        let replies = connection.request(&pipeline, 0, indices.len()).await?;
        let replies = replies.into_iter().map(|it| (connection.clone(), it));
        Ok((indices, replies.collect()))
    });
    in_order(try_join_all(answers).await?)
}

/// Things that one pipeline of [`ask_each_apart`] asks about.
const ASKED_AT_ONCE: usize = 500;

/// As [`ask_each`], but each thing has an answer of its own: a node that is away, or refuses, takes no other node's answers
/// with it.
pub(super) async fn ask_each_apart<T>(
    things: &[T],
    connection: impl Fn(&T) -> Result<Connection, StoreError>,
    question: impl Fn(&T) -> Cmd,
) -> Vec<Result<Value, StoreError>> {
    let mut answers: Vec<Result<Value, StoreError>> = Vec::with_capacity(things.len());
    let mut parts: BTreeMap<u64, (Connection, Vec<usize>)> = BTreeMap::new();
    for (index, thing) in things.iter().enumerate() {
        answers.push(Err(strange()));
        match connection(thing) {
            Ok(connection) => {
                let part = parts.entry(connection.number);
                let (_, indices) = part.or_insert_with(|| (connection, Vec::new()));
                indices.push(index);
            }
            Err(error) => answers[index] = Err(error),
        }
    }
    let asked = parts.values().map(async |(connection, indices)| {
        let mut replies = Vec::with_capacity(indices.len());
        for indices in indices.chunks(ASKED_AT_ONCE) {
            let mut pipeline = Pipeline::with_capacity(indices.len());
            for index in indices {
                pipeline.add_command(question(&things[*index]));
            }
            match connection.ask(&pipeline, 0, indices.len()).await {
                Ok(some) => replies.extend(some),
                Err(error) => return (replies, Some(error)),
            }
        }
        (replies, None)
    });
    let asked = join_all(asked).await;
    for ((connection, indices), (replies, error)) in parts.values().zip(asked) {
        // A refusal may tell that the connection is of no use any more, or that slots have moved.
        let _ = connection.examine(&replies);
        let mut replies = replies.into_iter();
        for index in indices {
            answers[*index] = match (replies.next(), &error) {
                (Some(Value::ServerError(error)), _) => Err(refusal(&error)),
                (Some(reply), _) => Ok(reply),
                (None, Some(error)) => Err(error.clone()),
                (None, None) => Err(strange()),
            };
        }
    }
    answers
}
