//! Chat's side of channels in Redis.

use super::ask::one;
use super::connection::Connection;
use super::keys::Keys;
use super::leases::RedisLeases;
use super::location::OpenError;
use super::members::members;
use super::nodes::{Nodes, Pinned};
use super::probe::{Prober, WriteWatch};
use super::read::history;
use super::registry::RedisRegistry;
use super::reply::{late, number, refusal, strange, text, unavailable};
use super::scripts::SCRIPTS;
use super::seconds;
use crate::Leases;
use crate::name::{ChannelName, Incarnation, UserId};
use crate::probe::{Probe, Probed, StoreSettings};
use crate::publication::{Epoch, Position};
use crate::registry::UserRegistry;
use crate::rules::{ByName, EMPTY_LIFE, LogPolicy};
use crate::{
    Ack, CallSize, ChannelStore, Join, Joined, Leave, MembersPage, Membership, Predecessor,
    Publish, Published, Publisher, Reaped, StoreError, StoreOptions,
};
use crate::{HistoryPage, HistoryRange};
use async_trait::async_trait;
use futures_util::future::join_all;
use redis::{Cmd, Pipeline, Script, Value};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;

/// Detached members that one run of the script removes at most.
const EXPIRED_AT_ONCE: usize = 100;

/// Members that one run of the script ends at most, so that others wait briefly only.
const REAPED_AT_ONCE: usize = 200;

/// Connections to each node for publishers that wait for replicas: waiting blocks a connection for everybody.
const POOL: usize = 4;
/// How long replicas are waited for at most, and never for more than half of the time after which a connection counts as
/// silent.
const REPLICA_TIME: Duration = Duration::from_millis(500);

/// Channels in Redis, for chat.
pub struct RedisStore {
    nodes: Arc<Nodes>,
    leases: Arc<dyn Leases>,
    registry: Arc<dyn UserRegistry>,
    commands: Arc<Commands>,
    /// Replicas that must have a publication.
    replicas: u32,
    replica_milliseconds: u128,
    publishers: AtomicUsize,
    prober: Arc<Prober>,
    settings: StoreSettings,
}

impl RedisStore {
    /// Opens the store at a URL: `redis://[user:password@]host[:6379][/database]`, `redis+unix:///path`,
    /// `redis+sentinel://host[:26379][,…]/master[/database]` or `redis-cluster://host[:6379][,…]`; with `rediss` in
    /// place of `redis` it is encrypted. It succeeds while Redis is unreachable, too: the store is then not available
    /// yet.
    ///
    /// # Errors
    /// [`OpenError`]: with this URL, or with the data found there, the store will never work.
    pub async fn open(url: &str, options: StoreOptions) -> Result<Self, OpenError> {
        let (replicas, pool) = match options.ack {
            Ack::Primary => (0, 0),
            Ack::Replica { replicas } => (replicas, POOL),
        };
        let nodes = Arc::new(Nodes::open(url, &options, pool, None).await?);
        let replica_milliseconds = REPLICA_TIME.min(options.redis_timeout / 2).as_millis();
        let prober = Arc::new(Prober {
            nodes: nodes.clone(),
            keys: Keys::new(&options.prefix),
            publish_word: nodes.publish_word(),
            replicas,
            replica_milliseconds,
            ready_slots: options.ready_slots,
            turn: AtomicUsize::new(0),
        });
        let lives = options.log_rules.iter().filter_map(|rule| rule.life);
        let settings = StoreSettings {
            prefix: options.prefix.clone(),
            database: nodes.database(),
            lease: options.lease,
            ack_replicas: replicas,
            log_life: lives.fold(options.log_life, Duration::min),
        };
        Ok(Self {
            prober,
            settings,
            leases: RedisLeases::over(nodes.clone(), &options),
            registry: RedisRegistry::over(nodes.clone(), &options),
            commands: Arc::new(Commands::new(&options, nodes.publish_word())),
            nodes,
            replicas,
            replica_milliseconds,
            publishers: AtomicUsize::new(0),
        })
    }

    /// Leases, over this store's own connections.
    #[must_use]
    pub fn leases(&self) -> Arc<dyn Leases> {
        self.leases.clone()
    }

    /// The registry of users, over this store's own connections.
    #[must_use]
    pub fn registry(&self) -> Arc<dyn UserRegistry> {
        self.registry.clone()
    }

    /// Begins to try, again and again, whether the servers take publications.
    #[must_use]
    pub fn watch_writes(&self) -> WriteWatch {
        WriteWatch::begin(self.prober.clone())
    }

