//! The fields of requests, checked. Everything that is wrong with a request is said at once.

use super::json;
use crate::error::{Error, Violation};
use bytes::Bytes;
use channel_store::{
    ChannelName, IdempotencyKey, ON_JOIN, ON_LEAVE, ON_MESSAGE, Payload, Publish, Route, SessionId,
    User, UserId, body,
};
use prost_types::Struct;
use std::fmt::Display;

/// Session ids that begin with this character belong to the store: it names detached members so.
const RESERVED: char = '@';

/// The fields of a message, in either contract.
pub(crate) struct Message {
    pub(crate) channel: String,
    pub(crate) user: String,
    pub(crate) user_is_number: bool,
    /// Empty: onMessage.
    pub(crate) route: String,
    /// Empty: nobody has to be a member.
    pub(crate) session: String,
    /// Empty: none.
    pub(crate) key: String,
    /// `None`: it is missing.
    pub(crate) body: Option<Body>,
    pub(crate) exclude_user: bool,
}

/// The body of a message.
pub(crate) enum Body {
    Json(Bytes),
    Struct(Struct),
}

impl Message {
    /// What the store takes. A body of more than `limit` bytes is refused.
    pub(crate) fn check(self, limit: usize) -> Result<Publish, Error> {
        let mut wrong = Violations::default();
        let channel = wrong.check("channel", ChannelName::new(self.channel));
        let user = wrong.user(self.user, self.user_is_number);
        let route = wrong.route(self.route);
        let session = wrong.optional("session", self.session, session_id);
        let key = wrong.optional("idempotency_key", self.key, |text| {
            IdempotencyKey::new(text).map_err(|error| error.to_string())
        });
        let body = wrong.body(self.body, user.as_ref(), limit);
        let (Some(channel), Some(user), Some(route), Some(session), Some(key), Some(body)) =
            (channel, user, route, session, key, body)
        else {
            return Err(wrong.into());
        };
        let payload = if self.exclude_user {
            Payload::for_others
        } else {
            Payload::new
        };
        Ok(Publish {
            channel,
            session,
            payload: payload(&route, &user, &body),
            user: user.id,
            key,
        })
    }
}

/// A session's id from outside.
pub(crate) fn session_id(text: String) -> Result<SessionId, String> {
    if text.starts_with(RESERVED) {
        return Err(format!("must not begin with {RESERVED}"));
    }
    SessionId::new(text).map_err(|error| error.to_string())
}

/// The violations found so far. A check that answers `None` has left one here.
#[derive(Default)]
pub(crate) struct Violations(Vec<Violation>);

impl From<Violations> for Error {
    fn from(wrong: Violations) -> Self {
        Self::Invalid(wrong.0)
    }
}

impl Violations {
    pub(crate) fn check<T, E: Display>(
        &mut self,
        field: &'static str,
        checked: Result<T, E>,
    ) -> Option<T> {
        checked
            .map_err(|error| {
                let (field, description) = (field.into(), error.to_string());
                self.0.push(Violation { field, description });
            })
            .ok()
    }

    /// `Some(None)` if the text is empty, which is allowed.
    pub(crate) fn optional<T>(
        &mut self,
        field: &'static str,
        text: String,
        check: impl FnOnce(String) -> Result<T, String>,
    ) -> Option<Option<T>> {
        if text.is_empty() {
            return Some(None);
        }
        self.check(field, check(text)).map(Some)
    }

    pub(crate) fn user(&mut self, text: String, is_number: bool) -> Option<User> {
        if is_number && !json::is_number(&text) {
            let error = "must be a number as JavaScript prints it, because user_is_number is set";
            return self.check("user", Err(error));
        }
        let id = self.check("user", UserId::new(text))?;
        Some(User { id, is_number })
    }

    /// People, and clients that trim, could not tell a route with a blank at its end from the same route without.
    fn route(&mut self, text: String) -> Option<Route> {
        match text.as_str() {
            text if text.trim() != text => {
                self.check("route", Err("must not begin or end with a blank"))
            }
            "" => self.check("route", Route::new(ON_MESSAGE)),
            ON_JOIN | ON_LEAVE => self.check("route", Err("is published by the store alone")),
            // Clients would believe that their connector tells them about their own connection.
            "onPosition" | "onKick" => self.check("route", Err("is said by connectors alone")),
            _ => self.check("route", Route::new(text)),
        }
    }

    /// The JSON with the user's id in it. Without a user the body is only checked.
    fn body(&mut self, body: Option<Body>, user: Option<&User>, limit: usize) -> Option<Vec<u8>> {
        let (field, json) = match body {
            Some(Body::Json(json)) => ("body_json", json),
            Some(Body::Struct(object)) => (
                "body",
                self.check("body", json::render(&object)).map(Bytes::from)?,
            ),
            None => return self.check("content", Err("either body or body_json is required")),
        };
        if json.len() > limit {
            let error = format!("must have at most {limit} bytes as JSON");
            return self.check(field, Err(error));
        }
        let stamped = match user {
            Some(user) => body::stamp(&json, &user.json()),
            None => body::check(&json).map(|()| Vec::new()),
        };
        self.check(field, stamped)
    }
}
