//! Chat: the gRPC services through which every channel is written.
//!
//! [`serve`] runs them on a socket, for the binary, for tests and for the standalone server. [`service`] makes the same services
//! without a socket, for a connector in the same process. Chat keeps no state of its own: channels live in the [`ChannelStore`].
//!
//! `api` and `gateway` are the two contracts, for back ends and for connectors. Both convert their messages and let `calls` do
//! the work. [`access`] says who may call. `port` bounds connections and calls, and `web` takes calls over plain HTTP. `users` asks connectors about live users.
//! `console` is the page for operators. `watch` follows channels for back ends. `rules` has those rules of channels by which chat itself refuses. `cleanup` looks after members that nobody else looks after.

pub mod config;

pub mod access;
mod api;
mod calls;
mod cleanup;
mod console;
mod error;
mod gateway;
mod metering;
mod port;
mod rules;
pub mod store_settings;
mod tls;
mod users;
mod watch;
mod web;

pub use access::Access;
pub use cleanup::Cleanup;
pub use config::{Config, Limits};
pub use console::console;
pub use error::ServeError;
pub use port::age::Age;
pub use rules::Rules;
pub use tls::{Port, PortSettings};
pub use users::Connectors;
pub use watch::Watching;

use access::BearerLayer;
use api::Api;
use calls::Calls;
use channel_store::ChannelStore;
use futures_util::stream::{self, Stream, StreamExt};
use gateway::Gateway;
use http::{Request, Response};
use port::connections::{Connections, Socket, Timeouts};
use port::gate::GateLayer;
use port::guard::{Bounds, Guarded};
use port::health::StoreHealth;
use port::measure::Measured;
use proto::chat::v1::chat_service_server::ChatServiceServer;
use proto::chat::v1::node_service_server::NodeServiceServer;
use proto::chat::v1::user_service_server::UserServiceServer;
use proto::connector::v1::session_service_server::SessionServiceServer;
use runtime::Shutdown;
use std::convert::Infallible;
use std::future::ready;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::watch::Receiver;
use tokio_util::task::TaskTracker;
use tonic::body::Body;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic_health::pb::health_server::HealthServer;
use tonic_reflection::server::Builder;
use tower::Layer;
use users::{Nodes, Users};
use web::{Contract, Transcoded, WebLayer};

/// The largest number of HTTP/2 streams, and so of calls, that one connection may have open.
const STREAMS_PER_CONNECTION: u32 = 1_024;
/// A caller whose machine has vanished is noticed within these two times together.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// The pause after an accept that failed, for example for want of file descriptors. Without it the next one would fail at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Both contracts' services, measured and guarded: a tower service that tonic's generated clients take in place of a
/// connection.
#[derive(Debug, Clone)]
pub struct Service(Routes);

impl tower::Service<Request<Body>> for Service {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = <Routes as tower::Service<Request<Body>>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        tower::Service::<Request<Body>>::poll_ready(&mut self.0, cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.0.call(request)
    }
}

/// Makes the services. Callers in the same process need no token; [`Service::serve`] lets others call. Clones share all bounds. Streams
/// end at the shutdown.
#[must_use]
pub fn service(
    store: Arc<dyn ChannelStore>,
    cleanup: Arc<Cleanup>,
    connectors: Arc<Connectors>,
    watching: Arc<Watching>,
    limits: &Limits,
    shutdown: Shutdown,
) -> Service {
    metering::register_all();
    let calls = Calls::new(
        Arc::clone(&store),
        cleanup,
        watching,
        limits.clone(),
        shutdown,
    );
    let bounds = Bounds::new(limits);
    let api = ChatServiceServer::new(Api(Arc::clone(&calls)));
    let api = api.max_decoding_message_size(limits.frame());
    let gateway = SessionServiceServer::new(Gateway(calls));
    let gateway = gateway.max_decoding_message_size(limits.frame());
    let nodes = NodeServiceServer::new(Nodes {
        connectors: Arc::clone(&connectors),
        rules: limits.rules.clone(),
    });
    let nodes = nodes.max_decoding_message_size(limits.frame());
    let users = UserServiceServer::new(Users {
        connectors,
        store,
        message_limit: limits.message,
    });
    let users = users.max_decoding_message_size(limits.frame());
    let routes = Routes::new(bounded(api, &bounds))
        .add_service(bounded(users, &bounds))
        .add_service(bounded(nodes, &bounds))
        .add_service(bounded(gateway, &bounds));
    Service(routes.prepare())
}

/// Every service of chat's own is measured, bounded, and reads JSON.
fn bounded<S>(service: S, bounds: &Arc<Bounds>) -> Measured<Guarded<Transcoded<S>>> {
    Measured::new(Guarded::new(Transcoded::new(service), bounds))
}

