//! The connector's port: TCP, HTTP, the upgrade to WebSocket, and the end of all of it.
//!
//! HTTP and Pomelo's packages come in at the same port: the first byte tells which it is, as it told the original.

use crate::Listeners;
use crate::codec::{Dictionary, WireFormat};
use crate::connection::{Connection, QueueLimits};
use crate::disconnect::Disconnect;
use crate::inlet::Inlet;
use crate::page;
use crate::session::Services;
use crate::socket::{ClientLimits, Socket};
use crate::socketio::{self, Polling};
#[cfg(test)]
use crate::websocket::Opcode;
use crate::websocket::{accept_key, deflate};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::Upgraded;
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics::gauge;
use parking_lot::Mutex;
use runtime::Shutdown;
use slab::Slab;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

/// Of the ten seconds that a shutdown may take: sockets first, then the leaves of their sessions.
const CLOSE_SOCKETS: Duration = Duration::from_secs(4);
const LAND_LEAVES: Duration = Duration::from_secs(5);
/// Sockets closed at once, and the pause between such batches: clients that reconnect all at the
/// same moment would storm the connectors that stay.
const CLOSE_BATCH: usize = 1_000;
const CLOSE_PAUSE: Duration = Duration::from_millis(50);
/// After an error of accept, which is mostly a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Everything that a socket needs from its connector.
pub(crate) struct Server {
    pub(crate) services: Arc<Services>,
    pub(crate) clients: ClientLimits,
    pub(crate) dictionary: Option<&'static Dictionary>,
    /// Clients that offer it are sent compressed frames.
    pub(crate) deflate: bool,
    /// The page is served.
    pub(crate) page: bool,
    pub(crate) queues: Arc<QueueLimits>,
    pub(crate) connections: Mutex<Slab<Arc<Connection>>>,
    pub(crate) sockets: TaskTracker,
    pub(crate) polling: Polling,
}

impl Server {
    /// Accepts until the shutdown is requested, then closes every socket with a reason and lands every leave.
    pub(crate) async fn run(self: Arc<Self>, listeners: Listeners, shutdown: Shutdown) {
        let server = Arc::clone(&self);
        let keeping = AbortOnDropHandle::new(tokio::spawn(async move {
            match server.hold_the_lease().await {}
        }));
        let server = Arc::clone(&self);
        let agreeing = AbortOnDropHandle::new(tokio::spawn(async move {
            server.services.registry.keep_agreeing().await
        }));
        let Listeners { all, tcp } = listeners;
        let packages = tcp.map(|tcp| {
            let accepting = Arc::clone(&self).accept(tcp, Self::stream);
            AbortOnDropHandle::new(tokio::spawn(accepting))
        });
        tokio::select! {
            biased;
            () = shutdown.requested() => {}
            never = Arc::clone(&self).accept(all, Self::any) => match never {},
        }
        drop(packages);
        self.drain().await;
        drop((keeping, agreeing));
        self.services
            .lease
            .end(self.services.departures.grace())
            .await;
    }

    async fn accept(
        self: Arc<Self>,
        listener: TcpListener,
        serve: fn(Arc<Self>, TcpStream),
    ) -> Infallible {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    // Answers are written whole: waiting for more would only delay them (F15).
                    if stream.set_nodelay(true).is_ok() {
                        serve(Arc::clone(&self), stream);
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "can't accept");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// By one incarnation after another: what was of a dead one is closed.
    pub(crate) async fn hold_the_lease(&self) -> Infallible {
        let Services {
            lease,
            chat,
            registry,
            ..
        } = &*self.services;
        loop {
            let dead = lease.keep(chat, registry).await;
            self.close_all(Disconnect::Dead).await;
            lease.give_up(dead).await;
        }
    }

    async fn close_all(&self, reason: Disconnect) {
        let connections: Vec<_> = self
            .connections
            .lock()
            .iter()
            .map(|(_, connection)| Arc::clone(connection))
            .collect();
        tracing::info!(connections = connections.len(), "closing");
        for batch in connections.chunks(CLOSE_BATCH) {
            for connection in batch {
                connection.close(reason);
            }
            sleep(CLOSE_PAUSE).await;
        }
    }

    async fn drain(&self) {
        self.close_all(Disconnect::Shutdown).await;
        self.sockets.close();
        if timeout(CLOSE_SOCKETS, self.sockets.wait()).await.is_err() {
            tracing::warn!(
                connections = self.sockets.len(),
                "sockets did not close in time"
            );
        }
        if timeout(LAND_LEAVES, self.services.departures.landed())
            .await
            .is_err()
        {
            tracing::error!("some leaves did not land");
        }
    }

    /// A package begins with its type, a request of HTTP with a letter.
    fn any(self: Arc<Self>, stream: TcpStream) {
        tokio::spawn(async move {
            let mut first = [0];
            match timeout(self.clients.handshake, stream.peek(&mut first)).await {
                Ok(Ok(1)) if first[0] < b' ' => self.stream(stream),
                Ok(Ok(1)) => self.http(stream).await,
                _ => {}
            }
        });
    }

    fn stream(self: Arc<Self>, stream: TcpStream) {
        let format = self.pomelo().on_a_stream();
        self.socket(stream, Vec::new(), format);
    }

    fn pomelo(&self) -> WireFormat {
        WireFormat::POMELO.with_dictionary(self.dictionary)
    }

    async fn http(self: Arc<Self>, stream: TcpStream) {
        let handshake = self.clients.handshake;
        let service = service_fn(move |request| {
            let server = Arc::clone(&self);
            async move { Ok::<_, Infallible>(server.answer(request).await) }
        });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(handshake)
            .max_buf_size(16 << 10)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades()
            .await;
        if let Err(error) = served {
            tracing::debug!(%error, "not HTTP");
        }
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let looks = matches!(*request.method(), Method::GET | Method::HEAD);
        if self.page
            && looks
            && !is_upgrade(request.headers())
            && let Some(file) = page::file(request.uri().path())
        {
            return file;
        }
        let format = match request.uri().path() {
            "/" => self.pomelo(),
            "/ws" => WireFormat::JSON,
            #[cfg(test)]
            "/echo/text" => WireFormat::echo(Opcode::Text),
            #[cfg(test)]
            "/echo/binary" => WireFormat::echo(Opcode::Binary),
            "/socket.io/" | "/socket.io" => return socketio::answer(self, request).await,
            _ => return plain(StatusCode::NOT_FOUND, "nothing here\n"),
        };
        let (agreed, format) = self.agree(request.headers(), format);
        self.upgrade(request, agreed, move |server, upgraded| {
            if let Some((stream, first)) = stream_of(upgraded) {
                server.socket(stream, first, format);
            }
        })
    }

    /// The extension that is agreed on with a client, if one is, and the form that its frames have then.
    pub(crate) fn agree(
        &self,
        headers: &HeaderMap,
        format: WireFormat,
    ) -> (Option<HeaderValue>, WireFormat) {
        match deflate::negotiate(headers).filter(|_| self.deflate) {
            Some(agreed) => (Some(agreed), format.deflated()),
            None => (None, format),
        }
    }

    /// Answers with the opening handshake of WebSocket; what follows that is for `begin`.
    pub(crate) fn upgrade(
        self: Arc<Self>,
        mut request: Request<Incoming>,
        agreed: Option<HeaderValue>,
        begin: impl FnOnce(Arc<Self>, Upgraded) + Send + 'static,
    ) -> Response<Full<Bytes>> {
        let key = match websocket_key(&request) {
            Ok(key) => accept_key(key.as_bytes()),
            Err(response) => return *response,
        };
        let Ok(key) = HeaderValue::from_str(&key) else {
            return plain(StatusCode::BAD_REQUEST, "bad key\n");
        };
        let upgrade = hyper::upgrade::on(&mut request);
        // A task of its own, which does not carry HTTP's state along for the life of the socket.
        tokio::spawn(async move {
            if let Ok(upgraded) = upgrade.await {
                begin(self, upgraded);
            }
        });
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, key);
        if let Some(agreed) = agreed {
            headers.insert(header::SEC_WEBSOCKET_EXTENSIONS, agreed);
        }
        response
    }

