//! How bytes come and go. A [`Connection`] is the way out to one client: it queues what its [`Outlet`](outlet::Outlet) does
//! not take. An [`Inlet`](inlet::Inlet) is the way in. Both are of a socket, or of a client that polls.
//!
//! Nothing here knows sessions or channels.

pub mod connection;
pub(crate) mod inlet;
pub(crate) mod mailbox;
pub mod outlet;
pub(crate) mod pass;

pub use connection::Connection;
pub(crate) use connection::close_paced;
