//! Messages to users.

use super::connectors::{Asked, Connectors};
use super::fields::users;
use super::search::{Search, Wanted};
use crate::access::Permit;
use crate::calls::fields::{Body, Violations};
use crate::error::Error;
use channel_store::SessionId;
use proto::chat::v1::push_to_users_request::Content;
use proto::chat::v1::{PushOutcome, PushToUsersRequest, PushToUsersResponse};
use proto::connector::v1::PushAction;
use proto::connector::v1::command::Action;
use proto::connector::v1::command_answer::Outcome;
use std::collections::{HashMap, HashSet};

pub(super) async fn push(
    connectors: &Connectors,
    permit: &Permit,
    request: PushToUsersRequest,
    limit: usize,
) -> Result<PushToUsersResponse, Error> {
    let mut wrong = Violations::of(permit);
    let users = users(&mut wrong, &request.users);
    let route = wrong.route(request.route);
    let body = request.content.map(|content| match content {
        Content::Body(object) => Body::Struct(object),
        Content::BodyJson(json) => Body::Json(json),
    });
    let body = wrong.unstamped(body, limit);
    let (Some(users), Some(route), Some(body_json)) = (users, route, body) else {
        return Err(wrong.into());
    };
    users.iter().for_each(|user| permit.note_user(user));
    let wanted = users.iter().map(|user| (user.clone(), Wanted::All));
    let mut search = Search::new(connectors, wanted.collect());
    let mut reached: HashMap<String, HashSet<String>> = HashMap::new();
    while let Some(targets) = search.next().await? {
        let push = |to| {
            Action::Push(PushAction {
                to,
                route: route.to_string(),
                body_json: body_json.clone(),
            })
        };
        let commands = targets.into_iter().map(|(whose, to)| (whose, push(to)));
        for (incarnation, asked) in connectors.ask_all(commands).await {
            match asked {
                Asked::Answered(Outcome::Pushed(pushed)) => {
                    for it in pushed.logging_in {
                        search.again(&it.session);
                    }
                    for it in pushed.reached {
                        if let Ok(session) = SessionId::new(it.session.as_str()) {
                            search.has_seen(session);
                        }
                        reached.entry(it.user).or_default().insert(it.session);
                    }
                }
                Asked::Gone => {}
                Asked::Answered(_) | Asked::Unanswered => search.is_unanswered(incarnation),
            }
        }
    }
    let outcome = |user: &channel_store::UserId| PushOutcome {
        user: user.to_string(),
        sessions: count(reached.get(user.as_str()).map_or(0, HashSet::len)),
    };
    Ok(PushToUsersResponse {
        outcomes: users.iter().map(outcome).collect(),
        unanswered_connectors: search.unanswered(),
    })
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
