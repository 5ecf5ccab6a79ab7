//! Counts, times and traces every call, whether it is answered, refused by a guard or broken off.

use super::ending::follow;
use futures_util::future::BoxFuture;
use http::{HeaderMap, Request, Response};
use metrics::{counter, gauge, histogram};
use proto::codes;
use runtime::families::{Family, register};
use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::{Code, Status};
use tower::Service;
use traces::{Kind, Parent, Span};

/// The header in which a caller names the trace of its call.
const TRACEPARENT: &str = "traceparent";
/// The methods that answer with streams.
const STREAMS: [&str; 2] = ["/SendStream", "/Watch"];

const CALLS: &str = "chat_calls_total";
const IN_FLIGHT: &str = "chat_calls_in_flight";
const DURATION: &str = "chat_call_duration_seconds";

/// The methods of chat's own services.
pub(crate) const METHODS: [&str; 30] = [
    "chat.v1.ChatService/Send",
    "chat.v1.ChatService/SendStream",
    "chat.v1.ChatService/BatchSend",
    "chat.v1.ChatService/Broadcast",
    "chat.v1.ChatService/Watch",
    "chat.v1.ChatService/History",
    "chat.v1.ChatService/Join",
    "chat.v1.ChatService/Leave",
    "chat.v1.ChatService/ListMembers",
    "chat.v1.ChatService/CountMembers",
    "chat.v1.ChatService/GetChannel",
    "chat.v1.ChatService/ListChannels",
    "chat.v1.ChatService/TrimHistory",
    "chat.v1.ChatService/DeleteChannel",
    "chat.v1.UserService/ListSessions",
    "chat.v1.UserService/BatchGetPresence",
    "chat.v1.UserService/PushToUsers",
    "chat.v1.UserService/AddToChannel",
    "chat.v1.UserService/RemoveFromChannel",
    "chat.v1.UserService/Disconnect",
    "chat.v1.UserService/BlockUser",
    "chat.v1.UserService/UnblockUser",
    "chat.v1.UserService/RevokeTokens",
    "chat.v1.UserService/GetRestrictions",
    "chat.v1.NodeService/ListConnectors",
    "chat.v1.NodeService/DrainConnector",
    "connector.v1.SessionService/Join",
    "connector.v1.SessionService/Leave",
    "connector.v1.SessionService/SendStream",
    "connector.v1.SessionService/Probe",
];
/// The label of every method that does not exist. A caller may ask for any name.
const OTHER: &str = "other";
const METHOD_LABELS: [&str; METHODS.len() + 1] = {
    let mut labels = [OTHER; METHODS.len() + 1];
    let (known, _) = labels.split_at_mut(METHODS.len());
    known.copy_from_slice(&METHODS);
    labels
};
const FAMILIES: &[Family] = &[
    Family::counter(CALLS, "Calls that have ended, by method and status code")
        .by(&[("method", &METHOD_LABELS), ("code", &codes::NAMES)]),
    Family::gauge(IN_FLIGHT, "Calls and streams under way, by method")
        .by(&[("method", &METHOD_LABELS)]),
    Family::histogram(DURATION, "From request to end; of streams, their life")
        .by(&[("method", &METHOD_LABELS)]),
];

/// Measures the service inside.
#[derive(Clone, Debug)]
pub(crate) struct Measured<S>(S);

impl<S> Measured<S> {
    pub(crate) fn new(inner: S) -> Self {
        register(FAMILIES);
        Self(inner)
    }
}

impl<S: NamedService> NamedService for Measured<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for Measured<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let method = method(request.uri().path());
        let span = step(method, request.headers());
        let call = Call::begin(method, span.clone());
        let answer = self.0.call(request);
        let measured = async move { Ok(call.follow(answer.await?)) };
        match span {
            None => Box::pin(measured),
            Some(span) => Box::pin(traces::within(span, measured)),
        }
    }
}

/// The method's name from a list, because a label must not take whatever a caller writes.
fn method(path: &str) -> &'static str {
    let mut known = METHODS.into_iter();
    let known = known.find(|&method| path.strip_prefix('/') == Some(method));
    known.unwrap_or(OTHER)
}

/// The step of a trace that answers a call, if its trace is kept. Each message of a stream is a step of its own, and so a stream is
/// none.
fn step(method: &'static str, headers: &HeaderMap) -> Option<Arc<Span>> {
    if !traces::is_on() || STREAMS.iter().any(|it| method.ends_with(it)) {
        return None;
    }
    let parent = headers.get(TRACEPARENT).and_then(|it| it.to_str().ok());
    let parent = parent.and_then(Parent::parse);
    let span = if method.starts_with("connector.") {
        // The connector has decided. Without a word it does not keep this trace.
        Span::child(parent.and_then(Parent::sampled), method, Kind::Server)?
    } else {
        Span::of_request(parent, method, Kind::Server)?
    };
    span.set("rpc.system", "grpc");
    Some(span)
}

/// One call, counted when it is dropped.
struct Call {
    method: &'static str,
    began: Instant,
    /// `Cancelled` until the end is known: it stays so if the caller goes away before.
    code: Code,
    span: Option<Arc<Span>>,
}

impl Call {
    fn begin(method: &'static str, span: Option<Arc<Span>>) -> Self {
        gauge!(IN_FLIGHT, "method" => method).increment(1.0);
        Self {
            method,
            began: Instant::now(),
            code: Code::Cancelled,
            span,
        }
    }

    fn follow(mut self, response: Response<Body>) -> Response<Body> {
        follow(response, move |headers| self.note_end(headers))
    }

    fn note_end(&mut self, headers: &HeaderMap) -> bool {
        let status = Status::from_header_map(headers);
        if let Some(status) = &status {
            self.code = status.code();
        }
        status.is_some()
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let (method, code) = (self.method, codes::name(self.code));
        let took = self.began.elapsed();
        if let Some(span) = self.span.take().filter(|_| self.code != Code::Ok) {
            span.fail(code);
        }
        counter!(CALLS, "method" => method, "code" => code).increment(1);
        gauge!(IN_FLIGHT, "method" => method).decrement(1.0);
        histogram!(DURATION, "method" => method).record(took);
        tracing::debug!(method, code, ?took, "call");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::port::gate::SERVICES;
    use prost_reflect::DescriptorPool;
    use std::collections::BTreeSet;

    /// A method that is missing here would be counted as `other`, and a service that is missing would share the few places of
    /// health and reflection.
    #[test]
    fn every_service_and_every_method_of_the_contracts_is_known_by_name() {
        let types = DescriptorPool::decode(proto::FILE_DESCRIPTOR_SET).unwrap();
        let services: Vec<_> = types.services().collect();
        let names: BTreeSet<_> = services.iter().map(|it| it.full_name()).collect();
        assert_eq!(names, SERVICES.into());
        let methods = services.iter().flat_map(|service| {
            let methods = service.methods();
            methods.map(|it| format!("{}/{}", service.full_name(), it.name()))
        });
        let known = METHODS.map(str::to_owned);
        assert_eq!(methods.collect::<BTreeSet<_>>(), known.into());
    }
}