    /// Says which servers can't be used and why; `None`: all can be used. It keeps no connection open.
    pub fn why_unavailable(&self) -> impl Fn() -> Option<String> + Send + Sync + use<> {
        self.nodes.why_unavailable()
    }

    async fn one(&self, channel: &ChannelName, command: Cmd) -> Result<Value, StoreError> {
        one(&self.nodes.connection(channel)?, command).await
    }
}

#[async_trait]
impl ChannelStore for RedisStore {
    fn publisher(&self) -> Result<Arc<dyn Publisher>, StoreError> {
        let turn = self.publishers.fetch_add(1, Ordering::Relaxed);
        Ok(Arc::new(RedisPublisher {
            connections: self.nodes.pinned(turn)?,
            commands: self.commands.clone(),
            replicas: self.replicas,
            replica_milliseconds: self.replica_milliseconds,
            failed: AtomicBool::new(false),
        }))
    }

    async fn join(&self, join: Join) -> Result<Joined, StoreError> {
        let reply = self.one(&join.channel, self.commands.join(&join)).await?;
        joined(&reply)
    }

    async fn leave(&self, leave: Leave) -> Result<bool, StoreError> {
        let reply = self
            .one(&leave.channel, self.commands.leave(&leave))
            .await?;
        Ok(number(&reply).ok_or_else(strange)? == 1)
    }

    async fn reap(
        &self,
        channel: &ChannelName,
        incarnation: &Incarnation,
    ) -> Result<Reaped, StoreError> {
        let command = self.commands.reap(channel, incarnation);
        let reply = self.one(channel, command).await?;
        let Value::Array(counts) = &reply else {
            return Err(strange());
        };
        let count = |index| counts.get(index).and_then(number).ok_or_else(strange);
        Ok(Reaped {
            ended: count(0)?,
            remaining: count(1)?,
        })
    }

    async fn expire(&self, channel: &ChannelName) -> Result<Option<Duration>, StoreError> {
        let reply = self.one(channel, self.commands.expire(channel)).await?;
        match reply {
            Value::Nil => Ok(None),
            reply => {
                let milliseconds = number(&reply).ok_or_else(strange)?;
                Ok(Some(Duration::from_millis(milliseconds)))
            }
        }
    }

    async fn members(
        &self,
        channel: &ChannelName,
        page: Option<&str>,
        limit: usize,
    ) -> Result<MembersPage, StoreError> {
        if page.is_none() {
            self.one(channel, self.commands.expire(channel)).await?;
        }
        let users = self.commands.keys.of(channel);
        let reading = self.nodes.reading_of(channel).await?;
        members(&reading.connection, users.users(), page, limit).await
    }

    async fn history(
        &self,
        channel: &ChannelName,
        range: &HistoryRange,
        limit: usize,
    ) -> Result<HistoryPage, StoreError> {
        let reading = self.nodes.reading_of(channel).await?;
        let keys = self.commands.keys.of(channel);
        history(&reading.connection, &keys, range, limit).await
    }

    async fn probe(&self, probe: &Probe) -> Vec<Probed> {
        self.prober.probe(probe).await
    }

    fn settings(&self) -> StoreSettings {
        self.settings.clone()
    }

    fn available(&self) -> watch::Receiver<bool> {
        self.nodes.available()
    }
}

/// Publishes over one connection to each node: when one is gone, so is the publisher, and nothing overtakes what failed.
/// A channel stays with the node that owned it when the publisher began, which refuses it when it has moved.
struct RedisPublisher {
    connections: Pinned,
    commands: Arc<Commands>,
    replicas: u32,
    replica_milliseconds: u128,
    /// Nothing is said any more after something may not have been.
    failed: AtomicBool,
}

#[async_trait]
impl Publisher for RedisPublisher {
    async fn publish(
        &self,
        batch: Vec<Publish>,
    ) -> Result<Vec<Result<Published, StoreError>>, StoreError> {
        if self.failed.load(Ordering::Relaxed) {
            return Err(unavailable("an earlier batch has failed"));
        }
        let mut outcomes = Vec::with_capacity(batch.len());
        while outcomes.len() < batch.len() {
            let (calls, end) = next_calls(&batch, outcomes.len());
            let round = self.make(&batch, calls).await;
            if round.is_err() {
                self.failed.store(true, Ordering::Relaxed);
            }
            let round = round?;
            let goes_on = !round.iter().any(is_refused_for_now);
            outcomes.extend(round);
            if !goes_on {
                let rest = (end..batch.len()).map(|_| Err(unavailable("not tried")));
                outcomes.extend(rest);
            }
        }
        Ok(outcomes)
    }
}

