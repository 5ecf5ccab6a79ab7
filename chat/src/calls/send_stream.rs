//! One caller's messages, in order. What is ready is published in batches, a few batches at a time, and answered in the
//! order in which it came.
//!
//! The reader of the answers drives the stream: HTTP/2 polls it only when the caller has room for more. So a caller that
//! reads no answers is not read from either, and memory stays within a few batches.
//!
//! The store may refuse a message for a moment and take the next one: out of memory, or while a slot of a cluster moves.
//! The caller must be able to send again in order. So while a message of a channel is with the store and unanswered, no
//! other message of that channel is given to the store: a batch holds at most one call for each channel, and ends before
//! the first message whose channel has an unanswered call. The stream ends with an error as soon as an outcome is unknown,
//! and also after the answer that the store is full, because that answer may get lost. No later message is answered then.
//! The caller sends again what is unanswered, with the same keys.

use crate::access::Permit;
use crate::config::Limits;
use crate::error::{Error, of_transport};
use crate::metering;
use crate::port::streams::Place;
use channel_store::{CallSize, ChannelName, Publish, Published, Publisher, StoreError};
use futures_util::future::{BoxFuture, FutureExt, MaybeDone, maybe_done};
use futures_util::stream::{Stream, StreamExt};
use std::collections::{HashMap, HashSet, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tonic::{Status, Streaming};
use tonic_types::pb;

/// How many batches may be with the store at once: enough to keep it busy while answers travel.
const BATCHES_IN_FLIGHT: usize = 4;
/// A batch is full with so many messages …
const BATCH_MESSAGES: usize = 256;
/// … or so many bytes.
const BATCH_BYTES: usize = 1024 * 1024;
/// The largest number of messages in one frame of the caller.
const FRAME_MESSAGES: usize = 1_024;

/// The messages of one contract's stream. An answer has no number: its place in the order says which message it is for.
pub(crate) trait Contract: 'static {
    /// A frame of the caller.
    type Request;
    /// One message of a frame.
    type Message: Send + Unpin;
    /// A frame of answers.
    type Response;
    /// The answer to one message.
    type Outcome: Send + Unpin;

    fn messages(frame: Self::Request) -> Vec<Self::Message>;
    /// A body of more than `limit` bytes is refused.
    fn check(message: Self::Message, permit: &Permit, limit: usize) -> Result<Publish, Error>;
    fn sent(published: &Published) -> Self::Outcome;
    fn refused(status: pb::Status) -> Self::Outcome;
    fn response(outcomes: Vec<Self::Outcome>) -> Self::Response;
}

/// The answers to the messages of one stream.
pub(crate) struct SendStream<C: Contract> {
    requests: Streaming<C::Request>,
    publisher: Arc<dyn Publisher>,
    limits: Limits,
    /// Ready once nothing more may be read.
    ending: BoxFuture<'static, Error>,
    permit: Permit,
    /// Ready once the caller's token is not valid any more.
    revoked: BoxFuture<'static, ()>,
    /// Read, and in no batch yet.
    waiting: VecDeque<C::Message>,
    /// Checked, and in no batch yet because its channel has an unanswered call.
    next: Option<Checked>,
    /// Batches with the store, oldest first.
    in_flight: VecDeque<InFlight<C::Outcome>>,
    /// The channels of those batches.
    busy: HashSet<ChannelName>,
    /// Set when nothing more is read: how the stream ends after the answers that are still to come.
    end: Option<Result<(), Status>>,
    place: Place,
}

/// A batch with the store.
struct InFlight<O> {
    answered: MaybeDone<BoxFuture<'static, Answered<O>>>,
    channels: Vec<ChannelName>,
}

/// Messages that go to the store together.
#[derive(Default)]
struct Batch {
    messages: Vec<Checked>,
    bytes: usize,
    calls: HashMap<ChannelName, CallSize>,
}

impl Batch {
    fn is_full(&self) -> bool {
        self.messages.len() >= BATCH_MESSAGES || self.bytes >= BATCH_BYTES
    }

