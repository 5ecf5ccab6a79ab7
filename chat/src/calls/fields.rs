//! The fields of requests, checked. Everything that is wrong with a request is said at once.

use crate::access::Permit;
use crate::error::{Error, Violation};
use bytes::Bytes;
use channel_store::{
    CONNECTOR_ROUTES, ChannelName, Epoch, IdempotencyKey, ON_MESSAGE, Payload, Position, Publish,
    Route, STORE_ROUTES, SessionId, User, UserId, UserInfo, body,
};
use prost_types::Struct;
use proto::chat::v1;
use proto::json;
use std::fmt::Display;
use std::sync::Arc;
use traces::Span;

/// Session ids that begin with this character belong to the store: it names detached members so.
const RESERVED: char = '@';

/// No epoch has more bytes.
pub(crate) const EPOCH_BYTES: usize = 64;

/// The fields of a message, in either contract. Its channel comes apart from it.
#[derive(Default)]
pub(crate) struct Message {
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
    /// `None`: the log may end anywhere.
    pub(crate) expected: Option<v1::Position>,
    pub(crate) require_member: bool,
    pub(crate) ephemeral: bool,
    /// The step of a trace that answers it. `None`: that of the call, if there is one.
    pub(crate) span: Option<Arc<Span>>,
}

/// A message that was checked, for whatever channel.
#[derive(Clone)]
pub(crate) struct Content {
    user: UserId,
    session: Option<SessionId>,
    require_member: bool,
    payload: Payload,
    key: Option<IdempotencyKey>,
    expected: Option<Position>,
    ephemeral: bool,
    span: Option<Arc<Span>>,
}

/// The body of a message.
pub(crate) enum Body {
    Json(Bytes),
    Struct(Struct),
}

impl Message {
    /// What the store takes. A body of more than `limit` bytes is refused.
    pub(crate) fn check(
        self,
        permit: &Permit,
        channel: String,
        limit: usize,
    ) -> Result<Publish, Error> {
        let mut wrong = Violations::of(permit);
        let channel = wrong.channel("channel", channel);
        let content = self.check_all(&mut wrong, limit);
        match (channel, content) {
            (Some(channel), Some(content)) => Ok(content.to(channel)),
            _ => Err(wrong.into()),
        }
    }

    /// The same without a channel.
    pub(crate) fn check_content(self, permit: &Permit, limit: usize) -> Result<Content, Error> {
        let mut wrong = Violations::of(permit);
        let content = self.check_all(&mut wrong, limit);
        content.ok_or_else(|| wrong.into())
    }

    fn check_all(self, wrong: &mut Violations, limit: usize) -> Option<Content> {
        let user = wrong.user(self.user, self.user_is_number);
        let route = wrong.route(self.route);
        let session = wrong.optional("session", self.session, session_id);
        if self.ephemeral && (!self.key.is_empty() || self.expected.is_some()) {
            let error = "cannot be combined with an idempotency key or an expected position: it is not in the log, where \
                         they could be found again";
            return wrong.check("ephemeral", Err(error));
        }
        let key = if self.key.is_empty() && self.expected.is_some() {
            let error = "is required with expected_position: after an unknown outcome, only the key tells your own \
                         success from somebody else's";
            wrong.check("idempotency_key", Err(error))
        } else {
            wrong.optional("idempotency_key", self.key, |text| {
                IdempotencyKey::new(text).map_err(|error| error.to_string())
            })
        };
        let expected = match self.expected {
            Some(position) => wrong.expected(position).map(Some),
            None => Some(None),
        };
        let body = wrong.body(self.body, user.as_ref(), limit);
        let payload = if self.exclude_user {
            Payload::for_others
        } else {
            Payload::new
        };
        let (route, user) = (route?, user?);
        Some(Content {
            payload: payload(&route, &user, &body?),
            session: session?,
            require_member: self.require_member,
            user: user.id,
            key: key?,
            expected: expected?,
            ephemeral: self.ephemeral,
            span: self.span.or_else(traces::current),
        })
    }
}

impl Content {
    /// The message on its way to this channel.
    pub(crate) fn to(self, channel: ChannelName) -> Publish {
        Publish {
            channel,
            session: self.session,
            require_member: self.require_member,
            user: self.user,
            payload: self.payload,
            key: self.key,
            expected: self.expected,
            ephemeral: self.ephemeral,
            span: self.span,
        }
    }
}

/// A session's id from outside.
pub(crate) fn session_id(text: String) -> Result<SessionId, String> {
    if text.starts_with(RESERVED) {
        return Err(format!("must not begin with {RESERVED}"));
    }
    SessionId::new(text).map_err(|error| error.to_string())
}

/// What was found wrong so far. A check that answers `None` has left it here.
#[derive(Default)]
pub(crate) struct Violations {
    wrong: Vec<Violation>,
    /// What the caller may name.
    permit: Permit,
    /// The first field that names a channel that the caller may not name. The whole request is refused for it, and no other
    /// field is told.
    forbidden: Option<&'static str>,
}

