//! Why a store could not do something.

use crate::publication::Position;

/// Why a store could not do what it was asked. Chat turns each of them into a gRPC status.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The store did not answer, or its connection broke, so the outcome is unknown. It is safe to repeat the call with the
    /// same key.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// The store's memory is full. Nothing was written.
    #[error("the store is out of memory")]
    Full,
    /// The sender or its session must be a member of the channel, and is not. Nothing was written.
    #[error("the sender is not a member of the channel")]
    NotMember,
    /// The log does not end where the sender expects it. Nothing was written, and nothing was remembered under the message's
    /// key.
    #[error("the position does not fit this log: it ends at {}", shown(.end))]
    PositionMismatch {
        /// Where it ends. ("", 0) if nothing was published yet.
        end: Position,
    },
    /// The idempotency key was used for another content before. Nothing was written.
    #[error("the idempotency key was used for another content")]
    KeyReused,
    /// A later operation of the same session has taken effect, or another session has taken its place. Nothing was
    /// written.
    #[error("a later operation of this session has taken effect")]
    StaleOperation,
    /// The channel was deleted after the membership began that the join repairs. Nothing was written.
    #[error("the channel was deleted after the session had joined")]
    ChannelDeleted,
    /// The incarnation was declared dead. Nothing was written.
    #[error("the connector was declared dead")]
    ConnectorDead,
    /// The deadline of the join or login is over. Nothing was written. The incarnation must renew its lease before it tries
    /// again with a deadline after `now`. Otherwise it may have been declared dead and forgotten long ago.
    #[error("the deadline of the join or login is over")]
    Late {
        /// The time of the server that refused, milliseconds since 1970.
        now: u64,
    },
    /// This store has not made the page token.
    #[error("the page token is not one of this store's")]
    BadPageToken,
}

/// A position for people.
fn shown(position: &Position) -> String {
    match position.epoch.as_str() {
        "" => format!("offset {}", position.offset),
        epoch => format!("offset {} of epoch {epoch}", position.offset),
    }
}
