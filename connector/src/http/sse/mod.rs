//! Server-Sent Events (`docs/protocols/sse.md`): a stream of events for clients that only read, and posts for what they ask.
//!
//! A client has a connection like any other client. Its way out is the socket of its request, once the login has succeeded and HTTP has
//! [handed it over](super::handover). Its way in takes what is posted, and notices the end of the socket.

mod opening;
mod post;
mod refused;
mod request;

use super::handover::{Begin, Handover};
use super::origin::{self, From, Origins, allow, preflight};
use super::response::{Gone, peer, plain};
use crate::client::Clients;
use crate::limits::Bound;
use crate::random::unguessable;
use crate::transport::inlet::{Inlet, Posted};
use crate::transport::pass::Pass;
use crate::transport::socket::Socket;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use opening::Opening;
use parking_lot::Mutex;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use post::Stream;
use refused::Refused;
use request::{Asked, is_event_source};
use socket2::SockRef;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;
use wire::sse;
use wire::{Disconnect, Reason};

const PATH: &str = "/sse";
/// The first event of a stream.
const ON_SESSION: &str = "onSession";
/// How long a stream may take to begin: a login, and joins of up to a hundred channels.
const OPEN: Duration = Duration::from_secs(20);
/// What every stream says of itself: it is never kept, and proxies pass on what they have.
const STREAM_HEADERS: [(&str, &str); 2] = [
    ("cache-control", "no-store, no-transform"),
    ("x-accel-buffering", "no"),
];
/// The headers that pages of other origins may send.
const HEADERS: &str = "Authorization, Content-Type, Last-Event-ID";
/// What a connector's name is written in, in the id of a session.
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.');

/// Serves streams of events, and has a list of those that are open.
pub(crate) struct Sse {
    clients: Arc<Clients>,
    origins: Arc<Origins>,
    /// The name of this connector.
    name: Box<str>,
    /// The streams, by the ids that posts name.
    streams: Mutex<HashMap<String, Arc<Stream>>>,
}

/// What a request needs to take the socket over.
#[derive(Clone)]
pub(super) struct Taking {
    pub(super) pass: Arc<Pass>,
    pub(super) handover: Arc<Handover>,
}

/// True if a request with this path is for this module.
pub(super) fn is_path(path: &str) -> bool {
    path == PATH || session(path).is_some()
}

/// The session that a path names.
fn session(path: &str) -> Option<&str> {
    path.strip_prefix(PATH)?.strip_prefix('/')
}

/// True for a request that opens a stream.
pub(super) fn opens(request: &Request<Incoming>) -> bool {
    request.uri().path() == PATH && request.method() == Method::GET
}

impl Sse {
    /// Serves no stream yet. `name` is that of this connector.
    pub(crate) fn new(clients: Arc<Clients>, origins: Arc<Origins>, name: &str) -> Arc<Self> {
        Arc::new(Self {
            clients,
            origins,
            name: name.into(),
            streams: Mutex::default(),
        })
    }

