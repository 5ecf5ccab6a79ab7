//! Clients of Socket.IO (`docs/protocols/socketio.md`): Engine.IO over WebSocket, over polls, and the switch from polls
//! to a WebSocket.
//!
//! A polling client has a connection like any other client. Its outlet is a mailbox, from which polls fetch, and its
//! inlet takes what is posted. When the client has opened a WebSocket beside its polls, that replaces both. No message
//! is lost then, and none overtakes another.

mod polled;
mod probe;
mod request;

use super::origin::{From, Origins, allow, preflight};
use super::response::{Gone, peer, plain};
use super::upgrade::{negotiate_deflate, upgrade};
use crate::client::Clients;
use crate::limits::addresses::AddressPermit;
use crate::limits::{Bound, Heartbeats, Limits, Seats};
use crate::random::unguessable;
use crate::transport::Connection;
use crate::transport::inlet::Inlet;
use crate::transport::mailbox::Mailbox;
use crate::transport::pass::Pass;
use crate::transport::peer::Peer;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use parking_lot::Mutex;
use polled::{Polled, packets};
use request::{EngineRequest, Refusal};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tokio::sync::mpsc;
use wire::{EngineIo, WireFormat};

/// The path of Socket.IO, with and without the slash at the end.
pub(super) const PATHS: [&str; 2] = ["/socket.io/", "/socket.io"];

/// Serves clients of Socket.IO, and has a list of those that poll.
pub(crate) struct SocketIo {
    clients: Arc<Clients>,
    limits: Arc<Limits>,
    /// Whether clients are sent compressed frames if they offer to take them.
    deflate: bool,
    origins: Arc<Origins>,
    /// The polling clients, by the ids that they were given.
    polled: Mutex<HashMap<String, Arc<Polled>>>,
}

impl SocketIo {
    pub(crate) fn new(
        clients: Arc<Clients>,
        limits: Arc<Limits>,
        deflate: bool,
        origins: Arc<Origins>,
    ) -> Arc<Self> {
        Arc::new(Self {
            clients,
            limits,
            deflate,
            origins,
            polled: Mutex::default(),
        })
    }

    fn client(&self, id: &str) -> Option<Arc<Polled>> {
        self.polled.lock().get(id).cloned()
    }

    /// If the request is a poll or a post of a known client, its socket takes one of that client's seats.
    pub(super) fn use_seat(&self, request: &Request<Incoming>, pass: &Pass) {
        if !PATHS.contains(&request.uri().path()) {
            return;
        }
        let asked = EngineRequest::parse(request.uri().query().unwrap_or_default());
        if let Ok(asked) = asked
            && !asked.is_websocket
            && let Some(client) = asked.id.and_then(|id| self.client(id))
            && let Some(seats) = &*client.seats.lock()
        {
            pass.use_seat(seats);
        }
    }

