//! The first step of a trace: a request of a client.

use crate::transport::Connection;
use std::sync::Arc;
use traces::{Kind, Span};
use wire::Request;

/// The routes that have names of their own in traces. A client may ask for any other one.
const ROUTES: [&str; 9] = [
    "connector.handler.login",
    "connector.handler.refresh",
    "connector.handler.ping",
    "chat.handler.send",
    "chat.handler.publish",
    "chat.handler.join",
    "chat.handler.leave",
    "chat.handler.members",
    "chat.handler.history",
];
/// The name of a request for any other route: a handler of the operator answers it, if there is one.
const OTHER: &str = "handler";

/// Begins the step, if this request is among those whose traces are kept. A client has no part in that decision.
pub(super) fn request_step(request: &Request, connection: &Connection) -> Option<Arc<Span>> {
    let mut known = ROUTES.iter().copied();
    if !traces::is_on() {
        return None;
    }
    let name = known.find(|route| **route == *request.route);
    let span = Span::root(name.unwrap_or(OTHER), Kind::Server)?;
    span.set("protocol", connection.format().protocol().name());
    if let Some(session) = connection.session() {
        span.set("session", session);
    }
    Some(span)
}
