//! The connector's port: TCP, HTTP, the upgrade to WebSocket, and the end of all of it.
//!
//! HTTP and Pomelo's packages come in at the same port: the first byte tells which it is, as it told the original.

use crate::Listeners;
use crate::connection::{Connection, QueueLimits, close_paced};
use crate::inlet::Inlet;
use crate::life::Life;
use crate::limits::{self, Bound, Limits};
use crate::metering::CONNECTIONS;
use crate::page;
use crate::session::Services;
use crate::socket::{ClientLimits, Socket};
use crate::socketio::{self, Polling};
use crate::stream::{HttpStream, Pass};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::Upgraded;
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics::gauge;
use parking_lot::Mutex;
use runtime::listen::Listener;
use runtime::{Readiness, Shutdown};
use slab::Slab;
use socket2::SockRef;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
#[cfg(test)]
use wire::websocket::Opcode;
use wire::websocket::{accept_key, deflate};
use wire::{Dictionary, Disconnect, WireFormat};

/// Of the ten seconds that a shutdown may take: sockets first, then the leaves of their sessions.
const CLOSE_SOCKETS: Duration = Duration::from_secs(4);
const LAND_LEAVES: Duration = Duration::from_secs(5);
/// After an error of accept, which is mostly a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long a client for which there is no place may take to say anything.
const REFUSE: Duration = Duration::from_secs(1);
/// Seconds after which a client that was refused may try again.
pub(crate) const RETRY_AFTER: u32 = 5;
/// Bytes of answers that the kernel keeps for a client that does not read them, half of what it takes for that.
const HTTP_BUFFER: usize = 64 << 10;
/// The same once the socket is a WebSocket.
const SOCKET_BUFFER: usize = 1 << 20;

/// What is told to whoever comes without a WebSocket.
const WHAT_THIS_IS: &str =
    "This is a WebSocket port: / speaks Pomelo, /socket.io/ Socket.IO, /ws JSON.\n";
/// What a client is told when there is no place for it.
const FULL: &str =
    "This connector has as many connections as it may have. Try again in some seconds.\n";
/// What is told to a client, or rather to the proxy before it, that can't switch protocols.
const OLD_HTTP: &str = "A WebSocket needs HTTP/1.1, but this request came as HTTP/1.0. \
    Is there a proxy? nginx needs: proxy_http_version 1.1;\n";

/// The request is not answered: its connection ends, as one does whose server is gone.
#[derive(Debug, thiserror::Error)]
#[error("the connection is over")]
pub(crate) struct Gone;

/// The other end of the socket that a request came by.
#[derive(Debug, Clone, Copy)]
struct Peer(SocketAddr);

