//! Chat: the gRPC service through which every channel is written.
//!
//! [`serve`] is the whole of it on a socket, for the binary, for tests and for the standalone server alike; [`service`]
//! is the same service without one, for a connector in the same process. It keeps no state: what a channel is lives in
//! the [`ChannelStore`].

pub mod config;

mod aftercare;
mod answers;
mod api;
mod arrival;
mod callers;
mod calls;
mod detached;
mod error;
mod funerals;
mod gate;
mod gateway;
mod guard;
mod health;
mod line;
mod measure;
mod metering;
mod reaper;
mod share;
mod streams;
mod vouching;

#[cfg(test)]
mod sight;

pub use aftercare::Aftercare;
pub use config::{Config, Limits};
pub use error::ServeError;

use api::Api;
use callers::{Callers, Patience, Socket};
use calls::Calls;
use channel_store::ChannelStore;
use futures_util::stream::{self, Stream};
use gate::GateLayer;
use gateway::Gateway;
use guard::{Bounds, Guarded};
use health::StoreHealth;
use http::{Request, Response};
use measure::Measured;
use proto::chat::v1::chat_service_server::ChatServiceServer;
use proto::connector::v1::session_service_server::SessionServiceServer;
use runtime::Shutdown;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpListener;
use tonic::body::Body;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic_health::pb::health_server::HealthServer;
use tonic_reflection::server::Builder;

/// Streams, and so calls, that one connection may have open.
const STREAMS_PER_CONNECTION: u32 = 1_024;
/// A caller whose machine vanished is noticed within these two.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// After an accept that failed, as for want of file descriptors: the next one would fail at once.
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

/// Makes the service for callers in the same process. Clones share its bounds; its streams end at the shutdown.
#[must_use]
pub fn service(
    store: Arc<dyn ChannelStore>,
    aftercare: Arc<Aftercare>,
    limits: &Limits,
    shutdown: Shutdown,
) -> Service {
    metering::describe();
    let calls = Calls::new(store, aftercare, limits.clone(), shutdown);
    let bounds = Bounds::new(limits);
    let api = ChatServiceServer::new(Api(Arc::clone(&calls)));
    let api = api.max_decoding_message_size(limits.frame());
    let gateway = SessionServiceServer::new(Gateway(calls));
    let gateway = gateway.max_decoding_message_size(limits.frame());
    let routes = Routes::new(Measured::new(Guarded::new(api, &bounds)))
        .add_service(Measured::new(Guarded::new(gateway, &bounds)));
    Service(routes.prepare())
}

/// Serves [`service`], with health and reflection, until the shutdown is requested and callers are done, or
/// [`Limits::drain_time`] has passed.
///
/// # Errors
/// [`ServeError`], which no caller can cause.
pub async fn serve(
    listener: TcpListener,
    store: Arc<dyn ChannelStore>,
    aftercare: Arc<Aftercare>,
    limits: Limits,
    shutdown: Shutdown,
) -> Result<(), ServeError> {
    let times = Patience {
        greeting: limits.greeting_time,
        idle: limits.idle_time,
        answer: limits.answer_time,
    };
    let callers = Callers::new(limits.connections, times);
    let gate = GateLayer::new(&limits);
    let health = StoreHealth::new(store.available(), shutdown.clone());
    let routes = service(store, aftercare, &limits, shutdown.clone())
        .0
        .add_service(HealthServer::new(health))
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .prepare();
    let server = Server::builder()
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .http2_keepalive_interval(Some(PING_INTERVAL))
        .http2_keepalive_timeout(Some(PING_TIMEOUT))
        .layer(gate)
        .serve_with_incoming_shutdown(routes, accept(listener, callers), shutdown.requested());
    tokio::select! {
        served = server => served?,
        () = patience(&shutdown, limits.drain_time) => {
            tracing::warn!("callers were not done in time: leaving them");
        }
    }
    Ok(())
}

/// With the details of errors, so that tools can show them.
fn reflection() -> Builder<'static> {
    Builder::configure()
        .register_encoded_file_descriptor_set(proto::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
}

/// The connections, without the errors that pass.
fn accept(listener: TcpListener, callers: Arc<Callers>) -> impl Stream<Item = io::Result<Socket>> {
    stream::unfold((listener, callers), async |(listener, callers)| {
        loop {
            let accepted = listener.accept().await.and_then(|(stream, peer)| {
                // An answer must not wait for the acknowledgement of the one before (F15).
                stream.set_nodelay(true)?;
                Ok((stream, peer))
            });
            match accepted {
                Ok((stream, peer)) => match callers.admit(stream, peer) {
                    Some(socket) => return Some((Ok(socket), (listener, callers))),
                    None => {
                        metering::connection_refused();
                        tracing::warn!(%peer, "refused a connection: all places have calls under way");
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

async fn patience(shutdown: &Shutdown, drain_time: Duration) {
    shutdown.requested().await;
    tokio::time::sleep(drain_time).await;
}
