//! Why a connector closes a connection, and what the client is told: one table for all protocols.
//!
//! `docs/protocols/` shows the same table to people; a test compares them.

use crate::Error;
use serde_json::Value;

/// A reason to close a connection. [`Disconnect::farewell`] is what each protocol makes of it. "Reconnect" means that
/// the client is told to connect again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Disconnect {
    /// The client has closed, or has sent what its protocol does not allow.
    #[error(transparent)]
    ByClient(#[from] Error),
    /// The connector stops. Reconnect.
    #[error("shutdown")]
    Shutdown,
    /// The client read too slowly, so its queue or that of the process was full, or it took nothing for the stall time.
    /// Reconnect and resume.
    #[error("slow reader")]
    Slow,
    /// The process holds as much for its clients as it may. Reconnect.
    #[error("overloaded")]
    Overloaded,
    /// The client was silent for too long (K5). Reconnect.
    #[error("heartbeat timeout")]
    HeartbeatTimeout,
    /// No handshake in time.
    #[error("handshake timeout")]
    HandshakeTimeout,
    /// No login in time. Reconnect when there is somebody to log in.
    #[error("idle before login")]
    Idle,
    /// A gap in a channel's log that the client can't be told of. Reconnect.
    #[error("positions lost")]
    PositionsLost,
    /// The connector was declared dead, for example because it was frozen. Its sessions are no longer members.
    /// Reconnect.
    #[error("declared dead")]
    Dead,
    /// Another login of the user has taken this one's place, because the newest login wins or because data was lost.
    /// The client must not reconnect on its own.
    #[error("kicked")]
    Kicked,
    /// The client has logged in again with its secret, and its new session has this one's place. The client must not
    /// reconnect on its own: two clients that share a secret would take turns for ever.
    #[error("replaced")]
    Replaced,
    /// Another session has this one's place, and it may be another client's. Reconnect.
    #[error("displaced")]
    Displaced,
    /// The session can join no further channel for now, because the shard of the store that holds its lease is away. A
    /// new session could. Reconnect and resume.
    #[error("moved")]
    Moved,
    /// The token of the session has expired, and was not refreshed in time. The client must get a new one before it
    /// connects again: the old one would be refused.
    #[error("token expired")]
    TokenExpired,
    /// The client went on with requests although it was told that there were too many. Reconnect.
    #[error("too many requests")]
    TooFast,
    /// The user is blocked. A [`Notice`] may say why. The client must not connect again on its own: it would be refused.
    #[error("blocked")]
    Blocked,
    /// The token of the session was revoked. The client must get a new one before it connects again.
    #[error("token revoked")]
    TokenRevoked,
    /// A back end has asked for it. A [`Notice`] may say it in the back end's own words.
    #[error("a back end has asked for it")]
    ByBackEnd {
        /// True if the client should connect again on its own.
        reconnect: bool,
    },
}

/// What clients are told in place of the words of the table, because a back end wants it, and besides them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Notice {
    /// The close code for JSON clients. `None`: that of the table.
    pub code: Option<u16>,
    /// The reason, for programs: at most [`Notice::REASON_LIMIT`] bytes. `None`: that of the table.
    pub reason: Option<Box<str>>,
    /// How many milliseconds a client that connects again should wait before that. `None`: it need not wait.
    pub reconnect_after_ms: Option<u32>,
}

impl Notice {
    /// The codes that a back end may use. The connector itself uses none of them.
    pub const CODES: std::ops::RangeInclusive<u16> = 4100..=4999;
    /// The most bytes of a reason. A close frame of WebSocket has room for 123.
    pub const REASON_LIMIT: usize = 64;
}

