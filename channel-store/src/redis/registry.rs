//! The registry of users in Redis: each call is one script about one user, and so in one slot.

use super::ask::{ask_each, call, one};
use super::connection::Connection;
use super::keys::Keys;
use super::nodes::Nodes;
use super::reply::{late, number, refusal, strange, text, unavailable};
use super::scripts::SCRIPTS;
use super::topics::Topics;
use super::{channel_seconds, seconds};
use crate::name::{Incarnation, SessionId, UserId};
use crate::registry::{
    Claim, Claimed, ENTRIES, EntryState, Hints, LoggedIn, Login, LoginPolicy, PREDECESSORS, Proof,
    SUPERSEDED, UserEntry, UserLook, UserRegistry,
};
use crate::{Predecessor, StoreError, StoreOptions};
use async_trait::async_trait;
use redis::{Cmd, Script, Value};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

pub(super) struct RedisRegistry {
    nodes: Arc<Nodes>,
    keys: Keys,
    life_seconds: String,
    tombstone_seconds: String,
}

impl RedisRegistry {
    pub(super) fn over(nodes: Arc<Nodes>, options: &StoreOptions) -> Arc<dyn UserRegistry> {
        Arc::new(Self {
            nodes,
            keys: Keys::new(&options.prefix),
            life_seconds: channel_seconds(options),
            tombstone_seconds: seconds(options.tombstone_life),
        })
    }

    /// Begins the call of a script that begins with `user.lua`.
    fn of_user(
        &self,
        script: &Script,
        user: &UserId,
        others: impl IntoIterator<Item = String>,
    ) -> Cmd {
        let mut keys = self.keys.of_user(user).all().to_vec();
        keys.extend(others);
        let mut command = call(script, &keys);
        command.arg(&self.life_seconds);
        command
    }

    /// Begins `login` or `claim`, which share their first arguments.
    fn entering(&self, script: &Script, login: &Login, dead: &[Incarnation]) -> Cmd {
        let keys = self.keys.of_user(&login.user);
        let mut tombstones = vec![keys.dead(&login.incarnation), keys.closed(&login.session)];
        tombstones.extend(dead.iter().map(|dead| keys.dead(dead)));
        let mut command = self.of_user(script, &login.user, tombstones);
        command
            .arg(login.session.as_str())
            .arg(login.incarnation.as_str())
            .arg(login.deadline)
            .arg(login.policy.as_str())
            .arg(login.proof.map_or(String::new(), |it| it.to_string()));
        command
    }

    async fn ask(&self, user: &UserId, command: Cmd) -> Result<Value, StoreError> {
        let connection = self.connection(user)?;
        one(&connection, command).await
    }

    fn connection(&self, user: &UserId) -> Result<Connection, StoreError> {
        self.nodes.connection_of(|| {
            let [entries, _] = self.keys.of_user(user).all();
            entries
        })
    }
}

#[async_trait]
impl UserRegistry for RedisRegistry {
    async fn login(&self, login: &Login, dead: &[Incarnation]) -> Result<LoggedIn, StoreError> {
        let mut command = self.entering(&SCRIPTS.login, login, dead);
        command
            .arg(&self.tombstone_seconds)
            .arg(PREDECESSORS)
            .arg(ENTRIES);
        for incarnation in dead {
            command.arg(incarnation.as_str());
        }
        logged_in(&self.ask(&login.user, command).await?)
    }

    async fn claim(
        &self,
        claims: &[Claim],
    ) -> Result<Vec<Result<Claimed, StoreError>>, StoreError> {
        let connection = |claim: &Claim| self.connection(&claim.login.user);
        let question = |claim: &Claim| {
            let mut command = self.entering(&SCRIPTS.claim, &claim.login, &[]);
            command.arg(claim.generation).arg(SUPERSEDED);
            for predecessor in &*claim.predecessors {
                command.arg(predecessor.session.as_str());
            }
            command
        };
        let answers = ask_each(claims, connection, question).await?;
        Ok(answers.iter().map(|(_, reply)| claimed(reply)).collect())
    }

    async fn linger(&self, user: &UserId, session: &SessionId) -> Result<(), StoreError> {
        let mut command = self.of_user(&SCRIPTS.linger, user, []);
        command.arg(session.as_str());
        self.ask(user, command).await.map(drop)
    }

    async fn close(
        &self,
        user: &UserId,
        session: &SessionId,
        fence: bool,
    ) -> Result<(), StoreError> {
        let closed = self.keys.of_user(user).closed(session);
        let mut command = self.of_user(&SCRIPTS.close, user, [closed]);
        command
            .arg(session.as_str())
            .arg(if fence { "1" } else { "0" })
            .arg(&self.tombstone_seconds);
        self.ask(user, command).await.map(drop)
    }

    async fn reap(&self, user: &UserId, incarnation: &Incarnation) -> Result<u64, StoreError> {
        let dead = self.keys.of_user(user).dead(incarnation);
        let mut command = self.of_user(&SCRIPTS.reap_user, user, [dead]);
        command
            .arg(incarnation.as_str())
            .arg(&self.tombstone_seconds);
        number(&self.ask(user, command).await?).ok_or_else(strange)
    }

