//! An ordered stream of sends to one endpoint, and the line of sends that are not answered yet. In a cluster each shard
//! of the store has a line of its own, because a shard that is away breaks the streams to it again and again.
//!
//! Answers come in the order of the sends. When the stream breaks, the whole line is sent again, in order and with the
//! same keys, over the next stream. That goes to the line's own endpoint or, while this is down, to another one. So
//! nothing overtakes, nothing is lost, and nothing happens twice. A session stays with its line while it has unanswered
//! sends.

use super::endpoint::{Endpoint, words};
use super::window::Flow;
use super::{Chat, TRY, is_full, reason, reason_of};
use futures_util::Stream;
use parking_lot::Mutex;
use proto::chat::v1::Position;
use proto::connector::v1::send_outcome::Outcome as Wire;
use proto::connector::v1::{SendOutcome, SendStreamRequest, SessionMessage};
use runtime::backoff::{self, jittered};
use std::collections::VecDeque;
use std::mem;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// How often it is checked whether the oldest send has waited too long.
const TICK: Duration = Duration::from_millis(100);
/// The most sends in one frame of a stream, and the bytes after which a frame is full. Chat refuses frames above 4 MiB.
const FRAME: usize = 256;
const FRAME_BYTES: usize = 1 << 20;
/// The most bytes in one line. Beyond it sends are refused at once.
const LANE_LIMIT: usize = 32 << 20;
/// The first and the longest pause between attempts to reach the own endpoint.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// The pause before the next stream after chat, which is up, has ended one because it needed the place.
const REOPEN_PAUSE: Duration = Duration::from_millis(2);

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

/// Whoever waits for the outcome of a send.
struct Caller {
    flow: Arc<Flow>,
    bytes: usize,
    answer: Box<dyn FnOnce(Outcome) + Send>,
}

impl Caller {
    /// Gives the outcome before the window counts the send out. Whoever waits for the window must find the outcome
    /// given.
    fn settle(self, outcome: Outcome) {
        (self.answer)(outcome);
        self.flow.exit(self.bytes);
    }
}

