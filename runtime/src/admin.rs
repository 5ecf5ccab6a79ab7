//! The admin port: `/livez`, `/readyz` and `/metrics`, for operators and their probes, and what else a service has for them.
//!
//! A connection carries one request. The head of the request has to come within two seconds, and the connection may
//! last ten. There are at most 64 connections, and one more closes the oldest. So probes are answered while others hold
//! any number of unfinished requests open. Pages in browsers can't read the port ([`AdminSettings`]).

mod hosts;

pub use axum::Router;
pub use hosts::AdminSettings;

use crate::exporter::Metrics;
use crate::lifecycle::Shutdown;
use crate::readiness::Readiness;
use axum::Extension;
use axum::extract::{RawQuery, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

const JSON: &str = "application/json";
const CONNECTIONS: usize = 64;
const CONNECTION_LIFE: Duration = Duration::from_secs(10);
/// How long the head of a request may take, counted from the connection.
const HEAD_TIME: Duration = Duration::from_secs(2);
/// How long to wait after a failed accept. If there are no file descriptors left, the next accept would fail at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[derive(Clone)]
struct Health {
    readiness: Readiness,
    shutdown: Shutdown,
    metrics: Metrics,
}

/// Where a request comes from. Every request carries it in its extensions.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

/// Answers requests until it is dropped. It goes on during the drain, which `/readyz` then reports. The header `server` of each answer
/// is the name of the service, so that `health` is not deceived by something else at this port. `more` are further paths, inside the
/// same bounds.
pub async fn serve(
    listener: TcpListener,
    service: &'static str,
    settings: AdminSettings,
    more: Router,
    readiness: Readiness,
    shutdown: Shutdown,
) {
    let guard = Arc::new(Guard { service, settings });
    let router = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(Health {
            readiness,
            shutdown,
            metrics: Metrics::install(),
        })
        .merge(more)
        .layer(middleware::from_fn_with_state(guard, check));
    let mut connections = VecDeque::new();
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                connections.retain(|connection: &AbortOnDropHandle<()>| !connection.is_finished());
                if connections.len() >= CONNECTIONS {
                    connections.pop_front();
                }
                let answered =
                    tokio::spawn(answer(stream, router.clone().layer(Extension(Peer(peer)))));
                connections.push_back(AbortOnDropHandle::new(answered));
            }
            Err(error) => {
                tracing::warn!(%error, "admin: cannot accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn answer(stream: TcpStream, router: Router) {
    let connection = http1::Builder::new()
        .keep_alive(false)
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    match tokio::time::timeout(CONNECTION_LIFE, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "admin: connection failed"),
        Err(_) => tracing::debug!("admin: connection took too long"),
    }
}

/// What stands in front of every answer.
struct Guard {
    service: &'static str,
    settings: AdminSettings,
}

/// Answers 403 to requests that may come from a page of a stranger.
async fn check(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    let checked = guard.settings.check(request.uri(), request.headers());
    let mut response = match checked {
        Ok(()) => next.run(request).await,
        Err(words) => (StatusCode::FORBIDDEN, words + "\n").into_response(),
    };
    let service = HeaderValue::from_static(guard.service);
    response.headers_mut().insert(header::SERVER, service);
    response
}

/// As JSON for those who ask for it, by `Accept` or by `?format=json`, and otherwise as text.
async fn readyz(
    State(health): State<Health>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let report = health.readiness.describe(health.shutdown.is_requested());
    let status = if report.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let accepts = headers.get_all(header::ACCEPT).into_iter();
    let mut accepts = accepts.filter_map(|it| it.to_str().ok());
    let asks = query.is_some_and(|it| it.split('&').any(|it| it == "format=json"))
        || accepts.any(|it| it.contains(JSON));
    if !asks {
        return (status, report.to_string()).into_response();
    }
    match serde_json::to_string(&report) {
        Ok(json) => (status, [(header::CONTENT_TYPE, JSON)], json + "\n").into_response(),
        Err(error) => {
            tracing::error!(%error, "admin: the report can't be written as JSON");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

async fn metrics(State(health): State<Health>) -> impl IntoResponse {
    let version = [(
        header::CONTENT_TYPE,
        "text/plain; version=0.0.4; charset=utf-8",
    )];
    (version, health.metrics.render())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::watch;

    async fn start(readiness: Readiness, shutdown: Shutdown) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let settings = AdminSettings::default();
        let more = Router::new().route(
            "/more",
            get(|Extension(peer): Extension<Peer>| async move { peer.0.ip().to_string() }),
        );
        let served = serve(listener, "service", settings, more, readiness, shutdown);
        tokio::spawn(served);
        address
    }

    /// The status line and the body.
    async fn request(address: SocketAddr, path: &str) -> (String, String) {
        request_with(address, path, "Host: admin\r\n").await
    }

    async fn request_with(address: SocketAddr, path: &str, headers: &str) -> (String, String) {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.lines().next().unwrap();
        (status.to_owned(), body.to_owned())
    }

    const OK: &str = "HTTP/1.1 200 OK";
    const UNAVAILABLE: &str = "HTTP/1.1 503 Service Unavailable";

    #[tokio::test]
    async fn readyz_follows_the_conditions_and_the_drain_while_livez_stays_ok() {
        let (readiness, shutdown) = (Readiness::new(), Shutdown::new());
        let (redis, state) = watch::channel(false);
        readiness.follow("redis", state);
        let address = start(readiness, shutdown.clone()).await;

        let expected = (UNAVAILABLE.into(), "redis: not ready\n".into());
        assert_eq!(request(address, "/readyz").await, expected);
        redis.send_replace(true);
        let expected = (OK.into(), "redis: ok\n".into());
        assert_eq!(request(address, "/readyz").await, expected);
        shutdown.request();
        let expected = (UNAVAILABLE.into(), "draining\nredis: ok\n".into());
        assert_eq!(request(address, "/readyz").await, expected);

        assert_eq!(request(address, "/livez").await, (OK.into(), "ok\n".into()));
        assert_eq!(request(address, "/else").await.0, "HTTP/1.1 404 Not Found");
    }

    #[tokio::test]
    async fn readyz_answers_in_json_if_it_is_asked_for() {
        let (readiness, shutdown) = (Readiness::new(), Shutdown::new());
        let (_redis, state) = watch::channel(true);
        readiness.follow("redis", state);
        let address = start(readiness, shutdown.clone()).await;
        let json = r#"{"ready":true,"draining":false,"conditions":[{"name":"redis","ready":true,"reason":null}]}"#;
        let expected = (OK.to_owned(), format!("{json}\n"));
        assert_eq!(request(address, "/readyz?format=json").await, expected);
        let accept = "Host: admin\r\nAccept: text/html, application/json;q=0.9\r\n";
        assert_eq!(request_with(address, "/readyz", accept).await, expected);
        let text = (OK.to_owned(), "redis: ok\n".to_owned());
        for accept in ["*/*", "text/plain"] {
            let accept = format!("Host: admin\r\nAccept: {accept}\r\n");
            assert_eq!(request_with(address, "/readyz", &accept).await, text);
        }
        shutdown.request();
        let (status, body) = request(address, "/readyz?format=json").await;
        assert_eq!(status, UNAVAILABLE);
        assert!(body.contains(r#""draining":true"#), "{body}");
    }

    #[tokio::test]
    async fn every_answer_names_the_service() {
        let address = start(Readiness::new(), Shutdown::new()).await;
        for host in ["admin", "evil.example"] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let request = format!("GET /readyz HTTP/1.1\r\nhost: {host}\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert!(answer.contains("\r\nserver: service\r\n"), "{answer}");
        }
    }

    #[tokio::test]
    async fn a_page_of_a_stranger_cannot_read_anything() {
        let address = start(Readiness::new(), Shutdown::new()).await;
        let forbidden = "HTTP/1.1 403 Forbidden";
        for path in ["/livez", "/readyz", "/metrics", "/more", "/else"] {
            for headers in [
                "Host: evil.example:9001\r\n",
                "Host: admin\r\nOrigin: http://evil.example\r\n",
            ] {
                let (status, words) = request_with(address, path, headers).await;
                assert_eq!(status, forbidden, "{path} {headers}");
                assert!(words.ends_with('\n') && words.len() > 20, "{words}");
            }
        }
        let own = "Host: admin\r\nOrigin: http://admin\r\n";
        assert_eq!(request_with(address, "/livez", own).await.0, OK);
    }

    #[tokio::test]
    async fn a_services_own_paths_know_where_a_request_comes_from() {
        let address = start(Readiness::new(), Shutdown::new()).await;
        let answer = request(address, "/more").await;
        assert_eq!(answer, (OK.into(), "127.0.0.1".into()));
    }

    #[tokio::test]
    async fn metrics_are_rendered_for_prometheus() {
        let address = start(Readiness::new(), Shutdown::new()).await;
        Metrics::install();
        metrics::counter!("admin_test_total").increment(1);
        let (status, text) = request(address, "/metrics").await;
        assert_eq!(status, OK);
        assert!(text.contains("admin_test_total 1"), "{text}");
    }

    #[tokio::test]
    async fn probes_are_answered_while_others_hold_half_requests_open() {
        let address = start(Readiness::new(), Shutdown::new()).await;
        let mut idle = Vec::new();
        for _ in 0..200 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(b"GET /livez HT").await.unwrap();
            idle.push(stream);
        }
        let answered = tokio::time::timeout(HEAD_TIME / 2, request(address, "/livez"));
        let (status, _) = answered
            .await
            .expect("the probe does not wait until the other requests end");
        assert_eq!(status, OK);
    }

    #[tokio::test]
    async fn if_there_is_one_connection_too_many_the_oldest_is_closed() {
        let address = start(Readiness::new(), Shutdown::new()).await;
        let mut idle = Vec::new();
        for _ in 0..=CONNECTIONS {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(b"GET /livez HT").await.unwrap();
            idle.push(stream);
        }
        let ended = tokio::time::timeout(HEAD_TIME / 2, idle[0].read_u8()).await;
        let ended = ended.expect("it is closed before its time is over");
        assert!(ended.is_err());
    }

    #[tokio::test]
    async fn a_condition_that_is_not_met_says_why() {
        let (_chat, state) = watch::channel(false);
        let readiness = Readiness::new();
        readiness.follow_because("chat", state, || "nobody is there".to_owned());
        let address = start(readiness, Shutdown::new()).await;
        let expected = (
            UNAVAILABLE.into(),
            "chat: not ready: nobody is there\n".into(),
        );
        assert_eq!(request(address, "/readyz").await, expected);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_with_an_unfinished_request_is_closed() {
        let address = start(Readiness::new(), Shutdown::new()).await;
        let mut idle = Vec::new();
        for _ in 0..CONNECTIONS {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(b"GET /livez HT").await.unwrap();
            idle.push(stream);
        }
        for mut stream in idle {
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
            assert!(rest.is_empty());
        }
    }
}
