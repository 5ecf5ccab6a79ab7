//! Connections to Redis: where the servers are, how they are watched and replaced, which of them owns a key, and
//! subscriptions to topics. Nothing here knows what a channel is.

mod address;
mod connection;
mod link;
mod measure;
mod nodes;
mod reply;
mod schema;
mod sentinel;
mod slots;
mod subscriptions;
mod tls;
mod topology;
mod turns;
mod unsolicited;

pub use address::OpenError;
pub(super) use address::{Address, Location};
pub(super) use connection::Connection;
pub(super) use measure::Measures;
pub(super) use nodes::{Nodes, NodesOptions, Pinned};
pub(super) use reply::{
    array, number, refusal, server_state, text, unavailable, unexpected_reply,
    wants_another_connection,
};
pub(super) use schema::Schema;
pub use schema::SchemaMismatch;
pub(super) use slots::crc16;
pub(super) use subscriptions::{Listener, Subscriptions};
pub(super) use tls::Dialer;
