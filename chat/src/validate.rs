//! Requests from outside, made into what the store takes. Everything that is wrong with one is said at once.

use crate::error::{Error, Violation};
use crate::{history, json};
use bytes::Bytes;
use channel_store::probe::{MOST_SETS, Probe};
use channel_store::{
    ChannelName, IdempotencyKey, Incarnation, Join, Leave, Membership, ON_JOIN, ON_LEAVE,
    ON_MESSAGE, PREDECESSORS, Payload, Publish, Route, SessionId, StoreError, User, UserId, body,
};
use proto::v1::send_request::Content;
use proto::v1::{
    HistoryRequest, JoinRequest, LeaveRequest, MembersRequest, Predecessor, ProbeRequest,
    SendRequest, Session,
};
use std::fmt::Display;

/// Session ids that begin so are the store's own: detached members.
const RESERVED: char = '@';
/// Above this, a store that counts in doubles, as Redis' scripts do, can't tell neighbours apart.
const LAST_OPERATION: u64 = (1 << 53) - 1;
const DEFAULT_PAGE: usize = 100;
const LARGEST_PAGE: u32 = 1_000;

/// Which page of whose members.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) channel: ChannelName,
    pub(crate) size: usize,
    pub(crate) token: Option<String>,
}

pub(crate) fn join(request: JoinRequest) -> Result<Join, Error> {
    let user = (request.user, request.user_is_number);
    let replaces = predecessors(request.replaces, request.session.is_some())?;
    let (channel, user, membership) = member(request.channel, user, request.session)?;
    Ok(Join {
        channel,
        user,
        membership,
        deadline: Some(request.deadline).filter(|&deadline| deadline > 0),
        replaces,
    })
}

fn predecessors(
    named: Vec<Predecessor>,
    by_session: bool,
) -> Result<Vec<channel_store::Predecessor>, Error> {
    let mut wrong = Wrong::default();
    if named.len() > PREDECESSORS || !(named.is_empty() || by_session) {
        let limits = format!("at most {PREDECESSORS}, and only for a connector's session");
        wrong.take::<(), _>("replaces", Err(limits));
        return Err(wrong.into());
    }
    let predecessors = named.into_iter().map(|it| {
        let incarnation = wrong.take("replaces.incarnation", Incarnation::new(it.incarnation));
        let session = wrong.take("replaces.session", session_id(it.session));
        Some(channel_store::Predecessor {
            session: session?,
            incarnation: incarnation?,
        })
    });
    let predecessors = predecessors.collect::<Option<_>>();
    predecessors.ok_or(wrong.into())
}

pub(crate) fn leave(request: LeaveRequest) -> Result<Leave, Error> {
    let user = (request.user, request.user_is_number);
    let (channel, user, membership) = member(request.channel, user, request.session)?;
    Ok(Leave {
        channel,
        user,
        membership,
        fence: request.fence,
    })
}

fn member(
    channel: String,
    (user, is_number): (String, bool),
    session: Option<Session>,
) -> Result<(ChannelName, User, Membership), Error> {
    let mut wrong = Wrong::default();
    let channel = wrong.take("channel", ChannelName::new(channel));
    let user = wrong.user(user, is_number);
    let membership = wrong.membership(session);
    match (channel, user, membership) {
        (Some(channel), Some(user), Some(membership)) => Ok((channel, user, membership)),
        _ => Err(wrong.into()),
    }
}

