//! Terminates client sockets: one codec per protocol, sessions, and the hub that fans publications out to local members.
//!
//! A connector writes no channel: joins, leaves and sends go to chat, and what channels publish comes back through the
//! feed. Any number of connectors serve one system, and none knows another.

#[cfg(test)]
mod autobahn;
pub mod chat;
pub mod config;
pub mod connection;
mod departures;
mod entry_queue;
pub mod hub;
mod inlet;
pub mod lease;
mod life;
pub mod limits;
mod metering;
pub mod outlet;
mod page;
mod parameters;
mod random;
mod read_turns;
mod recovery;
pub mod registry;
mod resume;
mod server;
mod session;
#[cfg(test)]
mod simulation;
mod socket;
pub mod socketio;
mod stream;
pub mod suspects;
#[cfg(test)]
mod testing;

pub use config::{ClientSettings, Config, ConfigError};

use channel_store::ChannelFeed;
use chat::Chat;
use departures::Departures;
use hub::Hub;
use lease::Lease;
use registry::Registry;
use runtime::listen::Listener;
use runtime::{Readiness, Shutdown};
use server::Server;
use session::Services;
use std::sync::Arc;

/// The parts of a system that a connector stands between.
pub struct Surroundings {
    /// Local fan-out, which is the feed's sink.
    pub hub: Arc<Hub>,
    /// Where publications come from.
    pub feed: Arc<dyn ChannelFeed>,
    /// Where channels are written.
    pub chat: Arc<Chat>,
    /// What says that this connector lives.
    pub lease: Arc<Lease>,
    /// Who is logged in.
    pub registry: Arc<Registry>,
    /// What `/healthz` on the clients' port tells.
    pub readiness: Readiness,
}

/// Where clients come in.
pub struct Listeners {
    /// For all protocols.
    pub all: Listener,
    /// For Pomelo's packages without WebSocket alone.
    pub tcp: Option<Listener>,
}

impl From<Listener> for Listeners {
    fn from(all: Listener) -> Self {
        Self { all, tcp: None }
    }
}

/// Serves clients until the shutdown is requested; then closes every socket with a reason, and returns
/// when every leave has landed and the lease is given back, after ten seconds at the most. With a grace the leaves are left
/// to whoever looks after the lease, which ends when that is over.
pub async fn serve(
    clients: &ClientSettings,
    listeners: Listeners,
    surroundings: Surroundings,
    shutdown: Shutdown,
) {
    let Surroundings {
        hub,
        feed,
        chat,
        lease,
        registry,
        readiness,
    } = surroundings;
    metering::describe();
    hub.follow(feed);
    let services = Services {
        entries: entry_queue::EntryQueues::new(lease.shards()),
        reads: Arc::default(),
        departures: Departures::new(&chat, &registry, lease.shards(), clients.grace),
        lease,
        registry,
        hub,
        chat,
    };
    let server = Server {
        services: Arc::new(services),
        clients: clients.limits(),
        dictionary: clients.dictionary,
        page: !clients.no_page,
        deflate: !clients.no_deflate,
        queues: clients.queues(),
        limits: limits::Limits::new(clients.bounds()),
        connections: parking_lot::Mutex::default(),
        sockets: tokio_util::task::TaskTracker::new(),
        polling: socketio::Polling::default(),
        readiness,
    };
    Arc::new(server).run(listeners, shutdown).await;
}