    /// Gives the message back if it has to wait for the answer to another one.
    fn add(&mut self, checked: Checked, busy: &HashSet<ChannelName>) -> Option<Checked> {
        if let Ok(publish) = &checked {
            if busy.contains(&publish.channel) {
                return Some(checked);
            }
            let call = match self.calls.get_mut(&publish.channel) {
                Some(call) => call,
                None => self.calls.entry(publish.channel.clone()).or_default(),
            };
            if !call.takes(publish) {
                return Some(checked);
            }
            self.bytes += publish.payload.as_bytes().len();
        }
        self.messages.push(checked);
        None
    }
}

/// A message that was checked.
type Checked = Result<Publish, Error>;

/// What became of a batch.
struct Answered<O> {
    outcomes: Vec<O>,
    /// Why nothing after those outcomes is answered.
    broken: Option<Error>,
}

impl<C: Contract> SendStream<C> {
    /// A publisher belongs to one connection of the store, and stays the stream's own: another one could overtake it.
    pub(crate) fn new(
        requests: Streaming<C::Request>,
        publisher: Arc<dyn Publisher>,
        limits: Limits,
        ending: BoxFuture<'static, Error>,
        permit: Permit,
        place: Place,
    ) -> Self {
        Self {
            requests,
            publisher,
            limits,
            ending,
            revoked: permit.revoked().boxed(),
            permit,
            waiting: VecDeque::new(),
            next: None,
            in_flight: VecDeque::new(),
            busy: HashSet::new(),
            end: None,
            place,
        }
    }

    /// Hands what is ready to the store, as far as there is room.
    fn publish_what_is_ready(&mut self, cx: &mut Context<'_>) {
        while self.in_flight.len() < BATCHES_IN_FLIGHT {
            let Batch {
                messages, calls, ..
            } = self.next_batch(cx);
            if messages.is_empty() {
                return;
            }
            let channels: Vec<_> = calls.into_keys().collect();
            self.busy.extend(channels.iter().cloned());
            let publisher = Arc::clone(&self.publisher);
            // The time-out of the store comes first, and ends the connection to Redis with it. If the batch was only
            // dropped here, it could be lost while a later one still arrives.
            let publishing = publish::<C>(publisher, messages, 2 * self.limits.call_time);
            self.in_flight.push_back(InFlight {
                answered: maybe_done(publishing.boxed()),
                channels,
            });
        }
    }

    fn next_batch(&mut self, cx: &mut Context<'_>) -> Batch {
        let mut batch = Batch::default();
        while !batch.is_full() {
            let checked = if let Some(checked) = self.next.take() {
                checked
            } else if let Some(message) = self.waiting.pop_front() {
                C::check(message, &self.permit, self.limits.message)
                    .and_then(|publish| self.limits.rules.admit(publish))
            } else if self.read_frame(cx) {
                continue;
            } else {
                break;
            };
            if let Some(waits) = batch.add(checked, &self.busy) {
                self.next = Some(waits);
                break;
            }
        }
        batch
    }

    /// False if there is no frame now, or none will come any more.
    fn read_frame(&mut self, cx: &mut Context<'_>) -> bool {
        if self.end.is_some() {
            return false;
        }
        // What was read is answered. The caller sends the rest again, over another connection.
        if self.ending.poll_unpin(cx).is_ready() {
            self.end = Some(Ok(()));
            return false;
        }
        match self.requests.poll_next_unpin(cx) {
            Poll::Pending => {
                if self.in_flight.is_empty() && self.place.poll_told_to_end(cx).is_ready() {
                    self.end = Some(Err(fail(Error::StreamIdle)));
                }
                false
            }
            Poll::Ready(Some(Ok(frame))) => {
                let messages = C::messages(frame);
                if messages.len() > FRAME_MESSAGES {
                    let error =
                        Error::invalid("messages", format!("must be at most {FRAME_MESSAGES}"));
                    self.end = Some(Err(fail(error)));
                    return false;
                }
                self.place.used();
                self.waiting.extend(messages);
                true
            }
            Poll::Ready(Some(Err(status))) => {
                self.end = Some(Err(of_transport(status, self.limits.frame())));
                false
            }
            Poll::Ready(None) => {
                self.end = Some(Ok(()));
                false
            }
        }
    }

