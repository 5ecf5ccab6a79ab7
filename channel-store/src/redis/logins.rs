//! The registry of users in Redis. Each script works on the keys of one user, so all its keys are in one slot.

use super::append::flag;
use super::call::{Answer, ask_each, call};
use super::keys::{Key, Keys, UserKeys};
use super::membership::late;
use super::net::{
    Connection, Listener, Nodes, Subscriptions, array, number, text, unavailable, unexpected_reply,
};
use super::restrictions::{forbidden, restrictions};
use super::scripts::SCRIPTS;
use super::{channel_seconds, seconds};
use crate::error::StoreError;
use crate::membership::Predecessor;
use crate::name::{Incarnation, SessionId, UserId};
use crate::options::StoreOptions;
use crate::registry::{
    Claim, Claimed, ENTRIES, EntryState, HINTS, Hints, LoggedIn, Login, LoginPolicy, PREDECESSORS,
    Proof, SUPERSEDED, UserEntries, UserEntry, UserRegistry,
};
use crate::restrictions::Restrictions;
use crate::server::FeedConnection;
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
    fn of_user<'a>(
        &self,
        script: &Script,
        keys: &'a UserKeys,
        more_keys: impl IntoIterator<Item = Key<'a>>,
    ) -> Cmd {
        let keys: Vec<Key<'_>> = keys.all().into_iter().chain(more_keys).collect();
        let mut command = call(script, &keys);
        command.arg(&self.life_seconds);
        command
    }

    /// Begins `login` or `claim`, which share their first arguments.
    fn entering(&self, script: &Script, login: &Login, dead: &[Incarnation]) -> Cmd {
        let keys = self.keys.of_user(&login.user);
        let own = [
            keys.dead(&login.incarnation),
            keys.closed(&login.session),
            keys.restrictions(),
        ];
        let more_keys = own
            .into_iter()
            .chain(dead.iter().map(|dead| keys.dead(dead)));
        let mut command = self.of_user(script, &keys, more_keys);
        command
            .arg(login.session.as_str())
            .arg(login.incarnation.as_str())
            .arg(login.deadline)
            .arg(login.policy.as_str())
            .arg(login.proof.map_or(String::new(), |it| it.to_string()));
        let token = login.token;
        let issued = token.map(|it| it.issued.unwrap_or(0).to_string());
        let id = token.and_then(|it| it.id).map(|it| it.to_string());
        command
            .arg(issued.unwrap_or_default())
            .arg(id.unwrap_or_default());
        command
    }

    async fn ask(&self, user: &UserId, command: Cmd) -> Result<Value, StoreError> {
        self.connection(user)?.request_one(command).await
    }

    fn connection(&self, user: &UserId) -> Result<Connection, StoreError> {
        let key = || self.keys.of_user(user).entries().to_string();
        self.nodes.connection(key)
    }
}

#[async_trait]
impl UserRegistry for RedisRegistry {
    async fn login(&self, login: &Login, dead: &[Incarnation]) -> Result<LoggedIn, StoreError> {
        let mut command = self.entering(&SCRIPTS.login, login, dead);
        command
            .arg(&self.tombstone_seconds)
            .arg(PREDECESSORS)
            .arg(ENTRIES)
            .arg(login.most_sessions);
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
            command.arg(claim.login_rank).arg(SUPERSEDED);
            for predecessor in &*claim.predecessors {
                command.arg(predecessor.session.as_str());
            }
            command
        };
        let answers = ask_each(claims, connection, question).await.into_iter();
        let claimed = answers.map(|answer| match answer {
            Ok((_, reply)) => Ok(claimed(&reply)),
            Err(error @ StoreError::Unavailable(_)) => Err(error),
            Err(error) => Ok(Err(error)),
        });
        claimed.collect()
    }

    async fn linger(&self, user: &UserId, session: &SessionId) -> Result<(), StoreError> {
        let keys = self.keys.of_user(user);
        let mut command = self.of_user(&SCRIPTS.linger, &keys, []);
        command.arg(session.as_str());
        self.ask(user, command).await.map(drop)
    }

    async fn close(
        &self,
        user: &UserId,
        session: &SessionId,
        fence: bool,
    ) -> Result<(), StoreError> {
        let keys = self.keys.of_user(user);
        let mut command = self.of_user(&SCRIPTS.close, &keys, [keys.closed(session)]);
        command
            .arg(session.as_str())
            .arg(flag(fence))
            .arg(&self.tombstone_seconds);
        self.ask(user, command).await.map(drop)
    }

    async fn reap(&self, user: &UserId, incarnation: &Incarnation) -> Result<u64, StoreError> {
        let keys = self.keys.of_user(user);
        let mut command = self.of_user(&SCRIPTS.reap_logins, &keys, [keys.dead(incarnation)]);
        command
            .arg(incarnation.as_str())
            .arg(&self.tombstone_seconds);
        number(&self.ask(user, command).await?).ok_or_else(unexpected_reply)
    }

    async fn entries(
        &self,
        incarnation: &Incarnation,
        users: &[UserId],
    ) -> Result<Vec<UserEntries>, StoreError> {
        let question = |user: &UserId| {
            let keys = self.keys.of_user(user);
            let more_keys = [keys.dead(incarnation), keys.restrictions()];
            self.of_user(&SCRIPTS.entries, &keys, more_keys)
        };
        let answers = ask_each(users, |user| self.connection(user), question).await;
        let look = |answer: Result<Answer, StoreError>| {
            let (connection, reply) = answer?;
            let look = entries(&reply).ok_or_else(unexpected_reply)?;
            let (tombstoned, restrictions, entries) = look;
            Ok(UserEntries {
                entries,
                restrictions,
                tombstoned,
                lifetime: connection.lifetime,
            })
        };
        answers.into_iter().map(look).collect()
    }

    async fn propose_policy(
        &self,
        policy: LoginPolicy,
        lasts: Duration,
    ) -> Result<LoginPolicy, StoreError> {
        let mut command = call(&SCRIPTS.login_policy, &[self.keys.login_policy()]);
        command
            .arg(policy.as_str())
            .arg(lasts.as_millis().to_string());
        let key = || self.keys.login_policy().to_string();
        let reply = self.nodes.connection(key)?.request_one(command).await?;
        let held = text(&reply).ok_or_else(unexpected_reply)?;
        LoginPolicy::named(held)
            .ok_or_else(|| unavailable(format!("unknown login policy in Redis: {held}")))
    }
}

