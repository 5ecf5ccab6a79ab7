//! Sends, one by one and in a stream.

use crate::calls::fields::{Body, Message};
use crate::calls::send_stream::Contract;
use crate::calls::{Calls, shown};
use crate::error::Error;
use channel_store::{Publish, Published};
use proto::chat::v1::send_outcome::Outcome;
use proto::chat::v1::send_request::Content;
use proto::chat::v1::{
    SendOutcome, SendRequest, SendResponse, SendStreamRequest, SendStreamResponse,
};
use proto::time::timestamp;
use tonic_types::pb;

pub(super) async fn send(calls: &Calls, request: SendRequest) -> Result<SendResponse, Error> {
    let publish = check(request, calls.message_limit())?;
    Ok(sent(&calls.publish(publish).await?))
}

/// The stream of sends of back ends.
pub(crate) struct Stream;

impl Contract for Stream {
    type Request = SendStreamRequest;
    type Message = SendRequest;
    type Response = SendStreamResponse;
    type Outcome = SendOutcome;

    fn messages(frame: SendStreamRequest) -> Vec<SendRequest> {
        frame.messages
    }

    fn check(message: SendRequest, limit: usize) -> Result<Publish, Error> {
        check(message, limit)
    }

    fn sent(published: &Published) -> SendOutcome {
        let outcome = Some(Outcome::Sent(sent(published)));
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

fn check(request: SendRequest, limit: usize) -> Result<Publish, Error> {
    let message = Message {
        channel: request.channel,
        user: request.user,
        user_is_number: request.user_is_number,
        route: request.route,
        session: String::new(),
        key: request.idempotency_key,
        body: request.content.map(|content| match content {
            Content::Body(object) => Body::Struct(object),
            Content::BodyJson(json) => Body::Json(json),
        }),
        exclude_user: request.exclude_user,
    };
    message.check(limit)
}

fn sent(published: &Published) -> SendResponse {
    SendResponse {
        position: Some(shown(&published.position)),
        publish_time: Some(timestamp(published.time)),
        reached: published.reached,
    }
}
