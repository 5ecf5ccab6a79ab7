//! One handler of the operator: its addresses, and the calls under way to it.

use super::answer::{self, AnswerError};
use super::connecting::Pacing;
use super::places::Places;
use crate::dial::Dialer;
use crate::grpc::{self, GrpcService, RESOLVE_AGAIN, TransportError};
use crate::metering::HandlerCall;
use http::Uri;
use parking_lot::RwLock;
use prost::Message;
use proto::route::v1::HandleRequest;
use proto::route::v1::route_handler_client::RouteHandlerClient;
use runtime::tls::ClientTls;
use std::error::Error;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};
use tonic::{Code, ConnectError, Status};
use tower::util::BoxCloneSyncService;
use tower::{ServiceExt, service_fn};

/// The most addresses of a name that are used.
const ADDRESSES: usize = 64;
/// The fields of an answer around its JSON take fewer bytes than this.
const AROUND_JSON: usize = 16;
/// The most characters of a handler's error in the log.
const LOGGED: usize = 200;
/// If a handler sends nothing for this long during a call, it must answer a ping, or its connection is over. It is not pinged
/// between calls, because many servers end a connection that is pinged without any call.
const PING: Duration = Duration::from_secs(1);
const PONG: Duration = Duration::from_secs(2);

/// Why a call brought no reply for the client.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    /// The handler has as many calls under way as it may. Nothing was sent.
    #[error("as many calls are under way to it as are allowed")]
    Overloaded,
    /// There is no connection to the handler. Nothing was sent.
    #[error("no connection: {0}")]
    Unreachable(String),
    /// The call was sent, and has no answer. It may have been done, or may still be done.
    #[error("no answer: {0}")]
    Unanswered(String),
    /// The handler does not know the route. Nothing was done.
    #[error("it does not know the route ({0})")]
    UnknownRoute(String),
    /// The handler has failed, or its answer can't be passed on. A part of the request may have been done.
    #[error("{0}")]
    Failed(String),
}

impl From<AnswerError> for CallError {
    fn from(error: AnswerError) -> Self {
        Self::Failed(error.to_string())
    }
}

/// One handler of the operator.
pub(crate) struct Target {
    /// Its URL, for the log.
    name: String,
    endpoints: RwLock<Vec<Endpoint>>,
    turn: AtomicUsize,
    places: Places,
    /// The most bytes of a reply.
    limit: usize,
    /// For a URL that asks for TLS.
    tls: Option<Arc<ClientTls>>,
}

/// One address of a handler.
#[derive(Clone)]
struct Endpoint {
    address: SocketAddr,
    service: GrpcService,
    pacing: Arc<Pacing>,
}

impl Target {
    /// A handler whose addresses are not known yet. A reply may have `limit` bytes.
    pub(super) fn new(uri: &Uri, limit: usize, tls: Option<Arc<ClientTls>>) -> Arc<Self> {
        Arc::new(Self {
            name: uri.to_string(),
            endpoints: RwLock::default(),
            turn: AtomicUsize::new(0),
            places: Places::default(),
            limit,
            tls,
        })
    }

    /// Calls the handler, once. The reply is one JSON object.
    ///
    /// # Errors
    /// [`CallError`]. It is logged here.
    pub(crate) async fn call(
        &self,
        request: HandleRequest,
        deadline: Instant,
    ) -> Result<String, CallError> {
        let mut measured = HandlerCall::begin();
        let route = request.route.clone();
        let answer = self.ask(request, deadline).await;
        measured.outcome = match &answer {
            Ok(_) => "answered",
            Err(CallError::Overloaded) => "overloaded",
            Err(CallError::Unreachable(_)) => "unavailable",
            Err(CallError::Unanswered(_)) => "unanswered",
            Err(CallError::UnknownRoute(_) | CallError::Failed(_)) => "failed",
        };
        let handler = &self.name;
        match &answer {
            Ok(_) => {}
            // The outage itself is logged once, when an attempt to connect fails.
            Err(error @ CallError::Unreachable(_)) => {
                tracing::debug!(handler, route, %error, "a handler is not called");
            }
            Err(error) => tracing::warn!(handler, route, %error, "a handler gives no reply"),
        }
        answer
    }

