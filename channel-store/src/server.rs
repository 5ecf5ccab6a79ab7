//! What the users of a store must know about the servers behind it.

use std::sync::Arc;

/// Names one lifetime of a server as primary (Redis' `master_replid`). It is opaque: it is only compared.
pub type ServerLifetime = Arc<str>;

/// The part of the store that holds a key at present: one server of a cluster. The parts fail one by one, so work for
/// one shard must not wait for another one. It is opaque: it is only compared, and its order means nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Shard(u64);

impl Shard {
    /// The shard that this number stands for.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }
}

/// One connection of a feed. What an earlier connection than the last confirmed one brings must be dropped, because
/// the server may have lost it in between (docs/design/log.md).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedConnection {
    /// A later connection of this feed has a higher number.
    pub number: u64,
    /// The server lifetime under which it began. It is asked before the first subscription.
    pub lifetime: ServerLifetime,
}
