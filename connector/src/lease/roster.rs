//! Who of this connector is a member where, as it knows it itself: what the store is compared with, and repaired from.

use super::{Stay, Tenure};
use channel_store::{ChannelName, Place, SessionId, User};
use parking_lot::Mutex;
use proto::v1::{JoinRequest, LeaveRequest};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};

/// The memberships of one incarnation.
#[derive(Default)]
pub(super) struct Roster {
    channels: HashMap<ChannelName, BTreeMap<SessionId, Weak<Membership>>>,
}

/// A session's membership in a channel, from before its join until its leave has landed.
pub(crate) struct Membership {
    channel: ChannelName,
    user: User,
    session: SessionId,
    /// Of its join: copies of that have the same.
    operation: u64,
    standing: Mutex<Standing>,
    stay: Arc<Stay>,
}

#[derive(Default)]
struct Standing {
    /// Its join was answered.
    joined: bool,
    /// Its leave is on its way.
    left: bool,
    /// A copy of its join may arrive after its leave.
    fence: bool,
}

impl Roster {
    /// Those that should be in the store: their join was answered, and they have not left.
    pub(super) fn members(&self, channel: &ChannelName) -> Vec<Arc<Membership>> {
        let known = self.channels.get(channel).into_iter().flatten();
        let present = known.filter_map(|(_, membership)| membership.upgrade());
        present
            .filter(|membership| membership.is_present())
            .collect()
    }

    /// True if this session has anything to do there, coming or going.
    pub(super) fn knows(&self, channel: &ChannelName, session: &SessionId) -> bool {
        let known = self.channels.get(channel);
        known.is_some_and(|known| known.contains_key(session))
    }

    fn remove(&mut self, channel: &ChannelName, session: &SessionId) {
        if let Some(known) = self.channels.get_mut(channel) {
            // Whoever came back meanwhile is another membership of the same session.
            if known.get(session).is_some_and(|it| it.strong_count() == 0) {
                known.remove(session);
            }
            if known.is_empty() {
                self.channels.remove(channel);
            }
        }
    }
}

impl Membership {
    /// Begins one: its join may be sent from now on.
    pub(crate) fn begin(
        stay: Arc<Stay>,
        channel: ChannelName,
        user: User,
        session: SessionId,
    ) -> Arc<Self> {
        let membership = Arc::new(Self {
            operation: stay.tenure.next_operation(),
            standing: Mutex::default(),
            channel,
            user,
            session,
            stay,
        });
        let Self {
            channel, session, ..
        } = &*membership;
        let mut roster = membership.tenure().roster.lock();
        let known = roster.channels.entry(channel.clone()).or_default();
        known.insert(session.clone(), Arc::downgrade(&membership));
        drop(roster);
        membership
    }

    pub(crate) fn channel(&self) -> &ChannelName {
        &self.channel
    }

    pub(crate) fn session(&self) -> &SessionId {
        &self.session
    }

    #[cfg(test)]
    pub(super) fn user(&self) -> &User {
        &self.user
    }

    pub(super) fn tenure(&self) -> &Tenure {
        &self.stay.tenure
    }

    /// What makes it true.
    pub(crate) fn join(&self) -> JoinRequest {
        JoinRequest {
            channel: self.channel.to_string(),
            user: self.user.id.to_string(),
            user_is_number: self.user.is_number,
            session: Some(self.tenure().wire_session(&self.session, self.operation)),
            deadline: self.stay.deadline(),
        }
    }

    /// Its join was answered; `repeated`: a copy may still be under way.
    pub(crate) fn joined(&self, repeated: bool) {
        let mut standing = self.standing.lock();
        standing.joined = true;
        standing.fence |= repeated;
    }

    /// Its join was not answered: whether it takes effect, and when, is unknown.
    pub(crate) fn is_uncertain(&self) {
        self.standing.lock().fence = true;
    }

    /// Its join is not sent again after this.
    pub(crate) fn ends(&self) {
        self.standing.lock().left = true;
    }

    /// What ends it.
    pub(crate) fn leave(&self) -> LeaveRequest {
        self.ends();
        let fence = self.standing.lock().fence;
        let tenure = self.tenure();
        tenure.leave(&self.channel, &self.user, &self.session, fence)
    }

    /// Its join once more, because the store has lost it; `None` if it is leaving.
    pub(super) fn join_again(&self) -> Option<JoinRequest> {
        {
            let mut standing = self.standing.lock();
            if standing.left {
                return None;
            }
            standing.fence = true;
        }
        Some(self.join())
    }

    /// The incarnation was found to be declared dead.
    pub(crate) fn condemn(&self) {
        self.stay.condemn();
    }

    /// The store says that there is no such member.
    pub(crate) fn suspect(&self) {
        let place = Place::Channel(self.channel.clone());
        self.stay.suspect(place);
    }

    fn is_present(&self) -> bool {
        let standing = self.standing.lock();
        standing.joined && !standing.left
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        let mut roster = self.stay.tenure.roster.lock();
        roster.remove(&self.channel, &self.session);
    }
}
