//! Leases, members and logins of a connector (`docs/design/membership.md`).
//!
//! An incarnation holds a lease, which says that it lives. Before a join is sent, its channel stands in the index of
//! the incarnation. So if the process ends, its members are found. If an incarnation is declared dead, which happens to
//! a process that was frozen, the sockets of its sessions are closed with a reason to reconnect, and the next
//! incarnation begins. An outage of the store closes nothing, and neither does a clock that is set: an incarnation is
//! declared dead only when chats have seen no renewal for long enough. A lease that was lost is taken again.
//!
//! Lease and index of an incarnation are on one shard of the store. While that shard is away, nothing can be indexed
//! there, so nobody could log in, although all other shards answer. Then the connector begins a further incarnation,
//! whose name falls on a shard that answers, and new sessions belong to that one. A session keeps its incarnation for
//! life. When the first lease is renewed again, new sessions belong to the first incarnation again, and the further one
//! is given up once nothing is left of it.

mod commands;
mod entering;
mod incarnation;
mod index;
mod keep;
mod lease_keeper;
mod leaves;
mod logins;
mod members;
mod reconcile;
mod reconcile_logins;
mod registration;
mod renewal;
mod restrictions;
mod session_commands;
#[cfg(test)]
mod tests;

pub(crate) use commands::Commands;
pub use incarnation::{NameError, new_incarnation};
pub use lease_keeper::LeaseKeeper;
pub(crate) use leaves::{EndedSession, PendingLeaves, Rollback};
pub(crate) use logins::Admission;
pub use logins::Logins;
pub(crate) use members::Membership;
pub(crate) use registration::{Registration, Shown};
pub(crate) use session_commands::{Asked, SessionCommand};