/// The other end of the socket that a request came by, if that is known.
pub(crate) fn peer(request: &Request<Incoming>) -> Option<SocketAddr> {
    let peer = request.extensions().get::<Option<Peer>>();
    peer.copied().flatten().map(|Peer(address)| address)
}

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
    pub(crate) limits: Arc<Limits>,
    pub(crate) connections: Mutex<Slab<Arc<Connection>>>,
    pub(crate) sockets: TaskTracker,
    pub(crate) polling: Polling,
    /// What `/healthz` tells.
    pub(crate) readiness: Readiness,
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
        listener: Listener,
        serve: fn(Arc<Self>, TcpStream, Arc<Pass>),
    ) -> Infallible {
        loop {
            match listener.accept().await {
                Ok(stream) => {
                    match self.limits.enter() {
                        Some(place) => {
                            let pass = Pass::new(place, self.limits.open());
                            serve(Arc::clone(&self), stream, pass);
                        }
                        None => {
                            let pass = Pass::at_the_door(self.limits.at_the_door());
                            Arc::clone(&self).any(stream, pass);
                        }
                    }
                    let early = self.limits.handshake();
                    if !early.is_zero() {
                        Bound::Handshakes.reached();
                        sleep(early).await;
                    }
                }
                Err(error) => {
                    limits::accept_failed();
                    tracing::warn!(%error, "can't accept");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Keeps the connector's leases. What was of an incarnation that was declared dead is closed.
    pub(crate) async fn hold_the_lease(&self) -> Infallible {
        let Services {
            lease,
            chat,
            registry,
            ..
        } = &*self.services;
        lease.keep(chat, registry).await
    }

    async fn close_all(&self, reason: Disconnect) {
        let connections: Vec<_> = self
            .connections
            .lock()
            .iter()
            .map(|(_, connection)| Arc::clone(connection))
            .collect();
        tracing::info!(connections = connections.len(), "closing");
        close_paced(&connections, reason).await;
    }

    async fn drain(&self) {
        let deadline = Instant::now() + CLOSE_SOCKETS;
        // First, so that whoever connects from now on is closed at once, though it is not among those below.
        self.sockets.close();
        self.close_all(Disconnect::Shutdown).await;
        if timeout_at(deadline, self.sockets.wait()).await.is_err() {
            tracing::warn!(
                connections = self.sockets.len(),
                "sockets did not close in time"
            );
            let left: Vec<_> = (self.connections.lock().iter())
                .map(|(_, connection)| Arc::clone(connection))
                .collect();
            left.iter().for_each(|connection| connection.abort());
        }
        if timeout(LAND_LEAVES, self.services.departures.landed())
            .await
            .is_err()
        {
            tracing::error!("some leaves did not land");
        }
    }

    /// A package begins with its type, a request of HTTP with a letter. A socket for which there is no place is served only
    /// if it speaks HTTP: it may bring a request of a client that polls, and another client is told why it is refused.
    fn any(self: Arc<Self>, stream: TcpStream, pass: Arc<Pass>) {
        let half_open = Arc::clone(&pass);
        let has_room = pass.has_room();
        let patience = if has_room {
            self.clients.handshake
        } else {
            REFUSE
        };
        let task = tokio::spawn(async move {
            let mut first = [0];
            match timeout(patience, stream.peek(&mut first)).await {
                Ok(Ok(1)) if first[0] >= b' ' => self.http(stream, pass).await,
                _ if !has_room => Bound::Connections.reached(),
                Ok(Ok(1)) => self.stream(stream, pass),
                _ => {}
            }
        });
        let task = task.abort_handle();
        half_open.ends_by(move || task.abort());
    }

    fn stream(self: Arc<Self>, stream: TcpStream, pass: Arc<Pass>) {
        let format = self.pomelo().on_a_stream();
        self.socket(stream, pass, Vec::new(), format);
    }

    fn pomelo(&self) -> WireFormat {
        WireFormat::POMELO.with_dictionary(self.dictionary)
    }

    async fn http(self: Arc<Self>, stream: TcpStream, pass: Arc<Pass>) {
        let handshake = self.clients.handshake;
        let peer = stream.peer_addr().ok().map(Peer);
        // Answers that nobody reads are kept in user space, where they are bounded.
        drop(SockRef::from(&stream).set_send_buffer_size(HTTP_BUFFER));
        let asking = Arc::clone(&pass);
        let service = service_fn(move |mut request: Request<Incoming>| {
            let server = Arc::clone(&self);
            socketio::sit(&server, &request, &asking);
            let has_room = asking.has_room();
            if has_room && !is_upgrade(request.headers()) {
                asking.opened();
            }
            request.extensions_mut().insert(peer);
            async move {
                match has_room {
                    true => server.answer(request).await,
                    false => Ok(full()),
                }
            }
        });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(handshake)
            .max_buf_size(16 << 10)
            .serve_connection(TokioIo::new(HttpStream::new(stream, pass)), service)
            .with_upgrades()
            .await;
        if let Err(error) = served {
            tracing::debug!(%error, "HTTP ended");
        }
    }

    /// An upgrade means Pomelo, whatever its path, as in the original: clients may set a path, and proxies keep
    /// prefixes. Only `/ws` and Socket.IO's path mean something else.
    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, Gone> {
        let asks_to_upgrade = is_upgrade(request.headers());
        let path = request.uri().path();
        if !asks_to_upgrade && let Some(answer) = self.look(request.method(), path) {
            return Ok(answer);
        }
        let format = match path {
            "/ws" => WireFormat::JSON,
            #[cfg(test)]
            "/echo/text" => WireFormat::echo(Opcode::Text),
            #[cfg(test)]
            "/echo/binary" => WireFormat::echo(Opcode::Binary),
            path if socketio::PATHS.contains(&path) => {
                return socketio::answer(self, request).await;
            }
            "/" => self.pomelo(),
            _ if asks_to_upgrade => self.pomelo(),
            _ => return Ok(plain(StatusCode::NOT_FOUND, "nothing here\n")),
        };
        let (agreed, format) = self.agree(request.headers(), format);
        Ok(self.upgrade(request, agreed, move |server, upgraded| {
            if let Some((stream, pass, first)) = stream_of(upgraded) {
                server.socket(stream, pass, first, format);
            }
        }))
    }

    /// What people and health checks look at; `None` for everything else.
    fn look(&self, method: &Method, path: &str) -> Option<Response<Full<Bytes>>> {
        let reads = matches!(*method, Method::GET | Method::HEAD);
        if reads && path == "/healthz" {
            return Some(self.health());
        }
        if reads
            && self.page
            && let Some(file) = page::file(path)
        {
            return Some(file);
        }
        match (method, path) {
            (&Method::OPTIONS, "/" | "*" | "/healthz") => {
                let mut response = plain(StatusCode::NO_CONTENT, "");
                let methods = HeaderValue::from_static("GET, HEAD, OPTIONS");
                response.headers_mut().insert(header::ALLOW, methods);
                Some(response)
            }
            (_, "/") if reads => Some(plain(StatusCode::OK, WHAT_THIS_IS)),
            _ => None,
        }
    }

    /// The same as the admin port's `/readyz`, for balancers that reach this port alone.
    fn health(&self) -> Response<Full<Bytes>> {
        let (is_ready, text) = self.readiness.describe(self.sockets.is_closed());
        let mut response = Response::new(Full::from(text));
        if !is_ready {
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        }
        response
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
        if is_upgrade(request.headers()) && request.version() < Version::HTTP_11 {
            tracing::warn!("{}", OLD_HTTP.trim_ascii_end());
            return plain(StatusCode::UPGRADE_REQUIRED, OLD_HTTP);
        }
        let key = match websocket_key(&request) {
            Ok(key) => accept_key(key.as_bytes()),
            Err(response) => return *response,
        };
        let protocol = subprotocol(request.headers());
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
        if let Some(protocol) = protocol {
            headers.insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
        }
        response
    }

    /// Serves a socket that has sent this already.
    fn socket(
        self: Arc<Self>,
        stream: TcpStream,
        pass: Arc<Pass>,
        first: Vec<u8>,
        format: WireFormat,
    ) {
        let peer = stream.peer_addr().ok();
        let (reader, writer) = stream.into_split();
        let connection = Connection::new(writer, format, Arc::clone(&self.queues));
        let inlet = Inlet::of_socket(reader, format, self.clients.message);
        self.connected(connection, peer, inlet, first, Some(pass), || {});
    }

    /// Serves a connection until it is over, and then calls `end`, whatever becomes of the task. What it holds of the
    /// bounds is given back then; a socket is half open until the protocol's own handshake is over.
    pub(crate) fn connected(
        self: Arc<Self>,
        connection: Arc<Connection>,
        peer: Option<SocketAddr>,
        inlet: Inlet,
        first: Vec<u8>,
        pass: Option<Arc<Pass>>,
        end: impl FnOnce() + Send + 'static,
    ) {
        let key = self.connections.lock().insert(Arc::clone(&connection));
        gauge!(CONNECTIONS).increment(1);
        // Registered before the look, so that a shutdown finds it in one of the two ways.
        if self.sockets.is_closed() {
            connection.close(Disconnect::Shutdown);
        }
        if let Some(pass) = &pass {
            let connection = Arc::downgrade(&connection);
            pass.ends_by(move || {
                if let Some(connection) = connection.upgrade() {
                    connection.close(Disconnect::HandshakeTimeout);
                    // Do not wait for the client to end its side. A client that holds many sockets open never does, and
                    // each of them would keep its place.
                    connection.abort();
                }
            });
        }
        let life = Life::begin(Arc::clone(&connection), peer);
        let services = Arc::clone(&self.services);
        let socket = Socket::new(
            Arc::clone(&connection),
            inlet,
            &self.clients,
            services,
            pass.clone(),
        );
        let sockets = self.sockets.clone();
        let served = Served {
            server: self,
            key,
            connection,
            end: Some(end),
            _life: life,
            _pass: pass,
        };
        sockets.spawn(async move {
            let _served = served;
            socket.serve(first).await;
        });
    }
}

/// A connection that is served. When this is dropped it is over, in every list and count.
struct Served<E: FnOnce()> {
    server: Arc<Server>,
    key: usize,
    connection: Arc<Connection>,
    end: Option<E>,
    _life: Life,
    _pass: Option<Arc<Pass>>,
}

impl<E: FnOnce()> Drop for Served<E> {
    fn drop(&mut self) {
        // After a panic nobody has ended the socket yet.
        self.connection.abort();
        if let Some(end) = self.end.take() {
            end();
        }
        let removed = self.server.connections.lock().try_remove(self.key);
        drop(removed);
        gauge!(CONNECTIONS).decrement(1);
    }
}

/// There is no place for one more connection. This one ends, so that asking again costs a new one.
fn full() -> Response<Full<Bytes>> {
    Bound::Connections.reached();
    let mut response = plain(StatusCode::SERVICE_UNAVAILABLE, FULL);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    headers.insert(header::RETRY_AFTER, RETRY_AFTER.into());
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

/// The socket below, what it holds of the bounds, and what was read of it already.
pub(crate) fn stream_of(upgraded: Upgraded) -> Option<(TcpStream, Arc<Pass>, Vec<u8>)> {
    let Ok(parts) = upgraded.downcast::<TokioIo<HttpStream>>() else {
        tracing::error!("the upgraded connection is none of ours");
        return None;
    };
    let (stream, pass) = parts.io.into_inner().into_parts();
    // As much as the system allows: from here on the connection's own queue bounds what waits.
    drop(SockRef::from(&stream).set_send_buffer_size(SOCKET_BUFFER));
    Some((stream, pass, parts.read_buf.to_vec()))
}

/// Checks the opening handshake (RFC 6455, section 4.2.1).
fn websocket_key(request: &Request<Incoming>) -> Result<&HeaderValue, Box<Response<Full<Bytes>>>> {
    let headers = request.headers();
    if request.method() != Method::GET || !is_upgrade(headers) {
        let mut response = plain(StatusCode::UPGRADE_REQUIRED, WHAT_THIS_IS);
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

/// The first of the subprotocols that a client offers, as the original answered: clients fail the connection if they offer
/// some and are answered with none. What is no token (RFC 6455, section 4.1) is passed over.
fn subprotocol(headers: &HeaderMap) -> Option<HeaderValue> {
    let offers = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter();
    let offers = offers.filter_map(|value| value.to_str().ok());
    let mut offers = offers.flat_map(|value| value.split(',')).map(str::trim);
    let first = offers.find(|offer| !offer.is_empty() && offer.bytes().all(is_token))?;
    HeaderValue::from_str(first).ok()
}

/// A byte of a token (RFC 9110, section 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::CLOSE_PAUSE;
    use crate::limits::Bounds;
    use crate::metering::CLOSED;
    use crate::session::tests::{is_followed, scene};
    use crate::testing::counters::Counters;
    use crate::testing::{LIMITS, soon};
    use std::sync::atomic::{AtomicBool, Ordering};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use wire::WireFormat;

    fn offered(offers: &[&'static str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for offer in offers {
            let offer = HeaderValue::from_static(offer);
            headers.append(header::SEC_WEBSOCKET_PROTOCOL, offer);
        }
        subprotocol(&headers).map(|it| it.to_str().unwrap().to_owned())
    }

    #[test]
    fn the_first_subprotocol_that_is_a_token_is_agreed_on() {
        for (offers, expected) in [
            (&["pomelo, json"][..], Some("pomelo")),
            (&["json"], Some("json")),
            (&[" , v1.pomelo,json"], Some("v1.pomelo")),
            (&["no token, a/b, {}, json"], Some("json")),
            (&["", "second"], Some("second")),
            (&["no token"], None),
            (&[""], None),
            (&[], None),
        ] {
            assert_eq!(offered(offers).as_deref(), expected, "{offers:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn however_many_connections_there_are_all_are_closed_in_two_seconds() {
        let queues = QueueLimits::new(1 << 20, 1 << 20);
        for (count, batches) in [(0_usize, 0), (1, 1), (10_000, 10), (100_000, 40)] {
            let record = Arc::new(Mutex::new(Vec::new()));
            let connections: Vec<_> = std::iter::repeat_with(|| {
                Connection::new(Arc::clone(&record), WireFormat::POMELO, Arc::clone(&queues))
            })
            .take(count)
            .collect();
            let begun = Instant::now();
            close_paced(&connections, Disconnect::Shutdown).await;
            assert_eq!(begun.elapsed(), batches * CLOSE_PAUSE, "{count}");
            assert!(begun.elapsed() <= CLOSE_SOCKETS / 2);
            let is_closing = |it: &Arc<Connection>| it.closing() == Some(Disconnect::Shutdown);
            assert!(connections.iter().all(is_closing));
        }
    }

    /// A server that has room for one connection.
    fn server(services: &Arc<Services>) -> Arc<Server> {
        Arc::new(Server {
            services: Arc::clone(services),
            clients: LIMITS,
            dictionary: None,
            deflate: false,
            page: false,
            queues: QueueLimits::new(1 << 20, 1 << 20),
            limits: Limits::new(Bounds {
                connections: 1,
                half_open: 1,
                handshakes: u32::MAX,
                polling: 0,
            }),
            connections: Mutex::default(),
            sockets: TaskTracker::new(),
            polling: Polling::default(),
            readiness: Readiness::new(),
        })
    }

    /// A text frame, masked as a client's must be, with a mask that changes nothing.
    fn masked(text: &str) -> Vec<u8> {
        let length = u8::try_from(text.len()).unwrap();
        assert!(length < 126);
        let mut frame = vec![0x81, 0x80 | length, 0, 0, 0, 0];
        frame.extend(text.bytes());
        frame
    }

    /// A bug that one client meets is the end of that client's connection alone. What the connection held is given back, or
    /// each such bug would take one place of the connector's for ever.
    #[tokio::test(start_paused = true)]
    async fn a_connection_whose_task_panics_is_closed_and_gone_from_every_list_and_count() {
        let counters = Counters::default();
        let _recording = metrics::set_default_local_recorder(&counters);
        let mut scene = scene().await;
        let server = server(&scene.services);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (mut client, (stream, peer)) = (client.unwrap(), accepted.unwrap());

        let pass = Pass::new(server.limits.enter().unwrap(), server.limits.open());
        let (reader, writer) = stream.into_split();
        // The test holds on to it, as a channel with many members may.
        let connection = Connection::new(writer, WireFormat::JSON, Arc::clone(&server.queues));
        let inlet = Inlet::of_socket(reader, WireFormat::JSON, server.clients.message);
        let is_over = Arc::new(AtomicBool::new(false));
        let end = {
            let is_over = Arc::clone(&is_over);
            move || is_over.store(true, Ordering::Relaxed)
        };
        let held = Arc::clone(&connection);
        Arc::clone(&server).connected(held, Some(peer), inlet, Vec::new(), Some(pass), end);
        let login =
            r#"{"route":"connector.handler.login","body":{"userId":"u","lessonId":"room"}}"#;
        client.write_all(&masked(login)).await.unwrap();
        soon(async {
            while scene.script.feed.follows().is_empty() {
                tokio::task::yield_now().await;
            }
        })
        .await;
        is_followed(&mut scene.script).await;
        let join = scene.instance.join().await;
        assert_eq!(server.connections.lock().len(), 1);
        assert!(server.limits.enter().is_none(), "its place is taken");
        assert_eq!(counters.gauge(CONNECTIONS).to_bits(), 1_f64.to_bits());
        assert_eq!(scene.logins("u").await, 1);

        join.panic();
        server.sockets.close();
        soon(server.sockets.wait()).await;
        assert!(is_over.load(Ordering::Relaxed));
        assert!(server.connections.lock().is_empty());
        assert!(server.limits.enter().is_some(), "its place is free");
        assert_eq!(counters.gauge(CONNECTIONS).to_bits(), 0_f64.to_bits());
        assert_eq!(counters.get(CLOSED), 1);
        let mut rest = Vec::new();
        // However the socket ends, it ends.
        let _ = soon(client.read_to_end(&mut rest)).await;
        // The join may have been done.
        scene.instance.leave().await.answer(Ok(Default::default()));
        soon(scene.services.departures.landed()).await;
        assert_eq!(scene.logins("u").await, 0);
        drop(connection);
    }
}