    /// Answers a request to a path of this module.
    pub(super) async fn answer(
        self: &Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, Gone> {
        let from = self.origins.of(request.headers());
        let mut response = match (request.method(), session(request.uri().path())) {
            _ if from == From::Refused => {
                Bound::Origin.reached();
                origin::refused()
            }
            (&Method::OPTIONS, _) => preflight(HEADERS),
            (&Method::GET, None) => {
                let headers = with_origin(&from);
                self.open(request, headers).await
            }
            (&Method::POST, Some(session)) => {
                let session = session.to_owned();
                let posted = self.post(&session, request).await;
                posted.unwrap_or_else(|refused| refused.response())
            }
            (_, session) => not_that(session.map_or("GET, OPTIONS", |_| "POST, OPTIONS")),
        };
        response.headers_mut().extend(with_origin(&from));
        Ok(response)
    }

    /// Refuses a request because there is no place for its socket.
    pub(super) fn full(&self, request: &Request<Incoming>, bound: Bound) -> Response<Full<Bytes>> {
        let refused = Refused::by(bound);
        let is_event_source = opens(request) && is_event_source(request.headers());
        let mut response = refused.instead_of_stream(is_event_source, last_event_id(request));
        let from = self.origins.of(request.headers());
        response.headers_mut().extend(with_origin(&from));
        response
    }

    /// Opens a stream. Returns only if it is refused.
    async fn open(
        self: &Arc<Self>,
        request: Request<Incoming>,
        origin: HeaderMap,
    ) -> Response<Full<Bytes>> {
        let is_event_source = is_event_source(request.headers());
        let asked = Asked::parse(request.uri().query().unwrap_or_default(), request.headers());
        let asked = match asked {
            // Nothing else stops a browser from coming back for ever.
            Ok(asked) if asked.is_unwanted => return plain(StatusCode::NO_CONTENT, ""),
            Ok(asked) => asked,
            Err(refusal) => return Refused::from(refusal).instead_of_stream(is_event_source, None),
        };
        let taking = request.extensions().get::<Taking>().cloned();
        let Some(Taking { pass, handover }) = taking.filter(|_| request.body().is_end_stream())
        else {
            return Refused::from(Reason::InvalidRequest).instead_of_stream(is_event_source, None);
        };
        let opened = Opening::new(&asked, &self.clients.queues);
        let (opening, posts) = match opened {
            Ok(opened) => opened,
            Err(refused) => {
                return refused.instead_of_stream(is_event_source, last_event_id(&request));
            }
        };
        let Some(id) = self.new_id() else {
            let refused = Refused::from(Reason::Unavailable);
            return refused.instead_of_stream(is_event_source, Some(&opening.id()));
        };
        self.serve(&opening, posts, pass, &request, &id);
        drop(request);
        let entering = opening.enter(asked.user.as_deref(), (&id, &self.name));
        let entered = timeout(OPEN, entering).await;
        let first = match entered.unwrap_or_else(|_| Err(Reason::Unavailable.into())) {
            Ok(first) => first,
            Err(refused) => return refused.instead_of_stream(is_event_source, Some(&opening.id())),
        };
        let begin = self.begin(opening, &head(&origin, &first));
        handover.give(begin).await
    }

    /// Serves the connection of a client. It logs in soon, and its stream begins later.
    fn serve(
        self: &Arc<Self>,
        opening: &Opening,
        posts: mpsc::Receiver<Posted>,
        pass: Arc<Pass>,
        request: &Request<Incoming>,
        id: &str,
    ) {
        let clients = Arc::clone(&self.clients);
        let connection = Arc::clone(&opening.connection);
        if let Some(token) = clients.shown_token(request) {
            connection.shows(token);
        }
        let (this, id) = (Arc::clone(self), id.to_owned());
        self.streams.lock().insert(id.clone(), opening.stream());
        let inlet = Inlet::of_posts(posts, clients.limits.message);
        clients.serve(
            connection,
            peer(request),
            inlet,
            Vec::new(),
            Some(pass),
            move || {
                let removed = this.streams.lock().remove(&id);
                drop(removed);
            },
        );
    }

    /// What begins the stream on the socket that HTTP hands over. `first` comes first.
    fn begin(&self, opening: Opening, first: &[u8]) -> Begin {
        let mut records = Vec::new();
        sse::verbatim(first, &mut records);
        let stream = opening.stream();
        stream.outlet.opens_with(records.into());
        let clients = Arc::clone(&self.clients);
        Box::new(move |socket, _pass, read| {
            give_up_after(&socket, clients.limits.heartbeat.saturating_mul(2));
            let connection = Arc::clone(&opening.connection);
            let (reader, writer) = socket.into_split();
            connection.switch(writer);
            opening.has_begun();
            if !read.is_empty() {
                // A client has nothing to say here after its request.
                connection.close(Disconnect::ByClient(wire::Error::Malformed));
            }
            clients.spawn(async move {
                // If the client's loop is over, it closes the socket.
                let _ = stream.posted.send(Posted::Streams(reader)).await;
            });
        })
    }

    /// An id for a session. It must be impossible to guess, because it is all that is needed to speak for the client. It names this
    /// connector, so that others know whose it is.
    fn new_id(&self) -> Option<String> {
        use base64::Engine;
        let random = unguessable::<15>().ok()?;
        let random = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(random);
        let name = utf8_percent_encode(&self.name, PLAIN);
        Some(format!("{random}~{name}"))
    }
}

/// The name of the connector at which the stream of a session was opened.
fn holder(session: &str) -> Option<String> {
    let (random, name) = session.split_once('~')?;
    let name = percent_decode_str(name).decode_utf8().ok()?;
    (random.len() == 20 && !name.is_empty()).then(|| name.into_owned())
}

/// What the client shows of the events that it has got, if it may be one of ours.
fn last_event_id(request: &Request<Incoming>) -> Option<&str> {
    let id = request.headers().get("last-event-id")?.to_str().ok()?;
    sse::EventId::parse(id).map(|_| id)
}

/// The headers that let the scripts of a page read the answer.
fn with_origin(from: &From) -> HeaderMap {
    let mut headers = HeaderMap::new();
    // A cache must not give one page the answer to another.
    headers.insert(header::VARY, HeaderValue::from_static("origin"));
    if let From::Allowed(origin) = from {
        allow(origin.clone(), &mut headers);
    }
    headers
}

fn not_that(allowed: &'static str) -> Response<Full<Bytes>> {
    let mut response = plain(
        StatusCode::METHOD_NOT_ALLOWED,
        "GET /sse opens a stream of events, and POST /sse/SESSION asks something.\n",
    );
    let allowed = HeaderValue::from_static(allowed);
    response.headers_mut().insert(header::ALLOW, allowed);
    response
}

/// The head of a stream, and what comes first. The stream has no length, so it ends with the connection.
fn head(origin: &HeaderMap, first: &[u8]) -> Vec<u8> {
    let mut head =
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n".to_vec();
    let mut line = |name: &str, value: &[u8]| {
        head.extend_from_slice(name.as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value);
        head.extend_from_slice(b"\r\n");
    };
    for (name, value) in STREAM_HEADERS {
        line(name, value.as_bytes());
    }
    for (name, value) in origin {
        line(name.as_str(), value.as_bytes());
    }
    head.extend_from_slice(b"\r\n");
    head.extend_from_slice(first);
    head
}

/// Lets the kernel end the socket if the client's side does not confirm for this long what was sent to it. A client that only reads shows
/// no other sign of life.
fn give_up_after(socket: &Socket, silence: Duration) {
    #[cfg(target_os = "linux")]
    // A unix socket has no network that could fail.
    drop(SockRef::from(socket.tcp()).set_tcp_user_timeout(Some(silence)));
    #[cfg(not(target_os = "linux"))]
    drop((SockRef::from(socket.tcp()), silence));
}

#[cfg(test)]
mod tests;
