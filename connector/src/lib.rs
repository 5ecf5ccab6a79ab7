//! Terminates client sockets: protocols, sessions, and the hub that fans publications out to local members.
//!
//! A connector writes no channel: joins, leaves and sends go to chat, and what channels publish comes back through the
//! feed. Any number of connectors serve one system, and none knows another.
//!
//! Imports go one way: [`listener`] and [`http`] → [`client`] → [`session`] → [`hub`], [`membership`] and
//! [`chat_client`] → [`transport`] → [`limits`].

#[cfg(test)]
mod autobahn;
pub mod chat_client;
mod client;
pub mod config;
mod http;
pub mod hub;
pub mod limits;
mod listener;
pub mod membership;
mod metering;
mod random;
mod session;
#[cfg(test)]
mod simulation;
pub mod suspects;
#[cfg(test)]
mod testing;
pub mod transport;

pub use config::{ClientSettings, Config};

use crate::http::{Http, SocketIo};
use channel_store::{ChannelFeed, Hints, Leases, UserRegistry};
use chat_client::Chat;
use client::Clients;
use hub::Hub;
use limits::Limits;
use listener::Port;
use membership::{LeaseKeeper, NameError, Registry};
use runtime::listen::Listener;
use runtime::{Readiness, Shutdown};
use session::Services;
use std::sync::Arc;
use std::time::Duration;
use wire::WireFormat;

/// What a connector needs of the store.
pub struct Store {
    /// Brings what channels publish to the hub.
    pub feed: Arc<dyn ChannelFeed>,
    /// The leases of connectors.
    pub leases: Arc<dyn Leases>,
    /// Who is logged in, cluster-wide.
    pub users: Arc<dyn UserRegistry>,
    /// What connectors say to each other.
    pub hints: Arc<dyn Hints>,
}

/// A connector: all its parts, which serve nobody yet.
pub struct Connector {
    clients: ClientSettings,
    services: Arc<Services>,
}

impl Connector {
    /// Puts the parts together. `id` is the operator's name for it; `lease` is how long others wait for a sign of life before
    /// they take its members out. `hub` is the feed's sink.
    ///
    /// # Errors
    /// [`NameError`]: `id` is no name.
    pub fn new(
        id: &str,
        lease: Duration,
        clients: &ClientSettings,
        hub: Arc<Hub>,
        store: Store,
        chat: Arc<Chat>,
    ) -> Result<Self, NameError> {
        let Store {
            feed,
            leases,
            users,
            hints,
        } = store;
        metering::describe();
        let lease = LeaseKeeper::new(id, lease, Arc::clone(&leases), hub.suspects())?;
        let policy = clients.login_policy;
        let registry = Registry::new(policy, users, hints, leases);
        hub.follow(feed);
        Ok(Self {
            clients: clients.clone(),
            services: Services::new(lease, registry, hub, chat, clients.grace),
        })
    }

    /// Says what this connector needs before clients should come: a chat that takes publications, the login policy that the
    /// others have, and a lease.
    pub fn report_to(&self, readiness: &Readiness) {
        let Services {
            chat,
            registry,
            lease,
            ..
        } = &*self.services;
        let asked = Arc::clone(chat);
        readiness.follow_telling("chat", chat.available(), move || asked.troubles());
        let asked = Arc::clone(chat);
        readiness.follow_telling("publish", chat.publishes(), move || asked.refusals());
        let asked = Arc::clone(registry);
        let agreed = registry.agreed();
        readiness.follow_telling("login-policy", agreed, move || asked.why_disagreed());
        let asked = Arc::clone(lease);
        readiness.follow_telling("lease", lease.held(), move || asked.trouble());
    }

    /// Serves clients until the shutdown is requested. Then it closes every socket with a reason, and returns when every
    /// leave has landed and the lease is given back, after ten seconds at the most. With a grace the leaves are left to
    /// whoever looks after the lease, which ends when the grace is over. `readiness` is what `/healthz` on the clients'
    /// port tells.
    pub async fn serve(self, listener: Listener, readiness: Readiness, shutdown: Shutdown) {
        let Self {
            clients: settings,
            services,
        } = self;
        let limits = Limits::new(settings.bounds());
        let clients = Clients::new(Arc::clone(&services), settings.limits(), settings.queues());
        let deflate = !settings.no_deflate;
        let http = Http {
            socket_io: SocketIo::new(Arc::clone(&clients), Arc::clone(&limits), deflate),
            clients: Arc::clone(&clients),
            pomelo: WireFormat::POMELO.with_dictionary(settings.dictionary),
            deflate,
            page: !settings.no_page,
            readiness,
        };
        let port = Port {
            http: Arc::new(http),
            clients: Arc::clone(&clients),
            limits,
        };
        let keeping = services.keep();
        tokio::select! {
            biased;
            () = shutdown.requested() => {}
            never = Arc::new(port).serve(listener) => match never {},
        }
        clients.drain().await;
        drop(keeping);
        services.lease.end(services.leaves.grace()).await;
    }
}
