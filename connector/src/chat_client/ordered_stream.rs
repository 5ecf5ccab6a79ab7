//! The ordered way to chat: one stream to one endpoint, and the line of sends that are not answered yet. In a cluster each
//! shard of the store has a lane of its own: a shard that is away breaks the streams of its lanes again and again.
//!
//! Answers come in the order of the sends. When the stream breaks, the whole line is sent again, in order and with the
//! same keys, over the next stream: to the lane's own endpoint, or to another one while that is down. So nothing
//! overtakes, nothing is lost, and nothing happens twice. A session stays with its lane while it has unanswered sends.

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

/// How often a lane looks whether its oldest send waits for too long.
const TICK: Duration = Duration::from_millis(100);
/// Sends in one frame of the stream at most, and the bytes after which it is full: chat refuses frames above 4 MiB.
const FRAME: usize = 256;
const FRAME_BYTES: usize = 1 << 20;
/// Bytes that a lane holds at most; beyond it sends are refused at once.
const LANE_LIMIT: usize = 32 << 20;
/// Pauses between tries to reach the own endpoint.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Between two streams of which chat, which is up, has ended the first because it needed the place.
const REOPEN_PAUSE: Duration = Duration::from_millis(2);

/// How a send ended.
#[derive(Debug)]
pub enum Outcome {
    /// It is in the log, at this position.
    Sent(Position),
    /// Chat refused it, with nothing written; the ErrorInfo reason.
    Refused(String),
    /// Not answered in time: it may be in the log, or not.
    Unknown,
    /// No chat could take it in time: it is not in the log.
    Unsent,
}

/// A send on its way.
pub(super) struct Pending {
    request: SessionMessage,
    pub(super) bytes: usize,
    expires: Instant,
    /// When it was written to the present stream.
    written: Option<Instant>,
    /// It was written to some stream, so it may be in the log.
    tried: bool,
    /// None if it was given up while the present stream owed its answer: the place in the line waits for that.
    caller: Option<Caller>,
}

/// Who waits for a send's outcome.
struct Caller {
    flow: Arc<Flow>,
    bytes: usize,
    answer: Box<dyn FnOnce(Outcome) + Send>,
}

impl Caller {
    /// The answer first: whoever waits for the flow to settle must find it given.
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

    /// What is known of a send that nobody has answered.
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
    /// Chat needed its place, and nothing was under way.
    Idle,
    /// Chat has ended it after the answer that the store is full: what follows in the line is to be sent again.
    Full,
    /// In any other way.
    Otherwise,
}

/// One endpoint's line of sends.
pub(super) struct Lane {
    state: Mutex<State>,
    /// The stream to the own endpoint is up.
    open: AtomicBool,
    /// The own endpoint may be used; without that there is no stream to it.
    trusted: AtomicBool,
    /// The own endpoint has to be proven, again whenever another process may stand there.
    needs_proof: bool,
    /// It has to be proven again.
    doubted: Notify,
    retired: AtomicBool,
    broken: Notify,
}

#[derive(Default)]
struct State {
    line: VecDeque<Pending>,
    bytes: usize,
    /// How many of the line were written to the present stream.
    written: usize,
    /// The present stream; an older one ends when it sees another number here.
    stream: u64,
    waker: Option<Waker>,
    /// Nothing moves the line any more.
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

    /// The own endpoint may be used.
    pub(super) fn trust(&self) {
        self.trusted.store(true, Ordering::Relaxed);
    }

    /// The own endpoint may not be used any more. What is in the line goes to another one, or waits.
    pub(super) fn distrust(&self) {
        if self.trusted.swap(false, Ordering::Relaxed) {
            self.end_stream();
        }
    }

    /// What is in the line goes to wherever it may go now.
    pub(super) fn end_stream(&self) {
        if self.is_open() {
            self.state.lock().stream += 1;
            self.broken.notify_one();
        }
    }

    /// Another process may stand at the own endpoint by now.
    fn doubt(&self) {
        if self.needs_proof {
            self.trusted.store(false, Ordering::Relaxed);
            self.doubted.notify_one();
        }
    }

    /// Returns when the own endpoint has to be proven again.
    pub(super) async fn doubted(&self) {
        self.doubted.notified().await;
    }

    /// The endpoint is none any more: end when the line is empty.
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

    /// Keeps a stream up and the line moving, until the lane is retired or chat is gone.
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
                    // Chat is up: there is another stream soon, and until then other calls go on.
                    Ended::Idle => {
                        backoff::pause(REOPEN_PAUSE).await;
                        continue;
                    }
                    // At least one send was answered, so this ends. Everybody's sends wait for the next stream.
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

    /// One stream from its beginning to its end. Away from home, the next try to go home is due at some time, but
    /// the line is emptied first.
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
        // Nobody waits any more for what was given up.
        state.drop_where(|_, pending| pending.caller.is_none());
        for pending in &mut state.line {
            pending.written = None;
        }
        // The stream before must see that its time is over.
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

    /// Gives up sends whose time is over, and the stream if its oldest send is not answered: another one may be.
    ///
    /// Sends stand in the order in which they came, which need not be the order in which their times are over.
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
                // The stream still answers what was written to it.
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

/// True if it was no chat that said so.
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

    /// Takes sends out of the line, by their place in it.
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

/// What a stream still has to write: everything in the line that it has not written.
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

    /// A lane with so many sends on its stream, and how many of them are settled.
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
