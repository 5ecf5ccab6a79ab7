//! Lists sessions.

use super::{Commands, Registration};
use channel_store::{ChannelName, Incarnation, SessionId, UserId};
use prost::Message;
use proto::connector::v1::list_action::Of;
use proto::connector::v1::{ListAction, Listed, SessionDetails, SessionName};
use proto::time::timestamp;
use std::ops::Bound;
use std::sync::Arc;
use wire::WireFormat;

/// The most sessions in one answer.
const MOST: usize = 1_000;
/// The most bytes of an answer, without its last session.
const BYTES: usize = 1 << 20;

impl Commands {
    /// Lists sessions whose clients were told that they are logged in. `None`: the action is not known here.
    pub(super) fn list(&self, whose: &Incarnation, action: ListAction) -> Option<Listed> {
        let most = (action.limit as usize).clamp(1, MOST);
        let found = match action.of? {
            Of::User(user) => self.of_user(whose, &UserId::new(user).ok()?, action.after, most),
            Of::Channel(channel) => {
                self.in_channel(whose, &ChannelName::new(channel).ok()?, action.after, most)
            }
            Of::All(_) => self.all(whose, action.after, most),
        };
        let mut more = found.len() >= most;
        let (mut sessions, mut bytes) = (Vec::new(), 0);
        for registration in found {
            if bytes > BYTES {
                more = true;
                break;
            }
            let details = details(&registration);
            bytes += details.encoded_len();
            sessions.push(details);
        }
        Some(Listed { sessions, more })
    }

    fn of_user(
        &self,
        whose: &Incarnation,
        user: &UserId,
        after: Option<SessionName>,
        most: usize,
    ) -> Vec<Arc<Registration>> {
        let after = after.and_then(|it| SessionId::new(it.session).ok());
        let mut found = Found::new(whose, most);
        let known = self.logins.known.lock();
        let sessions = known.get(user).into_iter();
        let mut sessions = sessions.flat_map(|it| it.after(after.as_ref()));
        while found.has_room()
            && let Some((_, session)) = sessions.next()
        {
            found.extend(session.upgrade());
        }
        drop(known);
        found.wanted
    }

    fn all(
        &self,
        whose: &Incarnation,
        after: Option<SessionName>,
        most: usize,
    ) -> Vec<Arc<Registration>> {
        let after = after
            .and_then(|it| Some((UserId::new(it.user).ok()?, SessionId::new(it.session).ok()?)));
        let first = (after.as_ref()).map_or(Bound::Unbounded, |(user, _)| Bound::Included(user));
        let mut found = Found::new(whose, most);
        let known = self.logins.known.lock();
        let users = known.range::<UserId, _>((first, Bound::Unbounded));
        let mut sessions = users.flat_map(|(user, sessions)| {
            let after = after.as_ref().filter(|(it, _)| it == user);
            sessions.after(after.map(|(_, it)| it))
        });
        while found.has_room()
            && let Some((_, session)) = sessions.next()
        {
            found.extend(session.upgrade());
        }
        drop(known);
        found.wanted
    }

    fn in_channel(
        &self,
        whose: &Incarnation,
        channel: &ChannelName,
        after: Option<SessionName>,
        most: usize,
    ) -> Vec<Arc<Registration>> {
        let after = after.and_then(|it| SessionId::new(it.session).ok());
        let members = (self.roster).lasting_after(whose, channel, after.as_ref(), most);
        let registrations = members.iter().filter_map(|it| it.registration().cloned());
        registrations.collect()
    }
}

/// Registrations that were found under the lock of [`Known`](super::super::registration::Known). All of them are dropped
/// after it is released.
struct Found<'a> {
    whose: &'a Incarnation,
    most: usize,
    wanted: Vec<Arc<Registration>>,
    unwanted: Vec<Arc<Registration>>,
}

impl<'a> Found<'a> {
    fn new(whose: &'a Incarnation, most: usize) -> Self {
        Self {
            whose,
            most,
            wanted: Vec::new(),
            unwanted: Vec::new(),
        }
    }

    fn has_room(&self) -> bool {
        self.wanted.len() < self.most
    }

    fn extend(&mut self, found: impl IntoIterator<Item = Arc<Registration>>) {
        for registration in found {
            let is_listed = registration.guard.incarnation() == self.whose && {
                let state = registration.state.lock();
                state.answered && !state.undone && !state.over && !state.lingers
            };
            let connection = registration.connection.upgrade();
            if is_listed && connection.is_some_and(|it| it.closing().is_none()) {
                self.wanted.push(registration);
            } else {
                self.unwanted.push(registration);
            }
        }
    }
}

fn details(registration: &Registration) -> SessionDetails {
    let connection = registration.connection.upgrade();
    let protocol = connection.as_ref().map(|it| it.format());
    let protocol = protocol.map_or("", WireFormat::name);
    let address = connection.and_then(|it| it.peer());
    let channels = registration.channels();
    SessionDetails {
        name: Some(registration.name()),
        protocol: protocol.to_owned(),
        address: address.map_or_else(String::new, |it| it.to_canonical().to_string()),
        login_time: Some(timestamp(registration.since)),
        channels: channels.iter().map(ToString::to_string).collect(),
    }
}