/// A body of more than `limit` bytes is refused.
pub(crate) fn send(request: SendRequest, limit: usize) -> Result<Publish, Error> {
    let mut wrong = Wrong::default();
    let channel = wrong.take("channel", ChannelName::new(request.channel));
    let user = wrong.user(request.user, request.user_is_number);
    let route = wrong.route(request.route);
    let session = wrong.optional("session", request.session, session_id);
    let key = wrong.optional("idempotency_key", request.idempotency_key, |text| {
        IdempotencyKey::new(text).map_err(|error| error.to_string())
    });
    let body = wrong.body(request.content, user.as_ref(), limit);
    let (Some(channel), Some(user), Some(route), Some(session), Some(key), Some(body)) =
        (channel, user, route, session, key, body)
    else {
        return Err(wrong.into());
    };
    let payload = if request.exclude_self {
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

pub(crate) fn members(request: MembersRequest) -> Result<Page, Error> {
    let mut wrong = Wrong::default();
    let channel = wrong.take("channel", ChannelName::new(request.channel));
    let size = wrong.take("page_size", page_size(request.page_size));
    let token = wrong.optional("page_token", request.page_token, |token| {
        let bound = |name| history::unbound(name, &token).map(str::to_owned);
        let token = channel.as_ref().and_then(bound);
        token.ok_or_else(|| StoreError::BadPageToken.to_string())
    });
    let (Some(channel), Some(size), Some(token)) = (channel, size, token) else {
        return Err(wrong.into());
    };
    Ok(Page {
        channel,
        size,
        token,
    })
}

pub(crate) fn history(request: HistoryRequest) -> Result<history::Asked, Error> {
    let mut wrong = Wrong::default();
    let channel = wrong.take("channel", ChannelName::new(request.channel));
    let size = wrong.take("page_size", page_size(request.page_size));
    let range = history::range(request.newest_first, request.from);
    let range = range.or_else(|(field, error)| wrong.take(field, Err(error)).ok_or(()));
    let token = wrong.optional("page_token", request.page_token, |token| {
        let newest_first = request.newest_first;
        let range = |name| history::range_of(name, newest_first, &token);
        let range = channel.as_ref().and_then(range);
        range.ok_or_else(|| StoreError::BadPageToken.to_string())
    });
    let (Some(channel), Some(size), Ok(range), Some(token)) = (channel, size, range, token) else {
        return Err(wrong.into());
    };
    Ok(history::Asked {
        channel,
        range: token.unwrap_or(range),
        size,
        bytes: request.page_bytes as usize,
        body_as_struct: request.body_as_struct,
    })
}

pub(crate) fn probe(request: ProbeRequest) -> Result<Probe, Error> {
    if request.sets.len() > MOST_SETS {
        let description = format!("must be at most {MOST_SETS}");
        return Err(Error::invalid("sets", description));
    }
    Ok(Probe {
        sets: request.sets,
        nonce: request.nonce,
    })
}

fn page_size(size: u32) -> Result<usize, String> {
    match size {
        0 => Ok(DEFAULT_PAGE),
        1..=LARGEST_PAGE => Ok(size as usize),
        _ => Err(format!("must be at most {LARGEST_PAGE}")),
    }
}

fn session_id(text: String) -> Result<SessionId, String> {
    if text.starts_with(RESERVED) {
        return Err(format!("must not begin with {RESERVED}"));
    }
    SessionId::new(text).map_err(|error| error.to_string())
}

/// The violations found so far. What takes part of a request leaves one here whenever it answers `None`.
#[derive(Default)]
struct Wrong(Vec<Violation>);

impl From<Wrong> for Error {
    fn from(wrong: Wrong) -> Self {
        Self::Invalid(wrong.0)
    }
}

impl Wrong {
    fn take<T, E: Display>(&mut self, field: &'static str, checked: Result<T, E>) -> Option<T> {
        checked
            .map_err(|error| {
                let description = error.to_string();
                self.0.push(Violation { field, description });
            })
            .ok()
    }

    /// `Some(None)`: empty, which is allowed.
    fn optional<T>(
        &mut self,
        field: &'static str,
        text: String,
        check: impl FnOnce(String) -> Result<T, String>,
    ) -> Option<Option<T>> {
        if text.is_empty() {
            return Some(None);
        }
        self.take(field, check(text)).map(Some)
    }

    fn user(&mut self, text: String, is_number: bool) -> Option<User> {
        if is_number && !json::is_number(&text) {
            let error = "must be a number as JavaScript prints it, because user_is_number is set";
            return self.take("user", Err(error));
        }
        let id = self.take("user", UserId::new(text))?;
        Some(User { id, is_number })
    }

    fn membership(&mut self, session: Option<Session>) -> Option<Membership> {
        let Some(session) = session else {
            return Some(Membership::Detached);
        };
        let incarnation = self.take("session.incarnation", Incarnation::new(session.incarnation));
        let id = self.take("session.id", session_id(session.id));
        let operation = if session.operation <= LAST_OPERATION {
            Ok(session.operation)
        } else {
            Err(format!("must be at most {LAST_OPERATION}"))
        };
        let operation = self.take("session.operation", operation);
        Some(Membership::Session {
            incarnation: incarnation?,
            session: id?,
            operation: operation?,
        })
    }

    /// A route that differs from another one by a blank at its ends alone would be taken for that one by people, and by
    /// clients that trim.
    fn route(&mut self, text: String) -> Option<Route> {
        match text.as_str() {
            text if text.trim() != text => {
                self.take("route", Err("must not begin or end with a blank"))
            }
            "" => self.take("route", Route::new(ON_MESSAGE)),
            ON_JOIN | ON_LEAVE => self.take("route", Err("is published by the store alone")),
            // Clients would take it for what their connector tells them of their own connection.
            "onPosition" | "onKick" => self.take("route", Err("is said by connectors alone")),
            _ => self.take("route", Route::new(text)),
        }
    }

    /// The JSON, stamped with the user; merely checked if there is none to stamp it with.
    fn body(
        &mut self,
        content: Option<Content>,
        user: Option<&User>,
        limit: usize,
    ) -> Option<Vec<u8>> {
        let (field, json) = match content {
            Some(Content::BodyJson(json)) => ("body_json", json),
            Some(Content::Body(body)) => (
                "body",
                self.take("body", json::render(&body)).map(Bytes::from)?,
            ),
            None => return self.take("content", Err("either body or body_json is required")),
        };
        if json.len() > limit {
            let error = format!("must have at most {limit} bytes as JSON");
            return self.take(field, Err(error));
        }
        let stamped = match user {
            Some(user) => body::stamp(&json, &user.json()),
            None => body::check(&json).map(|()| Vec::new()),
        };
        self.take(field, stamped)
    }
}
