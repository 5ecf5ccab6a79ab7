//! What channels are at present: many short questions at once.

use super::call::{Answer, ask_each, call};
use super::keys::Keys;
use super::membership::Memberships;
use super::net::{Nodes, array, number, text, unexpected_reply};
use super::run::entry_id;
use super::scripts::SCRIPTS;
use crate::directory::ChannelSummary;
use crate::error::StoreError;
use crate::name::ChannelName;
use crate::publication::{Epoch, Position};
use futures_util::future::try_join_all;
use redis::Value;

/// Asks what channels are.
pub(super) struct Summaries<'a> {
    pub(super) nodes: &'a Nodes,
    pub(super) keys: &'a Keys,
    pub(super) memberships: &'a Memberships,
}

/// One channel, as it was seen.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Seen {
    Exists(ChannelSummary),
    /// It was deleted, and nothing happened in it since. It stays in the directory as long as its offsets go on, because what
    /// begins there again need not be noted again.
    Deleted,
    /// The store knows nothing of it.
    Nothing,
}

impl Seen {
    /// The summary, if the channel exists.
    pub(super) fn existing(self) -> Option<ChannelSummary> {
        match self {
            Self::Exists(summary) => Some(summary),
            Self::Deleted | Self::Nothing => None,
        }
    }
}

/// An answer of `summary.lua`.
#[derive(Debug, PartialEq, Eq)]
struct Look {
    seen: Seen,
    /// True if the time of a detached member is over.
    overdue: bool,
}

impl Summaries<'_> {
    /// What these channels are, in their order. Detached members whose time is over are removed first.
    pub(super) async fn of(&self, channels: &[ChannelName]) -> Result<Vec<Seen>, StoreError> {
        let mut looks = self.look(channels).await?;
        let overdue = looks.iter().enumerate();
        let overdue = overdue.filter(|(_, look)| look.overdue);
        let places: Vec<usize> = overdue.map(|(place, _)| place).collect();
        if !places.is_empty() {
            let some: Vec<_> = places.iter().map(|it| channels[*it].clone()).collect();
            try_join_all(some.iter().map(|it| self.memberships.expire(it))).await?;
            for (place, look) in places.into_iter().zip(self.look(&some).await?) {
                looks[place] = look;
            }
        }
        Ok(looks.into_iter().map(|look| look.seen).collect())
    }

    /// Asks once about each. All of them take one turn at reading, because the answers are small.
    async fn look(&self, channels: &[ChannelName]) -> Result<Vec<Look>, StoreError> {
        let Some(first) = channels.first() else {
            return Ok(Vec::new());
        };
        let topic = |channel: &ChannelName| self.keys.of_channel(channel).topic().to_string();
        let _reading = self.nodes.reading(topic(first)).await?;
        let connection = |channel: &ChannelName| self.nodes.reader(|| topic(channel));
        let question = |channel: &ChannelName| {
            call(&SCRIPTS.summary, &self.keys.of_channel(channel).summary())
        };
        let answers = ask_each(channels, connection, question).await;
        let seen = |answer: Result<Answer, StoreError>| {
            let (_, reply) = answer?;
            seen(&reply).ok_or_else(unexpected_reply)
        };
        answers.into_iter().map(seen).collect()
    }
}

/// Reads an answer of `summary.lua`. `None`: it has another form.
fn seen(reply: &Value) -> Option<Look> {
    let without = |seen| Look {
        seen,
        overdue: false,
    };
    let (epoch, last, users, sessions, oldest, newest, overdue, held_bytes) = match reply {
        Value::Nil => return Some(without(Seen::Nothing)),
        reply => match array(reply)? {
            [word] if text(word)? == "deleted" => return Some(without(Seen::Deleted)),
            [
                epoch,
                last,
                users,
                sessions,
                oldest,
                newest,
                overdue,
                held_bytes,
            ] => (
                epoch, last, users, sessions, oldest, newest, overdue, held_bytes,
            ),
            _ => return None,
        },
    };
    let last = number(last)?;
    // `None`: the log holds nothing.
    let entry = |id| match text(id)? {
        "" => Some(None),
        id => entry_id(id).map(Some),
    };
    let (oldest, newest) = (entry(oldest)?, entry(newest)?);
    let held = oldest.map_or(0, |(first, _)| (last + 1).saturating_sub(first));
    Some(Look {
        seen: Seen::Exists(ChannelSummary {
            end: Position {
                epoch: Epoch::new(text(epoch)?),
                offset: last,
            },
            users: number(users)?,
            sessions: number(sessions)?,
            held,
            held_bytes: number(held_bytes)?,
            oldest: oldest.map(|(_, time)| time),
            newest: newest.map(|(_, time)| time),
        }),
        overdue: number(overdue)? > 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.into())
    }

    fn reply(oldest: &str) -> Value {
        let numbers = [Value::Int(9), Value::Int(2), Value::Int(3)];
        let rest = [bulk(oldest), bulk("9-1800"), Value::Int(1), Value::Int(700)];
        Value::Array(
            [bulk("e1")]
                .into_iter()
                .chain(numbers)
                .chain(rest)
                .collect(),
        )
    }

    #[test]
    fn the_ids_of_the_entries_tell_how_many_there_are_and_when_they_were_published() {
        let Look { seen: it, overdue } = seen(&reply("4-1700")).unwrap();
        let summary = it.existing().unwrap();
        assert_eq!((summary.held, summary.users, summary.sessions), (6, 2, 3));
        assert_eq!(summary.held_bytes, 700);
        assert_eq!((summary.oldest, summary.newest), (Some(1700), Some(1800)));
        assert!(overdue);
        let is = |reply| seen(reply).unwrap().seen;
        assert_eq!(is(&Value::Nil), Seen::Nothing);
        assert_eq!(is(&Value::Array(vec![bulk("deleted")])), Seen::Deleted);
    }

    #[test]
    fn an_answer_of_another_form_is_refused() {
        for wrong in [
            Value::Int(1),
            Value::Array(vec![]),
            reply("4"),
            reply("x-1"),
        ] {
            assert_eq!(seen(&wrong), None, "{wrong:?}");
        }
    }
}
