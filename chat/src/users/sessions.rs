//! Lists sessions, page by page.
//!
//! Every connector lists its own sessions from the same place on, in the same order. So the pages of all of them can be merged,
//! and the last session of a page is all that the next page needs to know.

use super::connectors::{Asked, Connectors, name_of, names};
use crate::access::Permit;
use crate::api::pages::{Arguments, WRONG_TOKEN, page_size};
use crate::calls::fields::Violations;
use crate::error::Error;
use channel_store::{ChannelName, EntryState, Incarnation, UserId};
use prost::Message;
use proto::chat::v1::list_sessions_request::Of;
use proto::chat::v1::{ListSessionsRequest, ListSessionsResponse, Session};
use proto::connector::v1::command::Action;
use proto::connector::v1::command_answer::Outcome;
use proto::connector::v1::{ListAction, Listed, SessionName, list_action};
use std::collections::{BTreeMap, BTreeSet};

/// The most bytes of a page, without its last session.
const BYTES: usize = 1 << 20;
/// Stands between user and session in a token. Names have no control characters.
const BETWEEN: char = '\n';

/// Which sessions.
enum Which {
    User(UserId),
    Channel(ChannelName),
    Connector(Incarnation),
}

/// Where a session stands in the list: user and session. In a channel the user counts as empty.
type Place = (String, String);

pub(super) async fn list(
    connectors: &Connectors,
    permit: &Permit,
    request: ListSessionsRequest,
) -> Result<ListSessionsResponse, Error> {
    let mut wrong = Violations::of(permit);
    let (kind, name) = match &request.of {
        Some(Of::User(name)) => (&b"user"[..], name),
        Some(Of::Channel(name)) => (&b"channel"[..], name),
        Some(Of::Connector(name)) => (&b"connector"[..], name),
        None => {
            let error = "one of user, channel and connector is required";
            return Err(Error::invalid("of", error));
        }
    };
    // Sessions of a user or a connector may be in any channel.
    let field = match &request.of {
        Some(Of::User(_)) => Some("user"),
        Some(Of::Connector(_)) => Some("connector"),
        Some(Of::Channel(_)) | None => None,
    };
    if field.is_some() && !permit.is_for_all_channels() {
        return Err(Error::ChannelNotAllowed { field });
    }
    let arguments = Arguments::of(&[b"ListSessions", kind, name.as_bytes()]);
    let which = match request.of {
        Some(Of::User(name)) => wrong.check("user", UserId::new(name)).map(Which::User),
        Some(Of::Channel(name)) => wrong.channel("channel", name).map(Which::Channel),
        Some(Of::Connector(name)) => wrong
            .check("connector", Incarnation::new(name))
            .map(Which::Connector),
        None => None,
    };
    let after = wrong.optional("page_token", request.page_token, |token| {
        place(arguments, &token).ok_or_else(|| WRONG_TOKEN.to_owned())
    });
    let (Some(which), Some(after)) = (which, after) else {
        return Err(wrong.into());
    };
    let size = page_size(request.page_size);
    let action = ListAction {
        of: Some(match &which {
            Which::User(user) => list_action::Of::User(user.to_string()),
            Which::Channel(channel) => list_action::Of::Channel(channel.to_string()),
            Which::Connector(_) => list_action::Of::All(true),
        }),
        after: after.map(|(user, session)| SessionName { user, session }),
        limit: u32::try_from(size).unwrap_or(u32::MAX),
    };
    let holders = holders(connectors, &which).await?;
    let commands = holders
        .into_iter()
        .map(|it| (it, Action::List(action.clone())));
    let mut merged = Merged::default();
    let mut unanswered = BTreeSet::new();
    for (incarnation, asked) in connectors.ask_all(commands).await {
        match asked {
            Asked::Answered(Outcome::Listed(listed)) => {
                merged.add(&which, &incarnation, listed);
            }
            Asked::Gone => {}
            Asked::Answered(_) | Asked::Unanswered => drop(unanswered.insert(incarnation)),
        }
    }
    let (mut sessions, next) = merged.page(size);
    // A session of an allowed channel may be in others, too.
    for session in &mut sessions {
        session.channels.retain(|channel| permit.shows(channel));
    }
    let seal = |(user, session): Place| arguments.seal(&format!("{user}{BETWEEN}{session}"));
    Ok(ListSessionsResponse {
        sessions,
        next_page_token: next.map(seal).unwrap_or_default(),
        unanswered_connectors: names(&unanswered),
    })
}

/// The place that a token names.
fn place(arguments: Arguments, token: &str) -> Option<Place> {
    let (user, session) = arguments.open(token)?.split_once(BETWEEN)?;
    Some((user.to_owned(), session.to_owned()))
}

