//! Errors that end a connection because of what its client sent.

/// Why a connection cannot go on. What its client is told depends on the [`Disconnect`](crate::Disconnect).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Error {
    /// The client has closed the connection, or its socket broke: there is nobody to tell.
    #[error("closed by the client")]
    Closed,
    /// The bytes are not of the client's protocol (K6, F1).
    #[error("malformed")]
    Malformed,
    /// The handshake lacks what it needs. The client has been answered (K6).
    #[error("handshake refused")]
    Handshake,
    /// The route names a method of JavaScript's Object (K6).
    #[error("attack")]
    Attack,
    /// A WebSocket frame breaks RFC 6455: close code 1002.
    #[error("protocol error")]
    Frame,
    /// A text is not UTF-8: close code 1007.
    #[error("not UTF-8")]
    Utf8,
    /// A message has more bytes than the message limit: close code 1009.
    #[error("message too big: the limit is {limit} bytes")]
    TooBig {
        /// The bytes that a message may have.
        limit: u32,
    },
}

impl Error {
    /// A message has more than `limit` bytes.
    #[must_use]
    pub fn too_big(limit: usize) -> Self {
        Self::TooBig {
            limit: u32::try_from(limit).unwrap_or(u32::MAX),
        }
    }

    /// The reason as a label of metrics and logs. It never changes.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Closed => "client",
            Self::Malformed => "malformed",
            Self::Handshake => "handshake_refused",
            Self::Attack => "attack",
            Self::Frame => "broken_frame",
            Self::Utf8 => "not_utf8",
            Self::TooBig { .. } => "too_big",
        }
    }
}
