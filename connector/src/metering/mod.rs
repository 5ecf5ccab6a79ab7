//! All metric families of the connector. They are registered at the start, so each is there before its first event.

mod calls;
mod now;
mod requests;

#[cfg(test)]
pub(crate) use calls::CALLS as CHAT_CALLS;
pub(crate) use calls::{
    ChatCall, HISTORY, JOIN, LEAVE, LIST_MEMBERS, PROBE, SEND_STREAM, answer_times, attempt,
    probe_came_back,
};
pub(crate) use now::Now;
pub(crate) use requests::{Asked, LoginStep, REQUESTS, RequestUnderWay, Requests};

use crate::limits::{ACCEPT_ERRORS, BOUNDS_REACHED, Bound};
use metrics::{counter, gauge, histogram};
use runtime::families::{Family, register};
use tokio::time::Instant;
use wire::{Disconnect, Protocol, Reason};

/// Clients that are connected.
pub(crate) const CONNECTIONS: &str = "connector_connections";
pub(crate) const DRAIN_LEFT: &str = "connector_drain_left";
/// How old publications are when they are written to sockets.
pub(crate) const LAG: &str = "connector_delivery_lag_seconds";
/// Publications encoded, once for each wire format in use.
pub(crate) const ENCODINGS: &str = "connector_encodings_total";
/// How often the flusher wrote to clients what one channel had ready for them.
pub(crate) const CHANNEL_WRITES: &str = "connector_channel_writes_total";
/// Gaps that were found in what the feed delivered.
pub(crate) const FEED_GAPS: &str = "connector_feed_gaps_total";
/// Publications that were read from a log to close gaps.
pub(crate) const FEED_REPAIRED: &str = "connector_feed_repaired_total";
/// Members that could not be given everything they missed.
pub(crate) const POSITIONS_LOST: &str = "connector_positions_lost_total";
/// Differences between the store and this connector's sessions that were repaired.
pub(crate) const REPAIRS: &str = "connector_repairs_total";
/// Sessions that gave way to another login of their user.
pub(crate) const KICKS: &str = "connector_kicks_total";
/// The time since the last renewal of any lease.
pub(crate) const LEASE_AGE: &str = "connector_lease_age_seconds";
/// Leases whose shard of the store does not answer.
pub(crate) const LEASES_AWAY: &str = "connector_leases_away";
/// Leases that the store had lost and that were taken again.
pub(crate) const LEASES_LOST: &str = "connector_leases_lost_total";
/// How often this connector was declared dead.
pub(crate) const DECLARED_DEAD: &str = "connector_declared_dead_total";
/// Client connections that ended.
pub(crate) const CLOSED: &str = "connector_connections_closed_total";
/// Logins and joins that were told to try again later.
pub(crate) const PUT_OFF: &str = "connector_admissions_put_off_total";

/// Logins that were refused.
pub(crate) const LOGINS_REFUSED: &str = "connector_logins_refused_total";

/// Chats whose rules of channels differ from those of this connector.
const OTHER_RULES: &str = "connector_chats_with_other_rules";

/// Requests for handlers of the operator, by what became of them.
pub(crate) const HANDLER_REQUESTS: &str = "connector_handler_requests_total";
/// How long such handlers took.
const HANDLER_DURATION: &str = "connector_handler_duration_seconds";

/// Calls of the operator's hook, by what they ask and what became of them.
pub(crate) const HOOK_CALLS: &str = "connector_hook_calls_total";
/// How long such calls took.
const HOOK_DURATION: &str = "connector_hook_duration_seconds";
/// What the hook is asked.
const HOOK_ASKED: [&str; 5] = ["login", "refresh", "channels", "send", "look"];
/// What becomes of a call of the hook.
const HOOK_OUTCOMES: [&str; 6] = [
    "answered",
    "failed",
    "unanswered",
    "unavailable",
    "overloaded",
    "cancelled",
];

