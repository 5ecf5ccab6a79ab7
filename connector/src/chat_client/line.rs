//! The sends to one endpoint that are not answered yet, in order.
//!
//! Answers come in the order of the sends. When a stream breaks, the whole line is sent again over the next one, in order
//! and with the same keys. So nothing overtakes, nothing is lost, and nothing happens twice.

use super::call::{TRY, reason_of};
use super::window::Window;
use crate::metering::answer_times;
use futures_util::Stream;
use metrics::Histogram;
use parking_lot::Mutex;
use proto::chat::v1::Position;
use proto::connector::v1::send_outcome::Outcome as Wire;
use proto::connector::v1::{SendOutcome, SendStreamRequest, SessionMessage};
use std::collections::VecDeque;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use tokio::sync::Notify;
use tokio::time::Instant;
use traces::Span;

/// The most sends in one frame of a stream, and the bytes after which a frame is full. Chat refuses frames above 4 MiB.
const FRAME: usize = 256;
const FRAME_BYTES: usize = 1 << 20;
/// The most bytes in one line. Beyond it sends are refused at once.
const LINE_LIMIT: usize = 32 << 20;
/// The outcome of a send.
#[derive(Debug)]
pub enum Outcome {
    /// It is in the log, at this position.
    Sent(Position),
    /// Chat refused it, with nothing written; the ErrorInfo reason.
    Refused(String),
    /// The send was not answered in time. The message may be in the log, or not.
    Unknown,
    /// No chat could take the send in time. The message is not in the log.
    Unsent,
}

impl Outcome {
    /// Notes in a step of a trace what has gone wrong.
    pub(super) fn note_in(&self, step: &Span) {
        match self {
            Self::Sent(_) => {}
            Self::Refused(reason) => step.fail(reason),
            Self::Unknown => step.fail("the outcome is unknown"),
            Self::Unsent => step.fail("no chat could take it"),
        }
    }
}

/// A send that is not answered yet.
pub(super) struct Pending {
    request: SessionMessage,
    pub(super) bytes: usize,
    expires: Instant,
    /// When the send was written to the present stream.
    written: Option<Instant>,
    /// The send was written to some stream, so it may be in the log.
    tried: bool,
    /// `None`: the send was given up while the present stream owed its answer. It keeps its place in the line until
    /// that comes.
    caller: Option<Caller>,
}

/// What waits for the outcome of a send.
struct Caller {
    window: Arc<Window>,
    bytes: usize,
    answer: Box<dyn FnOnce(Outcome) + Send>,
}

impl Caller {
    /// Gives the outcome before the window counts the send out. A command that waits for the window must
    /// find the outcome given.
    fn settle(self, outcome: Outcome) {
        (self.answer)(outcome);
        self.window.exit(self.bytes);
    }
}

impl Pending {
    pub(super) fn new(
        request: SessionMessage,
        window: Arc<Window>,
        expires: Instant,
        answer: Box<dyn FnOnce(Outcome) + Send>,
    ) -> Self {
        let bytes = prost::Message::encoded_len(&request);
        Self {
            request,
            bytes,
            expires,
            written: None,
            tried: false,
            caller: Some(Caller {
                window,
                bytes,
                answer,
            }),
        }
    }

    pub(super) fn channel(&self) -> &str {
        &self.request.channel
    }

    pub(super) fn settle(self, outcome: Outcome) {
        if let Some(caller) = self.caller {
            caller.settle(outcome);
        }
    }

    /// The outcome of a send without an answer.
    fn unanswered(&self) -> Outcome {
        if self.tried {
            Outcome::Unknown
        } else {
            Outcome::Unsent
        }
    }

    fn give_up(self) {
        let outcome = self.unanswered();
        self.settle(outcome);
    }
}

/// The line of sends to one endpoint.
pub(super) struct Line {
    state: Mutex<State>,
    /// The stream to the own endpoint is up.
    open: AtomicBool,
    /// The own endpoint may be used. Without that there is no stream to it.
    trusted: AtomicBool,
    /// The own endpoint must be proven, and again whenever another process may be at its address.
    needs_proof: bool,
    /// Told when the own endpoint must be proven again.
    doubted: Notify,
    retired: AtomicBool,
    broken: Notify,
    /// How long chat takes to answer a send.
    answer_times: Histogram,
}

#[derive(Default)]
struct State {
    sends: VecDeque<Pending>,
    bytes: usize,
    /// How many sends of the line were written to the present stream.
    written: usize,
    /// The present stream; an older one ends when it sees another number here.
    stream: u64,
    waker: Option<Waker>,
    /// No task moves the line any more.
    ended: bool,
}

