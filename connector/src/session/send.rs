//! The messages that a session sends.

use super::Handlers;
use super::parameters::{self, Publish};
use super::replies::{SENT, conclude};
use crate::access::Right;
use crate::chat_client::Outcome;
use crate::metering::RequestUnderWay;
use bytes::Bytes;
use channel_store::ChannelName;
use proto::connector::v1::SessionMessage;
use runtime::log;
use std::sync::Arc;
use tokio::time::Instant;
use wire::{Reason, Refusal, Request, RequestBody};

/// A message and its destination.
struct Message {
    /// `None`: the channel of the login.
    channel: Option<ChannelName>,
    body: Bytes,
    key: Option<Box<str>>,
    exclude_self: bool,
    ephemeral: bool,
}

impl Handlers {
    /// Handles `chat.handler.send`: the body is the message, for the channel of the login.
    pub(super) async fn send(
        &mut self,
        request: Request,
        deadline: Instant,
        measured: RequestUnderWay,
    ) {
        let body = match request.body {
            RequestBody::Object(body) => Ok(body),
            RequestBody::Empty => Ok(Bytes::from_static(b"{}")),
            RequestBody::Unusable => Err(Reason::InvalidBody),
        };
        let message = body.map_err(Refusal::from).and_then(|body| {
            Ok(Message {
                channel: None,
                body,
                key: parameters::key(request.key)?,
                exclude_self: false,
                ephemeral: false,
            })
        });
        self.say(request.id, message, deadline, measured).await;
    }

    /// Handles `chat.handler.publish`: the body names the channel, the message and its options.
    pub(super) async fn publish(
        &mut self,
        request: Request,
        deadline: Instant,
        measured: RequestUnderWay,
    ) {
        let message = match request.body {
            RequestBody::Unusable => Err(Reason::InvalidBody.into()),
            body => Publish::parse(&body).and_then(|publish| {
                let key = publish.key.or(parameters::key(request.key)?);
                if publish.ephemeral && key.is_some() {
                    return Err(parameters::ephemeral_with_key());
                }
                Ok(Message {
                    channel: publish.channel,
                    body: publish.body,
                    key,
                    exclude_self: publish.exclude_self,
                    ephemeral: publish.ephemeral,
                })
            }),
        };
        self.say(request.id, message, deadline, measured).await;
    }

    async fn say(
        &mut self,
        id: Option<u64>,
        message: Result<Message, Refusal>,
        deadline: Instant,
        measured: RequestUnderWay,
    ) {
        let Some(session) = &self.session else {
            return conclude(
                measured,
                &self.connection,
                id,
                Err(Reason::NotLoggedIn.into()),
            );
        };
        let place = message.and_then(|message| {
            let place = session.joined(message.channel.as_ref());
            let place = place.ok_or(Reason::NotJoined)?.allow(Right::Send)?;
            Ok((Arc::clone(&place.membership), place.rights.asks(), message))
        });
        let (membership, is_asked, mut message) = match place {
            Ok(place) => place,
            Err(refusal) => {
                session.window.settled().await;
                return conclude(measured, &self.connection, id, Err(refusal));
            }
        };
        if is_asked {
            let asked = self.ask_about(membership.channel(), &message, deadline);
            // Boxed, so that other messages do not carry its future.
            match log::about(self.about(id), asked).await {
                Some(Ok(body)) => message.body = body,
                Some(Err(refusal)) => {
                    self.answered().await;
                    return conclude(measured, &self.connection, id, Err(refusal));
                }
                None => return,
            }
        }
        let key = match message.key {
            Some(key) => key.into_string(),
            None if message.ephemeral => String::new(),
            None => format!("{}-{}", session.id, session.window.next_key()),
        };
        let send = SessionMessage {
            channel: membership.channel().to_string(),
            user: session.user.id.to_string(),
            user_is_number: session.user.is_number,
            body_json: message.body,
            idempotency_key: key,
            session: session.id.to_string(),
            exclude_user: message.exclude_self,
            ephemeral: message.ephemeral,
            traceparent: String::new(),
        };
        session.window.room().await;
        if Instant::now() >= deadline {
            session.window.settled().await;
            return conclude(
                measured,
                &self.connection,
                id,
                Err(Reason::Unavailable.into()),
            );
        }
        let connection = Arc::clone(&self.connection);
        // The request lasts until it is answered.
        let request_step = traces::current();
        self.services
            .chat
            .send(&session.window, send, deadline, move |outcome| {
                let answer = match outcome {
                    Outcome::Sent(_) => Ok(SENT.into()),
                    Outcome::Refused(reason) => {
                        let session = connection.session();
                        tracing::debug!(session, request = id, reason, "send refused");
                        if reason == "NOT_MEMBER" {
                            membership.suspect();
                        }
                        Err(Refusal::from(Reason::of_chat(&reason)))
                    }
                    Outcome::Unknown => Err(Reason::UnknownOutcome.into()),
                    Outcome::Unsent => Err(Reason::Unavailable.into()),
                };
                if let (Some(step), Err(refusal)) = (&request_step, &answer) {
                    step.fail(refusal.reason().name());
                }
                conclude(measured, &connection, id, answer);
            });
    }

    async fn ask_about(
        &self,
        channel: &ChannelName,
        message: &Message,
        deadline: Instant,
    ) -> Option<Result<Bytes, Refusal>> {
        let session = self.session.as_ref()?;
        let (body, key) = (message.body.clone(), message.key.as_deref());
        let asked = self.ask_to_send(session, channel, body, key, message.ephemeral, deadline);
        asked.await
    }
}