/// True if the same message may be taken a moment later.
fn is_refused_for_now(outcome: &Result<Published, StoreError>) -> bool {
    matches!(outcome, Err(StoreError::Unavailable(_) | StoreError::Full))
}

/// What of a batch belongs to one node: messages by their places in the batch, those that one call publishes together.
struct Part<'a> {
    connection: &'a Connection,
    groups: Vec<Vec<usize>>,
}

/// The places of messages that one call of the script takes: of one channel, in order. No channel gets a second call, so
/// they end before the first message that would need one; where that is comes second.
fn next_calls(batch: &[Publish], from: usize) -> (Vec<Vec<usize>>, usize) {
    let mut calls: Vec<Vec<usize>> = Vec::new();
    let mut by_channel: HashMap<&ChannelName, (usize, CallSize)> = HashMap::new();
    for (place, publish) in batch.iter().enumerate().skip(from) {
        let (call, size) = by_channel.entry(&publish.channel).or_insert_with(|| {
            calls.push(Vec::new());
            (calls.len() - 1, CallSize::default())
        });
        if !size.takes(publish) {
            return (calls, place);
        }
        calls[*call].push(place);
    }
    (calls, batch.len())
}

impl RedisPublisher {
    /// Makes calls that don't depend on each other, and says what became of their messages, in the batch's order.
    async fn make(
        &self,
        batch: &[Publish],
        calls: Vec<Vec<usize>>,
    ) -> Result<Vec<Result<Published, StoreError>>, StoreError> {
        let time = now_milliseconds();
        let mut parts: Vec<Part<'_>> = Vec::new();
        for group in calls {
            let channel = &batch[group[0]].channel;
            let connection = self.connections.connection(&self.commands.keys, channel)?;
            let is_its = |part: &Part<'_>| part.connection.number == connection.number;
            let part = parts.iter().position(is_its).unwrap_or_else(|| {
                parts.push(Part {
                    connection,
                    groups: Vec::new(),
                });
                parts.len() - 1
            });
            parts[part].groups.push(group);
        }
        let answers = parts
            .into_iter()
            .map(|part| self.publish_part(batch, part, time));
        // All to their end, whatever becomes of one: let go while in line, a part would be overtaken by a later batch.
        let answers: Result<Vec<_>, StoreError> = join_all(answers).await.into_iter().collect();
        let mut outcomes: Vec<_> = answers?.into_iter().flatten().collect();
        outcomes.sort_unstable_by_key(|(place, _)| *place);
        Ok(outcomes.into_iter().map(|(_, outcome)| outcome).collect())
    }

    /// Publishes what belongs to one node; each outcome with its place in the batch.
    async fn publish_part(
        &self,
        batch: &[Publish],
        Part { connection, groups }: Part<'_>,
        time: u64,
    ) -> Result<Vec<(usize, Result<Published, StoreError>)>, StoreError> {
        let mut pipeline = Pipeline::with_capacity(groups.len() + 1);
        let time_text = time.to_string();
        for group in &groups {
            pipeline.add_command(self.commands.publish(batch, group, &time_text));
        }
        let waits = self.replicas > 0;
        if waits {
            // Covers all that this server has written so far: also what a repeated key finds.
            let wait = pipeline.cmd("WAIT");
            wait.arg(self.replicas)
                .arg(self.replica_milliseconds.to_string());
        }
        let expected = pipeline.len();
        let mut replies = connection.request(&pipeline, 0, expected).await?;
        if replies.len() != expected {
            return Err(strange());
        }
        let reached = if waits {
            replies
                .pop()
                .as_ref()
                .and_then(number)
                .ok_or_else(strange)?
        } else {
            0
        };
        let safe = reached >= u64::from(self.replicas);
        let mut outcomes = Vec::with_capacity(batch.len());
        for (group, reply) in groups.into_iter().zip(&replies) {
            let answers = published(reply, group.len(), time)?.into_iter();
            let answers = answers.map(|outcome| match outcome {
                Ok(_) if !safe => Err(unavailable("too few replicas have it")),
                outcome => outcome,
            });
            outcomes.extend(group.into_iter().zip(answers));
        }
        Ok(outcomes)
    }
}

/// Makes commands. What is the same in all of them is text once.
struct Commands {
    keys: Keys,
    publish_word: &'static str,
    bounds: ByName<Bounds>,
    key_seconds: String,
    tombstone_seconds: String,
    detached_milliseconds: String,
}