/// What a client is told when its connection is closed.
///
/// Pomelo's clients take a KICK as final, and some take the close code 1000 as final, too. So a reason that says
/// "reconnect" has no KICK, and its code is 1001, unless the original's was recorded (K5). The client sees a broken
/// connection, as when the original stopped, and connects again. Codes from 1012 on are of no use: the `ws` of Pomelo's
/// client for Node.js does not know them, and throws an error that ends the client's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Farewell<'a> {
    /// WebSocket's own close code (RFC 6455, section 7.4.1), for protocols without codes of their own.
    pub code: u16,
    /// The reason in Pomelo's KICK package and in Socket.IO's `onKick`. `None` if the connection is closed without one.
    pub kick: Option<&'a str>,
    /// What a JSON client is told. `None` if WebSocket's own code says everything.
    pub json: Option<JsonFarewell<'a>>,
}

/// What a JSON client is told: in an `onKick` push, then in the close frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JsonFarewell<'a> {
    /// The close code, 4000 or above.
    pub code: u16,
    /// The reason, for programs. It never changes.
    pub reason: &'a str,
    /// True if the client should connect again on its own.
    pub reconnect: bool,
    /// How many milliseconds the client should wait before that, if many connect again at the same time.
    pub after_ms: Option<u32>,
}

