//! The connector holds the sockets of clients. It speaks their protocols, keeps their sessions, and fans publications
//! out to the local members of a channel (the hub).
//!
//! A connector does not write channels. Joins, leaves and sends go to chat, and publications come back through the
//! feed. Any number of connectors serve one system. They share nothing but the store.
//!
//! Imports go one way: `listener` and `http` → `client` → `session` → [`access`], [`hub`], [`membership`],
//! [`chat_client`] and [`routes`] → `operator` → [`transport`] and [`grpc`] → `dial`, [`limits`].

pub mod access;
mod adjustable;
#[cfg(test)]
#[path = "../tests/unit/autobahn.rs"]
mod autobahn;
pub mod call_settings;
pub mod chat_client;
mod client;
pub mod config;
mod dial;
pub mod grpc;
mod http;
pub mod hub;
pub mod limits;
mod listener;
pub mod membership;
mod metering;
mod opening;
mod operator;
mod random;
pub mod routes;
mod session;
#[cfg(test)]
#[path = "../tests/unit/simulation/mod.rs"]
mod simulation;
pub mod suspects;
#[cfg(test)]
#[path = "../tests/unit/testing/mod.rs"]
mod testing;
pub mod transport;

pub use config::{ClientSettings, Config};

use crate::access::{AccessControl, AccessError};
use crate::adjustable::Adjustable;
use crate::http::{Http, SocketIo, Sse};
use channel_store::{ChannelFeed, Hints, Inboxes, Leases, UserRegistry};
use chat_client::Chat;
use client::Clients;
use hub::Hub;
use limits::{Limits, QueueLimits};
use listener::Port;
use membership::{LeaseKeeper, Logins, NameError};
use metering::Now;
use routes::Routes;
use runtime::config::Reloading;
use runtime::listen::Listener;
use runtime::tls::{ServerTls, TlsError};
use runtime::{Metrics, Readiness, Shutdown};
use session::{Services, Terms};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;
use transport::proxies::Proxies;
use wire::WireFormat;

/// Why there is no connector.
#[derive(Debug, thiserror::Error)]
pub enum NewError {
    /// Its name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// Who may log in, and what sessions may do.
    #[error(transparent)]
    Access(#[from] AccessError),
}

/// The parts of the store that a connector uses.
pub struct Store {
    /// Brings publications to the hub.
    pub feed: Arc<dyn ChannelFeed>,
    /// The leases of connectors.
    pub leases: Arc<dyn Leases>,
    /// The logins of all connectors.
    pub users: Arc<dyn UserRegistry>,
    /// Hints from one connector to another: users at whose logins it should look.
    pub hints: Arc<dyn Hints>,
    /// Letters from chats, and to them.
    pub inboxes: Arc<dyn Inboxes>,
}

/// A connector with all its parts. It serves nobody before [`serve`](Self::serve) is called.
pub struct Connector {
    /// The operator's name for it.
    name: Box<str>,
    clients: ClientSettings,
    services: Arc<Services>,
    tls: Option<Arc<ServerTls>>,
}

impl Connector {
    /// Puts the parts together. `id` is the operator's name for this connector. `lease` is how long it may be silent
    /// before its members are removed. `hub` is the sink of the feed. `routes` lead to the handlers of the operator.
    ///
    /// # Errors
    /// [`NewError`] if `id` is not a valid name, or if the files of the settings cannot be used.
    pub fn new(
        id: &str,
        lease: Duration,
        clients: &ClientSettings,
        hub: Arc<Hub>,
        store: Store,
        chat: Arc<Chat>,
        routes: Arc<Routes>,
    ) -> Result<Self, NewError> {
        let Store {
            feed,
            leases,
            users,
            hints,
            inboxes,
        } = store;
        metering::register_all();
        let lease = LeaseKeeper::new(id, lease, Arc::clone(&leases), hub.suspects())?;
        let policy = clients.login_policy;
        let logins = Logins::new(policy, users, hints, leases);
        hub.follow(feed);
        let terms = Terms {
            routes,
            access: AccessControl::begin(&clients.auth, clients.message_limit as usize)?,
            grace: clients.grace,
        };
        Ok(Self {
            name: id.into(),
            clients: clients.clone(),
            tls: None,
            services: Services::new(lease, logins, hub, chat, inboxes, terms),
        })
    }

    /// Lets the clients' port speak TLS alone, if the settings have a certificate. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`TlsError`] if the certificate or its key can't be used.
    pub fn with_tls(self) -> Result<Self, TlsError> {
        let tls = self
            .clients
            .tls
            .begin("certificate of the clients' port", opening::ALPN)?;
        Ok(Self { tls, ..self })
    }

