//! HTTP responses that need no state of the connector.

use crate::limits::Bound;
use crate::transport::peer::Peer;
use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;

/// Seconds after which a client that was refused may try again.
pub(super) const RETRY_AFTER: u32 = 5;
/// What a client is told when there is no place for it.
const FULL: &str =
    "This connector has as many connections as it may have. Try again in some seconds.\n";
/// What a client is told when others at its address have all places.
const ADDRESS_FULL: &str = "Your address has as many connections here as it may have.\n";
/// What a client is told when connections from its address come too fast.
const ADDRESS_FAST: &str =
    "Connections from your address come too fast. Try again in some seconds.\n";

/// The request is not answered, and its connection ends as if the server were gone.
#[derive(Debug, thiserror::Error)]
#[error("the connection is over")]
pub(super) struct Gone;

/// Where the client of a request is, if that is known.
pub(super) fn peer(request: &Request<Incoming>) -> Option<Peer> {
    request
        .extensions()
        .get::<Option<Peer>>()
        .copied()
        .flatten()
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

/// Ends the connection after an answer, so that each further try costs the client a new one.
pub(super) fn ends(response: &mut Response<Full<Bytes>>) {
    let close = HeaderValue::from_static("close");
    response.headers_mut().insert(header::CONNECTION, close);
}

/// Refuses a request because all places are taken, or all for its address. The connection ends.
pub(super) fn full(bound: Bound) -> Response<Full<Bytes>> {
    bound.reached();
    let mut response = match bound {
        Bound::Address => plain(StatusCode::TOO_MANY_REQUESTS, ADDRESS_FULL),
        Bound::AddressRate => plain(StatusCode::TOO_MANY_REQUESTS, ADDRESS_FAST),
        _ => plain(StatusCode::SERVICE_UNAVAILABLE, FULL),
    };
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    headers.insert(header::RETRY_AFTER, RETRY_AFTER.into());
    ends(&mut response);
    response
}