/// Hints, which go over a topic of each incarnation.
pub(super) struct RedisHints {
    pub(super) nodes: Arc<Nodes>,
    pub(super) subscriptions: Arc<Subscriptions>,
    pub(super) keys: Keys,
}

/// Passes hints on to the connectors that listen.
struct HintListener(mpsc::Sender<UserId>);

impl Listener for HintListener {
    fn message(&self, _: &FeedConnection, content: Vec<u8>) {
        let user = String::from_utf8(content).ok();
        if let Some(user) = user.and_then(|user| UserId::new(user).ok()) {
            // If the receiver is full or gone, the hint is lost.
            let _ = self.0.try_send(user);
        }
    }

    fn is_closed(&self) -> bool {
        self.0.is_closed()
    }
}

#[async_trait]
impl Hints for RedisHints {
    async fn hint(&self, incarnation: &Incarnation, user: &UserId) -> Result<(), StoreError> {
        let keys = self.keys.of_incarnation(incarnation);
        let mut command = redis::cmd(self.nodes.publish_command());
        command.arg(keys.hints()).arg(user.as_str());
        let connection = self.nodes.connection(|| keys.hints().to_string())?;
        connection.request_one(command).await.map(drop)
    }

    fn listen(&self, incarnation: &Incarnation) -> mpsc::Receiver<UserId> {
        let (sender, receiver) = mpsc::channel(HINTS);
        self.subscriptions.unsubscribe_closed();
        let topic = self.keys.of_incarnation(incarnation).hints().to_string();
        self.subscriptions
            .subscribe(topic, Arc::new(HintListener(sender)));
        receiver
    }
}

/// Why a login or claim was refused.
fn refused(word: &str, rest: &[Value]) -> StoreError {
    match (word, rest) {
        ("dead", _) => StoreError::ConnectorDead,
        ("late", [now]) => late(now),
        ("closed", _) => StoreError::StaleOperation,
        _ => unexpected_reply(),
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
    let (word, rest) = array(reply)
        .and_then(<[Value]>::split_first)
        .ok_or_else(unexpected_reply)?;
    match (text(word).ok_or_else(unexpected_reply)?, rest) {
        ("done", [login_rank, others, predecessors @ ..]) => Ok(LoggedIn::Yes {
            login_rank: number(login_rank).ok_or_else(unexpected_reply)?,
            others: number(others).ok_or_else(unexpected_reply)? > 0,
            predecessors: self::predecessors(predecessors).ok_or_else(unexpected_reply)?,
        }),
        ("unregistered", []) => Ok(LoggedIn::Unregistered),
        ("taken", holders) => incarnations(holders)
            .map(LoggedIn::Taken)
            .ok_or_else(unexpected_reply),
        ("full", holders) => incarnations(holders)
            .map(LoggedIn::Full)
            .ok_or_else(unexpected_reply),
        (word, rest) => forbidden(word, rest)
            .map(LoggedIn::Forbidden)
            .ok_or_else(|| refused(word, rest)),
    }
}

/// Reads the answer of `claim.lua`.
fn claimed(reply: &Value) -> Result<Claimed, StoreError> {
    match array(reply).ok_or_else(unexpected_reply)? {
        [_, Value::Array(superseded), Value::Array(better)] => Ok(Claimed {
            superseded: incarnations(superseded).ok_or_else(unexpected_reply)?,
            better: incarnations(better).ok_or_else(unexpected_reply)?,
            forbidden: None,
        }),
        [word, rest @ ..] => {
            let word = text(word).ok_or_else(unexpected_reply)?;
            let forbidden = forbidden(word, rest).ok_or_else(|| refused(word, rest))?;
            Ok(Claimed {
                forbidden: Some(forbidden),
                ..Claimed::default()
            })
        }
        [] => Err(unexpected_reply()),
    }
}

/// Reads the answer of `entries.lua`.
fn entries(reply: &Value) -> Option<(bool, Restrictions, Vec<UserEntry>)> {
    let [tombstoned, restricted, entries @ ..] = array(reply)? else {
        return None;
    };
    let entry = |fields: &[Value]| {
        Some(UserEntry {
            session: SessionId::new(text(&fields[0])?).ok()?,
            login_rank: number(&fields[1])?,
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
    let restrictions = restrictions(array(restricted)?)?;
    let entries = entries.collect::<Option<_>>()?;
    Some((number(tombstoned)? == 1, restrictions, entries))
}