    /// Nothing more is published once the caller's token is not valid any more. What is with the store is still answered.
    fn end_if_revoked(&mut self, cx: &mut Context<'_>) {
        if self.end.is_none() && self.revoked.poll_unpin(cx).is_ready() {
            self.waiting.clear();
            self.next = None;
            self.end = Some(Err(fail(Error::TokenRefused)));
        }
    }

    /// What became of the oldest batch, once that is known.
    fn next_answered(&mut self, cx: &mut Context<'_>) -> Option<Answered<C::Outcome>> {
        // All of them are polled, oldest first: a batch takes its place in the order with its first poll.
        for batch in &mut self.in_flight {
            let _ = batch.answered.poll_unpin(cx);
        }
        let oldest = self.in_flight.front_mut()?;
        let answered = Pin::new(&mut oldest.answered).take_output()?;
        for channel in &oldest.channels {
            self.busy.remove(channel);
        }
        self.in_flight.pop_front();
        Some(answered)
    }
}

impl<C: Contract> Stream for SendStream<C> {
    type Item = Result<C::Response, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        this.end_if_revoked(cx);
        this.publish_what_is_ready(cx);
        if let Some(Answered { outcomes, broken }) = this.next_answered(cx) {
            if let Some(error) = broken {
                this.waiting.clear();
                this.next = None;
                this.in_flight.clear();
                this.end = Some(Err(fail(error)));
            }
            if !outcomes.is_empty() {
                return Poll::Ready(Some(Ok(C::response(outcomes))));
            }
        }
        if !this.in_flight.is_empty() {
            return Poll::Pending;
        }
        let Some(end) = this.end.take() else {
            return Poll::Pending;
        };
        this.end = Some(Ok(()));
        Poll::Ready(end.err().map(Err))
    }
}

async fn publish<C: Contract>(
    publisher: Arc<dyn Publisher>,
    batch: Vec<Checked>,
    limit: Duration,
) -> Answered<C::Outcome> {
    let mut refused = Vec::with_capacity(batch.len());
    let mut messages = Vec::with_capacity(batch.len());
    for checked in batch {
        match checked {
            Ok(message) => {
                messages.push(message);
                refused.push(None);
            }
            Err(error) => refused.push(Some(error)),
        }
    }
    let mut answered = Answered {
        outcomes: Vec::with_capacity(refused.len()),
        broken: None,
    };
    let published = if messages.is_empty() {
        Vec::new()
    } else {
        metering::batch(messages.len());
        match tokio::time::timeout(limit, publisher.publish(messages)).await {
            Ok(Ok(published)) => published,
            Ok(Err(error)) => {
                answered.broken = Some(error.into());
                return answered;
            }
            Err(_) => {
                answered.broken = Some(Error::DeadlineExceeded);
                return answered;
            }
        }
    };
    let mut published = published.into_iter();
    for refused in refused {
        let outcome = match refused {
            Some(error) => Err(error),
            None => published.next().map_or_else(
                || Err(StoreError::Unavailable("no answer".into()).into()),
                |outcome| outcome.map_err(Error::from),
            ),
        };
        if !answered.push::<C>(outcome) {
            break;
        }
    }
    answered
}

impl<O> Answered<O> {
    /// False if this was no answer. Then nothing after it can be one.
    fn push<C: Contract<Outcome = O>>(&mut self, outcome: Result<Published, Error>) -> bool {
        let is_full = matches!(outcome, Err(Error::Store(StoreError::Full)));
        if self.broken.is_some() && !is_full {
            return false;
        }
        let outcome = match outcome {
            Ok(published) => {
                metering::sent(&published);
                C::sent(&published)
            }
            Err(error) if error.outcome_is_unknown() => {
                self.broken = Some(error);
                return false;
            }
            Err(error) => {
                metering::refused(&error);
                if is_full {
                    // Messages that were refused together are answered together. Then the stream ends: if these
                    // answers get lost, the caller sends those messages again, and no later one may be in the log by
                    // then.
                    self.broken.get_or_insert(error.clone());
                }
                C::refused(error.into())
            }
        };
        self.outcomes.push(outcome);
        true
    }
}

/// The status that the whole stream ends with.
fn fail(error: Error) -> Status {
    metering::refused(&error);
    error.into()
}
