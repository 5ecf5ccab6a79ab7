//! Joining and leaving channels.

use super::append::{Appending, flag};
use super::directory::Directory;
use super::net::{Nodes, array, number, text, unavailable, unexpected_reply};
use super::publish::position;
use super::scripts::SCRIPTS;
use super::seconds;
use crate::error::StoreError;
use crate::membership::{Beginning, Join, Joined, Leave, Membership, Reaped};
use crate::name::{ChannelName, IdempotencyKey, Incarnation, UserId};
use crate::options::StoreOptions;
use crate::publication::{Epoch, Position};
use crate::user_info::UserInfo;
use redis::{Cmd, Value};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Detached members that one call removes at most.
const EXPIRED_AT_ONCE: usize = 100;

/// Members that one call ends at most, so that other callers don't wait long.
const REAPED_AT_ONCE: usize = 200;

/// How often a deletion is tried, if further connectors join the channel meanwhile.
const DELETE_TRIES: usize = 10;

/// Changes who is a member of which channel.
pub(super) struct Memberships {
    nodes: Arc<Nodes>,
    appending: Arc<Appending>,
    directory: Arc<Directory>,
    tombstone_seconds: String,
    key_seconds: String,
    detached_life: Duration,
}

impl Memberships {
    pub(super) fn new(
        nodes: Arc<Nodes>,
        appending: Arc<Appending>,
        directory: Arc<Directory>,
        options: &StoreOptions,
    ) -> Self {
        Self {
            nodes,
            appending,
            directory,
            tombstone_seconds: seconds(options.tombstone_life),
            key_seconds: seconds(options.key_life),
            detached_life: options.detached_life,
        }
    }

    pub(super) fn detached_life(&self) -> Duration {
        self.detached_life
    }

    async fn ask(&self, channel: &ChannelName, command: Cmd) -> Result<Value, StoreError> {
        let topic = || self.appending.keys_of(channel).topic().to_string();
        self.nodes.connection(topic)?.request_one(command).await
    }

    /// See [`ChannelStore::join`](crate::ChannelStore::join).
    pub(super) async fn join(&self, join: &Join) -> Result<Joined, StoreError> {
        let of = parts(&join.membership, &join.user.id);
        let keys = self.appending.keys_of(&join.channel);
        let replaced = join.replaces.iter().flat_map(|it| {
            [
                keys.left(it.session.as_str()),
                keys.sessions_of(Some(&it.incarnation)),
            ]
        });
        let more_keys = [
            keys.dead(of.incarnation),
            keys.left(&of.session),
            keys.sessions_of(of.incarnation),
        ];
        let more_keys = more_keys.into_iter().chain(replaced);
        let script = &SCRIPTS.join;
        let mut command =
            (self.appending).call_about_members(script, &join.channel, &keys, more_keys);
        let stay = match of.operation {
            Some(_) => String::new(),
            None => {
                let stay = join.stay.unwrap_or(self.detached_life);
                stay.as_millis().to_string()
            }
        };
        command
            .arg(&of.session)
            .arg(of.operation.unwrap_or_default())
            .arg(of.incarnation.map_or("", Incarnation::as_str))
            .arg(join.user.id.as_str())
            .arg(flag(join.user.is_number))
            .arg(stay)
            .arg(join.deadline.map_or(String::new(), |it| it.to_string()))
            .arg(&self.tombstone_seconds)
            .arg(join.repairs.as_ref().map_or_else(String::new, beginning))
            .arg(join.info.as_ref().map_or("", UserInfo::as_str));
        for replaced in &join.replaces {
            command
                .arg(replaced.session.as_str())
                .arg(replaced.incarnation.as_str());
        }
        let (channel, began) = (std::iter::once(&join.channel), Instant::now());
        self.directory.note(channel.clone(), began).await;
        let joined = joined(&self.ask(&join.channel, command).await?)?;
        if joined.published && joined.position.offset == 1 {
            self.directory.note_births(channel, began).await;
        }
        Ok(joined)
    }

    /// See [`ChannelStore::leave`](crate::ChannelStore::leave).
    pub(super) async fn leave(&self, leave: &Leave) -> Result<bool, StoreError> {
        let of = parts(&leave.membership, &leave.user.id);
        let keys = self.appending.keys_of(&leave.channel);
        let more_keys = [
            keys.dead(of.incarnation),
            keys.left(&of.session),
            keys.sessions_of(of.incarnation),
        ];
        let script = &SCRIPTS.leave;
        let mut command =
            (self.appending).call_about_members(script, &leave.channel, &keys, more_keys);
        // Operations of a back end have no numbers. They count in the order in which they arrive, and leave no tombstone.
        let operation = of.operation.map_or(String::new(), |it| it.to_string());
        command
            .arg(&of.session)
            .arg(operation)
            .arg(flag(leave.fence && of.operation.is_some()))
            .arg(&self.tombstone_seconds)
            .arg(of.incarnation.map_or("", Incarnation::as_str));
        let reply = self.ask(&leave.channel, command).await?;
        Ok(number(&reply).ok_or_else(unexpected_reply)? == 1)
    }