impl Pending {
    pub(super) fn new(
        request: SessionMessage,
        flow: Arc<Flow>,
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
                flow,
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

/// How a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// Chat needed the place of the stream, and nothing was under way.
    Idle,
    /// Chat ended the stream after it had answered that the store is full. The rest of the line is sent again.
    Full,
    /// The stream ended for another reason.
    Otherwise,
}

/// The line of sends to one endpoint.
pub(super) struct Lane {
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
}

#[derive(Default)]
struct State {
    line: VecDeque<Pending>,
    bytes: usize,
    /// How many sends of the line were written to the present stream.
    written: usize,
    /// The present stream; an older one ends when it sees another number here.
    stream: u64,
    waker: Option<Waker>,
    /// No task moves the line any more.
    ended: bool,
}

impl Lane {
    pub(super) fn new(needs_proof: bool) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            open: AtomicBool::new(false),
            trusted: AtomicBool::new(!needs_proof),
            needs_proof,
            doubted: Notify::new(),
            retired: AtomicBool::new(false),
            broken: Notify::new(),
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
    fn doubt(&self) {
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

    fn is_done(&self) -> bool {
        self.retired.load(Ordering::Relaxed) && self.state.lock().line.is_empty()
    }

    pub(super) fn push(&self, pending: Pending) {
        let mut state = self.state.lock();
        if state.ended || state.bytes + pending.bytes > LANE_LIMIT {
            drop(state);
            return pending.give_up();
        }
        state.bytes += pending.bytes;
        state.line.push_back(pending);
        if let Some(waker) = state.waker.take() {
            drop(state);
            waker.wake();
        }
    }

    /// Keeps a stream up and the line moving, until the line is retired or the client of chat is dropped.
    pub(super) async fn run(lane: Arc<Self>, home: Arc<Endpoint>, chat: Weak<Chat>) {
        tokio::select! {
            biased;
            () = lane.watch_times(&chat) => {}
            () = lane.keep_streaming(&home, &chat) => {}
        }
        lane.open.store(false, Ordering::Relaxed);
        let left = {
            let mut state = lane.state.lock();
            state.ended = true;
            mem::take(&mut state.line)
        };
        for pending in left {
            pending.give_up();
        }
    }

    async fn watch_times(&self, chat: &Weak<Chat>) {
        while chat.strong_count() > 0 {
            sleep(TICK).await;
            self.check_times(Instant::now());
        }
    }

    async fn keep_streaming(self: &Arc<Self>, home: &Arc<Endpoint>, chat: &Weak<Chat>) {
        let mut home_at = Instant::now();
        let mut pause = BACK_OFF.0;
        loop {
            if self.is_done() {
                return;
            }
            let idle = self.state.lock().line.is_empty();
            let is_trusted = home.lane.is_trusted();
            if is_trusted && Instant::now() >= home_at {
                let began = Instant::now();
                let ended = self.stream_to(home, None, chat).await;
                match ended {
                    // Chat is up, so another stream begins soon. The line stays open meanwhile, because other calls to
                    // this chat go on.
                    Ended::Idle => {
                        backoff::pause(REOPEN_PAUSE).await;
                        continue;
                    }
                    // At least one send was answered, so this ends some time. All sends of the line wait for the next
                    // stream.
                    Ended::Full => continue,
                    Ended::Otherwise => {}
                }
                self.set_open(false, chat);
                if began.elapsed() > BACK_OFF.1 {
                    pause = BACK_OFF.0;
                }
                home_at = Instant::now() + jittered(pause);
                pause = BACK_OFF.1.min(pause * 2);
            } else if let Some(other) = other_open(chat, home).filter(|_| !idle) {
                self.stream_to(&other, Some(home_at), chat).await;
                sleep(Duration::from_millis(5 + fastrand::u64(..10))).await;
            } else {
                let soon = Instant::now() + BACK_OFF.0;
                sleep_until(if is_trusted { home_at.min(soon) } else { soon }).await;
            }
        }
    }

    fn set_open(&self, open: bool, chat: &Weak<Chat>) {
        if self.open.swap(open, Ordering::Relaxed) != open
            && let Some(chat) = chat.upgrade()
        {
            chat.note_availability();
        }
    }

    /// Runs one stream from its beginning to its end. `home_at`: the stream is to another endpoint, and it ends after
    /// this time as soon as the line is empty, so that the own endpoint is tried again.
    async fn stream_to(
        self: &Arc<Self>,
        endpoint: &Endpoint,
        home_at: Option<Instant>,
        chat: &Weak<Chat>,
    ) -> Ended {
        let stream = self.begin_stream();
        let outgoing = Outgoing {
            lane: Arc::clone(self),
            stream,
        };
        let mut client = endpoint.sessions();
        let mut incoming = match timeout(TRY, client.send_stream(outgoing)).await {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => {
                tracing::debug!(endpoint = endpoint.name, %status, "no stream");
                endpoint.note_trouble(Some(words(&status)));
                if is_of_the_network(&status) {
                    endpoint.lane.doubt();
                }
                return Ended::Otherwise;
            }
            Err(_) => {
                tracing::debug!(endpoint = endpoint.name, "no stream in time");
                endpoint.note_trouble(Some(format!("no answer within {} s", TRY.as_secs())));
                return Ended::Otherwise;
            }
        };
        endpoint.note_trouble(None);
        if home_at.is_none() {
            self.set_open(true, chat);
        }
        while !self.is_done() {
            let idle = self.state.lock().line.is_empty();
            let message = tokio::select! {
                biased;
                message = incoming.message() => message,
                () = self.broken.notified() => {
                    if self.state.lock().stream != stream {
                        return Ended::Otherwise;
                    }
                    continue;
                }
                () = sleep_until(home_at.unwrap_or_else(Instant::now)), if idle && home_at.is_some() => {
                    if self.state.lock().line.is_empty() {
                        return Ended::Otherwise;
                    }
                    continue;
                }
            };
            match message {
                Ok(Some(frame)) => {
                    if !self.settle(frame.outcomes) {
                        tracing::error!(endpoint = endpoint.name, "more answers than sends");
                        return Ended::Otherwise;
                    }
                }
                Ok(None) => {
                    endpoint.lane.doubt();
                    return Ended::Otherwise;
                }
                Err(status) if reason(&status) == "STREAM_IDLE" => return Ended::Idle,
                Err(status) if is_full(&status) => return Ended::Full,
                Err(status) => {
                    tracing::debug!(endpoint = endpoint.name, code = ?status.code(), "stream broke");
                    endpoint.note_trouble(Some(words(&status)));
                    if is_of_the_network(&status) {
                        endpoint.lane.doubt();
                    }
                    return Ended::Otherwise;
                }
            }
        }
        Ended::Otherwise
    }

    fn begin_stream(&self) -> u64 {
        let mut state = self.state.lock();
        state.stream += 1;
        state.written = 0;
        // For sends that were given up, no answer must be waited for any more.
        state.drop_where(|_, pending| pending.caller.is_none());
        for pending in &mut state.line {
            pending.written = None;
        }
        // Wake the older stream, so that it sees the new number and ends.
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
        state.stream
    }

    /// These are the answers to the oldest sends. False if there are more of them than sends.
    fn settle(&self, outcomes: Vec<SendOutcome>) -> bool {
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
                pending.settle(outcome);
            }
        }
        true
    }