/// The incarnations that may hold such sessions.
async fn holders(connectors: &Connectors, which: &Which) -> Result<Vec<Incarnation>, Error> {
    let holders: BTreeSet<_> = match which {
        Which::User(user) => {
            let looks = connectors.look(std::slice::from_ref(user)).await?;
            let entries = looks.into_iter().flatten();
            let live = entries.filter(|it| it.state != EntryState::Lingering);
            live.map(|it| it.incarnation).collect()
        }
        Which::Channel(channel) => {
            let there = connectors.in_channel(channel).await?;
            there.into_iter().collect()
        }
        Which::Connector(name) => {
            let all = connectors.all().await?.into_iter();
            all.filter(|it| name_of(it) == name.as_str()).collect()
        }
    };
    Ok(holders.into_iter().collect())
}

/// The lists of several connectors.
#[derive(Default)]
struct Merged {
    sessions: BTreeMap<Place, Session>,
    /// Behind this place some list is not complete.
    complete_to: Option<Place>,
}

impl Merged {
    fn add(&mut self, which: &Which, incarnation: &Incarnation, listed: Listed) {
        let mut last = None;
        for it in listed.sessions {
            let name = it.name.unwrap_or_default();
            let user = match which {
                Which::Channel(_) => String::new(),
                Which::User(_) | Which::Connector(_) => name.user.clone(),
            };
            let place = (user, name.session.clone());
            last = Some(place.clone());
            let session = Session {
                session: name.session,
                user: name.user,
                connector: name_of(incarnation).to_owned(),
                protocol: it.protocol,
                address: it.address,
                login_time: it.login_time,
                channels: it.channels,
            };
            self.sessions.insert(place, session);
        }
        if let Some(last) = last.filter(|_| listed.more) {
            let complete_to = self.complete_to.take();
            self.complete_to = Some(complete_to.map_or(last.clone(), |it| it.min(last)));
        }
    }

    /// A page, and where the next one begins, if there is one.
    fn page(self, size: usize) -> (Vec<Session>, Option<Place>) {
        let (mut page, mut bytes, mut last) = (Vec::new(), 0, None);
        for (place, session) in self.sessions {
            let is_incomplete = self.complete_to.as_ref().is_some_and(|it| place > *it);
            if page.len() >= size || bytes > BYTES || is_incomplete {
                return (page, last);
            }
            bytes += session.encoded_len();
            page.push(session);
            last = Some(place);
        }
        (page, self.complete_to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::connector::v1::SessionDetails;

    fn listed(sessions: &[&str], more: bool) -> Listed {
        let sessions = sessions.iter().map(|session| SessionDetails {
            name: Some(SessionName {
                user: "u".to_owned(),
                session: (*session).to_owned(),
            }),
            ..SessionDetails::default()
        });
        Listed {
            sessions: sessions.collect(),
            more,
        }
    }

    fn merged(lists: &[(&[&str], bool)]) -> Merged {
        let which = Which::User(UserId::new("u").unwrap());
        let mut merged = Merged::default();
        for (number, (sessions, more)) in lists.iter().enumerate() {
            let incarnation = Incarnation::new(format!("c{number}:aa")).unwrap();
            merged.add(&which, &incarnation, listed(sessions, *more));
        }
        merged
    }

    fn page(lists: &[(&[&str], bool)], size: usize) -> (Vec<String>, Option<String>) {
        let (page, next) = merged(lists).page(size);
        let page = page.into_iter().map(|it| it.session);
        (page.collect(), next.map(|(_, session)| session))
    }

    #[test]
    fn a_page_ends_where_some_connector_may_have_more() {
        let lists: &[(&[&str], bool)] = &[(&["a", "d"], true), (&["b", "c", "e"], false)];
        let expected = ["a", "b", "c", "d"].map(str::to_owned).to_vec();
        assert_eq!(page(lists, 10), (expected, Some("d".to_owned())));
    }

    #[test]
    fn a_page_has_at_most_its_size_and_the_last_one_says_so() {
        let lists: &[(&[&str], bool)] = &[(&["a", "c"], false), (&["b"], false)];
        let two = ["a", "b"].map(str::to_owned).to_vec();
        assert_eq!(page(lists, 2), (two, Some("b".to_owned())));
        assert_eq!(page(lists, 3).1, None);
        assert_eq!(page(&[], 3), (Vec::new(), None));
    }

    #[test]
    fn the_name_of_a_connector_is_shown_without_its_incarnation() {
        let (page, _) = merged(&[(&["a"], false)]).page(10);
        assert_eq!(page[0].connector, "c0");
    }
}
