//! How a connection can end with what its client sends.

/// Why a connection can't go on. What its client is told of it: [`Disconnect`](crate::Disconnect).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Error {
    /// The client said that it goes.
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
    /// A WebSocket frame breaks RFC 6455.
    #[error("protocol error")]
    Frame,
    /// A text is not UTF-8.
    #[error("not UTF-8")]
    Utf8,
    /// A message has more than this many bytes.
    #[error("message too big: the limit is {limit} bytes")]
    TooBig {
        /// The bytes that a message may have.
        limit: u32,
    },
}

impl Error {
    /// A message has more bytes than this.
    #[must_use]
    pub fn too_big(limit: usize) -> Self {
        Self::TooBig {
            limit: u32::try_from(limit).unwrap_or(u32::MAX),
        }
    }
}