/// What becomes of a request for a handler.
const OUTCOMES: [&str; 7] = [
    "answered",
    "failed",
    "unanswered",
    "unavailable",
    "overloaded",
    "late",
    "cancelled",
];

/// The values of the label `protocol`.
pub(crate) const PROTOCOLS: [&str; 5] = ["pomelo", "pomelo_tcp", "socketio", "json", "sse"];

/// The values of the label `protocol` of those who are connected. How they are is another label.
const SPOKEN: [&str; 3] = ["pomelo", "socketio", "json"];
/// The values of the label `transport`.
const TRANSPORTS: [&str; 4] = ["websocket", "tcp", "polling", "sse"];

/// The labels of all variants of a type, in the order of its `ALL`. `$label` is the method that names one.
macro_rules! labels {
    ($kind:ty, $label:ident) => {{
        let mut labels = [""; <$kind>::ALL.len()];
        let mut next = 0;
        while next < labels.len() {
            labels[next] = <$kind>::ALL[next].$label();
            next += 1;
        }
        labels
    }};
}

const DISCONNECTS: [&str; Disconnect::ALL.len()] = labels!(Disconnect, label);
const BOUNDS: [&str; Bound::ALL.len()] = labels!(Bound, label);
const REFUSALS: [&str; Reason::ALL.len()] = labels!(Reason, name);

const FAMILIES: &[Family] = &[
    Family::gauge(
        CONNECTIONS,
        "Clients that are connected, by protocol and transport",
    )
    .by(&[("protocol", &SPOKEN), ("transport", &TRANSPORTS)]),
    Family::gauge(
        DRAIN_LEFT,
        "Connections that a connector which stops has still to close",
    ),
    Family::counter(
        CLOSED,
        "Client connections that ended, by reason and protocol",
    )
    .by(&[("reason", &DISCONNECTS), ("protocol", &PROTOCOLS)]),
    Family::counter(
        BOUNDS_REACHED,
        "Clients and requests that were refused or cut off because a bound was reached",
    )
    .by(&[("bound", &BOUNDS)]),
    Family::counter(
        ACCEPT_ERRORS,
        "Sockets that could not be accepted, mostly for want of file descriptors",
    ),
    Family::counter(
        PUT_OFF,
        "Logins and joins that were told to try again later",
    ),
    Family::counter(LOGINS_REFUSED, "Logins that were refused, by reason")
        .by(&[("reason", &REFUSALS)]),
    Family::histogram(
        LAG,
        "The time from publishing to writing to the sockets of the members here, of some publications",
    ),
    Family::counter(
        ENCODINGS,
        "Publications encoded, once for each wire format that has a member",
    ),
    Family::counter(
        CHANNEL_WRITES,
        "Writes to clients of what one channel had ready for them",
    ),
    Family::counter(
        FEED_GAPS,
        "Gaps that were found in what a channel published",
    ),
    Family::counter(
        FEED_REPAIRED,
        "Publications read from a log because the feed had not brought them",
    ),
    Family::counter(
        POSITIONS_LOST,
        "Members that could not be given everything they missed, by reason",
    )
    .by(&[("reason", &["diverged", "trimmed", "unknown"])]),
    Family::counter(
        REPAIRS,
        "Differences between the store and this connector's sessions that were repaired, by kind",
    )
    .by(&[("reason", &["ghost", "lost", "login-lost", "login-ghost"])]),
    Family::counter(
        KICKS,
        "Sessions that gave way to another login of their user",
    ),
    Family::gauge(
        LEASE_AGE,
        "Time since the last renewal of a lease. With several leases, the latest renewal counts",
    ),
    Family::gauge(
        LEASES_AWAY,
        "Leases of this connector whose shard of the store does not answer",
    ),
    Family::counter(
        LEASES_LOST,
        "Leases that the store had lost and that were taken again",
    ),
    Family::counter(DECLARED_DEAD, "How often this connector was declared dead"),
    Family::gauge(
        OTHER_RULES,
        "Chats whose rules of channels differ from those of this connector",
    ),
    Family::counter(
        HANDLER_REQUESTS,
        "Requests for handlers of the operator, by what became of them",
    )
    .by(&[("outcome", &OUTCOMES)]),
    Family::histogram(
        HANDLER_DURATION,
        "The time from a request to the end of what its handler did for it",
    ),
    Family::counter(
        HOOK_CALLS,
        "Calls of the operator's hook, by what they ask and what became of them",
    )
    .by(&[("call", &HOOK_ASKED), ("outcome", &HOOK_OUTCOMES)]),
    Family::histogram(
        HOOK_DURATION,
        "The time from a question to the hook to its decision, a second try included",
    )
    .by(&[("call", &HOOK_ASKED)]),
];

