//! How bytes come and go. A [`Connection`] sends to one client, and queues what its [`Outlet`](outlet::Outlet) does not
//! take. An `Inlet` reads from the client. Both work on a `Socket`, which may be
//! encrypted, or on the requests of a polling client.
//!
//! Nothing here knows sessions or channels.

pub mod connection;
pub(crate) mod event_outlet;
pub(crate) mod inlet;
pub(crate) mod mailbox;
pub mod outlet;
pub(crate) mod pass;
pub(crate) mod peer;
pub mod proxies;
pub(crate) mod records;
pub(crate) mod socket;
mod tls;

pub use connection::Connection;
pub(crate) use connection::close_paced;
pub(crate) use tls::Encrypted;