    /// Gives up sends whose time is over. Ends the stream if its oldest send has not been answered for too long:
    /// another stream may answer it.
    ///
    /// Sends stand in the order in which they came. Their times need not be over in that order.
    fn check_times(&self, now: Instant) {
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
            let stalled = state.line.front().is_some_and(|oldest| {
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
        let fits = state.line.range(from..).take(FRAME).take_while(|pending| {
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
        let messages = state.line.range_mut(from..to).map(|pending| {
            pending.written = Some(now);
            pending.tried = true;
            pending.request.clone()
        });
        let messages = messages.collect();
        state.written = to;
        Poll::Ready(Some(SendStreamRequest { messages }))
    }
}

/// True if the failure is one of the connection, and was not told by a chat.
fn is_of_the_network(status: &tonic::Status) -> bool {
    std::error::Error::source(status).is_some()
}

fn other_open(chat: &Weak<Chat>, home: &Arc<Endpoint>) -> Option<Arc<Endpoint>> {
    chat.upgrade()?.other_open(home)
}

impl State {
    fn pop(&mut self) -> Option<Pending> {
        let pending = self.line.pop_front()?;
        self.bytes -= pending.bytes;
        Some(pending)
    }

    /// Removes the sends for which `is_over` is true. It is given each send and its place in the line.
    fn drop_where(&mut self, mut is_over: impl FnMut(usize, &mut Pending) -> bool) {
        let (mut place, mut freed) = (0, 0);
        self.line.retain_mut(|pending| {
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
struct Outgoing {
    lane: Arc<Lane>,
    stream: u64,
}

impl Stream for Outgoing {
    type Item = SendStreamRequest;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.lane.poll_frame(self.stream, context)
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
    fn written(sends: usize) -> (Arc<Lane>, Arc<AtomicUsize>) {
        let (lane, settled) = (Lane::new(false), Arc::new(AtomicUsize::new(0)));
        for _ in 0..sends {
            let flow = Arc::<Flow>::default();
            flow.enter(0, || Some(Arc::clone(&lane)));
            let count = Arc::clone(&settled);
            let mut pending = Pending::new(
                SessionMessage::default(),
                flow,
                Instant::now() + CALL,
                Box::new(move |_| {
                    count.fetch_add(1, Ordering::Relaxed);
                }),
            );
            pending.written = Some(Instant::now());
            lane.push(pending);
        }
        lane.state.lock().written = sends;
        (lane, settled)
    }

    #[tokio::test]
    async fn an_answer_to_what_was_given_up_is_late_and_nothing_worse() {
        let (lane, settled) = written(1);
        lane.check_times(Instant::now() + CALL);
        assert_eq!(settled.load(Ordering::Relaxed), 1);
        assert!(lane.settle(vec![answer()]));
        assert_eq!(settled.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn more_answers_than_sends_are_an_error() {
        let (lane, settled) = written(2);
        assert!(lane.settle(vec![answer()]));
        assert_eq!(settled.load(Ordering::Relaxed), 1);
        assert!(!lane.settle(vec![answer(), answer()]));
        assert_eq!(settled.load(Ordering::Relaxed), 2);
        assert!(!lane.settle(vec![answer()]));
    }
}