/// Makes the [`service`], and serves it at a port: see [`Service::serve`].
///
/// # Errors
/// [`ServeError`]. No caller can cause it.
pub async fn serve(
    port: impl Into<Port>,
    store: Arc<dyn ChannelStore>,
    cleanup: Arc<Cleanup>,
    connectors: Arc<Connectors>,
    watching: Arc<Watching>,
    limits: Limits,
    shutdown: Shutdown,
) -> Result<(), ServeError> {
    let available = store.available();
    let service = service(
        store,
        cleanup,
        connectors,
        watching,
        &limits,
        shutdown.clone(),
    );
    service.serve(port, available, limits, shutdown).await
}

impl Service {
    /// Serves it at a port, which may have a certificate, with health and reflection until the shutdown is requested and then all
    /// calls are done, or [`Limits::drain_time`] has passed. `available`: whether the store is. Limits and shutdown are those of
    /// [`service`].
    ///
    /// # Errors
    /// [`ServeError`]. No caller can cause it.
    pub async fn serve(
        self,
        port: impl Into<Port>,
        available: Receiver<bool>,
        limits: Limits,
        shutdown: Shutdown,
    ) -> Result<(), ServeError> {
        let timeouts = Timeouts {
            greeting: limits.greeting_time,
            idle: limits.idle_time,
            answer: limits.answer_time,
        };
        let connections = Connections::new(limits.connections, timeouts, limits.age);
        let gate = GateLayer::new(&limits);
        let bearer = BearerLayer::new(limits.access.clone());
        let web = WebLayer::new(Contract::load()?, &limits.allowed_origins);
        let health = StoreHealth::new(available, shutdown.clone());
        let routes = (self.0)
            .add_service(HealthServer::new(health))
            .add_service(reflection().build_v1()?)
            .add_service(reflection().build_v1alpha()?)
            .prepare();
        let server = Server::builder()
            .max_concurrent_streams(STREAMS_PER_CONNECTION)
            .http2_keepalive_interval(Some(PING_INTERVAL))
            .http2_keepalive_timeout(Some(PING_TIMEOUT))
            .accept_http1(true)
            .layer(gate)
            .layer(web)
            .layer(bearer);
        let serving = TaskTracker::new();
        {
            let mut accepted = pin!(accept(port.into(), connections));
            loop {
                let socket = tokio::select! {
                    biased;
                    () = shutdown.requested() => break,
                    socket = accepted.next() => socket,
                };
                let Some(socket) = socket else { break };
                let server = server.clone();
                serving.spawn(serve_one(server, routes.clone(), socket, shutdown.clone()));
            }
        }
        serving.close();
        tokio::select! {
            () = serving.wait() => {}
            () = drained(&shutdown, limits.drain_time) => {
                tracing::warn!("some calls were not done in time and are broken off");
            }
        }
        Ok(())
    }
}

/// Serves one connection. When it is retired, or at the shutdown, its caller is told to go elsewhere (GOAWAY), and the calls that are
/// under way are finished. Each connection has a server of its own, because tonic tells all connections of a server at once.
async fn serve_one<L>(server: Server<L>, routes: Routes, socket: Socket, shutdown: Shutdown)
where
    L: Layer<Routes>,
    L::Service: tower::Service<Request<Body>, Response = Response<Body>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    <L::Service as tower::Service<Request<Body>>>::Future: Send,
{
    let caller = socket.caller();
    // Nothing more comes in. If this stream ended, the server would end at once.
    let sockets = stream::once(ready(Ok::<_, io::Error>(socket))).chain(stream::pending());
    let going = async move {
        tokio::select! {
            () = shutdown.requested() => {}
            () = caller.retired() => {}
        }
    };
    let served = server.serve_with_incoming_shutdown(routes, sockets, going);
    if let Err(error) = served.await {
        tracing::warn!(%error, "a connection could not be served");
    }
}

/// Reflection knows the details of errors as well, so that tools can show them.
fn reflection() -> Builder<'static> {
    Builder::configure()
        .register_encoded_file_descriptor_set(proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
}

/// Accepted connections. Errors of single accepts are logged and passed over.
fn accept(port: Port, connections: Arc<Connections>) -> impl Stream<Item = Socket> {
    stream::unfold((port, connections), async |(port, connections)| {
        loop {
            let accepted = port.listener.accept().await.and_then(|(stream, peer)| {
                // Without this an answer could wait for the acknowledgement of the answer before it (F15).
                stream.set_nodelay(true)?;
                Ok((stream, peer))
            });
            match accepted {
                Ok((stream, peer)) => match connections.admit(stream, peer, port.tls.as_deref()) {
                    Some(socket) => return Some((socket, (port, connections))),
                    None => {
                        metering::connection_refused();
                        tracing::warn!(%peer, "refused a connection, because all other connections have calls under way");
                    }
                },
                Err(error) => {
                    tracing::warn!(%error, "cannot accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    })
}

/// Returns when the shutdown was requested and this time has passed since.
async fn drained(shutdown: &Shutdown, drain_time: Duration) {
    shutdown.requested().await;
    tokio::select! {
        () = shutdown.hurried() => {}
        () = tokio::time::sleep(drain_time) => {}
    }
}
