//! Publishing messages.

use super::append::{Appending, now_milliseconds};
use super::directory::Directory;
use super::net::{Connection, Pinned, number, refusal, text, unavailable, unexpected_reply};
use super::scripts::SCRIPTS;
use super::seconds;
use crate::error::StoreError;
use crate::name::ChannelName;
use crate::options::StoreOptions;
use crate::publication::{Epoch, Position};
use crate::publish::{CallSize, Publish, Published, Publisher};
use async_trait::async_trait;
use futures_util::future::join_all;
use redis::{Cmd, Pipeline, Value};
use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::unconstrained;
use tokio::time::Instant;
use traces::{Kind, Span};

/// The longest time for which a publisher waits for replicas. It also never waits longer than half of the time after which
/// a connection counts as silent.
const REPLICA_TIME: Duration = Duration::from_millis(500);

/// Takes the place of a key. No user and key give the same text.
const EPHEMERAL: &str = "~";

/// Which replicas must have a publication before it counts as published.
#[derive(Debug, Clone, Copy)]
pub(super) struct Replicas {
    /// How many. 0: nobody waits for replicas.
    pub(super) count: u32,
    milliseconds: u128,
}

impl Replicas {
    pub(super) fn new(count: u32, options: &StoreOptions) -> Self {
        Self {
            count,
            milliseconds: REPLICA_TIME.min(options.redis_timeout / 2).as_millis(),
        }
    }

    /// Adds a wait for replicas to a pipeline, if there are any to wait for. It covers everything that the server has
    /// written so far, so also what a repeated idempotency key finds.
    pub(super) fn wait(self, pipeline: &mut Pipeline) {
        if self.count > 0 {
            let wait = pipeline.cmd("WAIT").arg(self.count);
            wait.arg(self.milliseconds.to_string());
        }
    }
}

/// Makes the calls of `publish.lua`.
pub(super) struct Publishing {
    appending: Arc<Appending>,
    directory: Arc<Directory>,
    key_seconds: String,
    replicas: Replicas,
}

impl Publishing {
    pub(super) fn new(
        appending: Arc<Appending>,
        directory: Arc<Directory>,
        replicas: Replicas,
        options: &StoreOptions,
    ) -> Self {
        Self {
            appending,
            directory,
            key_seconds: seconds(options.key_life),
            replicas,
        }
    }

    /// A call that publishes messages of one channel: those at these places in the batch. `spans` gets a span of the call for each
    /// message whose trace is kept.
    fn call(
        &self,
        batch: &[Publish],
        group: &[usize],
        time: u64,
        spans: &mut Vec<Arc<Span>>,
    ) -> Cmd {
        let messages = || group.iter().map(|place| &batch[*place]);
        let size: usize = messages().map(|it| it.payload.as_bytes().len() + 128).sum();
        let mut command = Cmd::with_capacity(18 + 3 * group.len(), size + 512);
        let channel = &batch[group[0]].channel;
        let keys = self.appending.keys_of(channel);
        self.appending
            .call(&mut command, &SCRIPTS.publish, channel, &keys, time);
        command.arg(&self.key_seconds);
        for publish in messages() {
            command.arg(&publish.payload.as_bytes()[..]);
            push_condition(&mut command, publish);
            match &publish.key {
                _ if publish.ephemeral => command.arg(EPHEMERAL),
                None => command.arg(""),
                // Names hold no NUL, so no two pairs of user and key give the same text.
                Some(key) => command.arg(format!("{}\0{}", publish.user, key)),
            };
        }
        let began = spans.len();
        let mut marks = String::new();
        for (place, publish) in messages().enumerate() {
            let Some(cause) = &publish.span else { continue };
            let span = Span::child(Some(cause.context()), "redis publish.lua", Kind::Client);
            if let Some(span) = span {
                let blank = if marks.is_empty() { "" } else { " " };
                let traceparent = span.context().traceparent();
                marks += &format!("{blank}{} {traceparent}", place + 1);
                span.set("db.system.name", "redis");
                span.set("channel", channel.as_str());
                span.set("messages", group.len());
                spans.push(span);
            }
        }
        if spans.len() > began {
            command.arg(marks);
        }
        command
    }
}

/// Adds what must hold for the message to be stored, as the script takes it.
fn push_condition(command: &mut Cmd, publish: &Publish) {
    let session = publish.session.as_ref().map_or("", |it| it.as_str());
    if !publish.require_member && publish.expected.is_none() {
        command.arg(session);
        return;
    }
    let user = if publish.require_member {
        publish.user.as_str()
    } else {
        ""
    };
    // Names hold no control characters. The epoch may hold anything, so it comes last.
    command.arg(match &publish.expected {
        None => format!("\n{session}\n{user}\n\n"),
        Some(Position { epoch, offset }) => {
            format!("\n{session}\n{user}\n{offset}\n{}", epoch.as_str())
        }
    });
}