    /// Serves a socket that has sent this already.
    fn socket(self: Arc<Self>, stream: TcpStream, first: Vec<u8>, format: WireFormat) {
        let (reader, writer) = stream.into_split();
        let connection = Connection::new(writer, format, Arc::clone(&self.queues));
        let inlet = Inlet::of_socket(reader, format, self.clients.message);
        self.connected(connection, inlet, first, || {});
    }

    /// Serves a connection until it is over, and then calls `end`.
    pub(crate) fn connected(
        self: Arc<Self>,
        connection: Arc<Connection>,
        inlet: Inlet,
        first: Vec<u8>,
        end: impl FnOnce() + Send + 'static,
    ) {
        let key = self.connections.lock().insert(Arc::clone(&connection));
        // Registered before the look, so that a shutdown finds it in one of the two ways.
        if self.sockets.is_closed() {
            connection.close(Disconnect::Shutdown);
        }
        let services = Arc::clone(&self.services);
        let socket = Socket::new(connection, inlet, &self.clients, services);
        let sockets = self.sockets.clone();
        sockets.spawn(async move {
            gauge!("connector_connections").increment(1);
            socket.serve(first).await;
            end();
            self.connections.lock().remove(key);
            gauge!("connector_connections").decrement(1);
        });
    }
}

/// The socket below, and what was read of it already.
pub(crate) fn stream_of(upgraded: Upgraded) -> Option<(TcpStream, Vec<u8>)> {
    let Ok(parts) = upgraded.downcast::<TokioIo<TcpStream>>() else {
        tracing::error!("the upgraded connection is no TCP stream");
        return None;
    };
    Some((parts.io.into_inner(), parts.read_buf.to_vec()))
}

/// Checks the opening handshake (RFC 6455, section 4.2.1).
fn websocket_key(request: &Request<Incoming>) -> Result<&HeaderValue, Box<Response<Full<Bytes>>>> {
    let headers = request.headers();
    if request.method() != Method::GET || !is_upgrade(headers) {
        let text = "This is a WebSocket port: / speaks Pomelo, /socket.io/ Socket.IO, /ws JSON.\n";
        let mut response = plain(StatusCode::UPGRADE_REQUIRED, text);
        response
            .headers_mut()
            .insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        return Err(Box::new(response));
    }
    if headers
        .get(header::SEC_WEBSOCKET_VERSION)
        .is_none_or(|version| version != "13")
    {
        let mut response = plain(StatusCode::UPGRADE_REQUIRED, "WebSocket version 13 only\n");
        let version = HeaderValue::from_static("13");
        response
            .headers_mut()
            .insert(header::SEC_WEBSOCKET_VERSION, version);
        return Err(Box::new(response));
    }
    headers.get(header::SEC_WEBSOCKET_KEY).ok_or_else(|| {
        Box::new(plain(
            StatusCode::BAD_REQUEST,
            "Sec-WebSocket-Key is missing\n",
        ))
    })
}

fn is_upgrade(headers: &HeaderMap) -> bool {
    has_token(headers, header::UPGRADE, "websocket")
        && has_token(headers, header::CONNECTION, "upgrade")
}

fn has_token(headers: &HeaderMap, name: header::HeaderName, token: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|value| value.trim().eq_ignore_ascii_case(token))
}

pub(crate) fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response
}
