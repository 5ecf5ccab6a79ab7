//! HTTP responses that need no state of the connector.

use crate::limits::Bound;
use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use std::net::SocketAddr;

/// Seconds after which a client that was refused may try again.
pub(super) const RETRY_AFTER: u32 = 5;
/// What a client is told when there is no place for it.
const FULL: &str =
    "This connector has as many connections as it may have. Try again in some seconds.\n";

/// The request is not answered, and its connection ends as if the server were gone.
#[derive(Debug, thiserror::Error)]
#[error("the connection is over")]
pub(super) struct Gone;

/// The other end of the socket that a request came by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub(super) SocketAddr);

/// The other end of the socket that a request came by, if that is known.
pub(super) fn peer(request: &Request<Incoming>) -> Option<SocketAddr> {
    let peer = request.extensions().get::<Option<Peer>>();
    peer.copied().flatten().map(|Peer(address)| address)
}

pub(super) fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response
}

pub(super) fn text(body: impl Into<Bytes>, kind: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    let kind = HeaderValue::from_static(kind);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// Refuses a request because all places are taken. The connection ends, so that each further try costs the client a new
/// one.
pub(super) fn full() -> Response<Full<Bytes>> {
    Bound::Connections.reached();
    let mut response = plain(StatusCode::SERVICE_UNAVAILABLE, FULL);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    headers.insert(header::RETRY_AFTER, RETRY_AFTER.into());
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}
