//! Makes sessions members of channels, and ends their memberships.
//!
//! The sessions do this themselves, between two requests of their clients. So it needs no order against what the clients ask.

use super::connectors::{Asked, Connectors, name_of};
use super::search::{Search, Targets, Wanted};
use crate::access::Permit;
use crate::calls::fields::{Violations, session_id};
use crate::error::Error;
use crate::metering;
use channel_store::{ChannelName, Incarnation, SessionId, StoreError, UserId};
use proto::chat::v1::{
    AddOutcome, AddToChannelRequest, AddToChannelResponse, RemoveFromChannelRequest,
    RemoveFromChannelResponse, RemoveOutcome, add_outcome,
};
use proto::connector::v1::command::Action;
use proto::connector::v1::command_answer::Outcome;
use proto::connector::v1::joined_session;
use proto::connector::v1::{JoinAction, LeaveAction, SessionName};
use std::collections::{BTreeMap, BTreeSet};
use tonic_types::pb;

pub(super) async fn add(
    connectors: &Connectors,
    permit: &Permit,
    request: AddToChannelRequest,
) -> Result<AddToChannelResponse, Error> {
    let (channel, wanted) = checked(permit, request.channel, request.user, request.session)?;
    let mut search = Search::new(connectors, wanted);
    let mut outcomes = Vec::new();
    while let Some(targets) = search.next().await? {
        let join = |to| {
            let channel = channel.to_string();
            Action::Join(JoinAction { to, channel })
        };
        for (incarnation, asked) in connectors.ask_all(commands(targets, join)).await {
            match asked {
                Asked::Answered(Outcome::Joined(joined)) => {
                    again(&mut search, &joined.logging_in);
                    for it in joined.sessions {
                        let Some((session, connector)) = seen(&mut search, &incarnation, it.name)
                        else {
                            continue;
                        };
                        let outcome = it.outcome.map(|it| match it {
                            joined_session::Outcome::Position(at) => {
                                add_outcome::Outcome::Position(at)
                            }
                            joined_session::Outcome::Refused(reason) => {
                                add_outcome::Outcome::Refused(refused(&reason))
                            }
                        });
                        outcomes.push(AddOutcome {
                            session,
                            connector,
                            outcome,
                        });
                    }
                }
                Asked::Gone => {}
                Asked::Answered(_) | Asked::Unanswered => search.is_unanswered(incarnation),
            }
        }
    }
    Ok(AddToChannelResponse {
        outcomes,
        unanswered_connectors: search.unanswered(),
    })
}

pub(super) async fn remove(
    connectors: &Connectors,
    permit: &Permit,
    request: RemoveFromChannelRequest,
) -> Result<RemoveFromChannelResponse, Error> {
    let (channel, wanted) = checked(permit, request.channel, request.user, request.session)?;
    let mut search = Search::with_lingering(connectors, wanted);
    let mut outcomes = Vec::new();
    while let Some(targets) = search.next().await? {
        let leave = |to| {
            let channel = channel.to_string();
            Action::Leave(LeaveAction { to, channel })
        };
        for (incarnation, asked) in connectors.ask_all(commands(targets, leave)).await {
            match asked {
                Asked::Answered(Outcome::Left(left)) => {
                    again(&mut search, &left.logging_in);
                    for it in left.sessions {
                        let Some((session, connector)) = seen(&mut search, &incarnation, it.name)
                        else {
                            continue;
                        };
                        outcomes.push(RemoveOutcome {
                            session,
                            connector,
                            was_member: it.was_member,
                            refused: (!it.refused.is_empty()).then(|| refused(&it.refused)),
                        });
                    }
                }
                Asked::Gone => {}
                Asked::Answered(_) | Asked::Unanswered => search.is_unanswered(incarnation),
            }
        }
    }
    Ok(RemoveFromChannelResponse {
        outcomes,
        unanswered_connectors: search.unanswered(),
    })
}

/// The channel, and whose sessions are meant.
fn checked(
    permit: &Permit,
    channel: String,
    user: String,
    session: String,
) -> Result<(ChannelName, BTreeMap<UserId, Wanted>), Error> {
    let mut wrong = Violations::of(permit);
    let channel = wrong.channel("channel", channel);
    let user = wrong.check("user", UserId::new(user));
    let session = wrong.optional("session", session, session_id);
    let (Some(channel), Some(user), Some(session)) = (channel, user, session) else {
        return Err(wrong.into());
    };
    permit.note_user(&user);
    let wanted = session.map_or(Wanted::All, |it| Wanted::Some(BTreeSet::from([it])));
    Ok((channel, BTreeMap::from([(user, wanted)])))
}

fn commands(
    targets: Targets,
    action: impl Fn(Vec<proto::connector::v1::UserSessions>) -> Action,
) -> impl Iterator<Item = (Incarnation, Action)> {
    let targets = targets.into_iter();
    targets.map(move |(whose, to)| (whose, action(to)))
}

/// Sessions that are still logging in are asked again.
fn again(search: &mut Search<'_>, logging_in: &[SessionName]) {
    for it in logging_in {
        search.again(&it.session);
    }
}

/// A session that has answered, and its connector.
fn seen(
    search: &mut Search<'_>,
    incarnation: &Incarnation,
    name: Option<SessionName>,
) -> Option<(String, String)> {
    let session = SessionId::new(name?.session).ok()?;
    let named = session.to_string();
    search.has_seen(session);
    Some((named, name_of(incarnation).to_owned()))
}

/// Why a session was refused. Connectors name the reasons that they give to clients.
fn refused(reason: &str) -> pb::Status {
    let error = match reason {
        "TOO_MANY_CHANNELS" => Error::TooManyChannels,
        "LEAVE_PENDING" => Error::LeavePending,
        "STORE_FULL" => Error::Store(StoreError::Full),
        "TRY_LATER" | "RATE_LIMITED" => Error::Overloaded,
        _ => Error::SessionUnavailable,
    };
    metering::refused(&error);
    error.into()
}
