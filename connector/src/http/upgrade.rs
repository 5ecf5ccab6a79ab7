//! From HTTP to a WebSocket (RFC 6455, section 4.2).

use super::response::plain;
use super::stream::{HttpIo, into_parts};
use crate::transport::pass::Pass;
use crate::transport::socket::Socket;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use socket2::SockRef;
use std::sync::Arc;
use wire::WireFormat;
use wire::websocket::{accept_key, deflate};

/// The kernel's send buffer once a socket is a WebSocket. The kernel takes twice as much memory for it.
const SOCKET_BUFFER: usize = 1 << 20;
/// The answer to a request that is not an upgrade.
pub(super) const WHAT_THIS_IS: &str =
    "This is a WebSocket port: / speaks Pomelo, /socket.io/ Socket.IO, /ws JSON.\n";
/// The answer to an upgrade over HTTP/1.0. It is meant for the operator of the proxy in between.
const OLD_HTTP: &str = "A WebSocket needs HTTP/1.1, but this request came as HTTP/1.0. \
    Is there a proxy? nginx needs: proxy_http_version 1.1;\n";

/// Agrees with a client on compression. Returns the header for the answer, if both want it, and the format of the
/// frames.
pub(super) fn negotiate_deflate(
    headers: &HeaderMap,
    format: WireFormat,
    may_deflate: bool,
) -> (Option<HeaderValue>, WireFormat) {
    match deflate::negotiate(headers).filter(|_| may_deflate) {
        Some(agreed) => (Some(agreed), format.deflated()),
        None => (None, format),
    }
}

/// Answers the opening handshake of WebSocket. Afterwards `begin` is given the socket, its pass, and what was read from
/// it already.
pub(super) fn upgrade(
    mut request: Request<Incoming>,
    agreed: Option<HeaderValue>,
    begin: impl FnOnce(Socket, Arc<Pass>, Vec<u8>) + Send + 'static,
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
    // A task of its own, so that the state of HTTP does not live as long as the socket.
    tokio::spawn(async move {
        let upgraded = upgrade.await.ok().and_then(stream_of);
        if let Some((socket, pass, first)) = upgraded {
            begin(socket, pass, first);
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

/// The socket below HTTP, its pass, and what was read from it already.
fn stream_of(upgraded: Upgraded) -> Option<(Socket, Arc<Pass>, Vec<u8>)> {
    let Ok(parts) = upgraded.downcast::<TokioIo<HttpIo>>() else {
        tracing::error!("the upgraded connection has an unknown type");
        return None;
    };
    let (socket, pass) = taken_over(parts.io.into_inner());
    Some((socket, pass, parts.read_buf.to_vec()))
}

/// The socket that HTTP leaves to a connection, and its pass.
pub(super) fn taken_over(io: HttpIo) -> (Socket, Arc<Pass>) {
    let (socket, pass) = into_parts(io);
    // The buffer may be large now, because the connection's own queue bounds what waits behind it.
    drop(SockRef::from(socket.tcp()).set_send_buffer_size(SOCKET_BUFFER));
    (socket, pass)
}

/// Checks the opening handshake (RFC 6455, section 4.2.1), and returns its key.
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

/// The first subprotocol that a client offers. A client that offers some fails the connection if none is chosen, so the
/// original chose the first. Offers that are not tokens (RFC 6455, section 4.1) are skipped.
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

pub(super) fn is_upgrade(headers: &HeaderMap) -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn offered(offers: &[&'static str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for offer in offers {
            let offer = HeaderValue::from_static(offer);
            headers.append(header::SEC_WEBSOCKET_PROTOCOL, offer);
        }
        subprotocol(&headers).map(|it| it.to_str().unwrap().to_owned())
    }

    #[test]
    fn the_first_offered_subprotocol_that_is_a_token_is_chosen() {
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
}