impl Line {
    pub(super) fn new(needs_proof: bool) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            open: AtomicBool::new(false),
            trusted: AtomicBool::new(!needs_proof),
            needs_proof,
            doubted: Notify::new(),
            retired: AtomicBool::new(false),
            broken: Notify::new(),
            answer_times: answer_times(),
        })
    }

    pub(super) fn is_open(&self) -> bool {
        self.open.load(Ordering::Relaxed)
    }

    pub(super) fn is_trusted(&self) -> bool {
        self.trusted.load(Ordering::Relaxed)
    }

    pub(super) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }

    /// From now on the own endpoint may be used.
    pub(super) fn trust(&self) {
        self.trusted.store(true, Ordering::Relaxed);
    }

    /// From now on the own endpoint may not be used. The sends in the line go to another endpoint, or wait.
    pub(super) fn distrust(&self) {
        if self.trusted.swap(false, Ordering::Relaxed) {
            self.end_stream();
        }
    }

    /// Ends the present stream. The sends in the line go to whichever endpoint may be used now.
    pub(super) fn end_stream(&self) {
        if self.is_open() {
            self.state.lock().stream += 1;
            self.broken.notify_one();
        }
    }

    /// Another process may be at the address of the own endpoint by now.
    pub(super) fn doubt(&self) {
        if self.needs_proof {
            self.trusted.store(false, Ordering::Relaxed);
            self.doubted.notify_one();
        }
    }

    /// Returns when the own endpoint must be proven again.
    pub(super) async fn doubted(&self) {
        self.doubted.notified().await;
    }

    /// The endpoint does not exist any more, so end when the line is empty.
    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
        self.broken.notify_one();
        self.doubted.notify_one();
    }

    /// The endpoint does not exist any more, and nothing waits for an answer.
    pub(super) fn is_done(&self) -> bool {
        self.is_retired() && self.is_empty()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.state.lock().sends.is_empty()
    }

    /// The stream to the own endpoint is up, or it is not. True if that is new.
    pub(super) fn set_open(&self, open: bool) -> bool {
        self.open.swap(open, Ordering::Relaxed) != open
    }

    /// True while this stream is the present one.
    pub(super) fn is_present(&self, stream: u64) -> bool {
        self.state.lock().stream == stream
    }

    /// Returns when the present stream must end, or the line is retired.
    pub(super) async fn broken(&self) {
        self.broken.notified().await;
    }

    /// Nothing moves the line any more: gives up what is in it, and whatever comes.
    pub(super) fn end(&self) {
        self.open.store(false, Ordering::Relaxed);
        let left = {
            let mut state = self.state.lock();
            state.ended = true;
            mem::take(&mut state.sends)
        };
        for pending in left {
            pending.give_up();
        }
    }

    /// What is to be written to a new stream, which is the present one from now on, and its number.
    pub(super) fn outgoing(self: &Arc<Self>) -> (Outgoing, u64) {
        let stream = self.begin_stream();
        let line = Arc::clone(self);
        (Outgoing { line, stream }, stream)
    }

    pub(super) fn push(&self, pending: Pending) {
        let mut state = self.state.lock();
        if state.ended || state.bytes + pending.bytes > LINE_LIMIT {
            drop(state);
            return pending.give_up();
        }
        state.bytes += pending.bytes;
        state.sends.push_back(pending);
        if let Some(waker) = state.waker.take() {
            drop(state);
            waker.wake();
        }
    }

    fn begin_stream(&self) -> u64 {
        let mut given_up = Vec::new();
        let stream = self.renumber(&mut given_up);
        for caller in given_up {
            caller.settle(Outcome::Unknown);
        }
        stream
    }

    /// Makes all sends ready for a new stream. Moves the callers of those that must not be sent again.
    fn renumber(&self, given_up: &mut Vec<Caller>) -> u64 {
        let mut state = self.state.lock();
        state.stream += 1;
        state.written = 0;
        // For sends that were given up, no answer must be waited for any more.
        state.drop_where(|_, pending| {
            // An ephemeral message has no key. If the first copy was given, nobody would know that the second one is a copy.
            if pending.tried && pending.request.ephemeral {
                given_up.extend(pending.caller.take());
            }
            pending.caller.is_none()
        });
        for pending in &mut state.sends {
            pending.written = None;
        }
        // Wake the older stream, so that it sees the new number and ends.
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
        state.stream
    }

    /// These are the answers to the oldest sends. False if there are more of them than sends.
    pub(super) fn settle(&self, outcomes: Vec<SendOutcome>) -> bool {
        let now = Instant::now();
        for SendOutcome { outcome } in outcomes {
            let pending = {
                let mut state = self.state.lock();
                if state.written == 0 {
                    return false;
                }
                state.written -= 1;
                state.pop()
            };
            let outcome = match outcome {
                Some(Wire::Sent(position)) => Outcome::Sent(position),
                Some(Wire::Refused(status)) => Outcome::Refused(reason_of(&status)),
                None => Outcome::Unknown,
            };
            if let Some(pending) = pending {
                if let Some(written) = pending.written {
                    self.answer_times.record(now.duration_since(written));
                }
                pending.settle(outcome);
            }
        }
        true
    }

    /// Gives up sends whose time is over. Ends the stream if its oldest send has not been answered for too long:
    /// another stream may answer it.
    ///
    /// Sends stand in the order in which they came. Their times need not be over in that order.
    pub(super) fn check_times(&self, now: Instant) {
        let mut expired = Vec::new();
        {
            let mut state = self.state.lock();
            let written = state.written;
            state.drop_where(|place, pending| {
                if pending.expires > now {
                    return false;
                }
                let outcome = pending.unanswered();
                expired.extend(pending.caller.take().map(|caller| (caller, outcome)));
                // The stream still owes the answers to what was written to it.
                place >= written
            });
            let stalled = state.sends.front().is_some_and(|oldest| {
                let written = oldest.written;
                oldest.caller.is_none()
                    || written.is_some_and(|written| now.duration_since(written) >= TRY)
            });
            if stalled {
                state.stream += 1;
                self.broken.notify_one();
            }
        }
        for (caller, outcome) in expired {
            caller.settle(outcome);
        }
    }

    fn poll_frame(&self, stream: u64, context: &Context<'_>) -> Poll<Option<SendStreamRequest>> {
        let mut state = self.state.lock();
        if state.stream != stream {
            return Poll::Ready(None);
        }
        let from = state.written;
        let mut bytes = 0;
        let fits = state.sends.range(from..).take(FRAME).take_while(|pending| {
            let fits = bytes < FRAME_BYTES;
            bytes += pending.bytes;
            fits
        });
        let to = from + fits.count();
        if from == to {
            state.waker = Some(context.waker().clone());
            return Poll::Pending;
        }
        let now = Instant::now();
        let messages = state.sends.range_mut(from..to).map(|pending| {
            pending.written = Some(now);
            pending.tried = true;
            pending.request.clone()
        });
        let messages = messages.collect();
        state.written = to;
        Poll::Ready(Some(SendStreamRequest { messages }))
    }
}

