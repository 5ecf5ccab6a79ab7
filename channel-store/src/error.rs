//! Why a store could not do something.

/// What a store could not do. One `From` in chat makes a gRPC status of each.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The store did not answer, or broke off: the outcome is unknown. Safe to repeat with the same key.
    #[error("the store is unavailable: {0}")]
    Unavailable(String),
    /// Out of memory; nothing was written.
    #[error("the store is out of memory")]
    Full,
    /// The sender's session is not a member of the channel; nothing was written.
    #[error("the session is not a member of the channel")]
    NotMember,
    /// The idempotency key was used for another content; nothing was written.
    #[error("the idempotency key was used for another content")]
    KeyReused,
    /// A later operation of the same session has taken effect, or another session has taken its place; nothing was
    /// written.
    #[error("a later operation of this session has taken effect")]
    StaleOperation,
    /// The incarnation was declared dead; nothing was written.
    #[error("the connector was declared dead")]
    ConnectorDead,
    /// The deadline of the join or login is over; nothing was written. Before it is tried again with a deadline after
    /// `now`, its incarnation must have renewed its lease: otherwise it may long have been declared dead and forgotten.
    #[error("the deadline is over")]
    Late {
        /// The time of the server that refused, milliseconds since 1970.
        now: u64,
    },
    /// The page token is none of this store's.
    #[error("the page token is not one of this store's")]
    BadPageToken,
}
