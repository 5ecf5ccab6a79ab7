//! One service of the operator: its addresses, and the calls under way to it.

use super::connecting::Pacing;
use super::places::Places;
use crate::dial::Dialer;
use crate::grpc::{self, GrpcService, RESOLVE_AGAIN, TransportError};
use http::Uri;
use parking_lot::RwLock;
use runtime::tls::ClientTls;
use std::error::Error;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};
use tonic::{ConnectError, Request, Response, Status};
use tower::util::BoxCloneSyncService;
use tower::{ServiceExt, service_fn};

/// The most addresses of a name that are used.
const ADDRESSES: usize = 64;
/// The most characters of a service's error in the log.
const LOGGED: usize = 200;
/// If a service sends nothing for this long during a call, it must answer a ping, or its connection is over. It is not pinged
/// between calls, because many servers end a connection that is pinged without any call.
const PING: Duration = Duration::from_secs(1);
const PONG: Duration = Duration::from_secs(2);

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The service has as many calls under way as it may. Nothing was sent.
    #[error("as many calls are under way to it as are allowed")]
    Overloaded,
    /// There is no connection to the service. Nothing was sent.
    #[error("no connection: {0}")]
    Unreachable(String),
    /// The call was sent, and its time is over.
    #[error("its time is over")]
    Late,
    /// The call was sent, and failed.
    #[error("{}", words(.0))]
    Status(Status),
}

/// The words of a status, for the log: not more than a few lines.
pub(crate) fn words(status: &Status) -> String {
    grpc::words(status).chars().take(LOGGED).collect()
}

/// A request that the service should answer by the deadline.
pub(crate) fn within<T>(message: T, deadline: Instant) -> Request<T> {
    let mut request = grpc::traced(message);
    request.set_timeout(deadline.saturating_duration_since(Instant::now()));
    request
}

/// One service of the operator.
pub(crate) struct Service {
    /// Its URL, for the log.
    name: String,
    /// For the log: what it means that the service can't be reached.
    outage: &'static str,
    endpoints: RwLock<Vec<Endpoint>>,
    turn: AtomicUsize,
    places: Places,
    /// For a URL that asks for TLS.
    tls: OnceLock<Arc<ClientTls>>,
}

/// One address of a service.
#[derive(Clone)]
struct Endpoint {
    address: SocketAddr,
    service: GrpcService,
    pacing: Arc<Pacing>,
}

impl Service {
    /// A service whose addresses are not known yet. It may have this many calls under way. `outage` says in the log what it
    /// means that the service can't be reached.
    pub(crate) fn new(uri: &Uri, calls: usize, outage: &'static str) -> Arc<Self> {
        Arc::new(Self {
            name: uri.to_string(),
            outage,
            endpoints: RwLock::default(),
            turn: AtomicUsize::new(0),
            places: Places::new(calls),
            tls: OnceLock::new(),
        })
    }

    /// Says whom to trust. To be called before the addresses are known.
    pub(crate) fn trust(&self, tls: Arc<ClientTls>) {
        // A second value could not be told from the first, and there is none.
        let _ = self.tls.set(tls);
    }

    /// Its URL, for the log.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Calls the service with `ask`, once: an address that has no connection is sent nothing, and the next one is tried.
    /// `bytes` is the size of the request.
    ///
    /// # Errors
    /// [`Failure`]. By the deadline there is an answer or a failure.
    pub(crate) async fn call<T, F>(
        &self,
        bytes: usize,
        deadline: Instant,
        ask: impl Fn(GrpcService) -> F,
    ) -> Result<T, Failure>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let _place = self.places.take(bytes).ok_or(Failure::Overloaded)?;
        let mut why = "the name has no address yet".to_owned();
        for endpoint in self.in_turn() {
            let status = match timeout_at(deadline, ask(endpoint.service)).await {
                Ok(Ok(answer)) => return Ok(answer.into_inner()),
                Ok(Err(status)) => status,
                Err(_) => return Err(Failure::Late),
            };
            if !was_never_sent(&status) {
                return Err(Failure::Status(status));
            }
            why = grpc::words(&status);
        }
        Err(Failure::Unreachable(why))
    }

    /// The addresses, beginning with the next one whose turn it is. Those that can't be reached come last.
    fn in_turn(&self) -> Vec<Endpoint> {
        let endpoints = self.endpoints.read();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut in_turn: Vec<_> = (0..endpoints.len())
            .map(|i| endpoints[turn.wrapping_add(i) % endpoints.len()].clone())
            .collect();
        in_turn.sort_by_key(|endpoint| endpoint.pacing.is_failing());
        in_turn
    }

    /// Takes the addresses behind the name. Connections to those that stay are kept.
    pub(crate) fn update(&self, uri: &Uri, found: &[SocketAddr]) {
        let mut endpoints = self.endpoints.write();
        endpoints.retain(|endpoint| found.contains(&endpoint.address));
        for &address in found {
            let is_new = endpoints.iter().all(|it| it.address != address);
            if is_new && endpoints.len() < ADDRESSES {
                endpoints.push(Endpoint::new(self, uri, address));
            }
        }
    }
}

/// Resolves the name of a service again and again, as long as the service is wanted.
pub(crate) async fn keep_resolving(service: Weak<Service>, uri: Uri) {
    loop {
        let found = grpc::resolve(&uri).await;
        let Some(service) = service.upgrade() else {
            return;
        };
        match found {
            Ok(found) => service.update(&uri, &found),
            // A name that can't be resolved now keeps the addresses that it had.
            Err(error) => {
                let service = &service.name;
                tracing::warn!(service, %error, "the name of this service can't be resolved");
            }
        }
        drop(service);
        sleep(RESOLVE_AGAIN).await;
    }
}

impl Endpoint {
    /// Connects when the first call comes.
    fn new(service: &Service, uri: &Uri, address: SocketAddr) -> Self {
        let name = format!("{} at {address}", service.name);
        let dialer = Dialer::new(uri, address, service.tls.get());
        let pacing = Arc::new(Pacing::new(name, service.outage, dialer));
        let connecting = Arc::clone(&pacing);
        let channel = grpc::transport(uri, address)
            .http2_keep_alive_interval(PING)
            .keep_alive_timeout(PONG)
            .connect_with_connector_lazy(service_fn(move |_: Uri| {
                let connecting = Arc::clone(&connecting);
                async move { connecting.connect().await }
            }));
        Self {
            address,
            service: BoxCloneSyncService::new(channel.map_err(TransportError::new)),
            pacing,
        }
    }
}

/// True if there was no connection, so that nothing was sent.
fn was_never_sent(status: &Status) -> bool {
    let mut source = Error::source(status);
    while let Some(error) = source {
        if error.is::<ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

#[cfg(test)]
impl Service {
    /// A service in this process. Without a socket, time can be paused.
    pub(crate) fn in_process(name: &str, service: GrpcService, calls: usize) -> Arc<Self> {
        let address = SocketAddr::from(([127, 0, 0, 1], 9));
        let uri: Uri = format!("http://{name}").parse().unwrap();
        let this = Self::new(&uri, calls, "");
        let dialer = Dialer::new(&uri, address, None);
        let pacing = Arc::new(Pacing::new(name.to_owned(), "", dialer));
        this.endpoints.write().push(Endpoint {
            address,
            service,
            pacing,
        });
        this
    }
}
