//! The servers behind a store, as far as its users have to tell them apart.

use std::sync::Arc;

/// One lifetime of a server as primary (`master_replid`): opaque, compared only.
pub type ServerLifetime = Arc<str>;

/// The part of the store that holds a place at present: one server of a cluster. Parts fail one by one, so work for
/// different shards must not wait for one another. Opaque, compared only: the order means nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Shard(u64);

impl Shard {
    /// The shard that this number stands for.
    #[must_use]
    pub const fn new(number: u64) -> Self {
        Self(number)
    }
}

/// One connection of a feed. A publication of an earlier connection than the last confirmed one is void: it may have
/// been lost in between (RECOVERY.md, section 4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedConnection {
    /// Counts this feed's connections upwards.
    pub number: u64,
    /// The server lifetime it began under, asked before the first subscription.
    pub lifetime: ServerLifetime,
}
