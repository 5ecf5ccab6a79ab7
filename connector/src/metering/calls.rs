//! The calls of this connector to chats.

use metrics::{Histogram, counter, histogram};
use proto::codes;
use runtime::families::Family;
use tokio::time::Instant;
use tokio::time::error::Elapsed;
use tonic::{Code, Status};

pub(crate) const CALLS: &str = "connector_chat_calls_total";
const DURATION: &str = "connector_chat_call_duration_seconds";
const PROBES: &str = "connector_probe_duration_seconds";

pub(crate) const JOIN: &str = "connector.v1.SessionService/Join";
pub(crate) const LEAVE: &str = "connector.v1.SessionService/Leave";
pub(crate) const SEND_STREAM: &str = "connector.v1.SessionService/SendStream";
pub(crate) const PROBE: &str = "connector.v1.SessionService/Probe";
pub(crate) const LIST_MEMBERS: &str = "chat.v1.ChatService/ListMembers";
pub(crate) const HISTORY: &str = "chat.v1.ChatService/History";

/// The values of the label `method`.
const METHODS: [&str; 6] = [JOIN, LEAVE, SEND_STREAM, PROBE, LIST_MEMBERS, HISTORY];

pub(super) const FAMILIES: &[Family] = &[
    Family::counter(
        CALLS,
        "Attempts of this connector to call a chat that are over, by method and status code",
    )
    .by(&[("method", &METHODS), ("code", &codes::NAMES)]),
    Family::histogram(
        DURATION,
        "The time of an attempt to call a chat; of streams, that from writing a send to its answer",
    )
    .by(&[("method", &METHODS)]),
    Family::histogram(
        PROBES,
        "The time from asking a chat to publish a probe until the feed has brought it",
    ),
];

/// An attempt to call a chat. It counts when this is dropped: as cancelled, unless there was an answer.
pub(crate) struct ChatCall {
    method: &'static str,
    begun: Instant,
    code: Code,
}

impl ChatCall {
    pub(crate) fn begin(method: &'static str) -> Self {
        Self {
            method,
            begun: Instant::now(),
            code: Code::Cancelled,
        }
    }

    /// It has ended with this code.
    pub(crate) fn ended(&mut self, code: Code) {
        self.code = code;
    }
}

impl Drop for ChatCall {
    fn drop(&mut self) {
        let (method, code) = (self.method, codes::name(self.code));
        counter!(CALLS, "method" => method, "code" => code).increment(1);
        // A stream lasts as long as it can, which says nothing. The sends in it are measured instead.
        if method != SEND_STREAM {
            histogram!(DURATION, "method" => method).record(self.begun.elapsed());
        }
    }
}

/// Makes an attempt to call a chat, and counts it by what came of it. One without an answer in time counts as such.
pub(crate) async fn attempt<T>(
    method: &'static str,
    call: impl Future<Output = Result<Result<T, Status>, Elapsed>>,
) -> Result<Result<T, Status>, Elapsed> {
    let mut counted = ChatCall::begin(method);
    let answer = call.await;
    counted.ended(match &answer {
        Ok(Ok(_)) => Code::Ok,
        Ok(Err(status)) => status.code(),
        Err(_) => Code::DeadlineExceeded,
    });
    answer
}

/// How long chats take to answer a send in a stream.
pub(crate) fn answer_times() -> Histogram {
    histogram!(DURATION, "method" => SEND_STREAM)
}

/// A probe took this long to come back.
pub(crate) fn probe_came_back(since: Instant) {
    histogram!(PROBES).record(since.elapsed());
}