    async fn look(
        &self,
        incarnation: &Incarnation,
        users: &[UserId],
    ) -> Result<Vec<UserLook>, StoreError> {
        let question = |user: &UserId| {
            let dead = self.keys.of_user(user).dead(incarnation);
            self.of_user(&SCRIPTS.look_user, user, [dead])
        };
        let answers = ask_each(users, |user| self.connection(user), question).await?;
        let look = |(connection, reply): (Connection, Value)| {
            let (tombstoned, entries) = entries(&reply).ok_or_else(strange)?;
            Ok(UserLook {
                entries,
                tombstoned,
                lifetime: connection.generation,
            })
        };
        answers.into_iter().map(look).collect()
    }

    async fn agree(&self, policy: LoginPolicy, lasts: Duration) -> Result<LoginPolicy, StoreError> {
        let key = self.keys.login_policy();
        let mut command = call(&SCRIPTS.agree, std::slice::from_ref(&key));
        command
            .arg(policy.as_str())
            .arg(lasts.as_millis().to_string());
        let reply = one(&self.nodes.connection_of(|| key)?, command).await?;
        let held = text(&reply).ok_or_else(strange)?;
        LoginPolicy::named(held)
            .ok_or_else(|| unavailable(format!("another version's login policy: {held}")))
    }
}

/// Hints by way of a topic of each incarnation.
pub(super) struct RedisHints {
    pub(super) nodes: Arc<Nodes>,
    pub(super) topics: Arc<Topics>,
    pub(super) keys: Keys,
}

#[async_trait]
impl Hints for RedisHints {
    async fn hint(&self, incarnation: &Incarnation, user: &UserId) -> Result<(), StoreError> {
        let topic = self.keys.hints(incarnation);
        let mut command = redis::cmd(self.nodes.publish_word());
        command.arg(&topic).arg(user.as_str());
        one(&self.nodes.connection_of(|| topic)?, command)
            .await
            .map(drop)
    }

    fn listen(&self, incarnation: &Incarnation) -> mpsc::Receiver<UserId> {
        self.topics.listen(self.keys.hints(incarnation))
    }
}

/// What both logins and claims are refused with.
fn refused(word: &str, rest: &[Value]) -> StoreError {
    match (word, rest) {
        ("dead", _) => StoreError::ConnectorDead,
        ("late", [now]) => late(now),
        ("closed", _) => StoreError::StaleOperation,
        _ => strange(),
    }
}

fn incarnations(values: &[Value]) -> Option<Vec<Incarnation>> {
    let incarnation = |value| Incarnation::new(text(value)?).ok();
    let mut found: Vec<_> = values.iter().map(incarnation).collect::<Option<_>>()?;
    found.sort();
    found.dedup();
    Some(found)
}

fn predecessors(values: &[Value]) -> Option<Vec<Predecessor>> {
    let pairs = values.chunks_exact(2).map(|pair| {
        Some(Predecessor {
            session: SessionId::new(text(&pair[0])?).ok()?,
            incarnation: Incarnation::new(text(&pair[1])?).ok()?,
        })
    });
    pairs.collect()
}

/// Reads the answer of `login.lua`.
fn logged_in(reply: &Value) -> Result<LoggedIn, StoreError> {
    let Value::Array(fields) = reply else {
        return Err(strange());
    };
    let (word, rest) = fields.split_first().ok_or_else(strange)?;
    match (text(word).ok_or_else(strange)?, rest) {
        ("done", [generation, others, predecessors @ ..]) => Ok(LoggedIn::Yes {
            generation: number(generation).ok_or_else(strange)?,
            others: number(others).ok_or_else(strange)? > 0,
            predecessors: self::predecessors(predecessors).ok_or_else(strange)?,
        }),
        ("unregistered", []) => Ok(LoggedIn::Unregistered),
        ("taken", holders) => incarnations(holders)
            .map(LoggedIn::Taken)
            .ok_or_else(strange),
        (word, rest) => Err(refused(word, rest)),
    }
}

/// Reads the answer of `claim.lua`.
fn claimed(reply: &Value) -> Result<Claimed, StoreError> {
    let fields = match reply {
        Value::ServerError(error) => return Err(refusal(error)),
        Value::Array(fields) => fields,
        _ => return Err(strange()),
    };
    match &fields[..] {
        [_, Value::Array(superseded), Value::Array(better)] => Ok(Claimed {
            superseded: incarnations(superseded).ok_or_else(strange)?,
            better: incarnations(better).ok_or_else(strange)?,
        }),
        [word, rest @ ..] => Err(refused(text(word).ok_or_else(strange)?, rest)),
        [] => Err(strange()),
    }
}

/// Reads the answer of `look_user.lua`.
fn entries(reply: &Value) -> Option<(bool, Vec<UserEntry>)> {
    let Value::Array(fields) = reply else {
        return None;
    };
    let (tombstoned, entries) = fields.split_first()?;
    let entry = |fields: &[Value]| {
        Some(UserEntry {
            session: SessionId::new(text(&fields[0])?).ok()?,
            generation: number(&fields[1])?,
            incarnation: Incarnation::new(text(&fields[2])?).ok()?,
            state: match text(&fields[3])? {
                "0" => EntryState::Live,
                "1" => EntryState::Superseded,
                "2" => EntryState::Lingering,
                _ => return None,
            },
            proof: match text(&fields[4])? {
                "" => None,
                proof => Some(Proof::parse(proof)?),
            },
        })
    };
    let entries = entries.chunks_exact(5).map(entry);
    Some((number(tombstoned)? == 1, entries.collect::<Option<_>>()?))
}