    async fn ask(&self, request: HandleRequest, deadline: Instant) -> Result<String, CallError> {
        let bytes = request.encoded_len();
        let _place = self.places.take(bytes).ok_or(CallError::Overloaded)?;
        let is_notify = request.notify;
        let mut why = "the name has no address yet".to_owned();
        for endpoint in self.in_turn() {
            let asked = endpoint.ask(request.clone(), deadline, self.limit);
            let status = match timeout_at(deadline, asked).await {
                Ok(Ok(_)) if is_notify => return Ok(String::new()),
                Ok(Ok(answer)) => return Ok(answer::reply(answer.into_inner(), self.limit)?),
                Ok(Err(status)) => status,
                Err(_) => return Err(CallError::Unanswered("its time is over".to_owned())),
            };
            if !was_never_sent(&status) {
                return Err(failure(&status));
            }
            why = grpc::words(&status);
        }
        Err(CallError::Unreachable(why))
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
    pub(super) fn update(&self, uri: &Uri, found: &[SocketAddr]) {
        let mut endpoints = self.endpoints.write();
        endpoints.retain(|endpoint| found.contains(&endpoint.address));
        for &address in found {
            let is_new = endpoints.iter().all(|it| it.address != address);
            if is_new && endpoints.len() < ADDRESSES {
                let dialer = Dialer::new(uri, address, self.tls.as_ref());
                endpoints.push(Endpoint::new(&self.name, uri, address, dialer));
            }
        }
    }
}

/// Resolves the name of a handler again and again, as long as the handler is wanted.
pub(super) async fn keep_resolving(target: Weak<Target>, uri: Uri) {
    loop {
        let found = grpc::resolve(&uri).await;
        let Some(target) = target.upgrade() else {
            return;
        };
        match found {
            Ok(found) => target.update(&uri, &found),
            // A name that can't be resolved now keeps the addresses that it had.
            Err(error) => {
                let handler = &target.name;
                tracing::warn!(handler, %error, "the name of this handler can't be resolved");
            }
        }
        drop(target);
        sleep(RESOLVE_AGAIN).await;
    }
}

impl Endpoint {
    /// Connects when the first call comes.
    fn new(name: &str, uri: &Uri, address: SocketAddr, dialer: Dialer) -> Self {
        let pacing = Arc::new(Pacing::new(format!("{name} at {address}"), dialer));
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

    async fn ask(
        &self,
        request: HandleRequest,
        deadline: Instant,
        limit: usize,
    ) -> Result<tonic::Response<proto::route::v1::HandleResponse>, Status> {
        let mut request = tonic::Request::new(request);
        request.set_timeout(deadline.saturating_duration_since(Instant::now()));
        RouteHandlerClient::new(self.service.clone())
            .max_decoding_message_size(limit + AROUND_JSON)
            .handle(request)
            .await
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

/// What a status means that is not one of a missing connection.
fn failure(status: &Status) -> CallError {
    let words: String = grpc::words(status).chars().take(LOGGED).collect();
    if grpc::is_of_the_network(status) {
        return CallError::Unanswered(words);
    }
    match status.code() {
        Code::DeadlineExceeded => CallError::Unanswered(words),
        Code::Unimplemented => CallError::UnknownRoute(words),
        code => CallError::Failed(format!("{code:?}: {words}")),
    }
}

#[cfg(test)]
impl Target {
    /// A handler in this process. Without a socket, time can be paused.
    pub(super) fn in_process(name: &str, service: GrpcService, limit: usize) -> Arc<Self> {
        let address = SocketAddr::from(([127, 0, 0, 1], 9));
        let uri: Uri = format!("http://{name}").parse().unwrap();
        let target = Self::new(&uri, limit, None);
        let dialer = Dialer::new(&uri, address, None);
        let pacing = Arc::new(Pacing::new(name.to_owned(), dialer));
        target.endpoints.write().push(Endpoint {
            address,
            service,
            pacing,
        });
        target
    }
}
