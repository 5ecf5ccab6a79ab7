//! Channels in this process's memory, for a single process and for tests.
//!
//! The store makes the promises that Redis makes, by simpler means. All data is under one lock (`shared`). The data itself is
//! plain: `channel`, `log`, `keys`, `members`, `lease_table` and `user_table` know no lock. What is published is
//! delivered without the lock, in the log's order (`outbox`). Nothing is left behind: logs, keys and tombstones are bounded
//! as the options say, and a channel that was idle for its time is forgotten.

mod channel;
mod channel_pages;
mod clock;
mod feed;
mod held_restrictions;
mod inboxes;
mod keys;
mod lease_table;
mod leases;
mod log;
mod logins;
mod members;
mod outbox;
mod restrictions;
mod shared;
mod store;
#[cfg(feature = "testing")]
mod testing;
mod tombstones;
mod user_table;

pub use store::MemoryStore;
#[cfg(feature = "testing")]
pub use testing::Snapshot;
