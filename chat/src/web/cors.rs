//! Which pages' scripts may call: those of the origins that the operator allows, and no others.
//!
//! Chat may let everybody call. So a page that somebody opens on a machine that reaches chat must not be able to speak to it
//! through the browser. Browsers name the page's origin in such requests, and programs do not. Browsers do not name it in a GET to
//! the host that the page itself came from, though. So the owner of a name could serve a page under it, let the name point to chat's
//! address afterwards, and read. That is why a GET without an origin must come to a host that nobody can take for that.

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD,
    CACHE_CONTROL, HOST, ORIGIN, VARY, X_CONTENT_TYPE_OPTIONS,
};
use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use std::net::IpAddr;
use std::sync::Arc;
use tonic::body::Body;

/// How long a browser may remember what it may send: two hours, which is Chromium's longest.
const REMEMBERED: HeaderValue = HeaderValue::from_static("7200");
/// Headers of requests that scripts may set: those of the Connect protocol and of grpc-web, and the one that names a trace.
const SENDABLE: HeaderValue = HeaderValue::from_static(
    "authorization, content-type, connect-protocol-version, connect-timeout-ms, grpc-timeout, traceparent, x-grpc-web, x-user-agent",
);
/// Which site a page is of that makes a request, compared with the site that is asked.
const SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// Headers of answers that scripts may read beside those that they always may.
const READABLE: HeaderValue =
    HeaderValue::from_static("grpc-status, grpc-message, grpc-status-details-bin, retry-after");

/// The allowed origins.
#[derive(Debug, Clone, Default)]
pub(super) struct Origins(Arc<[String]>);

/// Where a request comes from.
#[derive(Debug, Clone)]
pub(super) enum From {
    /// A program, which names no origin.
    Program,
    /// A page that may call.
    Allowed(HeaderValue),
    /// A page that may not.
    Refused,
}

impl Origins {
    pub(super) fn new(origins: &[String]) -> Self {
        Self(origins.into())
    }

    pub(super) fn of(&self, headers: &HeaderMap) -> From {
        let Some(origin) = headers.get(ORIGIN) else {
            return From::Program;
        };
        let is_allowed = self
            .0
            .iter()
            .any(|it| it == "*" || it.as_bytes() == origin.as_bytes());
        if is_allowed {
            From::Allowed(origin.clone())
        } else {
            From::Refused
        }
    }

    /// True if a GET that names no origin can only come from a program, or from a page that may call.
    pub(super) fn may_be_read_without(&self, request: &Request<Body>) -> bool {
        let headers = request.headers();
        // Newer browsers say that a page of another site asks, for example by the address of an image.
        let site = headers.get(SITE).map(HeaderValue::as_bytes);
        if site.is_some_and(|it| it != b"none" && it != b"same-origin") {
            return false;
        }
        let of_http1 = || {
            headers
                .get(HOST)
                .and_then(|it| it.to_str().ok()?.parse().ok())
        };
        let Some(authority) = request.uri().authority().cloned().or_else(of_http1) else {
            return false;
        };
        let host = host_of(&authority);
        host.parse::<IpAddr>().is_ok()
            || !host.contains('.')
            || self.0.iter().any(|origin| {
                let allowed = origin
                    .split_once("://")
                    .map(|(_, it)| it.parse::<Authority>());
                origin == "*"
                    || allowed.is_some_and(|it| {
                        it.is_ok_and(|it| host_of(&it).eq_ignore_ascii_case(host))
                    })
            })
    }
}

/// The host without a port. An address of IPv6 has no brackets.
fn host_of(authority: &Authority) -> &str {
    authority.host().trim_matches(['[', ']'])
}

/// An answer to a GET is kept by no cache, and taken for nothing else than it is.
pub(super) fn is_for_this_caller(headers: &mut HeaderMap) {
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
}

/// True if a browser asks what a page may send.
pub(super) fn is_preflight(request: &Request<Body>) -> bool {
    let headers = request.headers();
    request.method() == Method::OPTIONS && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

/// The answer to that for a page that may call.
pub(super) fn preflight(origin: HeaderValue) -> Response<Body> {
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = StatusCode::NO_CONTENT;
    let headers = answer.headers_mut();
    headers.insert(
        ACCESS_CONTROL_ALLOW_METHODS,
        HeaderValue::from_static("GET, POST"),
    );
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, SENDABLE);
    headers.insert(ACCESS_CONTROL_MAX_AGE, REMEMBERED);
    allow(headers, origin);
    answer
}

/// Lets the page's script read an answer.
pub(super) fn allow(headers: &mut HeaderMap, origin: HeaderValue) {
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, READABLE);
    headers.insert(VARY, HeaderValue::from_static("origin"));
}
