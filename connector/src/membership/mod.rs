//! The connector's leases: what says that its members are no ghosts.
//!
//! An incarnation holds a lease. While it lives, its lease is renewed, and every channel where anything of it may be stands
//! in its index before a join is sent there. Once it was declared dead, as happens to a process that was frozen, the sockets
//! of its sessions are closed with a reason to reconnect, and the next incarnation begins. An outage of the store closes
//! nothing, and neither does a clock that is set: others declare it dead when they saw no renewal for long enough, and a
//! lease that is missing is taken again.
//!
//! Lease and index of an incarnation lie on one shard of the store. While that shard is away, nothing can be indexed there, so
//! nobody new could come in, though all other shards answer. So the connector begins a further incarnation then, whose name
//! falls on a shard that answers, and new sessions belong to that one. A session stays with its incarnation for life. When
//! the first lease is renewed again, new sessions belong to the first incarnation again, and the further one is given up once
//! nothing is left of it.

mod entering;
mod incarnation;
mod index;
mod keep;
mod lease_keeper;
mod leaves;
mod logins;
mod members;
mod reconcile;
mod renewal;
#[cfg(test)]
mod tests;

pub use incarnation::{NameError, new_incarnation};
pub use lease_keeper::LeaseKeeper;
pub(crate) use leaves::{EndedSession, PendingLeaves, Undo};
pub use logins::Registry;
pub(crate) use logins::{Admission, Registration};
pub(crate) use members::Membership;
