//! A post to the session of a stream: one request, whose reply is the answer.

use super::refused::Refused;
use super::{Sse, holder};
use crate::http::body::{self, BodyError};
use crate::http::response::{ends, text};
use crate::limits::{Bound, Counted};
use crate::transport::event_outlet::EventOutlet;
use crate::transport::inlet::Posted;
use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;
use wire::{Reason, Refusal};

/// How long a request waits until those before it have begun.
const TURN: Duration = Duration::from_secs(5);
/// How long a reply may take from then on. Each request is answered within two seconds after its turn has come.
const REPLY: Duration = Duration::from_secs(10);

/// The stream of a session, as posts see it.
pub(super) struct Stream {
    pub(super) outlet: Arc<EventOutlet>,
    pub(super) posted: mpsc::Sender<Posted>,
}

impl Sse {
    /// Passes a request on to the session, and answers with the reply.
    pub(super) async fn post(
        &self,
        session: &str,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, Refused> {
        let stream = self.streams.lock().get(session).cloned();
        let Some(stream) = stream else {
            return Err(match holder(session) {
                Some(name) if name != *self.name => Refusal::other_connector(&name).into(),
                _ => Reason::UnknownSession.into(),
            });
        };
        let limits = &self.clients.limits;
        let mut counted = Counted::new(&self.clients.queues);
        let body = body::read(request.into_body(), limits.message, &mut counted);
        let body = timeout(limits.handshake, body).await;
        let body = match body.unwrap_or(Err(BodyError::Broken)) {
            Ok(body) => body,
            Err(BodyError::TooBig) => return Ok(too_big(limits.message)),
            Err(BodyError::NoRoom) => return Err(Refused::by(Bound::Memory)),
            Err(BodyError::Broken) => return Err(Reason::InvalidRequest.into()),
        };
        let mut waiting = stream.outlet.ask();
        let readdressed = wire::readdressed(&body, waiting.id);
        let (id, message) = match readdressed {
            Ok((id, message)) => (Ok(id), message),
            // It is passed on all the same, so that its bytes count for the session.
            Err(_) => (
                Err(Reason::InvalidRequest),
                String::from_utf8_lossy(&body).into_owned(),
            ),
        };
        let packets = Posted::Packets(vec![message]);
        match timeout(TURN, stream.posted.send(packets)).await {
            Ok(Ok(())) => {}
            // The session is over, and nothing was done.
            Ok(Err(_)) => return Err(Reason::UnknownSession.into()),
            Err(_) => return Err(Reason::TryLater.into()),
        }
        let id = id?;
        let reply = timeout(REPLY, waiting.reply()).await.ok().flatten();
        let reply = reply.ok_or(Reason::UnknownOutcome)?;
        Ok(replied(id, &reply))
    }
}

fn replied(id: Option<u64>, reply: &[u8]) -> Response<Full<Bytes>> {
    let mut body = match id {
        Some(id) => format!(r#"{{"id":{id},"body":"#),
        None => r#"{"body":"#.to_owned(),
    }
    .into_bytes();
    body.extend_from_slice(reply);
    body.push(b'}');
    let mut response = text(body, "application/json");
    let no = HeaderValue::from_static("no-store");
    response.headers_mut().insert(header::CACHE_CONTROL, no);
    response
}

/// On `/ws` such a message closes the connection. Here nothing of it is taken, and the stream goes on. The connection of the post ends, so
/// that each further one costs the client a new one.
fn too_big(limit: usize) -> Response<Full<Bytes>> {
    let message = format!("The message is longer than {limit} bytes.");
    let refusal = Refusal::because(Reason::InvalidRequest, message);
    let mut response = Refused::from(refusal).response();
    *response.status_mut() = StatusCode::PAYLOAD_TOO_LARGE;
    ends(&mut response);
    response
}