    /// Adds what this connector needs before clients should come: a chat, publications that work, the login policy that
    /// the other connectors have, and a lease.
    pub fn report_to(&self, readiness: &Readiness) {
        let Services {
            chat,
            logins,
            lease,
            access,
            ..
        } = &*self.services;
        let asked = Arc::clone(chat);
        readiness.follow_telling("chat", chat.available(), move || asked.troubles());
        // A chat in this process that is used without a proof is never seen to publish.
        if chat.is_proven() {
            let asked = Arc::clone(chat);
            readiness.follow_telling("publish", chat.publishes(), move || asked.refusals());
        }
        if let Some(verifier) = access.verifier() {
            let asked = Arc::clone(verifier);
            readiness.follow_telling("tokens", verifier.has_keys(), move || asked.trouble());
        }
        if let Some(hook) = access.hook() {
            let asked = Arc::clone(hook);
            readiness.follow_telling("hook", hook.is_ready(), move || asked.trouble());
        }
        let asked = Arc::clone(logins);
        let agreed = logins.policy_in_force();
        readiness.follow_telling("login-policy", agreed, move || asked.why_another_policy());
        let asked = Arc::clone(lease);
        readiness.follow_telling("lease", lease.held(), move || asked.trouble());
    }

    /// Serves clients until the shutdown is requested, or until a back end wants this connector to stop: then it requests the
    /// shutdown itself, so that the whole process ends as after SIGTERM. Then it goes on for a while, so that balancers notice, closes
    /// every socket with a reason, one after another, waits until every leave has landed, and gives the lease back. `[drain]` says how
    /// long this takes. With a grace the members stay: the
    /// lease lasts for the length of the grace, and chat removes them when it is over. `/healthz` on the clients' port
    /// answers with `readiness`.
    ///
    /// Settings that can change meanwhile are taken from `latest`.
    pub async fn serve<T>(
        self,
        listener: Listener,
        readiness: Readiness,
        latest: Reloading<T>,
        shutdown: Shutdown,
    ) where
        T: AsRef<ClientSettings> + Send + Sync + 'static,
    {
        let Self {
            name,
            clients: settings,
            services,
            tls,
        } = self;
        let limits = Limits::new(settings.bounds());
        let queues = settings.queues();
        let clients = Clients::new(
            Arc::clone(&services),
            settings.limits(),
            Arc::clone(&queues),
        );
        let are_strangers = listener.is_open_to_others() || settings.lets_in_by_token();
        let adjustable = Adjustable {
            clients: Arc::clone(&clients),
            origins: Arc::default(),
            addresses: Arc::default(),
            limits: Arc::clone(&limits),
            queues,
            are_strangers,
        };
        adjustable.set(&settings);
        let _observing = {
            let (services, limits) = (Arc::clone(&services), Arc::clone(&limits));
            let queues = Arc::clone(&adjustable.queues);
            Metrics::install().observe(move || now(&services, &limits, &queues).tell())
        };
        let (origins, addresses) = (
            Arc::clone(&adjustable.origins),
            Arc::clone(&adjustable.addresses),
        );
        let _following = AbortOnDropHandle::new(tokio::spawn(adjustable.follow(latest)));
        let deflate = !settings.no_deflate;
        let http = Http {
            socket_io: SocketIo::new(
                Arc::clone(&clients),
                Arc::clone(&limits),
                deflate,
                Arc::clone(&origins),
            ),
            sse: Sse::new(Arc::clone(&clients), Arc::clone(&origins), &name),
            clients: Arc::clone(&clients),
            pomelo: WireFormat::POMELO.with_dictionary(settings.dictionary),
            deflate,
            page: !settings.no_page,
            origins,
            proxies: Proxies::new(&settings.trusted_proxies, settings.proxy_protocol),
            addresses,
            readiness,
            shutdown: shutdown.clone(),
        };
        let port = Port {
            http: Arc::new(http),
            limits,
            tls,
        };
        let drain = &settings.drain;
        shutdown.may_take(drain.deadline);
        let keeping = services.keep();
        let mut changes = services.access.changes();
        let judging = async {
            while changes.changed().await.is_ok() {
                clients.judge_again().await;
            }
            std::future::pending::<()>().await;
        };
        let is_reached_by_others = listener.is_open_to_others();
        let stopping = async {
            tokio::select! {
                () = shutdown.requested() => {}
                () = services.commands.process().is_to_stop() => {
                    tracing::info!("a back end has called DrainConnector: draining");
                    shutdown.request();
                }
            }
            clients.give_notice();
            let notice = match shutdown.is_at_once() {
                true => Duration::ZERO,
                false => drain.notice(is_reached_by_others),
            };
            tokio::select! {
                () = shutdown.hurried() => {}
                () = sleep(notice) => {}
            }
            clients.close_asked_apart(drain.pace(), &shutdown).await;
        };
        tokio::pin!(judging);
        tokio::select! {
            biased;
            () = stopping => {}
            never = Arc::new(port).serve(listener) => match never {},
            () = &mut judging => {}
        }
        // The port does not listen any more. For those who are connected everything goes on until it is their turn.
        tokio::select! {
            biased;
            () = clients.drain(drain.pace(), &shutdown) => {}
            () = &mut judging => {}
        }
        drop(keeping);
        services.lease.end(services.leaves.grace()).await;
    }
}

/// What there is now.
fn now(services: &Services, limits: &Limits, queues: &QueueLimits) -> Now {
    let (pending_leaves, lingering) = services.leaves.counts();
    Now {
        sessions: services.lease.sessions(),
        channels: services.hub.followed(),
        queued: queues.queued(),
        queue_limit: queues.process(),
        connection_limit: limits.connections(),
        pending_leaves,
        lingering,
    }
}
