//! What sessions send, in a stream.

use crate::access::Permit;
use crate::calls::fields::{self, Body};
use crate::calls::send_stream::Contract;
use crate::calls::shown;
use crate::error::Error;
use channel_store::{Publish, Published};
use proto::connector::v1::send_outcome::Outcome;
use proto::connector::v1::{SendOutcome, SendStreamRequest, SendStreamResponse, SessionMessage};
use std::sync::Arc;
use tonic_types::pb;
use traces::{Kind, Parent, Span};

/// The name of the step that answers one message.
const SEND: &str = "connector.v1.SessionService/SendStream";

/// The step that answers a message, if the connector keeps a trace of it.
fn step(traceparent: &str) -> Option<Arc<Span>> {
    if traceparent.is_empty() {
        return None;
    }
    let parent = Parent::parse(traceparent).and_then(Parent::sampled);
    Span::child(parent, SEND, Kind::Server)
}

/// The stream of sends of connectors.
pub(crate) struct Stream;

impl Contract for Stream {
    type Request = SendStreamRequest;
    type Message = SessionMessage;
    type Response = SendStreamResponse;
    type Outcome = SendOutcome;

    fn messages(frame: SendStreamRequest) -> Vec<SessionMessage> {
        frame.messages
    }

    fn check(message: SessionMessage, permit: &Permit, limit: usize) -> Result<Publish, Error> {
        let SessionMessage { channel, .. } = message;
        let span = step(&message.traceparent);
        let message = fields::Message {
            user: message.user,
            user_is_number: message.user_is_number,
            session: message.session,
            key: message.idempotency_key,
            body: Some(Body::Json(message.body_json)),
            exclude_user: message.exclude_user,
            ephemeral: message.ephemeral,
            span,
            ..fields::Message::default()
        };
        message.check(permit, channel, limit)
    }

    fn sent(published: &Published) -> SendOutcome {
        let outcome = Some(Outcome::Sent(shown(&published.position)));
        SendOutcome { outcome }
    }

    fn refused(status: pb::Status) -> SendOutcome {
        let outcome = Some(Outcome::Refused(status));
        SendOutcome { outcome }
    }

    fn response(outcomes: Vec<SendOutcome>) -> SendStreamResponse {
        SendStreamResponse { outcomes }
    }
}