impl From<Violations> for Error {
    fn from(wrong: Violations) -> Self {
        match wrong.forbidden {
            Some(field) => Self::ChannelNotAllowed { field: Some(field) },
            None => Self::Invalid(wrong.wrong),
        }
    }
}

impl Violations {
    /// Nothing is wrong yet with the request of a caller who may do this.
    pub(crate) fn of(permit: &Permit) -> Self {
        Self {
            permit: permit.clone(),
            ..Self::default()
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.wrong.is_empty() && self.forbidden.is_none()
    }

    /// A channel that the request names. Every one must pass here, or a token for some channels would be one for all.
    pub(crate) fn channel(&mut self, field: &'static str, text: String) -> Option<ChannelName> {
        let channel = self.check(field, ChannelName::new(text))?;
        if self.permit.allows(&channel) {
            return Some(channel);
        }
        self.forbidden.get_or_insert(field);
        None
    }

    /// The beginning of names that the request gives in place of a channel.
    pub(crate) fn prefix(&mut self, field: &'static str, prefix: &str) {
        if !self.permit.allows_prefix(prefix) {
            self.forbidden.get_or_insert(field);
        }
    }

    pub(crate) fn check<T, E: Display>(
        &mut self,
        field: &'static str,
        checked: Result<T, E>,
    ) -> Option<T> {
        checked
            .map_err(|error| {
                let (field, description) = (field.into(), error.to_string());
                self.wrong.push(Violation { field, description });
            })
            .ok()
    }

    /// # Errors
    /// What was found wrong so far.
    pub(crate) fn none(self) -> Result<(), Error> {
        if self.is_empty() {
            Ok(())
        } else {
            Err(self.into())
        }
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
        self.permit.note_user(&id);
        Some(User { id, is_number })
    }

    /// Where the log must end.
    fn expected(&mut self, position: v1::Position) -> Option<Position> {
        let v1::Position { epoch, offset } = position;
        if epoch.len() > EPOCH_BYTES || epoch.is_empty() && offset > 0 {
            let error = format!(
                "must have 1 to {EPOCH_BYTES} bytes, or be empty with offset 0: that is a channel in which nothing was \
                 published yet"
            );
            return self.check("expected_position.epoch", Err(error));
        }
        Some(Position {
            epoch: Epoch::new(&epoch),
            offset,
        })
    }

    /// An epoch that a store has named.
    pub(crate) fn epoch(&mut self, field: &'static str, text: &str) -> Option<Epoch> {
        if !(1..=EPOCH_BYTES).contains(&text.len()) {
            let error = format!("must have 1 to {EPOCH_BYTES} bytes");
            return self.check(field, Err(error));
        }
        Some(Epoch::new(text))
    }

    /// People, and clients that trim, could not tell a route with a blank at its end from the same route without.
    pub(crate) fn route(&mut self, text: String) -> Option<Route> {
        match text.as_str() {
            text if text.trim() != text => {
                self.check("route", Err("must not begin or end with a blank"))
            }
            "" => self.check("route", Route::new(ON_MESSAGE)),
            text if STORE_ROUTES.contains(&text) => {
                self.check("route", Err("is published by the store alone"))
            }
            text if CONNECTOR_ROUTES.contains(&text) => {
                self.check("route", Err("is one that connectors use: choose another"))
            }
            _ => self.check("route", Route::new(text)),
        }
    }

    /// The JSON as it came.
    pub(crate) fn unstamped(&mut self, body: Option<Body>, limit: usize) -> Option<Bytes> {
        let (field, json) = self.json(body, limit)?;
        self.check(field, body::check(&json))?;
        Some(json)
    }

    /// The JSON with the user's id in it. Without a user the body is only checked.
    fn body(&mut self, body: Option<Body>, user: Option<&User>, limit: usize) -> Option<Vec<u8>> {
        let (field, json) = self.json(body, limit)?;
        let stamped = match user {
            Some(user) => body::stamp(&json, &user.json()),
            None => body::check(&json).map(|()| Vec::new()),
        };
        self.check(field, stamped)
    }

    /// What everybody may know of a user, if the request says something about that.
    pub(crate) fn info(&mut self, about: Option<Body>) -> Option<Option<UserInfo>> {
        let (field, json) = match about {
            None => return Some(None),
            Some(Body::Json(json)) => ("info_json", json),
            Some(Body::Struct(info)) => (
                "info",
                self.check("info", json::render(&info)).map(Bytes::from)?,
            ),
        };
        self.check(field, UserInfo::new(json)).map(Some)
    }

    /// The text of a body, and the name of its field.
    fn json(&mut self, body: Option<Body>, limit: usize) -> Option<(&'static str, Bytes)> {
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
        Some((field, json))
    }
}
