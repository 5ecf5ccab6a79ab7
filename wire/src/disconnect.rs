//! Why a connector closes a socket, and what the client is told of it: one table for every protocol.
//!
//! `docs/protocols/` shows the same table to people; a test compares them.

use crate::Error;

/// A reason to close a connection. What each protocol makes of it: [`Disconnect::farewell`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Disconnect {
    /// The client closed, or its socket broke: there is nobody to tell.
    #[error("closed by the client")]
    Client,
    /// The connector stops. Reconnect.
    #[error("shutdown")]
    Shutdown,
    /// What the client did not read exceeded its queue, or the process's. Reconnect and resume.
    #[error("slow reader")]
    Slow,
    /// The process holds as much for its clients as it may. Reconnect.
    #[error("overloaded")]
    Overloaded,
    /// No heartbeat for twice the interval (K5). Reconnect.
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
    /// The connector was declared dead, as happens to one that was frozen: its members are none any more. Reconnect.
    #[error("declared dead")]
    Dead,
    /// Another login of the user, where the newest stays or data was lost: the client is not to connect again by itself.
    #[error("kicked")]
    Kicked,
    /// The client has logged in again with its secret, and its new session has this one's place. The client is not to
    /// connect again by itself: where two clients share a secret, they would take turns for ever.
    #[error("replaced")]
    Replaced,
    /// Another session has this one's place, and it is not known that it is the same client's. Reconnect.
    #[error("displaced")]
    Displaced,
    /// The session can come to no further channel for now, and a new one could: the shard of the store that keeps this
    /// session's lease is away. Reconnect and resume.
    #[error("moved")]
    Moved,
    /// Bytes that break the client's protocol (K6, F1).
    #[error("malformed")]
    Malformed,
    /// A handshake without what it needs; the client has been answered (K6).
    #[error("handshake refused")]
    Handshake,
    /// A route that names a method of JavaScript's Object (K6).
    #[error("attack")]
    Attack,
    /// A WebSocket frame that breaks RFC 6455: close code 1002.
    #[error("protocol error")]
    Frame,
    /// Text that is not UTF-8: close code 1007.
    #[error("not UTF-8")]
    Utf8,
    /// More than the message limit: close code 1009.
    #[error("message too big: the limit is {limit} bytes")]
    TooBig {
        /// The bytes that a message may have.
        limit: u32,
    },
}

/// What a client is told when its connection is closed.
///
/// A Pomelo client takes a KICK as final, and some take the close code 1000 as final, too. So a reason that says
/// "reconnect" has no KICK and another code: the client sees a connection that broke, as when the original stopped,
/// and comes back by itself. That code is 1001: the `ws` of Pomelo's client for Node.js knows none of the newer ones, 1012
/// and above, and throws an error that ends the client's process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Farewell {
    /// WebSocket's own close code (RFC 6455, section 7.4.1), for the protocols that have no others.
    pub code: u16,
    /// The reason in Pomelo's KICK package and in Socket.IO's `onKick`; `None`: closed without one.
    pub kick: Option<&'static str>,
    /// For JSON clients; `None`: WebSocket's own code says it all.
    pub json: Option<JsonFarewell>,
}

/// What a JSON client is told: in an `onKick` push, then in the close frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JsonFarewell {
    /// The close code, 4000 or above.
    pub code: u16,
    /// For programs: it stays as it is.
    pub reason: &'static str,
    /// True if the client should connect again by itself.
    pub reconnect: bool,
}

impl Farewell {
    /// True if the client should connect again by itself.
    #[must_use]
    pub fn is_reconnect(self) -> bool {
        self.json.is_some_and(|json| json.reconnect)
    }
}

impl From<Error> for Disconnect {
    fn from(error: Error) -> Self {
        match error {
            Error::Closed => Self::Client,
            Error::Malformed => Self::Malformed,
            Error::Handshake => Self::Handshake,
            Error::Attack => Self::Attack,
            Error::Frame => Self::Frame,
            Error::Utf8 => Self::Utf8,
            Error::TooBig { limit } => Self::TooBig { limit },
        }
    }
}

impl Disconnect {
    /// All of them, once each.
    pub const ALL: [Self; 19] = [
        Self::Client,
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
        Self::Malformed,
        Self::Handshake,
        Self::Attack,
        Self::Frame,
        Self::Utf8,
        Self::TooBig { limit: 0 },
    ];

    /// The reason as a label of metrics and logs. It stays as it is.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Client => "client",
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
            Self::Malformed => "malformed",
            Self::Handshake => "handshake_refused",
            Self::Attack => "attack",
            Self::Frame => "broken_frame",
            Self::Utf8 => "not_utf8",
            Self::TooBig { .. } => "too_big",
        }
    }

    /// The text in a close frame of WebSocket, for people, where the code alone does not say enough.
    pub(crate) fn text(self) -> String {
        match self {
            Self::TooBig { .. } => self.to_string(),
            _ => String::new(),
        }
    }

    /// What follows the reason in the body of a KICK: further members of that JSON object.
    pub(crate) fn details(self) -> String {
        match self {
            Self::TooBig { limit } => format!(r#","limit":{limit}"#),
            _ => String::new(),
        }
    }

    /// The table. Codes and reasons are a contract with clients: add to them, never change one.
    #[must_use]
    pub const fn farewell(self) -> Farewell {
        match self {
            Self::Client => plain(1000),
            Self::Frame => plain(1002),
            Self::Utf8 => plain(1007),
            Self::TooBig { .. } => Farewell {
                kick: Some("too-big"),
                ..plain(1009)
            },
            Self::Shutdown => reconnect(1001, 4000, "shutdown"),
            Self::Slow => reconnect(1001, 4001, "slow"),
            Self::Overloaded => reconnect(1001, 4011, "overloaded"),
            // As recorded (K5).
            Self::HeartbeatTimeout => reconnect(1000, 4002, "heartbeat timeout"),
            Self::PositionsLost => reconnect(1001, 4003, "reconnect"),
            Self::Dead => reconnect(1001, 4009, "connector restarted"),
            Self::Kicked => told(Some("kick"), 4010, "kick"),
            Self::Replaced => told(Some("replaced"), 4012, "replaced"),
            Self::Displaced => reconnect(1001, 4013, "displaced"),
            Self::Moved => reconnect(1001, 4014, "moved"),
            Self::HandshakeTimeout => told(None, 4004, "handshake timeout"),
            Self::Idle => told(Some("idle"), 4005, "idle"),
            Self::Malformed => told(None, 4006, "malformed"),
            Self::Handshake => told(None, 4007, "handshake refused"),
            Self::Attack => told(Some("attack"), 4008, "attack"),
        }
    }
}

const fn plain(code: u16) -> Farewell {
    Farewell {
        code,
        kick: None,
        json: None,
    }
}

/// The client is to stay away until somebody wants it back.
const fn told(kick: Option<&'static str>, code: u16, reason: &'static str) -> Farewell {
    Farewell {
        code: 1000,
        kick,
        json: Some(JsonFarewell {
            code,
            reason,
            reconnect: false,
        }),
    }
}

/// The client is to come back by itself.
const fn reconnect(websocket: u16, code: u16, reason: &'static str) -> Farewell {
    Farewell {
        code: websocket,
        kick: None,
        json: Some(JsonFarewell {
            code,
            reason,
            reconnect: true,
        }),
    }
}