    /// Answers a request to one of [`PATHS`].
    pub(super) async fn answer(
        self: &Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, Gone> {
        let from = self.origins.of(request.headers());
        let served = match from {
            From::Refused => {
                Bound::Origin.reached();
                Err(Refusal::Origin)
            }
            _ => self.served(request).await,
        };
        let mut response = served.or_else(Refusal::response)?;
        let headers = response.headers_mut();
        // A cache must not give one page the answer to another.
        headers.insert(header::VARY, HeaderValue::from_static("origin"));
        match from {
            From::Allowed(origin) => allow(origin, headers),
            // As recorded. It allows nothing, because such a request comes from no page of another origin.
            From::Program => allow(HeaderValue::from_static("*"), headers),
            From::SameHost | From::Refused => {}
        }
        Ok(response)
    }

    async fn served(
        self: &Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, Refusal> {
        if request.method() == Method::OPTIONS {
            return Ok(preflight("Content-Type"));
        }
        let query = request.uri().query().unwrap_or_default().to_owned();
        let asked = EngineRequest::parse(&query)?;
        let client = match asked.id {
            None => None,
            Some(id) => {
                let client = self.client(id).ok_or(Refusal::UnknownId)?;
                if client.version != asked.version {
                    return Err(Refusal::BadRequest);
                }
                Some(client)
            }
        };
        match (client, asked.is_websocket, request.method()) {
            (None, true, _) => Ok(self.open_websocket(asked.version, request)),
            (Some(client), true, _) => {
                let clients = Arc::clone(&self.clients);
                // Without compression: what waits for polls was written as plain frames, and the WebSocket gets these
                // bytes.
                Ok(upgrade(request, None, move |socket, pass, first| {
                    let limits = clients.limits.clone();
                    clients.spawn(probe::probe(client, socket, pass, first, limits));
                }))
            }
            (None, false, &Method::GET) => {
                let address = request.extensions().get::<Arc<AddressPermit>>().cloned();
                let token = self.clients.shown_token(&request);
                self.open_polling(asked.version, peer(&request), address, token)
            }
            (None, false, _) => Err(Refusal::Method),
            (Some(client), false, &Method::GET) => client.poll().await,
            (Some(client), false, &Method::POST) => {
                client.post(request, &self.clients.limits).await
            }
            (Some(_), false, _) => Err(Refusal::BadRequest),
        }
    }

    fn open_websocket(
        &self,
        version: EngineIo,
        request: Request<Incoming>,
    ) -> Response<Full<Bytes>> {
        let Some(id) = new_id() else {
            return plain(StatusCode::SERVICE_UNAVAILABLE, "");
        };
        let greeting = self.greeting(version, &id, "[]");
        let (agreed, format) = negotiate_deflate(
            request.headers(),
            WireFormat::socket_io(version),
            self.deflate,
        );
        let clients = Arc::clone(&self.clients);
        let (peer, token) = (peer(&request), clients.shown_token(&request));
        upgrade(request, agreed, move |socket, pass, first| {
            let (reader, writer) = socket.into_split();
            let connection = Connection::new(writer, format, Arc::clone(&clients.queues));
            if let Some(token) = token {
                connection.shows(token);
            }
            greet(&connection, &greeting);
            let inlet = Inlet::of_socket(reader, format, clients.limits.message);
            clients.serve(connection, peer, inlet, first, Some(pass), || {});
        })
    }

    fn open_polling(
        self: &Arc<Self>,
        version: EngineIo,
        peer: Option<Peer>,
        address: Option<Arc<AddressPermit>>,
        token: Option<Box<str>>,
    ) -> Result<Response<Full<Bytes>>, Refusal> {
        if self.clients.is_closing() {
            return Err(Refusal::BadRequest);
        }
        if !self.limits.try_handshake() {
            return Err(Refusal::Busy(Bound::Handshakes));
        }
        let waiting = self.limits.enter_polling();
        let waiting = waiting.ok_or(Refusal::Busy(Bound::Polling))?;
        let seats = Seats::reserve(&self.limits).ok_or(Refusal::Busy(Bound::Connections))?;
        let id = new_id().ok_or(Refusal::BadRequest)?;
        let mailbox = Arc::new(Mailbox::new(&self.clients.queues, Some(waiting)));
        let format = WireFormat::socket_io(version);
        let connection = Connection::new(
            Arc::clone(&mailbox),
            format,
            Arc::clone(&self.clients.queues),
        );
        if let Some(token) = token {
            connection.shows(token);
        }
        let (posted, inlet) = mpsc::channel(1);
        let mut greeting = self.greeting(version, &id, r#"["websocket"]"#).into_iter();
        // The first packet is the answer to this request. Further ones wait for the next poll.
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
            queues: Arc::clone(&self.clients.queues),
        };
        self.polled.lock().insert(id.clone(), Arc::new(client));
        let polling = Arc::clone(self);
        let cookie = HeaderValue::from_str(&format!("io={id}; Path=/; HttpOnly"));
        let inlet = Inlet::of_posts(inlet, self.clients.limits.message);
        Arc::clone(&self.clients).serve(connection, peer, inlet, Vec::new(), None, move || {
            let removed = polling.polled.lock().remove(&id);
            drop((removed, address));
        });
        let mut response = packets(version, open.as_deref());
        if let (EngineIo::V3, Ok(cookie)) = (version, cookie) {
            // A balancer may use the cookie to send all requests of a client to the same connector.
            response.headers_mut().insert(header::SET_COOKIE, cookie);
        }
        Ok(response)
    }

    /// The first packets to a client. In version 3 the second one says that the namespace is connected. In version 4
    /// the client asks for that.
    fn greeting(&self, version: EngineIo, id: &str, upgrades: &str) -> Vec<String> {
        let Heartbeats { interval, timeout } = &self.clients.limits.socket_io;
        let (interval, timeout) = (interval.as_millis(), timeout.as_millis());
        let limit = match version {
            EngineIo::V3 => String::new(),
            EngineIo::V4 => format!(r#","maxPayload":{}"#, self.clients.limits.message),
        };
        let open = format!(
            r#"0{{"sid":"{id}","upgrades":{upgrades},"pingInterval":{interval},"pingTimeout":{timeout}{limit}}}"#
        );
        match version {
            EngineIo::V3 => vec![open, "40".to_owned()],
            EngineIo::V4 => vec![open],
        }
    }
}

/// True for the first request of a client that polls.
pub(super) fn begins_to_poll(request: &Request<Incoming>) -> bool {
    let asked = EngineRequest::parse(request.uri().query().unwrap_or_default());
    let is_first = |it: EngineRequest<'_>| it.id.is_none() && !it.is_websocket;
    PATHS.contains(&request.uri().path()) && asked.is_ok_and(is_first)
}

fn greet(connection: &Arc<Connection>, packets: &[String]) {
    let mut frames = Vec::new();
    for packet in packets {
        wire::packet(connection.format(), packet, &mut frames);
    }
    connection.send(&frames, &mut None);
}

/// A random id of 120 bits. It must be impossible to guess, because it is all that is needed to speak for its client.
fn new_id() -> Option<String> {
    use base64::Engine;
    let random = unguessable::<15>().ok()?;
    Some(base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(random))
}
