//! What a session says.

use super::{Answer, Client, FAILED, NOT_JOINED, NOT_LOGGED_IN, SENT};
use crate::chat::Outcome;
use crate::codec::{Request, RequestBody};
use crate::parameters::Publish;
use bytes::Bytes;
use channel_store::{ChannelName, IdempotencyKey};
use proto::v1::SendRequest;
use proto::v1::send_request::Content;
use std::sync::Arc;
use tokio::time::Instant;

/// A message, and where it is to go.
struct Message {
    /// `None`: to the channel of the login.
    channel: Option<ChannelName>,
    body: Bytes,
    key: Option<Box<str>>,
    exclude_self: bool,
}

impl Client {
    /// The body is the message, for the channel of the login.
    pub(super) async fn send(&mut self, request: Request, deadline: Instant) {
        let key = request.key;
        let body = match request.body {
            RequestBody::Object(body) => Ok(body),
            RequestBody::Empty => Ok(Bytes::from_static(b"{}")),
            RequestBody::Unusable => Err(FAILED),
        };
        let is_key = key
            .as_deref()
            .is_none_or(|key| IdempotencyKey::new(key).is_ok());
        let message = body.and_then(|body| {
            let message = Message {
                channel: None,
                body,
                key,
                exclude_self: false,
            };
            is_key.then_some(message).ok_or(FAILED)
        });
        self.say(request.id, message.map_err(Answer::from), deadline)
            .await;
    }

    /// The body tells the channel, the message and what is to become of it.
    pub(super) async fn publish(&mut self, request: Request, deadline: Instant) {
        let message = match Publish::parse(&request.body) {
            _ if matches!(request.body, RequestBody::Unusable) => Err(FAILED.into()),
            Ok(Publish {
                channel,
                body,
                key,
                exclude_self,
            }) => Ok(Message {
                channel,
                body,
                key: key.or(request.key),
                exclude_self,
            }),
            Err(error) => Err(error.into()),
        };
        self.say(request.id, message, deadline).await;
    }

    async fn say(&mut self, id: Option<u64>, message: Result<Message, Answer>, deadline: Instant) {
        let Some(session) = &mut self.session else {
            return self.answer(id, NOT_LOGGED_IN);
        };
        let place = message.and_then(|message| {
            let place = session.place(message.channel.as_ref());
            let place = place.ok_or(NOT_JOINED)?;
            Ok((Arc::clone(&place.membership), message))
        });
        let (membership, message) = match place {
            Ok(place) => place,
            Err(answer) => {
                session.flow.settled().await;
                return self.answer(id, &answer);
            }
        };
        session.keys += 1;
        let key = match message.key {
            Some(key) => key.into_string(),
            None => format!("{}-{}", session.id, session.keys),
        };
        let send = SendRequest {
            channel: membership.channel().to_string(),
            user: session.user.id.to_string(),
            user_is_number: session.user.is_number,
            route: String::new(),
            content: Some(Content::BodyJson(message.body)),
            idempotency_key: key,
            session: session.id.to_string(),
            exclude_self: message.exclude_self,
        };
        session.flow.room().await;
        if Instant::now() >= deadline {
            session.flow.settled().await;
            return self.answer(id, FAILED);
        }
        let connection = Arc::clone(&self.connection);
        self.services
            .chat
            .send(&session.flow, send, deadline, move |outcome| {
                let answer = match outcome {
                    Outcome::Sent(_) => SENT,
                    Outcome::Refused(reason) => {
                        tracing::debug!(reason, "send refused");
                        if reason == "NOT_MEMBER" {
                            membership.suspect();
                        }
                        FAILED
                    }
                    Outcome::Unknown | Outcome::Unsent => FAILED,
                };
                if let Some(id) = id {
                    connection.reply(id, answer.as_bytes());
                }
            });
    }
}
