//! Ends the connections of users and sessions.

use super::connectors::{Asked, Connectors, name_of};
use super::fields::{MOST, sessions, some_users};
use super::search::{Search, Wanted};
use crate::access::Permit;
use crate::calls::fields::Violations;
use crate::error::Error;
use channel_store::{Incarnation, SessionId, UserId};
use proto::chat::v1::{ClosedSession, DisconnectRequest, DisconnectResponse};
use proto::connector::v1::command::Action;
use proto::connector::v1::command_answer::Outcome;
use proto::connector::v1::{DisconnectAction, DisconnectedSession};
use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// The most bytes of a reason: a close frame of WebSocket has room for it.
const REASON_LIMIT: usize = 64;
/// The close codes that back ends may choose. Connectors use none of them on their own.
const CODES: RangeInclusive<u32> = 4100..=4999;

pub(super) async fn disconnect(
    connectors: &Connectors,
    permit: &Permit,
    request: DisconnectRequest,
) -> Result<DisconnectResponse, Error> {
    let mut wrong = Violations::of(permit);
    let wanted = wanted(&mut wrong, &request);
    let except = sessions(&mut wrong, "except_sessions", &request.except_sessions);
    let reason = wrong.check("reason", reason(request.reason));
    let code = match request.code {
        0 => Some(0),
        code if CODES.contains(&code) => Some(code),
        _ => wrong.check("code", Err("must be 0 or from 4100 to 4999")),
    };
    let (Some(wanted), Some(except), Some(reason), Some(code)) = (wanted, except, reason, code)
    else {
        return Err(wrong.into());
    };
    wanted.keys().for_each(|user| permit.note_user(user));
    let mut search = Search::new(connectors, wanted);
    for session in except {
        search.has_seen(session);
    }
    let mut closed = Vec::new();
    while let Some(targets) = search.next().await? {
        let disconnect = |of| {
            Action::Disconnect(DisconnectAction {
                of,
                except_sessions: request.except_sessions.clone(),
                reason: reason.clone(),
                code,
                reconnect: request.reconnect,
            })
        };
        let commands = targets
            .into_iter()
            .map(|(whose, of)| (whose, disconnect(of)));
        for (incarnation, asked) in connectors.ask_all(commands).await {
            match asked {
                Asked::Answered(Outcome::Disconnected(disconnected)) => {
                    for it in disconnected.sessions {
                        let it = self::closed(&mut search, &incarnation, it);
                        // Its client was told to connect again, and the new session must stay.
                        if request.reconnect {
                            search.leave_out(&it.user);
                        }
                        closed.push(it);
                    }
                }
                Asked::Gone => {}
                Asked::Answered(_) | Asked::Unanswered => search.is_unanswered(incarnation),
            }
        }
    }
    Ok(DisconnectResponse {
        closed,
        unanswered_connectors: search.unanswered(),
    })
}

/// What the caller is told of a session that was closed. Nobody is asked about it any more.
pub(super) fn closed(
    search: &mut Search<'_>,
    incarnation: &Incarnation,
    it: DisconnectedSession,
) -> ClosedSession {
    let name = it.name.unwrap_or_default();
    if let Ok(session) = SessionId::new(name.session.as_str()) {
        search.has_seen(session);
    }
    ClosedSession {
        session: name.session,
        user: name.user,
        connector: name_of(incarnation).to_owned(),
        leaves_pending: it.leaves_pending,
    }
}

/// Whose sessions to close.
fn wanted(wrong: &mut Violations, request: &DisconnectRequest) -> Option<BTreeMap<UserId, Wanted>> {
    let count = request.users.len() + request.sessions.len();
    if !(1..=MOST).contains(&count) {
        let error = format!("1 to {MOST} users and sessions together are needed, not {count}");
        return wrong.check("users", Err(error));
    }
    let users = some_users(wrong, "users", &request.users);
    let names = request.sessions.iter();
    let (of_users, ids): (Vec<_>, Vec<_>) = names
        .map(|it| (it.user.clone(), it.session.clone()))
        .unzip();
    let of_users = of_users.into_iter().map(UserId::new);
    let of_users = of_users.collect::<Result<Vec<_>, _>>();
    let of_users = wrong.check("sessions.user", of_users);
    let ids = sessions(wrong, "sessions.session", &ids);
    let mut wanted = BTreeMap::new();
    for (user, session) in of_users?.into_iter().zip(ids?) {
        let sessions = wanted.entry(user);
        let Wanted::Some(sessions) = sessions.or_insert_with(|| Wanted::Some(Default::default()))
        else {
            continue;
        };
        sessions.insert(session);
    }
    wanted.extend(users?.into_iter().map(|user| (user, Wanted::All)));
    Some(wanted)
}

pub(super) fn reason(text: String) -> Result<String, String> {
    if text.len() > REASON_LIMIT {
        return Err(format!("must have at most {REASON_LIMIT} bytes"));
    }
    if text.chars().any(char::is_control) {
        return Err("must not hold control characters".to_owned());
    }
    Ok(text)
}
