//! A polling client: its polls and its posts.

use super::request::Refusal;
use crate::http::body::{self, BodyError};
use crate::http::response::text;
use crate::limits::{Bound, ClientLimits, Counted, QueueLimits, Seats};
use crate::transport::Connection;
use crate::transport::inlet::Posted;
use crate::transport::mailbox::{Fetched, Mailbox};
use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::Full;
use hyper::body::Incoming;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::mpsc;
use tokio::time::timeout;
use wire::{Disconnect, EngineIo, engine_io};

/// The bytes that one post may have, or twice the message limit if that is more: some clients encode UTF-8 twice. Each
/// message in a post is bounded by the message limit.
const POST: usize = 512 << 10;

/// A polling client.
pub(super) struct Polled {
    pub(super) version: EngineIo,
    pub(super) connection: Arc<Connection>,
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) posted: mpsc::Sender<Posted>,
    /// Locked while a post is taken. A client may send only one at a time.
    pub(super) posting: tokio::sync::Mutex<()>,
    /// The places for its polls and posts. `None` once it has a WebSocket.
    pub(super) seats: Mutex<Option<Seats>>,
    /// True once it has polled again after its first request.
    pub(super) is_here: AtomicBool,
    pub(super) queues: Arc<QueueLimits>,
}

impl Polled {
    /// Answers a poll as soon as something waits for the client.
    pub(super) async fn poll(&self) -> Result<Response<Full<Bytes>>, Refusal> {
        if !self.is_here.swap(true, Ordering::Relaxed) {
            // If there is no room, a post is waiting there. It also shows that the client is there.
            let _ = self.posted.try_send(Posted::Here);
        }
        match self.mailbox.fetch().await {
            Fetched::Twice => {
                self.connection
                    .close(Disconnect::ByClient(wire::Error::Malformed));
                Err(Refusal::BadRequest)
            }
            Fetched::End => Err(Refusal::Gone),
            Fetched::Packets(fetched) if fetched.is_empty() => Ok(packets(self.version, Some("6"))),
            Fetched::Packets(fetched) => {
                Ok(packets(self.version, fetched.iter().map(String::as_str)))
            }
        }
    }

    /// Takes a post. The answer comes when the post is queued for the client's loop. Only one may wait there, so a slow
    /// chat pushes back on the client.
    pub(super) async fn post(
        &self,
        request: Request<Incoming>,
        limits: &ClientLimits,
    ) -> Result<Response<Full<Bytes>>, Refusal> {
        let Ok(_posting) = self.posting.try_lock() else {
            self.connection
                .close(Disconnect::ByClient(wire::Error::Malformed));
            return Err(Refusal::BadRequest);
        };
        let kind = request.headers().get(header::CONTENT_TYPE);
        let is_binary = kind.is_some_and(|kind| kind == "application/octet-stream");
        let mut counted = Counted::new(&self.queues);
        let most = (2 * limits.message).max(POST);
        let body = body::read(request.into_body(), most, &mut counted);
        let body = timeout(limits.handshake, body).await;
        let body = match body.unwrap_or(Err(BodyError::Broken)) {
            Ok(body) => body,
            Err(BodyError::TooBig) => return Err(self.too_big(limits)),
            Err(BodyError::NoRoom) => return Err(Refusal::Busy(Bound::Memory)),
            Err(BodyError::Broken) => return Err(Refusal::BadRequest),
        };
        let packets = engine_io::decode(self.version, &body, is_binary);
        let Some(packets) = packets else {
            self.connection
                .close(Disconnect::ByClient(wire::Error::Malformed));
            return Err(Refusal::BadRequest);
        };
        if packets.iter().any(|packet| packet.len() > limits.message) {
            return Err(self.too_big(limits));
        }
        let posted = self.posted.send(Posted::Packets(packets)).await;
        posted.map_err(|_| Refusal::UnknownId)?;
        Ok(text("ok", "text/html"))
    }

    /// Closes the connection, like one whose socket brings a message that is too large. Nothing of the post is taken.
    fn too_big(&self, limits: &ClientLimits) -> Refusal {
        self.connection
            .close(wire::Error::too_big(limits.message).into());
        Refusal::TooBig
    }
}

pub(super) fn packets<'a>(
    version: EngineIo,
    packets: impl IntoIterator<Item = &'a str>,
) -> Response<Full<Bytes>> {
    text(
        engine_io::encode(version, packets),
        "text/plain; charset=UTF-8",
    )
}
