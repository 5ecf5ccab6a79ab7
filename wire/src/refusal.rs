//! Why a request is refused, and what each protocol's clients read then: one table.
//!
//! A [`Reason`] never changes, because programs decide by it, and above all by whether a retry may help.
//!
//! Clients of the original get exactly the bytes that the original sent, where it had an answer at all. Refusals that
//! the original did not have look the same in every protocol, as in `/ws`.

use crate::Protocol;
use serde_json::Value;
use std::borrow::Cow;
use std::time::Duration;

const MISSING: &str = r#"{"code":1,"message":"缺少参数"}"#;
const INVALID: &str = r#"{"code":1,"message":"参数无效"}"#;
const LOGGED_IN_ALREADY: &str = r#"{"code":1,"message":"用户已登录"}"#;
const NOT_LOGGED_IN: &str = r#"{"code":1,"message":"用户未登录"}"#;
const NOT_JOINED: &str = r#"{"code":1,"message":"未加入频道"}"#;
const JOINED_ALREADY: &str = r#"{"code":1,"message":"已加入频道"}"#;
const TOO_MANY_CHANNELS: &str = r#"{"code":1,"message":"频道过多"}"#;
const FAILED: &str = r#"{"code":500}"#;

/// Why a request is refused. Names, codes and whether to retry are a contract with clients: add reasons, but never
/// change one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The message is not a request.
    InvalidRequest,
    /// No handler has this route.
    UnknownRoute,
    /// The body is an array, is nested too deep, or holds a number beyond the range of a double.
    InvalidBody,
    /// A parameter is missing or empty.
    MissingParameter,
    /// A parameter is of another type, too long, or holds what it may not.
    InvalidParameter,
    /// The idempotency key is empty, too long, or holds control characters.
    InvalidKey,
    /// The idempotency key was used for another body.
    KeyReused,
    /// The handler needs a login.
    NotLoggedIn,
    /// This connection is logged in already.
    AlreadyLoggedIn,
    /// Another connection of the user is logged in.
    UserLoggedIn,
    /// The session is not in the channel.
    NotJoined,
    /// The session is in the channel already.
    AlreadyJoined,
    /// The session is in as many channels as it may be.
    TooManyChannels,
    /// The store has lost the session's membership. The connector is about to restore it.
    NotMember,
    /// The leave is not done yet. The connector repeats it until it is.
    LeavePending,
    /// The store is out of memory.
    StoreFull,
    /// The client asks for more than it may.
    RateLimited,
    /// The service has too much to do.
    TryLater,
    /// Chat or the store is away. Nothing was done, or it is undone.
    Unavailable,
    /// The request was passed on and not answered. It may have taken effect.
    UnknownOutcome,
    /// The operator's own handler for the route has failed, or its answer cannot be passed on. The request may have taken effect.
    HandlerFailed,
    /// The client has shown no token, or one that is not accepted.
    TokenInvalid,
    /// The token that the client has shown has expired.
    TokenExpired,
    /// The rules of the channel do not allow it.
    NotAllowed,
    /// The rules of the channel allow only ephemeral messages.
    EphemeralOnly,
    /// The user is blocked.
    Blocked,
    /// The token that the client has shown was revoked.
    TokenRevoked,
    /// The user has as many connections as a user may have.
    TooManyConnections,
    /// A post is for a stream of events that is not open here, or not any more.
    UnknownSession,
    /// A post is for a stream of events of another connector.
    OtherConnector,
}

/// What clients are told for a reason.
struct Row {
    name: &'static str,
    code: u16,
    /// `None` if a retry would be refused again.
    retry_after: Option<Duration>,
    message: &'static str,
    /// What clients of Pomelo's protocol and Socket.IO are told. `None` if that is the same as in `/ws`.
    original: Option<&'static str>,
}

