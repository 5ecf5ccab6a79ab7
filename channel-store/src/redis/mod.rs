//! Channels in Redis: what many processes share.
//!
//! Everything that changes a channel is one Lua script on the channel's own keys, so it happens as a whole or not at
//! all, and the server that refuses it has written and fanned out nothing. [`RedisStore`] (chat) and [`RedisFeed`]
//! (connectors) each hold two supervised connections to each server, one of them for reads alone, which are replaced for
//! ever; neither repeats a command
//! by itself, because only the caller knows whether it may be repeated.

mod ask;
mod connection;
mod feed;
mod heads;
mod keys;
mod leases;
mod link;
mod location;
mod members;
mod nodes;
mod probe;
mod read;
mod registry;
mod reply;
mod scripts;
mod sentinel;
mod slots;
mod store;
mod stream;
mod topics;
mod turns;
mod unasked;

pub use feed::RedisFeed;
pub use location::OpenError;
pub use probe::WriteWatch;
pub use store::RedisStore;

use crate::StoreOptions;
use location::Location;
use std::path::Path;
use std::time::Duration;

/// Looks at a URL without connecting, so that a wrong one can be told with the flag that it came from. `certificates` is a
/// PEM file of those who may vouch for an encrypted Redis.
///
/// # Errors
/// [`OpenError`], which never shows the URL.
pub fn check_url(url: &str, certificates: Option<&Path>) -> Result<(), OpenError> {
    Location::parse(url, certificates).map(drop)
}

/// Whole seconds as a script takes them, at least one: Redis deletes at once what is to expire in none.
fn seconds(life: Duration) -> String {
    life.as_millis().div_ceil(1000).max(1).to_string()
}

/// How long the keys of an idle channel live: never shorter than its log, or offsets would begin anew below it.
fn channel_seconds(options: &StoreOptions) -> String {
    seconds(options.channel_life.max(options.log_life))
}
