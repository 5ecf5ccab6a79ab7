//! One caller's messages, in order: what is ready is published in batches, a few batches at a time, and answered in the
//! order in which it came.
//!
//! Whoever reads the answers drives the stream: HTTP/2 polls it only when the caller has room for more. A caller that
//! reads no answers is therefore not read from either, and memory stays within a few batches.
//!
//! The store may refuse a message for a moment and take the next one: out of memory, or while a slot of a cluster moves.
//! So that the caller can send again in order, nothing of a channel is with the store behind something of the same
//! channel that is unanswered: a batch holds at most one call for each channel, and ends before the first message whose
//! channel has an unanswered call. The stream ends with an error as soon as an outcome is unknown, or after it was
//! answered that the store is full, because that answer may get lost. No later send is answered then; the caller sends
//! again what is unanswered, with the same keys.

use crate::calls::sent;
use crate::config::Limits;
use crate::error::{Error, of_transport};
use crate::streams::Place;
use crate::{metering, validate};
use channel_store::{CallSize, ChannelName, Publish, Published, Publisher, StoreError};
use futures_util::future::{BoxFuture, FutureExt, MaybeDone, maybe_done};
use futures_util::stream::{Stream, StreamExt};
use proto::v1::numbered_answer::Answer;
use proto::v1::{NumberedAnswer, NumberedSend, SendStreamRequest, SendStreamResponse};
use runtime::Shutdown;
use std::collections::{HashMap, HashSet, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tonic::{Status, Streaming};

/// Batches that may be with the store at once: enough to keep it busy while answers travel.
const BATCHES_IN_FLIGHT: usize = 4;
/// A batch is full with so many messages …
const BATCH_MESSAGES: usize = 256;
/// … or so many bytes.
const BATCH_BYTES: usize = 1024 * 1024;
/// The most sends in one frame of the caller's.
const FRAME_SENDS: usize = 1_024;

/// The answers to the messages of one stream.
pub struct SendStream {
    requests: Streaming<SendStreamRequest>,
    publisher: Arc<dyn Publisher>,
    limits: Limits,
    shutdown: BoxFuture<'static, ()>,
    /// Read, and in no batch yet.
    waiting: VecDeque<NumberedSend>,
    /// Checked, and in no batch yet because its channel has an unanswered call.
    next: Option<Checked>,
    /// Batches with the store, oldest first.
    in_flight: VecDeque<InFlight>,
    /// The channels of those.
    busy: HashSet<ChannelName>,
    /// Set when nothing more is read: how the stream ends after the answers that are still to come.
    end: Option<Result<(), Status>>,
    place: Place,
}

/// A batch with the store.
struct InFlight {
    answered: MaybeDone<BoxFuture<'static, Answered>>,
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
    fn add(&mut self, checked: Checked, busy: &HashSet<ChannelName>) -> Result<(), Checked> {
        if let Ok(publish) = &checked.publish {
            if busy.contains(&publish.channel) {
                return Err(checked);
            }
            let call = match self.calls.get_mut(&publish.channel) {
                Some(call) => call,
                None => self.calls.entry(publish.channel.clone()).or_default(),
            };
            if !call.takes(publish) {
                return Err(checked);
            }
            self.bytes += publish.payload.as_bytes().len();
        }
        self.messages.push(checked);
        Ok(())
    }
}

/// A message that was checked.
struct Checked {
    number: u64,
    publish: Result<Publish, Error>,
}

/// What became of a batch.
#[derive(Default)]
struct Answered {
    answers: Vec<NumberedAnswer>,
    /// Why nothing after those answers is answered.
    broken: Option<Error>,
}

impl SendStream {
    /// A publisher belongs to one connection of the store, and stays the stream's own: another one could overtake it.
    pub(crate) fn new(
        requests: Streaming<SendStreamRequest>,
        publisher: Arc<dyn Publisher>,
        limits: Limits,
        shutdown: Shutdown,
        place: Place,
    ) -> Self {
        Self {
            requests,
            publisher,
            limits,
            shutdown: async move { shutdown.requested().await }.boxed(),
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
            // The store's own patience ends first, and ends the connection with it: a batch that is only let go of
            // could be passed over while a later one is still sent.
            let publishing = publish(publisher, messages, 2 * self.limits.call_time);
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
            } else if let Some(send) = self.waiting.pop_front() {
                check(send, self.limits.message)
            } else if self.read_frame(cx) {
                continue;
            } else {
                break;
            };
            if let Err(waits) = batch.add(checked, &self.busy) {
                self.next = Some(waits);
                break;
            }
        }
        batch
    }

    /// False if there is none now, or none any more.
    fn read_frame(&mut self, cx: &mut Context<'_>) -> bool {
        if self.end.is_some() {
            return false;
        }
        if self.shutdown.poll_unpin(cx).is_ready() {
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
            Poll::Ready(Some(Ok(frame))) if frame.sends.len() <= FRAME_SENDS => {
                self.place.used();
                self.waiting.extend(frame.sends);
                true
            }
            Poll::Ready(Some(Ok(_))) => {
                let error = Error::invalid("sends", format!("must be at most {FRAME_SENDS}"));
                self.end = Some(Err(fail(error)));
                false
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

    /// What became of the oldest batch, once that is known.
    fn next_answered(&mut self, cx: &mut Context<'_>) -> Option<Answered> {
        // All of them, oldest first: a batch takes its place in the order when it is polled for the first time.
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

impl Stream for SendStream {
    type Item = Result<SendStreamResponse, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        this.publish_what_is_ready(cx);
        if let Some(Answered { answers, broken }) = this.next_answered(cx) {
            if let Some(error) = broken {
                this.waiting.clear();
                this.next = None;
                this.in_flight.clear();
                this.end = Some(Err(fail(error)));
            }
            if !answers.is_empty() {
                return Poll::Ready(Some(Ok(SendStreamResponse { answers })));
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

fn check(send: NumberedSend, message_limit: usize) -> Checked {
    let publish = send.send.map_or_else(
        || Err(Error::invalid("send", "is required")),
        |request| validate::send(request, message_limit),
    );
    Checked {
        number: send.number,
        publish,
    }
}

async fn publish(publisher: Arc<dyn Publisher>, batch: Vec<Checked>, limit: Duration) -> Answered {
    let mut refused = Vec::with_capacity(batch.len());
    let mut messages = Vec::with_capacity(batch.len());
    for Checked { number, publish } in batch {
        match publish {
            Ok(message) => {
                messages.push(message);
                refused.push((number, None));
            }
            Err(error) => refused.push((number, Some(error))),
        }
    }
    let outcomes = if messages.is_empty() {
        Vec::new()
    } else {
        metering::batch(messages.len());
        match tokio::time::timeout(limit, publisher.publish(messages)).await {
            Ok(Ok(outcomes)) => outcomes,
            Ok(Err(error)) => return Answered::broken(error.into()),
            Err(_) => return Answered::broken(Error::DeadlineExceeded),
        }
    };
    let mut outcomes = outcomes.into_iter();
    let mut answered = Answered::default();
    for (number, refused) in refused {
        let outcome = match refused {
            Some(error) => Err(error),
            None => outcomes.next().map_or_else(
                || Err(StoreError::Unavailable("no answer".into()).into()),
                |outcome| outcome.map_err(Error::from),
            ),
        };
        if !answered.push(number, outcome) {
            break;
        }
    }
    answered
}

impl Answered {
    fn broken(error: Error) -> Self {
        Self {
            answers: Vec::new(),
            broken: Some(error),
        }
    }

    /// False if this was no answer, and nothing after it can be one.
    fn push(&mut self, number: u64, outcome: Result<Published, Error>) -> bool {
        let is_full = matches!(outcome, Err(Error::Store(StoreError::Full)));
        if self.broken.is_some() && !is_full {
            return false;
        }
        let answer = match outcome {
            Ok(published) => Answer::Sent(sent(&published)),
            Err(error) if error.outcome_is_unknown() => {
                self.broken = Some(error);
                return false;
            }
            Err(error) => {
                metering::refused(&error);
                if is_full {
                    // What was refused together is answered together. Then the stream ends: if these answers get lost,
                    // the caller sends those messages again, and no later one may be in the log by then.
                    self.broken.get_or_insert(error.clone());
                }
                Answer::Refused(error.into())
            }
        };
        let answer = Some(answer);
        self.answers.push(NumberedAnswer { number, answer });
        true
    }
}

/// The status that the whole stream ends with.
fn fail(error: Error) -> Status {
    metering::refused(&error);
    error.into()
}
