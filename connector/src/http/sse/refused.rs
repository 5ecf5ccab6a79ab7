//! How a request is refused, so that clients do right.
//!
//! Everybody gets a status and the JSON of the reason. But a browser's `EventSource` gives up for good after any status but 200. That is
//! right if another try would be refused again. If it may help, it gets a stream that only says why, and when to come back.

use crate::http::response::{RETRY_AFTER, ends, text};
use crate::limits::Bound;
use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use serde_json::{Map, Value};
use std::time::Duration;
use wire::{Protocol, Reason, Refusal, sse};

/// The event that tells why there is no stream yet.
const ON_REFUSED: &str = "onRefused";
/// How much longer than asked a client may wait, so that not all come back at the same moment.
const SPREAD: Duration = Duration::from_secs(1);

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused {
    reason: Reason,
    status: StatusCode,
    /// The body of a refusal, as on `/ws`.
    body: String,
    /// How long to wait before the next try. `None`: it would be refused again.
    pub(super) retry_after: Option<Duration>,
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self {
            reason: refusal.reason(),
            status: status(refusal.reason()),
            retry_after: refusal.retry_after(),
            body: refusal.body(Protocol::Json).into_owned(),
        }
    }
}

impl From<Reason> for Refused {
    fn from(reason: Reason) -> Self {
        Refusal::from(reason).into()
    }
}

impl Refused {
    /// What a reply says, if it is an ok.
    ///
    /// # Errors
    /// The refusal.
    pub(super) fn unless_ok(reply: &[u8]) -> Result<Map<String, Value>, Self> {
        let body: Map<String, Value> = serde_json::from_slice(reply).unwrap_or_default();
        if body.get("code").is_some_and(|code| *code == 0) {
            return Ok(body);
        }
        let known = |name: &str| Reason::ALL.into_iter().find(|it| it.name() == name);
        let reason = body.get("reason").and_then(Value::as_str).and_then(known);
        let reason = reason.unwrap_or(Reason::Unavailable);
        let after = body.get("retryAfterMs").and_then(Value::as_u64);
        Err(Self {
            reason,
            status: status(reason),
            body: String::from_utf8_lossy(reply).into_owned(),
            retry_after: after.map(Duration::from_millis),
        })
    }

    /// True if this is the reason.
    pub(super) fn is_for(&self, reason: Reason) -> bool {
        self.reason == reason
    }

    /// Refuses because this bound is reached.
    pub(super) fn by(bound: Bound) -> Self {
        bound.reached();
        let (status, message) = match bound {
            Bound::Address => (
                StatusCode::TOO_MANY_REQUESTS,
                "Your address has as many connections here as it may have.",
            ),
            Bound::AddressRate => (
                StatusCode::TOO_MANY_REQUESTS,
                "Connections from your address come too fast.",
            ),
            Bound::Memory => (
                StatusCode::SERVICE_UNAVAILABLE,
                "This connector holds as much for its clients as it may.",
            ),
            _ => (
                StatusCode::SERVICE_UNAVAILABLE,
                "This connector has as many connections as it may have.",
            ),
        };
        let after = Duration::from_secs(RETRY_AFTER.into());
        let refusal = Refusal::try_later(after).saying(message);
        Self {
            status,
            ..refusal.into()
        }
    }

    /// The answer with a status.
    pub(super) fn response(&self) -> Response<Full<Bytes>> {
        let mut response = text(self.body.clone(), "application/json");
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(after) = self.retry_after {
            let seconds = after.as_millis().div_ceil(1_000).max(1);
            let seconds = u32::try_from(seconds).unwrap_or(u32::MAX);
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }

    /// The answer to a request for a stream: a stream if the client is an `EventSource` that should come back. `id` is what it shows then.
    /// The connection ends, so that each further try costs the client a new one.
    pub(super) fn instead_of_stream(
        &self,
        is_event_source: bool,
        id: Option<&str>,
    ) -> Response<Full<Bytes>> {
        let mut response = match self.retry_after {
            Some(after) if is_event_source => self.short_stream(after, id),
            _ => self.response(),
        };
        ends(&mut response);
        response
    }

    fn short_stream(&self, after: Duration, id: Option<&str>) -> Response<Full<Bytes>> {
        let after = after + SPREAD.mul_f64(fastrand::f64());
        let mut events = format!("retry: {}\n", after.as_millis()).into_bytes();
        if let Some(id) = id {
            events.extend_from_slice(format!("id: {id}\n").as_bytes());
        }
        sse::lines(ON_REFUSED, &self.body, &mut events);
        events.push(b'\n');
        let mut response = text(events, "text/event-stream");
        for (name, value) in super::STREAM_HEADERS {
            let value = HeaderValue::from_static(value);
            response.headers_mut().insert(name, value);
        }
        response
    }
}

/// The status for a reason.
fn status(reason: Reason) -> StatusCode {
    match reason {
        Reason::TokenInvalid | Reason::TokenExpired | Reason::TokenRevoked | Reason::Blocked => {
            StatusCode::UNAUTHORIZED
        }
        Reason::NotAllowed | Reason::EphemeralOnly => StatusCode::FORBIDDEN,
        Reason::UnknownSession => StatusCode::NOT_FOUND,
        Reason::UserLoggedIn => StatusCode::CONFLICT,
        Reason::OtherConnector => StatusCode::MISDIRECTED_REQUEST,
        Reason::RateLimited | Reason::TryLater | Reason::TooManyConnections => {
            StatusCode::TOO_MANY_REQUESTS
        }
        reason if reason.retry_after().is_some() => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::BAD_REQUEST,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_that_refuses_becomes_a_status_and_an_ok_does_not() {
        assert!(Refused::unless_ok(br#"{"code":0}"#).is_ok());
        for (reason, expected, retry) in [
            (Reason::TokenExpired, 401, None),
            (Reason::Blocked, 401, None),
            (Reason::NotAllowed, 403, None),
            (Reason::MissingParameter, 400, None),
            (Reason::TooManyChannels, 400, None),
            (Reason::UserLoggedIn, 409, Some(2)),
            (Reason::TryLater, 429, Some(1)),
            (Reason::TooManyConnections, 429, Some(5)),
            (Reason::Unavailable, 503, Some(1)),
            (Reason::UnknownOutcome, 503, Some(1)),
        ] {
            let reply = Refusal::from(reason).body(Protocol::Json);
            let refused = Refused::unless_ok(reply.as_bytes()).unwrap_err();
            assert_eq!(refused, reason.into());
            let response = refused.response();
            assert_eq!(response.status(), expected, "{reason:?}");
            let after = response.headers().get(header::RETRY_AFTER);
            let after = after.map(|it| it.to_str().unwrap().parse().unwrap());
            assert_eq!(after, retry, "{reason:?}");
        }
        // Whatever this is, it is no ok.
        assert!(Refused::unless_ok(b"{}").is_err());
        assert!(Refused::unless_ok(b"").is_err());
    }

    #[test]
    fn an_event_source_gets_a_status_only_if_another_try_is_useless() {
        let status = |reason: Reason, is_event_source| {
            let refused = Refused::from(reason);
            let response = refused.instead_of_stream(is_event_source, Some("id"));
            response.status().as_u16()
        };
        assert_eq!(status(Reason::TryLater, true), 200);
        assert_eq!(status(Reason::TryLater, false), 429);
        assert_eq!(status(Reason::TokenInvalid, true), 401);
        assert_eq!(status(Reason::TokenInvalid, false), 401);
    }
}
