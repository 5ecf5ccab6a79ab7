//! Channels in Redis, which many processes share.
//!
//! Everything that changes a channel is one Lua script on the channel's own keys. So it happens as a whole or not at all, and
//! a server that refuses it has neither written nor published anything. [`RedisStore`] (for chat) and [`RedisFeed`] (for
//! connectors) each hold two connections to each server, of which one is for reads alone. The connections are watched, and
//! replaced for ever. Neither of the two repeats a command by itself, because only the caller knows whether that is allowed.
//!
//! `net` knows how to reach the servers and knows no channel. All other files know channels and no sockets.

mod append;
mod births;
mod call;
mod channel_listener;
mod channel_pages;
mod directory;
mod feed;
mod inboxes;
mod keys;
mod lease;
mod log;
mod logins;
mod member_pages;
mod membership;
mod net;
mod probe;
mod publish;
mod restrictions;
mod run;
mod scripts;
mod servers;
mod store;
mod summaries;

pub use feed::RedisFeed;
pub use net::{OpenError, SchemaMismatch};
pub use probe::WriteWatch;
pub use servers::ServerWatch;
pub use store::RedisStore;

use crate::options::StoreOptions;
use keys::{Keys, SCHEMA_VERSION};
use net::{Dialer, Location, Measures, NodesOptions, Schema};
use std::path::Path;
use std::time::Duration;

/// Checks a URL without connecting, so that a service can name the wrong argument. `certificates` is a PEM file of the
/// authorities that may sign the certificate of an encrypted Redis.
///
/// # Errors
/// [`OpenError`], which never shows the URL.
pub fn check_url(url: &str, certificates: Option<&Path>) -> Result<(), OpenError> {
    let location = Location::parse(url)?;
    Dialer::new(location.encrypted, certificates).map(drop)
}

/// How to connect to the servers. `publisher_connections`: how many connections to each node publishers have for themselves.
fn nodes_options(options: &StoreOptions, publisher_connections: usize) -> NodesOptions<'_> {
    let scripts: Vec<_> = scripts::SCRIPTS.named().collect();
    NodesOptions {
        measures: Measures::new(&scripts),
        schema: Schema {
            key: Keys::new(&options.prefix).schema().to_string(),
            version: SCHEMA_VERSION,
            scripts: scripts.into_iter().map(|(_, script)| script).collect(),
        },
        certificates: options.redis_ca.as_deref(),
        answer_time: options.redis_timeout,
        ready_slots: options.ready_slots,
        publisher_connections,
        logs_failures: true,
    }
}

/// Whole seconds as a script takes them. It is at least one, because Redis deletes a key at once that expires in no time.
fn seconds(life: Duration) -> String {
    life.as_millis().div_ceil(1000).max(1).to_string()
}

/// How long the keys live that belong to no single rule: those of an idle channel of the usual kind, and of users.
fn channel_seconds(options: &StoreOptions) -> String {
    seconds(options.life_of_channel(options.log_life))
}
