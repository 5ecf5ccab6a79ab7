//! The first layer that every request passes, whichever service it is for. It notes the call at its connection, adds the
//! certificate of the caller, bounds the
//! calls of health and reflection, and explains which services and methods exist if one is asked for that does not.

use super::connections::{Caller, OpenCall};
use super::measure::METHODS;
use super::share::{Share, Taken};
use crate::config::Limits;
use crate::error::Error;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Frame, SizeHint};
use proto::chat::v1::{chat_service_server, node_service_server, user_service_server};
use proto::connector::v1::session_service_server;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};

/// Chat's own services, which have bounds of their own.
pub(super) const SERVICES: [&str; 4] = [
    chat_service_server::SERVICE_NAME,
    user_service_server::SERVICE_NAME,
    node_service_server::SERVICE_NAME,
    session_service_server::SERVICE_NAME,
];

/// Which protocol a request is in, as its content type says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Grpc,
    GrpcWeb,
    /// Plain HTTP.
    Other,
}

pub(crate) fn protocol(headers: &HeaderMap) -> Protocol {
    let value = headers
        .get(CONTENT_TYPE)
        .map_or(&b""[..], HeaderValue::as_bytes);
    if value.starts_with(b"application/grpc-web") {
        Protocol::GrpcWeb
    } else if value.starts_with(b"application/grpc") {
        Protocol::Grpc
    } else {
        Protocol::Other
    }
}

/// Puts a [`Gate`] around a server's services.
#[derive(Clone)]
pub(crate) struct GateLayer {
    other: Arc<Share>,
}

impl GateLayer {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            other: Share::new(limits.other_calls),
        }
    }
}

impl<S> Layer<S> for GateLayer {
    type Service = Gate<S>;

    fn layer(&self, inner: S) -> Gate<S> {
        Gate {
            inner,
            other: Arc::clone(&self.other),
        }
    }
}

/// See [`GateLayer`].
#[derive(Clone)]
pub(crate) struct Gate<S> {
    inner: S,
    /// Bounds calls of health and reflection, which may last long.
    other: Arc<Share>,
}

impl<S> Service<Request<Body>> for Gate<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let Some(caller) = Caller::of(request.extensions()) else {
            return Box::pin(self.inner.call(request));
        };
        let call = caller.call();
        if let Some(certificate) = caller.certificate() {
            request.extensions_mut().insert(certificate);
        }
        let path = request.uri().path();
        let (service, method) = path
            .trim_start_matches('/')
            .rsplit_once('/')
            .unwrap_or(("", path));
        // Plain HTTP has no calls of other services, and is told so at once.
        let is_grpc = protocol(request.headers()) == Protocol::Grpc;
        let place = if SERVICES.contains(&service) || !is_grpc {
            None
        } else {
            let place = self.other.take(&caller.other, 1);
            if place.is_none() {
                let refused = Status::from(Error::Overloaded).into_http();
                return Box::pin(async move { Ok(refused) });
            }
            place
        };
        let asked = (excerpt(service), excerpt(method));
        if let Some(peer) = caller.peer() {
            tracing::debug!(%peer, service = asked.0, method = asked.1, "asked");
        }
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await?;
            let status = Status::from_header_map(answer.headers());
            if let Some(status) = status
                && status.code() == Code::Unimplemented
                && status.message().is_empty()
            {
                return Ok(Status::unimplemented(unimplemented(&asked)).into_http());
            }
            let open = Open {
                _call: call,
                _place: place,
            };
            Ok(answer.map(|body| Body::new(Kept { body, _open: open })))
        })
    }
}

/// The beginning of a name that a caller wrote, short enough for an answer.
fn excerpt(name: &str) -> String {
    name.chars().take(64).collect()
}

fn unimplemented((service, method): &(String, String)) -> String {
    if SERVICES.contains(&service.as_str()) {
        let known = METHODS.iter().filter_map(|known| {
            let (of, method) = known.split_once('/')?;
            (of == service).then_some(method)
        });
        let known = known.collect::<Vec<_>>().join(", ");
        format!("{service} has no method {method:?}; it has {known}")
    } else {
        let known = SERVICES.join(", ");
        format!(
            "there is no service {service:?} here; there are {known}, grpc.health.v1.Health and server reflection"
        )
    }
}

/// Held as long as an answer is.
struct Open {
    _call: OpenCall,
    _place: Option<Taken>,
}

struct Kept {
    body: Body,
    _open: Open,
}

impl http_body::Body for Kept {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
