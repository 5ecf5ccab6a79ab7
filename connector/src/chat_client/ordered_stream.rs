//! An ordered stream of sends to one endpoint, and the line of sends that are not answered yet. In a cluster each shard
//! of the store has a line of its own, because a shard that is away breaks the streams to it again and again.
//!
//! Answers come in the order of the sends. When the stream breaks, the whole line is sent again, in order and with the
//! same keys, over the next stream. That goes to the line's own endpoint or, while this is down, to another one. So
//! nothing overtakes, nothing is lost, and nothing happens twice. A session stays with its line while it has unanswered
//! sends.

use super::call::{TRY, is_full, reason, trouble};
use super::chat::Chat;
use super::endpoint::Endpoint;
use super::line::Line;
use crate::grpc::is_of_the_network;
use crate::metering::{ChatCall, SEND_STREAM};
use runtime::Backoff;
use runtime::backoff::pause;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tonic::Code;

/// How often it is checked whether the oldest send has waited too long.
const TICK: Duration = Duration::from_millis(100);
/// The first and the longest pause between attempts to reach the own endpoint.
const SHORTEST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(1);

/// The pause before the next stream after chat, which is up, has ended one because it needed the place.
const REOPEN_PAUSE: Duration = Duration::from_millis(2);

/// How a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// Chat needed the place of the stream, and nothing was under way.
    Idle,
    /// The token with which the stream was opened is not valid any more. The connector may have another one by now.
    OldToken,
    /// Chat ended the stream after it had answered that the store is full. The rest of the line is sent again.
    Full,
    /// The stream ended for another reason.
    Otherwise,
}

/// Moves one line: to its own endpoint, or to another one while that is down.
struct OrderedStream {
    line: Arc<Line>,
    home: Arc<Endpoint>,
    chat: Weak<Chat>,
}

/// Keeps a stream up and the line moving, until the line is retired or the client of chat is dropped.
pub(super) async fn run(line: Arc<Line>, home: Arc<Endpoint>, chat: Weak<Chat>) {
    let stream = OrderedStream { line, home, chat };
    tokio::select! {
        biased;
        () = stream.watch_times() => {}
        () = stream.keep_streaming() => {}
    }
    stream.line.end();
}

impl OrderedStream {
    async fn watch_times(&self) {
        while self.chat.strong_count() > 0 {
            sleep(TICK).await;
            self.line.check_times(Instant::now());
        }
    }

    async fn keep_streaming(&self) {
        let mut home_at = Instant::now();
        let mut backoff = Backoff::new(SHORTEST, LONGEST);
        loop {
            if self.line.is_done() {
                return;
            }
            let idle = self.line.is_empty();
            let is_trusted = self.home.line.is_trusted();
            if is_trusted && Instant::now() >= home_at {
                let began = Instant::now();
                let ended = self.stream_to(&self.home, None).await;
                match ended {
                    // Chat is up, so another stream begins soon. The line stays open meanwhile, because other calls to
                    // this chat go on.
                    Ended::Idle | Ended::OldToken => {
                        pause(REOPEN_PAUSE).await;
                        continue;
                    }
                    // At least one send was answered, so this ends some time. All sends of the line wait for the next
                    // stream.
                    Ended::Full => continue,
                    Ended::Otherwise => {}
                }
                self.set_open(false);
                if began.elapsed() > LONGEST {
                    backoff.reset();
                }
                home_at = Instant::now() + backoff.next_pause();
            } else if let Some(other) = self.other_open().filter(|_| !idle) {
                self.stream_to(&other, Some(home_at)).await;
                sleep(Duration::from_millis(5 + fastrand::u64(..10))).await;
            } else {
                let soon = Instant::now() + SHORTEST;
                sleep_until(if is_trusted { home_at.min(soon) } else { soon }).await;
            }
        }
    }

    fn set_open(&self, open: bool) {
        if self.line.set_open(open)
            && let Some(chat) = self.chat.upgrade()
        {
            chat.note_availability();
        }
    }

    fn other_open(&self) -> Option<Arc<Endpoint>> {
        self.chat.upgrade()?.other_open(&self.home)
    }

    /// Runs one stream from its beginning to its end. `home_at`: the stream is to another endpoint, and it ends after
    /// this time as soon as the line is empty, so that the own endpoint is tried again.
    async fn stream_to(&self, endpoint: &Endpoint, home_at: Option<Instant>) -> Ended {
        let (outgoing, stream) = self.line.outgoing();
        let mut client = endpoint.sessions();
        let mut call = ChatCall::begin(SEND_STREAM);
        let mut incoming = match timeout(TRY, client.send_stream(outgoing)).await {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => {
                call.ended(status.code());
                tracing::debug!(endpoint = endpoint.name, %status, "no stream");
                endpoint.note_trouble(Some(trouble(&status)));
                if is_of_the_network(&status) {
                    endpoint.line.doubt();
                }
                return Ended::Otherwise;
            }
            Err(_) => {
                call.ended(Code::DeadlineExceeded);
                tracing::debug!(endpoint = endpoint.name, "no stream in time");
                endpoint.note_trouble(Some(format!("no answer within {} s", TRY.as_secs())));
                return Ended::Otherwise;
            }
        };
        endpoint.note_trouble(None);
        if home_at.is_none() {
            self.set_open(true);
        }
        while !self.line.is_done() {
            let idle = self.line.is_empty();
            let message = tokio::select! {
                biased;
                message = incoming.message() => message,
                () = self.line.broken() => {
                    if !self.line.is_present(stream) {
                        return Ended::Otherwise;
                    }
                    continue;
                }
                () = sleep_until(home_at.unwrap_or_else(Instant::now)), if idle && home_at.is_some() => {
                    if self.line.is_empty() {
                        return Ended::Otherwise;
                    }
                    continue;
                }
            };
            match &message {
                Ok(Some(_)) => {}
                Ok(None) => call.ended(Code::Ok),
                Err(status) => call.ended(status.code()),
            }
            match message {
                Ok(Some(frame)) => {
                    if !self.line.settle(frame.outcomes) {
                        tracing::error!(endpoint = endpoint.name, "more answers than sends");
                        return Ended::Otherwise;
                    }
                }
                Ok(None) => {
                    endpoint.line.doubt();
                    return Ended::Otherwise;
                }
                Err(status) if reason(&status) == "STREAM_IDLE" => return Ended::Idle,
                Err(status) if is_full(&status) => return Ended::Full,
                Err(status) if status.code() == Code::Unauthenticated => return Ended::OldToken,
                Err(status) => {
                    tracing::debug!(endpoint = endpoint.name, code = ?status.code(), "stream broke");
                    endpoint.note_trouble(Some(trouble(&status)));
                    if is_of_the_network(&status) {
                        endpoint.line.doubt();
                    }
                    return Ended::Otherwise;
                }
            }
        }
        Ended::Otherwise
    }
}
