//! Sends: one by one, in a stream, many at once, and one to many channels.

use crate::access::Permit;
use crate::calls::fields::{Body, Message, Violations};
use crate::calls::many;
use crate::calls::send_stream::Contract;
use crate::calls::{Calls, shown};
use crate::error::Error;
use crate::port::guard::Deadline;
use channel_store::{Publish, Published};
use proto::chat::v1::send_outcome::Outcome;
use proto::chat::v1::{
    BatchSendRequest, BatchSendResponse, BroadcastRequest, BroadcastResponse, SendOutcome,
    SendRequest, SendResponse, SendStreamRequest, SendStreamResponse, broadcast_request,
    send_request,
};
use proto::time::timestamp;
use std::collections::HashSet;
use tonic_types::pb;

/// The most messages of a `BatchSend`.
const BATCH_MESSAGES: usize = 100;
/// The most channels of a `Broadcast`.
const BROADCAST_CHANNELS: usize = 1_000;

pub(super) async fn send(
    calls: &Calls,
    permit: &Permit,
    request: SendRequest,
) -> Result<SendResponse, Error> {
    let publish = check(request, permit, calls.message_limit())?;
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

    fn check(message: SendRequest, permit: &Permit, limit: usize) -> Result<Publish, Error> {
        check(message, permit, limit)
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

pub(super) async fn batch_send(
    calls: &Calls,
    permit: &Permit,
    deadline: Option<Deadline>,
    request: BatchSendRequest,
) -> Result<BatchSendResponse, Error> {
    if !(1..=BATCH_MESSAGES).contains(&request.messages.len()) {
        let error = format!("must be 1 to {BATCH_MESSAGES}");
        return Err(Error::invalid("messages", error));
    }
    let limit = calls.message_limit();
    let messages = request.messages.into_iter();
    let messages = messages.map(|it| check(it, permit, limit)).collect();
    let outcomes = calls.publish_each(messages, deadline).await;
    Ok(BatchSendResponse {
        outcomes: outcomes.into_iter().map(outcome).collect(),
    })
}

pub(super) async fn broadcast(
    calls: &Calls,
    permit: &Permit,
    deadline: Option<Deadline>,
    request: BroadcastRequest,
) -> Result<BroadcastResponse, Error> {
    let channels = request.channels;
    if !(1..=BROADCAST_CHANNELS).contains(&channels.len()) {
        let error = format!("must be 1 to {BROADCAST_CHANNELS}");
        return Err(Error::invalid("channels", error));
    }
    let mut named = HashSet::new();
    if let Some(twice) = channels.iter().find(|it| !named.insert(it.as_str())) {
        let error = format!("must name each channel once: {twice:?} is there twice");
        return Err(Error::invalid("channels", error));
    }
    let message = Message {
        user: request.user,
        user_is_number: request.user_is_number,
        route: request.route,
        key: request.idempotency_key,
        body: request.content.map(|content| match content {
            broadcast_request::Content::Body(object) => Body::Struct(object),
            broadcast_request::Content::BodyJson(json) => Body::Json(json),
        }),
        exclude_user: request.exclude_user,
        ephemeral: request.ephemeral,
        ..Message::default()
    };
    let content = message.check_content(permit, calls.message_limit())?;
    let publish = |channel: String| {
        let mut wrong = Violations::of(permit);
        let channel = wrong.channel("channels", channel).ok_or(wrong)?;
        Ok(content.clone().to(channel))
    };
    let messages = channels.into_iter().map(publish).collect();
    let outcomes = calls.publish_each(messages, deadline).await;
    Ok(BroadcastResponse {
        outcomes: outcomes.into_iter().map(outcome).collect(),
    })
}

fn outcome(outcome: many::Outcome) -> SendOutcome {
    match outcome {
        Ok(published) => Stream::sent(&published),
        Err(error) => Stream::refused(error.into()),
    }
}

fn check(request: SendRequest, permit: &Permit, limit: usize) -> Result<Publish, Error> {
    let message = Message {
        user: request.user,
        user_is_number: request.user_is_number,
        route: request.route,
        session: String::new(),
        key: request.idempotency_key,
        body: request.content.map(|content| match content {
            send_request::Content::Body(object) => Body::Struct(object),
            send_request::Content::BodyJson(json) => Body::Json(json),
        }),
        exclude_user: request.exclude_user,
        expected: request.expected_position,
        require_member: request.require_member,
        ephemeral: request.ephemeral,
        span: None,
    };
    message.check(permit, request.channel, limit)
}

fn sent(published: &Published) -> SendResponse {
    SendResponse {
        position: Some(shown(&published.position)),
        publish_time: Some(timestamp(published.time)),
        reached: published.reached,
    }
}