impl JsonFarewell<'_> {
    /// The body of the push `onKick`.
    pub(crate) fn body(&self) -> String {
        let (reason, more) = (Value::from(self.reason), self.more());
        format!(r#"{{"reason":{reason}{more}}}"#)
    }

    /// The members that follow the reason.
    pub(crate) fn more(&self) -> String {
        let after = self
            .after_ms
            .map(|it| format!(r#","reconnectAfterMs":{it}"#));
        let (reconnect, after) = (self.reconnect, after.unwrap_or_default());
        format!(r#","reconnect":{reconnect}{after}"#)
    }
}

impl<'a> Farewell<'a> {
    /// The same farewell in the words of a back end. Whether to reconnect stays as it is.
    #[must_use]
    pub fn noticed(self, notice: &'a Notice) -> Self {
        let reason = notice.reason.as_deref();
        Self {
            code: self.code,
            kick: self.kick.map(|kick| reason.unwrap_or(kick)),
            json: self.json.map(|json| JsonFarewell {
                code: notice.code.unwrap_or(json.code),
                reason: reason.unwrap_or(json.reason),
                reconnect: json.reconnect,
                after_ms: notice.reconnect_after_ms.filter(|_| json.reconnect),
            }),
        }
    }

    /// True if the client should connect again on its own.
    #[must_use]
    pub fn is_reconnect(self) -> bool {
        self.json.is_some_and(|json| json.reconnect)
    }
}

impl Disconnect {
    /// The client has closed the connection, or its socket broke.
    pub const CLOSED: Self = Self::ByClient(Error::Closed);

    /// All reasons, once each.
    pub const ALL: [Self; 25] = [
        Self::CLOSED,
        Self::Shutdown,
        Self::Slow,
        Self::Overloaded,
        Self::HeartbeatTimeout,
        Self::HandshakeTimeout,
        Self::Idle,
        Self::PositionsLost,
        Self::Dead,
        Self::Kicked,
        Self::Replaced,
        Self::Displaced,
        Self::Moved,
        Self::TokenExpired,
        Self::TooFast,
        Self::Blocked,
        Self::TokenRevoked,
        Self::ByBackEnd { reconnect: false },
        Self::ByBackEnd { reconnect: true },
        Self::ByClient(Error::Malformed),
        Self::ByClient(Error::Handshake),
        Self::ByClient(Error::Attack),
        Self::ByClient(Error::Frame),
        Self::ByClient(Error::Utf8),
        Self::ByClient(Error::TooBig { limit: 0 }),
    ];

    /// The reason as a label of metrics and logs. It never changes.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::ByClient(error) => error.label(),
            Self::Shutdown => "shutdown",
            Self::Slow => "slow",
            Self::Overloaded => "overloaded",
            Self::HeartbeatTimeout => "heartbeat_timeout",
            Self::HandshakeTimeout => "handshake_timeout",
            Self::Idle => "idle",
            Self::PositionsLost => "positions_lost",
            Self::Dead => "declared_dead",
            Self::Kicked => "kicked",
            Self::Replaced => "replaced",
            Self::Displaced => "displaced",
            Self::Moved => "moved",
            Self::TokenExpired => "token_expired",
            Self::TooFast => "too_fast",
            Self::Blocked => "blocked",
            Self::TokenRevoked => "token_revoked",
            Self::ByBackEnd { reconnect: false } => "disconnected",
            Self::ByBackEnd { reconnect: true } => "reconnect_requested",
        }
    }

    /// The text in a close frame of WebSocket, for people, where the code alone does not say enough.
    pub(crate) fn text(self) -> String {
        match self {
            Self::ByClient(error @ Error::TooBig { .. }) => error.to_string(),
            _ => String::new(),
        }
    }

    /// Further members of the JSON object in a KICK, which follow the reason.
    pub(crate) fn details(self) -> String {
        match self {
            Self::ByClient(Error::TooBig { limit }) => format!(r#","limit":{limit}"#),
            _ => String::new(),
        }
    }

    /// The table. Codes and reasons are a contract with clients: add to them, never change one.
    #[must_use]
    pub const fn farewell(self) -> Farewell<'static> {
        match self {
            Self::ByClient(error) => match error {
                Error::Closed => plain(1000),
                Error::Frame => plain(1002),
                Error::Utf8 => plain(1007),
                Error::TooBig { .. } => Farewell {
                    kick: Some("too-big"),
                    ..plain(1009)
                },
                Error::Malformed => told(None, 4006, "malformed"),
                Error::Handshake => told(None, 4007, "handshake refused"),
                Error::Attack => told(Some("attack"), 4008, "attack"),
            },
            Self::Shutdown => reconnect(1001, 4000, "shutdown"),
            Self::Slow => reconnect(1001, 4001, "slow"),
            Self::Overloaded => reconnect(1001, 4011, "overloaded"),
            // The code that the original sent (K5).
            Self::HeartbeatTimeout => reconnect(1000, 4002, "heartbeat timeout"),
            Self::PositionsLost => reconnect(1001, 4003, "reconnect"),
            Self::Dead => reconnect(1001, 4009, "connector restarted"),
            Self::Kicked => told(Some("kick"), 4010, "kick"),
            Self::Replaced => told(Some("replaced"), 4012, "replaced"),
            Self::Displaced => reconnect(1001, 4013, "displaced"),
            Self::Moved => reconnect(1001, 4014, "moved"),
            Self::ByBackEnd { reconnect: false } => {
                told(Some("disconnected"), 4015, "disconnected")
            }
            Self::ByBackEnd { reconnect: true } => reconnect(1001, 4016, "reconnect requested"),
            Self::TokenExpired => told(Some("token expired"), 4017, "token expired"),
            Self::TooFast => reconnect(1001, 4018, "too many requests"),
            Self::Blocked => told(Some("blocked"), 4019, "blocked"),
            Self::TokenRevoked => told(Some("token revoked"), 4020, "token revoked"),
            Self::HandshakeTimeout => told(None, 4004, "handshake timeout"),
            Self::Idle => told(Some("idle"), 4005, "idle"),
        }
    }
}

const fn plain(code: u16) -> Farewell<'static> {
    Farewell {
        code,
        kick: None,
        json: None,
    }
}

/// The client should not connect again until its user wants to.
const fn told(kick: Option<&'static str>, code: u16, reason: &'static str) -> Farewell<'static> {
    Farewell {
        code: 1000,
        kick,
        json: Some(JsonFarewell {
            code,
            reason,
            reconnect: false,
            after_ms: None,
        }),
    }
}

/// The client should connect again on its own.
const fn reconnect(websocket: u16, code: u16, reason: &'static str) -> Farewell<'static> {
    Farewell {
        code: websocket,
        kick: None,
        json: Some(JsonFarewell {
            code,
            reason,
            reconnect: true,
            after_ms: None,
        }),
    }
}
