//! The console at the admin port: a page for operators, and the calls that it makes.
//!
//! The page shows connectors, rates and channels, and can push a message or disconnect a user. Its files are in `chat/console`
//! and are part of the program, and it loads nothing from anywhere else. Its calls are those of back ends over plain HTTP
//! ([`crate::web`]), with the same tokens, scopes, bounds and audit log.
//!
//! The admin port has no certificate and asks for nothing. So without tokens the calls are answered only to this machine, and only
//! if the gRPC port lets everybody in as well: the console never opens what that port keeps closed.

use crate::Service;
use crate::access::{Access, BearerLayer};
use crate::error::ServeError;
use crate::port::connections::Caller;
use crate::web::{Contract, WebLayer};
use axum::Router;
use axum::body::Body as AxumBody;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use http::{HeaderName, HeaderValue, StatusCode, Uri, header};
use runtime::admin::Peer;
use std::convert::Infallible;
use tonic::body::Body;
use tower::util::BoxCloneSyncService;
use tower::{Layer, ServiceExt};

/// The page may load scripts and styles only from this port, and may call only it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

/// The page's files: the path below `/console`, what it is, and its text.
const FILES: [(&str, &str, &str); 12] = [
    ("", HTML, include_str!("../console/index.html")),
    ("/console.css", CSS, include_str!("../console/console.css")),
    (
        "/console.js",
        JAVASCRIPT,
        include_str!("../console/console.js"),
    ),
    ("/calls.js", JAVASCRIPT, include_str!("../console/calls.js")),
    (
        "/measured.js",
        JAVASCRIPT,
        include_str!("../console/measured.js"),
    ),
    ("/chart.js", JAVASCRIPT, include_str!("../console/chart.js")),
    ("/parts.js", JAVASCRIPT, include_str!("../console/parts.js")),
    (
        "/connectors.js",
        JAVASCRIPT,
        include_str!("../console/connectors.js"),
    ),
    ("/sizes.js", JAVASCRIPT, include_str!("../console/sizes.js")),
    (
        "/overview.js",
        JAVASCRIPT,
        include_str!("../console/overview.js"),
    ),
    (
        "/channels.js",
        JAVASCRIPT,
        include_str!("../console/channels.js"),
    ),
    ("/users.js", JAVASCRIPT, include_str!("../console/users.js")),
];
const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";

/// The calls are below this path, under the names that they have at the gRPC port.
const CALLS: &str = "/console/call";

type Calls = BoxCloneSyncService<http::Request<Body>, http::Response<Body>, Infallible>;

#[derive(Clone)]
struct Console {
    calls: Calls,
    /// True if there are tokens, which [`BearerLayer`] asks for.
    asks_for_tokens: bool,
    /// True if the gRPC port lets only some callers in.
    is_guarded: bool,
}

/// The page and its calls, for the admin port. The calls go to this service. `is_guarded` is true if the gRPC port lets only callers
/// in that have a token or a certificate.
///
/// # Errors
/// [`ServeError`] if the contract cannot be read, which no caller can cause.
pub fn console(service: Service, access: &Access, is_guarded: bool) -> Result<Router, ServeError> {
    // The admin port has checked the origin already: only the console's own page gets here.
    let web = WebLayer::new(Contract::load()?, &[]);
    let calls = web.layer(BearerLayer::new(access.clone()).layer(service));
    let console = Console {
        calls: BoxCloneSyncService::new(calls),
        asks_for_tokens: !access.is_open(),
        is_guarded,
    };
    let mut router = Router::new()
        .route("/", get(|| async { Redirect::temporary("/console") }))
        .route(&format!("{CALLS}/{{*method}}"), post(call));
    for (path, kind, text) in FILES {
        router = router.route(
            &format!("/console{path}"),
            get(move || async move { file(kind, text) }),
        );
    }
    Ok(router.with_state(console))
}

fn file(kind: &'static str, text: &'static str) -> impl IntoResponse {
    const HEADERS: [(HeaderName, HeaderValue); 4] = [
        (
            header::CONTENT_SECURITY_POLICY,
            HeaderValue::from_static(POLICY),
        ),
        (
            header::X_CONTENT_TYPE_OPTIONS,
            HeaderValue::from_static("nosniff"),
        ),
        (
            header::REFERRER_POLICY,
            HeaderValue::from_static("no-referrer"),
        ),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    (HEADERS, [(header::CONTENT_TYPE, kind)], text)
}

/// Makes a call of the contract. Answers are those of plain HTTP at the gRPC port.
async fn call(State(console): State<Console>, mut request: Request) -> Response {
    let peer = request.extensions().get::<Peer>().map(|it| it.0);
    let is_here = peer.is_some_and(|it| it.ip().to_canonical().is_loopback());
    if !console.asks_for_tokens && console.is_guarded {
        return refused(
            "the gRPC port asks for certificates, which this port cannot see: give chat tokens (--api-tokens-file), and show one here",
        );
    }
    if !console.asks_for_tokens && !is_here {
        return refused(
            "without tokens the console answers only callers on its own machine: give chat tokens (--api-tokens-file), or forward this port with ssh",
        );
    }
    let path = request.uri().path().strip_prefix(CALLS);
    let Some(Ok(uri)) = path.map(str::parse::<Uri>) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    *request.uri_mut() = uri;
    request.headers_mut().remove(header::ORIGIN);
    if let Some(peer) = peer {
        request.extensions_mut().insert(Caller::at(peer));
    }
    match console.calls.oneshot(request.map(Body::new)).await {
        Ok(answer) => answer.map(AxumBody::new),
        Err(never) => match never {},
    }
}

/// In the form of the other refusals of calls.
fn refused(words: &str) -> Response {
    let error = serde_json::json!({ "code": "permission_denied", "message": words });
    let kind = [(header::CONTENT_TYPE, "application/json")];
    (StatusCode::FORBIDDEN, kind, error.to_string()).into_response()
}
