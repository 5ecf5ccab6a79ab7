//! Socket.IO's way in (`docs/protocols/socketio.md`): Engine.IO over WebSocket, over polls, and from the one to the other.
//!
//! A client that polls is a connection like any other, whose outlet is a `Mailbox` and whose inlet takes what is posted.
//! When it has opened a WebSocket beside its polls, that takes the place of both, with nothing lost or overtaken.

mod mailbox;
mod probe;

pub(crate) use mailbox::Mailbox;

use crate::connection::Connection;
use crate::inlet::{Inlet, Posted};
use crate::limits::{Bound, Counted, QueueLimits, Seats};
use crate::random::unguessable;
use crate::server::{Gone, RETRY_AFTER, Server, peer, plain, stream_of};
use crate::socket::{ClientLimits, Heartbeats};
use crate::stream::Pass;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use mailbox::Fetched;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::mpsc;
use tokio::time::timeout;
use wire::{Disconnect, EngineIo, WireFormat, engine_io};

/// Where clients find it, with and without the slash.
pub(crate) const PATHS: [&str; 2] = ["/socket.io/", "/socket.io"];

/// Bytes that a client may post at once, if two messages of the limit are not more: characters may come written twice.
/// Messages in it are bound each by the message limit.
const POST: usize = 512 << 10;
/// Of a post that is too long, so many times the limit is read before its connection ends.
const READ_ON: usize = 4;
/// For clients that are refused because there are too many. Engine.IO's own codes end with 5.
const BUSY: u32 = 6;

/// Clients that poll, by the ids that they were given.
#[derive(Default)]
pub(crate) struct Polling {
    clients: Mutex<HashMap<String, Arc<Polled>>>,
}

impl Polling {
    fn client(&self, id: &str) -> Option<Arc<Polled>> {
        self.clients.lock().get(id).cloned()
    }
}

/// A client that polls.
struct Polled {
    version: EngineIo,
    connection: Arc<Connection>,
    mailbox: Arc<Mailbox>,
    posted: mpsc::Sender<Posted>,
    /// Held while a post is taken: there is one at a time.
    posting: tokio::sync::Mutex<()>,
    /// For its polls and posts, until it has a WebSocket.
    seats: Mutex<Option<Seats>>,
    /// It has polled.
    is_here: AtomicBool,
    queues: Arc<QueueLimits>,
}

/// What a request asks for.
struct Asked<'a> {
    version: EngineIo,
    is_websocket: bool,
    id: Option<&'a str>,
}

/// Why a request is not served: Engine.IO's codes and texts.
#[derive(Debug, Clone, Copy)]
enum Refusal {
    /// Not answered at all.
    Gone,
    Transport,
    UnknownId,
    Method,
    BadRequest,
    TooBig,
    Version,
    /// This bound was reached.
    Busy(Bound),
}

