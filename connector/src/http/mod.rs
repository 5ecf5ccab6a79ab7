//! HTTP on the clients' port: upgrades to WebSocket, Socket.IO's polls, streams of events, the example page, and `/healthz`.

mod body;
mod handover;
mod origin;
mod page;
mod query;
mod response;
mod socket_io;
mod sse;
mod stream;
mod token;
mod upgrade;

use crate::client::Clients;
use crate::limits::Bound;
use crate::limits::addresses::Addresses;
use crate::transport::pass::Pass;
use crate::transport::peer::Peer;
use crate::transport::proxies::Proxies;
use bytes::Bytes;
use handover::Handover;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
pub(crate) use origin::Origins;
use response::{Gone, full, peer, plain};
use runtime::{Readiness, Shutdown};
pub(crate) use socket_io::SocketIo;
use socket2::SockRef;
pub(crate) use sse::Sse;
use std::sync::Arc;
pub(crate) use stream::{HttpIo, HttpStream, into_parts};
use upgrade::{WHAT_THIS_IS, is_upgrade, negotiate_deflate, taken_over, upgrade};
use wire::WireFormat;
#[cfg(test)]
use wire::websocket::Opcode;

/// The kernel's send buffer for a socket that speaks HTTP. The kernel takes twice as much memory for it.
const HTTP_BUFFER: usize = 64 << 10;

/// Serves HTTP.
pub(crate) struct Http {
    pub(crate) clients: Arc<Clients>,
    /// The format of clients that speak Pomelo's protocol.
    pub(crate) pomelo: WireFormat,
    /// Whether clients are sent compressed frames if they offer to take them.
    pub(crate) deflate: bool,
    /// Whether the example page is served.
    pub(crate) page: bool,
    pub(crate) socket_io: Arc<SocketIo>,
    pub(crate) sse: Arc<Sse>,
    /// The pages that may connect.
    pub(crate) origins: Arc<Origins>,
    pub(crate) proxies: Proxies,
    pub(crate) addresses: Arc<Addresses>,
    /// What `/healthz` answers with.
    pub(crate) readiness: Readiness,
    pub(crate) shutdown: Shutdown,
}

impl Http {
    /// Serves a socket that speaks HTTP. A socket without a place is refused, unless it brings a request of a known
    /// polling client.
    pub(crate) async fn serve(
        self: Arc<Self>,
        stream: HttpIo,
        pass: Arc<Pass>,
        peer: Option<Peer>,
    ) {
        let handshake = self.clients.limits.handshake;
        let proxy = peer.map(|it| it.address);
        let is_proxied = self.proxies.trusts(proxy);
        // A small buffer, so that answers that nobody reads stay in user space, where they are bounded.
        drop(SockRef::from(stream::tcp(&stream)).set_send_buffer_size(HTTP_BUFFER));
        let asking = Arc::clone(&pass);
        let (handover, mut taken) = Handover::new();
        let service = service_fn(move |mut request: Request<Incoming>| {
            let server = Arc::clone(&self);
            server.socket_io.use_seat(&request, &asking);
            let client = server.proxies.client(peer, request.headers());
            let mut refused = asking.refused_by();
            if let (None, true, Some(client)) = (refused, is_proxied, client) {
                refused = server.enter(&mut request, client, &asking).err();
            }
            if refused.is_none() && !is_upgrade(request.headers()) {
                asking.handshake_done();
            }
            request.extensions_mut().insert(client);
            if sse::opens(&request) {
                request.extensions_mut().insert(sse::Taking {
                    pass: Arc::clone(&asking),
                    handover: Arc::clone(&handover),
                });
            }
            async move {
                match refused {
                    None => server.answer(request).await,
                    Some(bound) if sse::is_path(request.uri().path()) => {
                        Ok(server.sse.full(&request, bound))
                    }
                    Some(bound) => Ok(full(bound)),
                }
            }
        });
        let mut serving = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(handshake)
            .max_buf_size(16 << 10)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        tokio::select! {
            biased;
            served = &mut serving => {
                if let Err(error) = served {
                    tracing::debug!(%error, "HTTP ended");
                }
            }
            Ok(begin) = &mut taken => {
                if let Some(parts) = serving.into_parts() {
                    let (socket, pass) = taken_over(parts.io.into_inner());
                    begin(socket, pass, parts.read_buf.to_vec());
                }
            }
        }
    }

    /// Counts a client behind a trusted proxy among the connections of its address: with its WebSocket or its stream of events, or from its
    /// first poll on.
    fn enter(
        &self,
        request: &mut Request<Incoming>,
        client: Peer,
        pass: &Pass,
    ) -> Result<(), Bound> {
        if is_upgrade(request.headers()) || sse::opens(request) {
            pass.counts_for(self.addresses.enter(client.address)?);
        } else if socket_io::begins_to_poll(request) {
            let permit = Arc::new(self.addresses.enter(client.address)?);
            request.extensions_mut().insert(permit);
        }
        Ok(())
    }

    /// Answers a request. An upgrade means Pomelo on every path but `/ws` and Socket.IO's, as in the original: clients
    /// may set a path, and a proxy may leave a prefix in it.
    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, Gone> {
        let asks_to_upgrade = is_upgrade(request.headers());
        let path = request.uri().path();
        if !asks_to_upgrade && let Some(answer) = self.standard_answer(request.method(), path) {
            return Ok(answer);
        }
        let format = match path {
            "/ws" => WireFormat::JSON,
            #[cfg(test)]
            "/echo/text" => WireFormat::echo(Opcode::Text),
            #[cfg(test)]
            "/echo/binary" => WireFormat::echo(Opcode::Binary),
            path if socket_io::PATHS.contains(&path) => {
                return self.socket_io.answer(request).await;
            }
            path if !asks_to_upgrade && sse::is_path(path) => {
                return self.sse.answer(request).await;
            }
            "/" => self.pomelo,
            _ if asks_to_upgrade => self.pomelo,
            _ => return Ok(plain(StatusCode::NOT_FOUND, "nothing here\n")),
        };
        if self.origins.refuses(request.headers()) {
            Bound::Origin.reached();
            return Ok(origin::refused());
        }
        let (agreed, format) = negotiate_deflate(request.headers(), format, self.deflate);
        let clients = Arc::clone(&self.clients);
        let (peer, token) = (peer(&request), clients.shown_token(&request));
        Ok(upgrade(request, agreed, move |socket, pass, first| {
            clients.serve_socket(socket, pass, peer, first, format, token);
        }))
    }

    /// Answers what people and health checks ask for. `None` for everything else.
    fn standard_answer(&self, method: &Method, path: &str) -> Option<Response<Full<Bytes>>> {
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
        let report = self.readiness.describe(self.shutdown.is_requested());
        let mut response = Response::new(Full::from(report.to_string()));
        if !report.ready {
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        }
        response
    }
}