/// What holds for some channels, as scripts take it.
struct Bounds {
    kept: String,
    log_seconds: String,
    channel_seconds: String,
    announced: &'static str,
}

impl Bounds {
    fn new(policy: LogPolicy) -> Self {
        Self {
            kept: format!(
                "{} {} {} {}",
                policy.entries,
                policy.keep.as_millis(),
                policy.bytes,
                seconds(EMPTY_LIFE)
            ),
            log_seconds: seconds(policy.life),
            channel_seconds: seconds(policy.channel_life),
            announced: flag(policy.announce_members),
        }
    }
}

impl Commands {
    fn new(options: &StoreOptions, publish_word: &'static str) -> Self {
        Self {
            keys: Keys::new(&options.prefix),
            publish_word,
            bounds: ByName::new(options, Bounds::new),
            key_seconds: seconds(options.key_life),
            tombstone_seconds: seconds(options.tombstone_life),
            detached_milliseconds: options.detached_life.as_millis().to_string(),
        }
    }

    /// Publishes messages of one channel, of these places in the batch.
    fn publish(&self, batch: &[Publish], group: &[usize], time: &str) -> Cmd {
        let messages = || group.iter().map(|place| &batch[*place]);
        let size: usize = messages().map(|it| it.payload.as_bytes().len() + 128).sum();
        let mut command = Cmd::with_capacity(18 + 3 * group.len(), size + 512);
        let channel = &batch[group[0]].channel;
        self.call(&mut command, &SCRIPTS.publish, channel, &[], time);
        command.arg(&self.key_seconds);
        for publish in messages() {
            command.arg(&publish.payload.as_bytes()[..]);
            command.arg(publish.session.as_ref().map_or("", |it| it.as_str()));
            match &publish.key {
                None => command.arg(""),
                // Names hold no NUL: no two pairs of user and key look the same.
                Some(key) => command.arg(format!("{}\0{}", publish.user, key)),
            };
        }
        command
    }

    fn join(&self, join: &Join) -> Cmd {
        let mut command = Cmd::new();
        let session = self.member(
            &mut command,
            &SCRIPTS.join,
            &join.channel,
            &join.membership,
            &join.user.id,
            &join.replaces,
        );
        let (operation, incarnation, stay) = match &join.membership {
            Membership::Session {
                operation,
                incarnation,
                ..
            } => (*operation, incarnation.as_str(), ""),
            Membership::Detached => (0, "", &*self.detached_milliseconds),
        };
        command
            .arg(session)
            .arg(operation)
            .arg(incarnation)
            .arg(join.user.id.as_str())
            .arg(flag(join.user.is_number))
            .arg(stay)
            .arg(join.deadline.map_or(String::new(), |it| it.to_string()))
            .arg(&self.tombstone_seconds);
        for Predecessor {
            session,
            incarnation,
        } in &join.replaces
        {
            command.arg(session.as_str()).arg(incarnation.as_str());
        }
        command
    }

    fn leave(&self, leave: &Leave) -> Cmd {
        let mut command = Cmd::new();
        let session = self.member(
            &mut command,
            &SCRIPTS.leave,
            &leave.channel,
            &leave.membership,
            &leave.user.id,
            &[],
        );
        // A back end's operations have no numbers: they count in the order in which they arrive, and leave no tombstone.
        let (operation, fence, incarnation) = match &leave.membership {
            Membership::Session {
                operation,
                incarnation,
                ..
            } => (operation.to_string(), leave.fence, incarnation.as_str()),
            Membership::Detached => (String::new(), false, ""),
        };
        command
            .arg(session)
            .arg(operation)
            .arg(flag(fence))
            .arg(&self.tombstone_seconds)
            .arg(incarnation);
        command
    }

    fn reap(&self, channel: &ChannelName, incarnation: &Incarnation) -> Cmd {
        let mut command = Cmd::new();
        let (keys, time) = (self.keys.of(channel), now_milliseconds().to_string());
        let of = Some(incarnation);
        let more_keys = [keys.dead(of), keys.sessions_of(of)];
        self.call(&mut command, &SCRIPTS.reap, channel, &more_keys, &time);
        command
            .arg(self.bounds.of(channel).announced)
            .arg(REAPED_AT_ONCE)
            .arg(&self.tombstone_seconds)
            .arg(incarnation.as_str());
        command
    }

    fn expire(&self, channel: &ChannelName) -> Cmd {
        let mut command = Cmd::new();
        let time = now_milliseconds().to_string();
        self.call(&mut command, &SCRIPTS.expire, channel, &[], &time);
        command.arg(self.bounds.of(channel).announced);
        command.arg(EXPIRED_AT_ONCE);
        command
    }