impl Refusal {
    fn response(self) -> Result<Response<Full<Bytes>>, Gone> {
        let (code, message) = match self {
            Self::Gone => return Err(Gone),
            Self::Busy(bound) => return Ok(busy(bound)),
            Self::TooBig => {
                return Ok(plain(
                    StatusCode::PAYLOAD_TOO_LARGE,
                    "more than the message limit\n",
                ));
            }
            Self::Transport => (0, "Transport unknown"),
            Self::UnknownId => (1, "Session ID unknown"),
            Self::Method => (2, "Bad handshake method"),
            Self::BadRequest => (3, "Bad request"),
            Self::Version => (5, "Unsupported protocol version"),
        };
        let body = format!(r#"{{"code":{code},"message":"{message}"}}"#);
        let mut response = text(body, "application/json");
        *response.status_mut() = StatusCode::BAD_REQUEST;
        Ok(response)
    }
}

/// A client is refused because a bound was reached. Its connection ends, so that asking again costs a new one.
fn busy(bound: Bound) -> Response<Full<Bytes>> {
    bound.reached();
    let (status, message) = match bound {
        Bound::Handshakes => (
            StatusCode::TOO_MANY_REQUESTS,
            "Too many handshakes a second",
        ),
        Bound::Memory => (
            StatusCode::SERVICE_UNAVAILABLE,
            "This connector holds as much for its clients as it may",
        ),
        Bound::Polling => (
            StatusCode::SERVICE_UNAVAILABLE,
            "Too many clients poll here and have not logged in",
        ),
        _ => (
            StatusCode::SERVICE_UNAVAILABLE,
            "This connector has as many connections as it may have",
        ),
    };
    let mut response = text(
        format!(r#"{{"code":{BUSY},"message":"{message}"}}"#),
        "application/json",
    );
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::RETRY_AFTER, RETRY_AFTER.into());
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

impl<'a> Asked<'a> {
    fn parse(query: &'a str) -> Result<Self, Refusal> {
        let value = |name: &str| {
            let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
            pairs.find_map(|(key, value)| (key == name).then_some(value))
        };
        Ok(Self {
            is_websocket: match value("transport") {
                Some("websocket") => true,
                Some("polling") => false,
                _ => return Err(Refusal::Transport),
            },
            version: match value("EIO") {
                Some("3") => EngineIo::V3,
                Some("4") => EngineIo::V4,
                _ => return Err(Refusal::Version),
            },
            id: value("sid"),
        })
    }
}

/// A poll or a post takes one of its client's seats for the socket that brings it.
pub(crate) fn sit(server: &Server, request: &Request<Incoming>, pass: &Pass) {
    if !PATHS.contains(&request.uri().path()) {
        return;
    }
    let asked = Asked::parse(request.uri().query().unwrap_or_default());
    if let Ok(asked) = asked
        && !asked.is_websocket
        && let Some(client) = asked.id.and_then(|id| server.polling.client(id))
        && let Some(seats) = &*client.seats.lock()
    {
        pass.sit(seats);
    }
}

/// Answers a request to one of [`PATHS`].
pub(crate) async fn answer(
    server: Arc<Server>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Gone> {
    let origin = request.headers().get(header::ORIGIN).cloned();
    let served = served(server, request).await;
    let mut response = served.or_else(Refusal::response)?;
    allow(origin, response.headers_mut());
    Ok(response)
}

/// Pages of other origins may talk to us, as they may over WebSocket, which asks nobody.
fn allow(origin: Option<HeaderValue>, headers: &mut HeaderMap) {
    let with_credentials = origin.is_some();
    let origin = origin.unwrap_or(HeaderValue::from_static("*"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    if with_credentials {
        let yes = HeaderValue::from_static("true");
        headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, yes);
    }
}

async fn served(
    server: Arc<Server>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Refusal> {
    if request.method() == Method::OPTIONS {
        return Ok(preflight());
    }
    let query = request.uri().query().unwrap_or_default().to_owned();
    let asked = Asked::parse(&query)?;
    let client = match asked.id {
        None => None,
        Some(id) => {
            let client = server.polling.client(id).ok_or(Refusal::UnknownId)?;
            if client.version != asked.version {
                return Err(Refusal::BadRequest);
            }
            Some(client)
        }
    };
    match (client, asked.is_websocket, request.method()) {
        (None, true, _) => Ok(open_websocket(server, asked.version, request)),
        (Some(client), true, _) => {
            let (limits, tasks) = (server.clients.clone(), server.sockets.clone());
            // What waits for polls is plain, and goes over as it is.
            Ok(server.upgrade(request, None, move |_, upgraded| {
                tasks.spawn(probe::probe(client, upgraded, limits));
            }))
        }
        (None, false, &Method::GET) => open_polling(&server, asked.version, peer(&request)),
        (None, false, _) => Err(Refusal::Method),
        (Some(client), false, &Method::GET) => client.poll().await,
        (Some(client), false, &Method::POST) => client.post(request, &server.clients).await,
        (Some(_), false, _) => Err(Refusal::BadRequest),
    }
}

fn preflight() -> Response<Full<Bytes>> {
    let mut response = plain(StatusCode::NO_CONTENT, "");
    let headers = response.headers_mut();
    for (name, value) in [
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST"),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, "Content-Type"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

fn open_websocket(
    server: Arc<Server>,
    version: EngineIo,
    request: Request<Incoming>,
) -> Response<Full<Bytes>> {
    let Some(id) = new_id() else {
        return plain(StatusCode::SERVICE_UNAVAILABLE, "");
    };
    let greeting = greeting(&server, version, &id, "[]");
    let (agreed, format) = server.agree(request.headers(), WireFormat::socket_io(version));
    server.upgrade(request, agreed, move |server, upgraded| {
        if let Some((stream, pass, first)) = stream_of(upgraded) {
            let peer = stream.peer_addr().ok();
            let (reader, writer) = stream.into_split();
            let connection = Connection::new(writer, format, Arc::clone(&server.queues));
            greet(&connection, &greeting);
            let inlet = Inlet::of_socket(reader, format, server.clients.message);
            server.connected(connection, peer, inlet, first, Some(pass), || {});
        }
    })
}

fn open_polling(
    server: &Arc<Server>,
    version: EngineIo,
    peer: Option<SocketAddr>,
) -> Result<Response<Full<Bytes>>, Refusal> {
    if server.sockets.is_closed() {
        return Err(Refusal::BadRequest);
    }
    if !server.limits.try_handshake() {
        return Err(Refusal::Busy(Bound::Handshakes));
    }
    let waiting = server.limits.enter_polling();
    let waiting = waiting.ok_or(Refusal::Busy(Bound::Polling))?;
    let seats = Seats::reserve(&server.limits).ok_or(Refusal::Busy(Bound::Connections))?;
    let id = new_id().ok_or(Refusal::BadRequest)?;
    let mailbox = Arc::new(Mailbox::new(&server.queues, Some(waiting)));
    let format = WireFormat::socket_io(version);
    let connection = Connection::new(Arc::clone(&mailbox), format, Arc::clone(&server.queues));
    let (posted, inlet) = mpsc::channel(1);
    let mut greeting = greeting(server, version, &id, r#"["websocket"]"#).into_iter();
    // The first packet is the answer to this request, whatever follows that to the next.
    let open = greeting.next();
    greet(&connection, greeting.as_slice());
    let client = Polled {
        version,
        connection: Arc::clone(&connection),
        mailbox,
        posted,
        posting: tokio::sync::Mutex::default(),
        seats: Mutex::new(Some(seats)),
        is_here: AtomicBool::new(false),
        queues: Arc::clone(&server.queues),
    };
    let clients = Arc::clone(server);
    clients
        .polling
        .clients
        .lock()
        .insert(id.clone(), Arc::new(client));
    let cookie = HeaderValue::from_str(&format!("io={id}; Path=/; HttpOnly"));
    let inlet = Inlet::of_posts(inlet, server.clients.message);
    Arc::clone(server).connected(connection, peer, inlet, Vec::new(), None, move || {
        clients.polling.clients.lock().remove(&id);
    });
    let mut response = packets(version, open.as_deref());
    if let (EngineIo::V3, Ok(cookie)) = (version, cookie) {
        // Balancers of the original's clients may go by it.
        response.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    Ok(response)
}

/// The first packets; in the newer version the client goes on from the first.
fn greeting(server: &Server, version: EngineIo, id: &str, upgrades: &str) -> Vec<String> {
    let Heartbeats { interval, timeout } = &server.clients.socket_io;
    let (interval, timeout) = (interval.as_millis(), timeout.as_millis());
    let limit = match version {
        EngineIo::V3 => String::new(),
        EngineIo::V4 => format!(r#","maxPayload":{}"#, server.clients.message),
    };
    let open = format!(
        r#"0{{"sid":"{id}","upgrades":{upgrades},"pingInterval":{interval},"pingTimeout":{timeout}{limit}}}"#
    );
    match version {
        EngineIo::V3 => vec![open, "40".to_owned()],
        EngineIo::V4 => vec![open],
    }
}

fn greet(connection: &Arc<Connection>, packets: &[String]) {
    let mut frames = Vec::new();
    for packet in packets {
        wire::packet(connection.format(), packet, &mut frames);
    }
    connection.send(&frames, &mut None);
}

/// 120 random bits: whoever has it may speak for its client.
fn new_id() -> Option<String> {
    use base64::Engine;
    let random = unguessable::<15>().ok()?;
    Some(base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(random))
}

impl Polled {
    async fn poll(&self) -> Result<Response<Full<Bytes>>, Refusal> {
        if !self.is_here.swap(true, Ordering::Relaxed) {
            // If there is no room, something was posted, which says the same.
            let _ = self.posted.try_send(Posted::Here);
        }
        match self.mailbox.fetch().await {
            Fetched::Twice => {
                self.connection.close(Disconnect::Malformed);
                Err(Refusal::BadRequest)
            }
            Fetched::End => Err(Refusal::Gone),
            Fetched::Packets(fetched) if fetched.is_empty() => Ok(packets(self.version, Some("6"))),
            Fetched::Packets(fetched) => {
                Ok(packets(self.version, fetched.iter().map(String::as_str)))
            }
        }
    }

    /// Answered when all that was posted is under way: so a slow chat pushes back on the client.
    async fn post(
        &self,
        request: Request<Incoming>,
        limits: &ClientLimits,
    ) -> Result<Response<Full<Bytes>>, Refusal> {
        let Ok(_posting) = self.posting.try_lock() else {
            self.connection.close(Disconnect::Malformed);
            return Err(Refusal::BadRequest);
        };
        let kind = request.headers().get(header::CONTENT_TYPE);
        let is_binary = kind.is_some_and(|kind| kind == "application/octet-stream");
        let mut counted = Counted::new(&self.queues);
        let most = (2 * limits.message).max(POST);
        let body = read(request.into_body(), most, &mut counted);
        let body = timeout(limits.handshake, body).await;
        let body = match body.map_err(|_| Refusal::BadRequest)? {
            Err(Refusal::TooBig) => return Err(self.too_big(limits)),
            body => body?,
        };
        let packets = engine_io::decode(self.version, &body, is_binary);
        let Some(packets) = packets else {
            self.connection.close(Disconnect::Malformed);
            return Err(Refusal::BadRequest);
        };
        if packets.iter().any(|packet| packet.len() > limits.message) {
            return Err(self.too_big(limits));
        }
        let posted = self.posted.send(Posted::Packets(packets)).await;
        posted.map_err(|_| Refusal::UnknownId)?;
        Ok(text("ok", "text/html"))
    }

    /// Closes as a socket is closed that brings too much. Of what was posted nothing is taken.
    fn too_big(&self, limits: &ClientLimits) -> Refusal {
        self.connection
            .close(wire::Error::too_big(limits.message).into());
        Refusal::TooBig
    }
}

/// Reads a body of at most so many bytes. Of a longer one the rest is read and forgotten, within reason: a client that
/// still writes would not see the answer.
async fn read(body: Incoming, most: usize, counted: &mut Counted) -> Result<Vec<u8>, Refusal> {
    let mut body = Limited::new(body, READ_ON * most);
    let mut bytes = Vec::new();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| match error.is::<LengthLimitError>() {
            true => Refusal::TooBig,
            false => Refusal::BadRequest,
        })?;
        let data = frame.into_data().unwrap_or_default();
        length += data.len();
        if length > most {
            bytes = Vec::new();
        } else {
            bytes.extend_from_slice(&data);
        }
        if !counted.set(bytes.capacity()) {
            return Err(Refusal::Busy(Bound::Memory));
        }
    }
    if length > most {
        return Err(Refusal::TooBig);
    }
    Ok(bytes)
}

fn packets<'a>(
    version: EngineIo,
    packets: impl IntoIterator<Item = &'a str>,
) -> Response<Full<Bytes>> {
    text(
        engine_io::encode(version, packets),
        "text/plain; charset=UTF-8",
    )
}

fn text(body: impl Into<Bytes>, kind: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    let kind = HeaderValue::from_static(kind);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}