/// Publishes over one connection to each node. When one of them is gone, so is the publisher: nothing may overtake what has
/// failed. A channel stays with the node that owned it when the publisher was made. If the channel moves, that node refuses it.
pub(super) struct RedisPublisher {
    connections: Pinned,
    publishing: Arc<Publishing>,
    /// True once the outcome of a batch was unknown. Then nothing is published any more.
    failed: AtomicBool,
    /// Batches whose channels must be noted first wait here, and so do those that come while others wait. Otherwise they
    /// could overtake them.
    line: Semaphore,
    /// How many batches wait.
    waiting: AtomicUsize,
}

/// Counts a batch that waits, until it is dropped.
struct Waits<'a>(&'a AtomicUsize);

impl<'a> Waits<'a> {
    fn begin(waiting: &'a AtomicUsize) -> Self {
        waiting.fetch_add(1, Ordering::Relaxed);
        Self(waiting)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl RedisPublisher {
    pub(super) fn new(connections: Pinned, publishing: Arc<Publishing>) -> Self {
        Self {
            connections,
            publishing,
            failed: AtomicBool::new(false),
            line: Semaphore::new(1),
            waiting: AtomicUsize::new(0),
        }
    }
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
            let round = self.make_noted(&batch, calls).await;
            if round.is_err() {
                self.failed.store(true, Ordering::Relaxed);
            }
            let round = round?;
            let goes_on = !round.iter().any(is_refused_for_now);
            outcomes.extend(round);
            if !goes_on {
                let reason = "an earlier message of the batch was refused";
                let rest = (end..batch.len()).map(|_| Err(unavailable(reason)));
                outcomes.extend(rest);
            }
        }
        Ok(outcomes)
    }
}

/// True if the same message may be accepted a moment later.
fn is_refused_for_now(outcome: &Result<Published, StoreError>) -> bool {
    matches!(outcome, Err(StoreError::Unavailable(_) | StoreError::Full))
}

/// What of a batch belongs to one node.
struct Part<'a> {
    connection: &'a Connection,
    /// The places of messages in the batch. Each group is published by one call.
    groups: Vec<Vec<usize>>,
}

/// Groups messages, beginning at the place `from`, into calls of the script: each call takes messages of one channel, in
/// order. No channel gets a second call, so this ends before the first message that would need one. Returns the places of
/// each call's messages, and the place of the first message that is in no call.
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
    /// Notes the channels of these calls in the directory if that is due, and then makes the calls.
    async fn make_noted(
        &self,
        batch: &[Publish],
        calls: Vec<Vec<usize>>,
    ) -> Result<Vec<Result<Published, StoreError>>, StoreError> {
        let (directory, began) = (&self.publishing.directory, Instant::now());
        // Ephemeral messages begin no channel.
        let stores = |call: &&Vec<usize>| call.iter().any(|&place| !batch[place].ephemeral);
        let channels = || {
            calls
                .iter()
                .filter(stores)
                .map(|call| &batch[call[0]].channel)
        };
        // The calls take messages that follow one another in the batch.
        let first = calls.first().map_or(0, |call| call[0]);
        let nobody_waits = self.waiting.load(Ordering::Relaxed) == 0;
        let outcomes = if nobody_waits && directory.holds(channels(), began) {
            self.make(batch, calls).await?
        } else {
            let waits = Waits::begin(&self.waiting);
            let turn = self.line.acquire().await.map_err(unavailable)?;
            directory.note(channels(), began).await;
            // While this waited, another batch may have failed.
            if self.failed.load(Ordering::Relaxed) {
                return Err(unavailable("another batch has failed"));
            }
            let mut making = pin!(self.make(batch, calls));
            // The first poll sends the calls, and only then the next in line may go on.
            let mut begun = unconstrained(making.as_mut());
            let begun = poll_fn(|context| Poll::Ready(Pin::new(&mut begun).poll(context))).await;
            drop((turn, waits));
            match begun {
                Poll::Ready(outcomes) => outcomes?,
                Poll::Pending => making.await?,
            }
        };
        let born = batch[first..].iter().zip(&outcomes);
        let born = born.filter(|(_, outcome)| outcome.as_ref().is_ok_and(Published::begins_a_life));
        let born: Vec<_> = born.map(|(publish, _)| &publish.channel).collect();
        if !born.is_empty() {
            directory.note_births(born.into_iter(), began).await;
        }
        Ok(outcomes)
    }

    /// Makes calls that don't depend on each other. Returns the outcomes of their messages, in the batch's order.
    async fn make(
        &self,
        batch: &[Publish],
        calls: Vec<Vec<usize>>,
    ) -> Result<Vec<Result<Published, StoreError>>, StoreError> {
        let time = now_milliseconds();
        let mut parts: Vec<Part<'_>> = Vec::new();
        for group in calls {
            let topic = || {
                let keys = &self.publishing.appending;
                keys.keys_of(&batch[group[0]].channel).topic().to_string()
            };
            let (_, connection) = self.connections.owner(topic)?;
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
        // All of them run to their end, whatever becomes of one. A part that was dropped while it waited in a connection's
        // queue could be overtaken by a later batch.
        let answers: Result<Vec<_>, StoreError> = join_all(answers).await.into_iter().collect();
        let mut outcomes: Vec<_> = answers?.into_iter().flatten().collect();
        outcomes.sort_unstable_by_key(|(place, _)| *place);
        Ok(outcomes.into_iter().map(|(_, outcome)| outcome).collect())
    }

    /// Publishes what belongs to one node. Returns each outcome with its place in the batch.
    async fn publish_part(
        &self,
        batch: &[Publish],
        Part { connection, groups }: Part<'_>,
        time: u64,
    ) -> Result<Vec<(usize, Result<Published, StoreError>)>, StoreError> {
        let replicas = self.publishing.replicas;
        let mut pipeline = Pipeline::with_capacity(groups.len() + 1);
        let mut spans = Vec::new();
        for group in &groups {
            pipeline.add_command(self.publishing.call(batch, group, time, &mut spans));
        }
        replicas.wait(&mut pipeline);
        let replies = connection.request(&pipeline).await;
        if replies.is_err() {
            spans.iter().for_each(|span| span.fail("no answer"));
        }
        drop(spans);
        let replies = replies?;
        let is_safe = replicas.count == 0 || {
            let reached = replies.last().and_then(number);
            reached.ok_or_else(unexpected_reply)? >= u64::from(replicas.count)
        };
        let mut outcomes = Vec::with_capacity(batch.len());
        for (group, reply) in groups.into_iter().zip(&replies) {
            let answers = published(reply, group.len(), time)?.into_iter();
            let answers = answers.map(|outcome| match outcome {
                Ok(published) if !is_safe && !published.ephemeral => {
                    Err(unavailable("too few replicas have the publication"))
                }
                outcome => outcome,
            });
            outcomes.extend(group.into_iter().zip(answers));
        }
        Ok(outcomes)
    }
}

