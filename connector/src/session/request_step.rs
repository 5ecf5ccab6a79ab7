//! The first step of a trace: a request of a client.

use crate::metering::Asked;
use crate::transport::Connection;
use std::sync::Arc;
use traces::{Kind, Span};

/// Begins the step, if this request is among those whose traces are kept. A client has no part in that decision.
pub(super) fn request_step(asked: Asked, connection: &Connection) -> Option<Arc<Span>> {
    if !traces::is_on() {
        return None;
    }
    let span = Span::root(asked.route(), Kind::Server)?;
    span.set("protocol", connection.format().name());
    if let Some(session) = connection.session() {
        span.set("session", session);
    }
    Some(span)
}