    /// Begins the call of a script about one membership with what `members.lua` takes, and names the session: a detached
    /// member's begins with `@`, as no connector's does.
    fn member(
        &self,
        command: &mut Cmd,
        script: &Script,
        channel: &ChannelName,
        membership: &Membership,
        user: &UserId,
        replaces: &[Predecessor],
    ) -> String {
        let (session, incarnation) = match membership {
            Membership::Session {
                incarnation,
                session,
                ..
            } => (session.as_str().to_owned(), Some(incarnation)),
            Membership::Detached => (format!("@{user}"), None),
        };
        let keys = self.keys.of(channel);
        let mut more_keys = vec![
            keys.dead(incarnation),
            keys.left(&session),
            keys.sessions_of(incarnation),
        ];
        for replaced in replaces {
            more_keys.push(keys.left(replaced.session.as_str()));
            more_keys.push(keys.sessions_of(Some(&replaced.incarnation)));
        }
        let time = now_milliseconds().to_string();
        self.call(command, script, channel, &more_keys, &time);
        command.arg(self.bounds.of(channel).announced);
        session
    }

    /// Begins the call of a script with what `append.lua` takes.
    fn call(
        &self,
        command: &mut Cmd,
        script: &Script,
        channel: &ChannelName,
        more_keys: &[String],
        time: &str,
    ) {
        let keys = self.keys.of(channel);
        let (all, bounds) = (keys.all(), self.bounds.of(channel));
        command
            .arg("EVALSHA")
            .arg(script.get_hash())
            .arg(all.len() + more_keys.len());
        for key in all {
            command.arg(key);
        }
        command
            .arg(more_keys)
            .arg(&bounds.kept)
            .arg(&bounds.log_seconds)
            .arg(&bounds.channel_seconds)
            .arg(self.publish_word)
            .arg(time);
    }
}

fn flag(is_set: bool) -> &'static str {
    if is_set { "1" } else { "0" }
}

/// Reads an answer of `publish.lua` for so many messages. The outer error: the answer is none.
pub(super) fn published(
    reply: &Value,
    count: usize,
    time: u64,
) -> Result<Vec<Result<Published, StoreError>>, StoreError> {
    if let Value::ServerError(error) = reply {
        return Ok((0..count).map(|_| Err(refusal(error))).collect());
    }
    let Value::Array(fields) = reply else {
        return Err(strange());
    };
    let [epoch, reached, answers @ ..] = &fields[..] else {
        return Err(strange());
    };
    if answers.len() != count {
        return Err(strange());
    }
    let epoch = Epoch::new(text(epoch).ok_or_else(strange)?);
    let reached = number(reached).and_then(|reached| u32::try_from(reached).ok());
    let reached = reached.ok_or_else(strange)?;
    let answer = |answer: &Value| match answer {
        Value::Int(_) => Ok(Ok(Published {
            position: Position {
                epoch: epoch.clone(),
                offset: number(answer).ok_or_else(strange)?,
            },
            time,
            reached,
            repeated: false,
        })),
        Value::Array(first) => Ok(Ok(Published {
            position: position(first)?,
            time: first.get(2).and_then(number).ok_or_else(strange)?,
            reached: 0,
            repeated: true,
        })),
        answer => match text(answer) {
            Some("nomember") => Ok(Err(StoreError::NotMember)),
            Some("reused") => Ok(Err(StoreError::KeyReused)),
            _ => Err(strange()),
        },
    };
    answers.iter().map(answer).collect()
}

/// Reads the answer of `join.lua`.
fn joined(reply: &Value) -> Result<Joined, StoreError> {
    let Value::Array(fields) = reply else {
        return Err(strange());
    };
    match fields.first().and_then(text) {
        Some("joined") => Ok(Joined {
            position: position(&fields[1..])?,
            published: fields.get(3).and_then(text).ok_or_else(strange)? == "1",
        }),
        Some("dead") => Err(StoreError::ConnectorDead),
        Some("late") => Err(fields.get(1).map_or_else(strange, late)),
        Some("stale") => Err(StoreError::StaleOperation),
        _ => Err(strange()),
    }
}

fn position(fields: &[Value]) -> Result<Position, StoreError> {
    Ok(Position {
        epoch: Epoch::new(fields.first().and_then(text).ok_or_else(strange)?),
        offset: fields.get(1).and_then(number).ok_or_else(strange)?,
    })
}

pub(super) fn now_milliseconds() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
}