/// Reads an answer of `publish.lua` for so many messages. The outer error is for an answer of another form.
pub(super) fn published(
    reply: &Value,
    count: usize,
    time: u64,
) -> Result<Vec<Result<Published, StoreError>>, StoreError> {
    if let Value::ServerError(error) = reply {
        return Ok((0..count).map(|_| Err(refusal(error))).collect());
    }
    let Value::Array(fields) = reply else {
        return Err(unexpected_reply());
    };
    let [epoch, reached, answers @ ..] = &fields[..] else {
        return Err(unexpected_reply());
    };
    if answers.len() != count {
        return Err(unexpected_reply());
    }
    let epoch = Epoch::new(text(epoch).ok_or_else(unexpected_reply)?);
    let reached = feeds(reached)?;
    let answer = |answer: &Value| match answer {
        Value::Int(_) => Ok(Ok(Published {
            position: Position {
                epoch: epoch.clone(),
                offset: number(answer).ok_or_else(unexpected_reply)?,
            },
            time,
            reached,
            repeated: false,
            ephemeral: false,
        })),
        Value::Array(end) if end.len() == 2 => {
            let end = position(end).ok_or_else(unexpected_reply)?;
            Ok(Err(StoreError::PositionMismatch { end }))
        }
        Value::Array(end) if end.len() == 4 => Ok(Ok(Published {
            position: position(end).ok_or_else(unexpected_reply)?,
            time: number(&end[2]).ok_or_else(unexpected_reply)?,
            reached: feeds(&end[3])?,
            repeated: false,
            ephemeral: true,
        })),
        Value::Array(first) => Ok(Ok(Published {
            position: position(first).ok_or_else(unexpected_reply)?,
            time: first.get(2).and_then(number).ok_or_else(unexpected_reply)?,
            reached: 0,
            repeated: true,
            ephemeral: false,
        })),
        answer => match text(answer) {
            Some("nomember") => Ok(Err(StoreError::NotMember)),
            Some("reused") => Ok(Err(StoreError::KeyReused)),
            _ => Err(unexpected_reply()),
        },
    };
    answers.iter().map(answer).collect()
}

/// Reads how many feeds were reached.
fn feeds(reached: &Value) -> Result<u32, StoreError> {
    let reached = number(reached).and_then(|reached| u32::try_from(reached).ok());
    reached.ok_or_else(unexpected_reply)
}

/// Reads a position: the first two of these fields.
pub(super) fn position(fields: &[Value]) -> Option<Position> {
    Some(Position {
        epoch: Epoch::new(text(fields.first()?)?),
        offset: number(fields.get(1)?)?,
    })
}