impl State {
    fn pop(&mut self) -> Option<Pending> {
        let pending = self.sends.pop_front()?;
        self.bytes -= pending.bytes;
        Some(pending)
    }

    /// Removes the sends for which `is_over` is true. It is given each send and its place in the line.
    fn drop_where(&mut self, mut is_over: impl FnMut(usize, &mut Pending) -> bool) {
        let (mut place, mut freed) = (0, 0);
        self.sends.retain_mut(|pending| {
            let drop = is_over(place, pending);
            place += 1;
            if drop {
                freed += pending.bytes;
            }
            !drop
        });
        self.bytes -= freed;
    }
}

/// The requests of one stream: everything in the line that was not written to it yet.
pub(super) struct Outgoing {
    line: Arc<Line>,
    stream: u64,
}

impl Stream for Outgoing {
    type Item = SendStreamRequest;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.line.poll_frame(self.stream, context)
    }
}

#[cfg(test)]
mod tests {
    use super::super::CALL;
    use super::*;
    use std::sync::atomic::AtomicUsize;

    fn answer() -> SendOutcome {
        SendOutcome {
            outcome: Some(Wire::Sent(Position::default())),
        }
    }

    /// A line with `sends` sends that are written to its stream, and how many of them are settled.
    fn written(sends: usize) -> (Arc<Line>, Arc<AtomicUsize>) {
        let (line, settled) = (Line::new(false), Arc::new(AtomicUsize::new(0)));
        for _ in 0..sends {
            let window = Arc::<Window>::default();
            window.enter(0, || Some(Arc::clone(&line)));
            let count = Arc::clone(&settled);
            let mut pending = Pending::new(
                SessionMessage::default(),
                window,
                Instant::now() + CALL,
                Box::new(move |_| {
                    count.fetch_add(1, Ordering::Relaxed);
                }),
            );
            pending.written = Some(Instant::now());
            line.push(pending);
        }
        line.state.lock().written = sends;
        (line, settled)
    }

    #[tokio::test]
    async fn an_answer_to_a_send_that_was_given_up_is_ignored() {
        let (line, settled) = written(1);
        line.check_times(Instant::now() + CALL);
        assert_eq!(settled.load(Ordering::Relaxed), 1);
        assert!(line.settle(vec![answer()]));
        assert_eq!(settled.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn more_answers_than_sends_are_an_error() {
        let (line, settled) = written(2);
        assert!(line.settle(vec![answer()]));
        assert_eq!(settled.load(Ordering::Relaxed), 1);
        assert!(!line.settle(vec![answer(), answer()]));
        assert_eq!(settled.load(Ordering::Relaxed), 2);
        assert!(!line.settle(vec![answer()]));
    }
}