impl Reason {
    /// All reasons.
    pub const ALL: [Self; 30] = [
        Self::InvalidRequest,
        Self::UnknownRoute,
        Self::InvalidBody,
        Self::MissingParameter,
        Self::InvalidParameter,
        Self::InvalidKey,
        Self::KeyReused,
        Self::NotLoggedIn,
        Self::AlreadyLoggedIn,
        Self::UserLoggedIn,
        Self::NotJoined,
        Self::AlreadyJoined,
        Self::TooManyChannels,
        Self::NotMember,
        Self::LeavePending,
        Self::StoreFull,
        Self::RateLimited,
        Self::TryLater,
        Self::Unavailable,
        Self::UnknownOutcome,
        Self::HandlerFailed,
        Self::TokenInvalid,
        Self::TokenExpired,
        Self::NotAllowed,
        Self::EphemeralOnly,
        Self::Blocked,
        Self::TokenRevoked,
        Self::TooManyConnections,
        Self::UnknownSession,
        Self::OtherConnector,
    ];

    /// Its name, as clients read it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.row().name
    }

    /// The reply's `code`.
    #[must_use]
    pub const fn code(self) -> u16 {
        self.row().code
    }

    /// How long to wait before the request is sent again, if that may help. `None`: the refusal is final, and the same
    /// request would be refused again.
    #[must_use]
    pub const fn retry_after(self) -> Option<Duration> {
        self.row().retry_after
    }

    /// What to do, in English, for the people who write clients.
    #[must_use]
    pub const fn message(self) -> &'static str {
        self.row().message
    }

    /// The reason for a request that chat has refused with this reason in its `ErrorInfo`.
    #[must_use]
    pub fn of_chat(reason: &str) -> Self {
        match reason {
            "IDEMPOTENCY_KEY_REUSED" => Self::KeyReused,
            "EPHEMERAL_ONLY" => Self::EphemeralOnly,
            "INVALID_ARGUMENT" => Self::InvalidParameter,
            "NOT_MEMBER" => Self::NotMember,
            "OVERLOADED" => Self::TryLater,
            "STORE_FULL" => Self::StoreFull,
            _ => Self::Unavailable,
        }
    }

    const fn row(self) -> Row {
        match self {
            Self::InvalidRequest => last(
                "INVALID_REQUEST",
                400,
                "This is not a request. Send one JSON object with a string \"route\", and no part twice.",
                Some(r#"{"code":400}"#),
            ),
            Self::UnknownRoute => last(
                "UNKNOWN_ROUTE",
                500,
                "There is no such route. Check its spelling.",
                Some(FAILED),
            ),
            Self::InvalidBody => last(
                "INVALID_BODY",
                500,
                "The body must be a JSON object with at most 64 levels and no number beyond the range of a double.",
                Some(FAILED),
            ),
            Self::MissingParameter => last(
                "MISSING_PARAMETER",
                1,
                "A parameter is missing or empty.",
                Some(MISSING),
            ),
            Self::InvalidParameter => last(
                "INVALID_PARAMETER",
                1,
                "A parameter has the wrong type, is too long, or holds characters that are not allowed.",
                Some(INVALID),
            ),
            Self::InvalidKey => last(
                "INVALID_KEY",
                1,
                "The key must be a string of 1 to 128 bytes without control characters.",
                Some(INVALID),
            ),
            Self::KeyReused => last(
                "KEY_REUSED",
                1,
                "This key was used for another message. Use a new key for each message.",
                None,
            ),
            Self::NotLoggedIn => last("NOT_LOGGED_IN", 1, "Log in first.", Some(NOT_LOGGED_IN)),
            Self::AlreadyLoggedIn => last(
                "ALREADY_LOGGED_IN",
                1,
                "This connection is logged in. Open another connection to log in again.",
                Some(LOGGED_IN_ALREADY),
            ),
            Self::UserLoggedIn => passing(
                "USER_LOGGED_IN",
                1,
                2_000,
                "Another connection of this user is logged in. Close it, or wait until the server notices that it is gone. If the newest login should always win, run the connectors with --login-policy kick-old.",
                Some(LOGGED_IN_ALREADY),
            ),
            Self::NotJoined => last(
                "NOT_JOINED",
                1,
                "You are not in this channel. Join it first.",
                Some(NOT_JOINED),
            ),
            Self::AlreadyJoined => last(
                "ALREADY_JOINED",
                1,
                "You are in this channel already.",
                Some(JOINED_ALREADY),
            ),
            Self::TooManyChannels => last(
                "TOO_MANY_CHANNELS",
                1,
                "You are in as many channels as a session may be. Leave one first.",
                Some(TOO_MANY_CHANNELS),
            ),
            Self::NotMember => passing(
                "NOT_MEMBER",
                500,
                500,
                "Your place in this channel was lost and is being restored. Try again.",
                Some(FAILED),
            ),
            Self::LeavePending => last(
                "LEAVE_PENDING",
                500,
                "You have left, and the others are told as soon as that is possible. There is nothing more to do.",
                Some(FAILED),
            ),
            Self::StoreFull => passing(
                "STORE_FULL",
                500,
                5_000,
                "The store is full, and nothing was written. Try again later.",
                Some(FAILED),
            ),
            Self::RateLimited => passing(
                "RATE_LIMITED",
                429,
                1_000,
                "You ask for too much at once. Wait, then go on more slowly.",
                None,
            ),
            Self::TryLater => passing(
                "TRY_LATER",
                429,
                1_000,
                "The service has too much to do, and nothing was done. Wait, then try again.",
                None,
            ),
            Self::Unavailable => passing(
                "UNAVAILABLE",
                500,
                1_000,
                "The service is not available at the moment, and nothing was done. Try again.",
                Some(FAILED),
            ),
            Self::UnknownOutcome => passing(
                "UNKNOWN_OUTCOME",
                500,
                500,
                "There was no answer in time, so this may have been done. Try again, a message with the same key.",
                Some(FAILED),
            ),
            Self::HandlerFailed => last(
                "HANDLER_FAILED",
                500,
                "The handler of this route has failed. It may have done a part of this. The operator's log says why.",
                Some(FAILED),
            ),
            Self::TokenInvalid => last(
                "TOKEN_INVALID",
                401,
                "This needs a valid token. Get a new one from the service that gives them out.",
                Some(r#"{"code":401}"#),
            ),
            Self::TokenExpired => last(
                "TOKEN_EXPIRED",
                401,
                "The token has expired. Get a new one from the service that gives them out.",
                Some(r#"{"code":401}"#),
            ),
            Self::NotAllowed => last(
                "NOT_ALLOWED",
                403,
                "You may not do this in this channel.",
                Some(r#"{"code":403}"#),
            ),
            Self::EphemeralOnly => last(
                "EPHEMERAL_ONLY",
                403,
                "This channel takes only ephemeral messages. Publish with ephemeral set to true.",
                None,
            ),
            Self::Blocked => last(
                "BLOCKED",
                401,
                "This user is blocked until the time in \"until\". Do not try again before that.",
                Some(r#"{"code":401}"#),
            ),
            Self::TokenRevoked => last(
                "TOKEN_REVOKED",
                401,
                "The token was revoked. Get a new one from the service that gives them out.",
                Some(r#"{"code":401}"#),
            ),
            Self::TooManyConnections => passing(
                "TOO_MANY_CONNECTIONS",
                429,
                5_000,
                "This user has as many connections as a user may have. Close one of them, or wait until the server notices that one is gone.",
                None,
            ),
            Self::UnknownSession => last(
                "UNKNOWN_SESSION",
                404,
                "No stream of this session is open. Open one, and post to the session that its first event names.",
                None,
            ),
            Self::OtherConnector => last(
                "OTHER_CONNECTOR",
                421,
                "The stream of this session is open at another connector, and nothing was done. Let the balancer send posts to the connector that \"connector\" names, or open another stream.",
                None,
            ),
        }
    }
}

const fn last(
    name: &'static str,
    code: u16,
    message: &'static str,
    original: Option<&'static str>,
) -> Row {
    Row {
        name,
        code,
        retry_after: None,
        message,
        original,
    }
}

const fn passing(
    name: &'static str,
    code: u16,
    retry_after_ms: u64,
    message: &'static str,
    original: Option<&'static str>,
) -> Row {
    Row {
        name,
        code,
        retry_after: Some(Duration::from_millis(retry_after_ms)),
        message,
        original,
    }
}

/// The refusal of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    reason: Reason,
    /// The reason's own message, or one that says more.
    message: Cow<'static, str>,
    /// As [`Reason::retry_after`].
    retry_after: Option<Duration>,
    /// Further members of the reply's JSON object.
    details: Option<Box<str>>,
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Self {
        Self {
            reason,
            message: reason.message().into(),
            retry_after: reason.retry_after(),
            details: None,
        }
    }
}

impl Refusal {
    /// A refusal whose message says more than that of the reason.
    #[must_use]
    pub fn because(reason: Reason, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            message: message.into(),
            ..reason.into()
        }
    }

    /// The client asked for more than it may, and should wait for this time: `{"code":429,…,"retryAfterMs":…}`.
    #[must_use]
    pub fn rate_limited(retry_after: Duration) -> Self {
        Self {
            retry_after: Some(retry_after),
            ..Reason::RateLimited.into()
        }
    }

    /// The service has too much to do, and the client should wait for this time. The form is that of
    /// [`rate_limited`](Self::rate_limited), but the client is not to blame.
    #[must_use]
    pub fn try_later(retry_after: Duration) -> Self {
        Self {
            retry_after: Some(retry_after),
            ..Reason::TryLater.into()
        }
    }

    /// The same, with a message that says more.
    #[must_use]
    pub fn saying(self, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            message: message.into(),
            ..self
        }
    }

    /// The user is blocked until then, in milliseconds since 1970: `{"code":401,…,"until":…,"because":…}`. `because` is what
    /// the operator gave as the reason. If that is empty, it is left out.
    #[must_use]
    pub fn blocked(until: u64, because: &str) -> Self {
        let because = match because {
            "" => String::new(),
            because => format!(r#","because":{}"#, Value::from(because)),
        };
        Self {
            details: Some(format!(r#","until":{until}{because}"#).into()),
            ..Reason::Blocked.into()
        }
    }

    /// The session's stream of events is open at this connector.
    #[must_use]
    pub fn other_connector(name: &str) -> Self {
        Self {
            details: Some(format!(r#","connector":{}"#, Value::from(name)).into()),
            ..Reason::OtherConnector.into()
        }
    }

    /// How long to wait before the request is sent again, if that may help. `None`: the refusal is final.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// Why the request is refused.
    #[must_use]
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// The reply's body in a protocol: one JSON object.
    #[must_use]
    pub fn body(&self, protocol: Protocol) -> Cow<'static, str> {
        let row = self.reason.row();
        if let (Protocol::Pomelo | Protocol::SocketIo(_), Some(original)) = (protocol, row.original)
        {
            return original.into();
        }
        let Row { name, code, .. } = row;
        let message = Value::from(&*self.message);
        let details = self.details.as_deref().unwrap_or_default();
        match self.retry_after {
            None => format!(
                r#"{{"code":{code},"message":{message},"reason":"{name}","retry":false{details}}}"#
            ),
            Some(pause) => format!(
                r#"{{"code":{code},"message":{message},"reason":"{name}","retry":true,"retryAfterMs":{}{details}}}"#,
                pause.as_millis(),
            ),
        }
        .into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::EngineIo;

    #[test]
    fn refusals_for_json_clients_say_what_to_do() {
        assert_eq!(
            Refusal::from(Reason::NotLoggedIn).body(Protocol::Json),
            r#"{"code":1,"message":"Log in first.","reason":"NOT_LOGGED_IN","retry":false}"#
        );
        let refusal = Refusal::because(Reason::Unavailable, "Say \"again\".");
        assert_eq!(
            refusal.body(Protocol::Json),
            r#"{"code":500,"message":"Say \"again\".","reason":"UNAVAILABLE","retry":true,"retryAfterMs":1000}"#
        );
    }

    #[test]
    fn a_blocked_client_is_told_until_when_and_why() {
        let told = |refusal: Refusal, protocol| {
            let body: Value = serde_json::from_str(&refusal.body(protocol)).unwrap();
            body
        };
        let until = 1_900_000_000_123_u64;
        let blocked = told(Refusal::blocked(until, "say \"spam\""), Protocol::Json);
        assert_eq!(blocked["code"], 401);
        assert_eq!(blocked["reason"], "BLOCKED");
        assert_eq!(blocked["retry"], false);
        assert_eq!(blocked["until"], until);
        assert_eq!(blocked["because"], "say \"spam\"");
        let blocked = told(Refusal::blocked(until, ""), Protocol::Json);
        assert_eq!(blocked.get("because"), None);
        let original = Refusal::blocked(until, "spam").body(Protocol::Pomelo);
        assert_eq!(original, r#"{"code":401}"#);
    }

    #[test]
    fn clients_of_every_protocol_are_told_how_long_to_wait() {
        for (refusal, name) in [
            (
                Refusal::try_later(Duration::from_millis(1_234)),
                "TRY_LATER",
            ),
            (
                Refusal::rate_limited(Duration::from_millis(1_234)),
                "RATE_LIMITED",
            ),
        ] {
            for protocol in [
                Protocol::Pomelo,
                Protocol::SocketIo(EngineIo::V3),
                Protocol::Json,
            ] {
                let body: Value = serde_json::from_str(&refusal.body(protocol)).unwrap();
                assert_eq!(body["code"], 429);
                assert_eq!(body["reason"], name);
                assert_eq!(body["retryAfterMs"], 1_234);
            }
        }
    }

    #[test]
    fn clients_of_the_original_get_its_bytes_k1_k6() {
        for (reason, bytes) in [
            (Reason::UnknownRoute, r#"{"code":500}"#),
            (Reason::InvalidBody, r#"{"code":500}"#),
            (
                Reason::MissingParameter,
                r#"{"code":1,"message":"缺少参数"}"#,
            ),
            (Reason::NotLoggedIn, r#"{"code":1,"message":"用户未登录"}"#),
            (
                Reason::AlreadyLoggedIn,
                r#"{"code":1,"message":"用户已登录"}"#,
            ),
            (Reason::UserLoggedIn, r#"{"code":1,"message":"用户已登录"}"#),
            (Reason::LeavePending, r#"{"code":500}"#),
            (Reason::Unavailable, r#"{"code":500}"#),
            (Reason::UnknownOutcome, r#"{"code":500}"#),
            (Reason::HandlerFailed, r#"{"code":500}"#),
        ] {
            for protocol in [Protocol::Pomelo, Protocol::SocketIo(EngineIo::V4)] {
                // A longer message makes no difference.
                let refusal = Refusal::because(reason, "more");
                assert_eq!(refusal.body(protocol), bytes, "{reason:?}");
            }
        }
    }

    #[test]
    fn a_code_has_the_same_meaning_in_every_protocol() {
        for reason in Reason::ALL {
            for protocol in [Protocol::Pomelo, Protocol::Json] {
                let body = Refusal::from(reason).body(protocol);
                let body: Value = serde_json::from_str(&body).unwrap();
                assert_eq!(body["code"], reason.code(), "{reason:?}");
            }
        }
    }
}