    /// See [`ChannelStore::reap`](crate::ChannelStore::reap).
    pub(super) async fn reap(
        &self,
        channel: &ChannelName,
        incarnation: &Incarnation,
    ) -> Result<Reaped, StoreError> {
        let of = Some(incarnation);
        let keys = self.appending.keys_of(channel);
        let more_keys = [keys.dead(of), keys.sessions_of(of)];
        let script = &SCRIPTS.reap;
        let mut command = (self.appending).call_about_members(script, channel, &keys, more_keys);
        command
            .arg(REAPED_AT_ONCE)
            .arg(&self.tombstone_seconds)
            .arg(incarnation.as_str());
        let reply = self.ask(channel, command).await?;
        match array(&reply) {
            Some([ended, remaining]) => Ok(Reaped {
                ended: number(ended).ok_or_else(unexpected_reply)?,
                remaining: number(remaining).ok_or_else(unexpected_reply)?,
            }),
            _ => Err(unexpected_reply()),
        }
    }

    /// See [`ChannelStore::delete`](crate::ChannelStore::delete).
    pub(super) async fn delete(
        &self,
        channel: &ChannelName,
        key: Option<&IdempotencyKey>,
    ) -> Result<Option<Position>, StoreError> {
        let keys = self.appending.keys_of(channel);
        let mut named: Vec<Incarnation> = Vec::new();
        for _ in 0..DELETE_TRIES {
            let more_keys = named.iter().map(|it| keys.sessions_of(Some(it)));
            let script = &SCRIPTS.delete;
            let mut command =
                (self.appending).call_about_members(script, channel, &keys, more_keys);
            command
                .arg(key.map_or("", IdempotencyKey::as_str))
                .arg(&self.key_seconds);
            for incarnation in &named {
                command.arg(incarnation.as_str());
            }
            let reply = self.ask(channel, command).await?;
            match array(&reply) {
                None if reply == Value::Nil => return Ok(None),
                Some([word, at @ ..]) if text(word) == Some("deleted") => {
                    return position(at).map(Some).ok_or_else(unexpected_reply);
                }
                Some([word, there @ ..]) if text(word) == Some("again") => {
                    let there = there.iter().map(|it| Incarnation::new(text(it)?).ok());
                    named = there.collect::<Option<_>>().ok_or_else(unexpected_reply)?;
                }
                _ => return Err(unexpected_reply()),
            }
        }
        Err(unavailable("connectors join the channel all the time"))
    }

    /// See [`ChannelStore::expire`](crate::ChannelStore::expire).
    pub(super) async fn expire(
        &self,
        channel: &ChannelName,
    ) -> Result<Option<Duration>, StoreError> {
        let keys = self.appending.keys_of(channel);
        let script = &SCRIPTS.expire;
        let mut command = (self.appending).call_about_members(script, channel, &keys, []);
        command.arg(EXPIRED_AT_ONCE);
        match self.ask(channel, command).await? {
            Value::Nil => Ok(None),
            reply => {
                let milliseconds = number(&reply).ok_or_else(unexpected_reply)?;
                Ok(Some(Duration::from_millis(milliseconds)))
            }
        }
    }
}

/// A membership as the scripts take it.
struct Parts<'a> {
    session: String,
    incarnation: Option<&'a Incarnation>,
    /// `None`: the member is detached.
    operation: Option<u64>,
}

/// The name of a detached member's session begins with `@`. No connector gives such names.
fn parts<'a>(membership: &'a Membership, user: &UserId) -> Parts<'a> {
    match membership {
        Membership::Session {
            incarnation,
            session,
            operation,
        } => Parts {
            session: session.as_str().to_owned(),
            incarnation: Some(incarnation),
            operation: Some(*operation),
        },
        Membership::Detached => Parts {
            session: format!("@{user}"),
            incarnation: None,
            operation: None,
        },
    }
}

/// When a membership began, as `join.lua` takes it. Without a life there is nothing to compare.
fn beginning(of: &Beginning) -> String {
    match (of.life.as_str(), of.deletion.as_str()) {
        ("", _) => String::new(),
        (life, "") => format!("{life} -"),
        (life, deletion) => format!("{life} {deletion}"),
    }
}

/// The error of a join or login that came too late, by this time of the server.
pub(super) fn late(now: &Value) -> StoreError {
    number(now).map_or_else(unexpected_reply, |now| StoreError::Late { now })
}

/// Reads the answer of `join.lua`.
fn joined(reply: &Value) -> Result<Joined, StoreError> {
    let Some([word, rest @ ..]) = array(reply) else {
        return Err(unexpected_reply());
    };
    match (text(word), rest) {
        (Some("joined"), [_, _, published, trimmed, life, deletion]) => Ok(Joined {
            position: position(rest).ok_or_else(unexpected_reply)?,
            published: text(published).ok_or_else(unexpected_reply)? == "1",
            trimmed: number(trimmed).ok_or_else(unexpected_reply)?,
            life: Epoch::new(text(life).ok_or_else(unexpected_reply)?),
            deletion: Epoch::new(text(deletion).ok_or_else(unexpected_reply)?),
        }),
        (Some("deleted"), _) => Err(StoreError::ChannelDeleted),
        (Some("dead"), _) => Err(StoreError::ConnectorDead),
        (Some("late"), [now]) => Err(late(now)),
        (Some("stale"), _) => Err(StoreError::StaleOperation),
        _ => Err(unexpected_reply()),
    }
}