/// So many clients more are connected, by their protocol and how its messages come.
pub(crate) fn connections(protocol: Protocol, transport: Transport, change: f64) {
    let protocol = match protocol {
        Protocol::Pomelo => "pomelo",
        Protocol::SocketIo(_) => "socketio",
        Protocol::Json => "json",
    };
    let transport = match transport {
        Transport::WebSocket => "websocket",
        Transport::Tcp => "tcp",
        Transport::Polling => "polling",
        Transport::Events => "sse",
    };
    gauge!(CONNECTIONS, "protocol" => protocol, "transport" => transport).increment(change);
}

/// How the messages of a client come and go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Transport {
    WebSocket,
    Tcp,
    Polling,
    Events,
}

/// Counts a repaired difference between the store and this connector's sessions.
pub(crate) fn count_repair(reason: &'static str) {
    counter!(REPAIRS, "reason" => reason).increment(1);
}

/// So many chats have other rules of channels now.
pub(crate) fn note_other_rules(chats: usize) {
    #[expect(clippy::cast_precision_loss, reason = "there are few chats")]
    gauge!(OTHER_RULES).set(chats as f64);
}

/// Counts a refused login. The label is the name of the reason, and says nothing of the user.
pub(crate) fn count_refused_login(reason: Reason) {
    counter!(LOGINS_REFUSED, "reason" => reason.name()).increment(1);
}

/// Counts one call of a service of the operator when it is over. It is cancelled unless another outcome was set.
pub(crate) struct OperatorCall {
    /// What the hook is asked. `None`: the call is one of a handler.
    asked: Option<&'static str>,
    /// One of the values of the label.
    pub(crate) outcome: &'static str,
    begun: Instant,
}

impl OperatorCall {
    /// A call of a handler begins now.
    pub(crate) fn of_handler() -> Self {
        Self::begin(None)
    }

    /// The hook is asked now. `asked` is one of the values of the label.
    pub(crate) fn of_hook(asked: &'static str) -> Self {
        Self::begin(Some(asked))
    }

    fn begin(asked: Option<&'static str>) -> Self {
        Self {
            asked,
            outcome: "cancelled",
            begun: Instant::now(),
        }
    }
}

impl Drop for OperatorCall {
    fn drop(&mut self) {
        let outcome = self.outcome;
        // A call that was never sent took no time of the service.
        let is_timed = !matches!(outcome, "unavailable" | "overloaded");
        let took = self.begun.elapsed();
        match self.asked {
            None => {
                counter!(HANDLER_REQUESTS, "outcome" => outcome).increment(1);
                if is_timed {
                    histogram!(HANDLER_DURATION).record(took);
                }
            }
            Some(asked) => {
                counter!(HOOK_CALLS, "call" => asked, "outcome" => outcome).increment(1);
                if is_timed {
                    histogram!(HOOK_DURATION, "call" => asked).record(took);
                }
            }
        }
    }
}

/// A request for a handler was refused, because its time was over when its turn came.
pub(crate) fn count_late_handler_request() {
    counter!(HANDLER_REQUESTS, "outcome" => "late").increment(1);
}

/// Registers all families, with every series at 0.
pub(crate) fn register_all() {
    register(FAMILIES);
    register(requests::FAMILIES);
    register(calls::FAMILIES);
    register(now::FAMILIES);
}
