//! The members of this connector, as it knows them itself. The reconciler compares the store with them, and repairs it.

use super::incarnation::{HeldLease, IndexGuard};
use super::registration::Registration;
use crate::chat_client::{Answered, CallError, Chat};
use bytes::Bytes;
use channel_store::{ChannelName, Incarnation, Place, SessionId, User};
use parking_lot::Mutex;
use proto::connector::v1::{self, Beginning, JoinRequest, JoinResponse, LeaveRequest};
use proto::time::timestamp;
use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::{Arc, Weak};
use tokio::time::Instant;

/// The memberships of all sessions of this connector, by channel.
#[derive(Default)]
pub(crate) struct Roster {
    channels: Mutex<Channels>,
}

type Channels = HashMap<ChannelName, BTreeMap<SessionId, Weak<Membership>>>;

/// A session's membership in a channel, from before its join until its leave has landed. The roster forgets it when it
/// is dropped.
pub(crate) struct Membership {
    channel: ChannelName,
    user: User,
    session: SessionId,
    /// The number of its join. All copies of the join carry it.
    operation: u64,
    state: Mutex<State>,
    guard: Arc<IndexGuard>,
    /// The sessions whose place this one takes.
    replaces: Vec<v1::Session>,
    roster: Arc<Roster>,
    /// The login of the session, which knows its socket.
    registration: Option<Arc<Registration>>,
}

/// How far a membership is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Phase {
    /// Its join has no answer yet.
    #[default]
    Joining,
    /// The join was answered. The store should list the session, and the reconciler sees to that.
    Member,
    /// Its leave is on its way. The join is not sent again.
    Leaving,
}

#[derive(Default)]
struct State {
    phase: Phase,
    /// The number of its leave. It is drawn once, at the moment when the membership ends, and not when the leave is sent:
    /// a leave that lands late must not end a later membership of the same session.
    leave: Option<u64>,
    /// The join was sent, and is not answered yet.
    unanswered: bool,
    /// A copy of the join may arrive after the leave.
    copied: bool,
    /// When it began, as the last answer to a join said.
    began: Option<Beginning>,
    /// The channel was deleted after it began.
    deleted: bool,
}

impl Roster {
    /// The memberships that should be in the store: their join was answered, and they have not left.
    pub(super) fn members(
        &self,
        incarnation: &Incarnation,
        channel: &ChannelName,
    ) -> Vec<Arc<Membership>> {
        // They are checked, and perhaps dropped, after the lock is released. To drop the last reference takes the lock.
        let known: Vec<_> = {
            let channels = self.channels.lock();
            let known = channels.get(channel).into_iter().flatten();
            known.filter_map(|(_, it)| it.upgrade()).collect()
        };
        let present = known.into_iter();
        present
            .filter(|it| it.lease().incarnation == *incarnation && it.is_present())
            .collect()
    }

    /// At most `most` lasting memberships in a channel, in the order of their sessions, from after this session on.
    pub(super) fn lasting_after(
        &self,
        incarnation: &Incarnation,
        channel: &ChannelName,
        after: Option<&SessionId>,
        most: usize,
    ) -> Vec<Arc<Membership>> {
        // Those that are not wanted are dropped after the lock is released, too.
        let (mut wanted, mut unwanted) = (Vec::new(), Vec::new());
        {
            let channels = self.channels.lock();
            let first = after.map_or(Bound::Unbounded, Bound::Excluded);
            let known = channels.get(channel).into_iter();
            let known = known.flat_map(|it| it.range::<SessionId, _>((first, Bound::Unbounded)));
            for membership in known.filter_map(|(_, it)| it.upgrade()) {
                if wanted.len() >= most {
                    unwanted.push(membership);
                    break;
                }
                let is_wanted =
                    membership.lease().incarnation == *incarnation && membership.lasts();
                (if is_wanted {
                    &mut wanted
                } else {
                    &mut unwanted
                })
                .push(membership);
            }
        }
        drop(unwanted);
        wanted
    }

    /// The listed sessions that this connector does not know in the channel, neither as members nor as coming or
    /// leaving.
    pub(super) fn unknown(
        &self,
        channel: &ChannelName,
        listed: BTreeMap<SessionId, User>,
    ) -> Vec<(SessionId, User)> {
        let channels = self.channels.lock();
        let known = channels.get(channel);
        let is_known = |session: &SessionId| known.is_some_and(|known| known.contains_key(session));
        listed
            .into_iter()
            .filter(|(session, _)| !is_known(session))
            .collect()
    }

    fn add(&self, membership: &Arc<Membership>) {
        let Membership {
            channel, session, ..
        } = &**membership;
        let mut channels = self.channels.lock();
        let known = channels.entry(channel.clone()).or_default();
        known.insert(session.clone(), Arc::downgrade(membership));
    }

    fn remove(&self, channel: &ChannelName, session: &SessionId) {
        let mut channels = self.channels.lock();
        if let Some(known) = channels.get_mut(channel) {
            // If the session has joined again, the entry belongs to its new membership.
            if known.get(session).is_some_and(|it| it.strong_count() == 0) {
                known.remove(session);
            }
            if known.is_empty() {
                channels.remove(channel);
            }
        }
    }
}

impl Membership {
    /// Begins a membership. Its join may be sent from now on.
    pub(crate) fn begin(
        roster: &Arc<Roster>,
        guard: Arc<IndexGuard>,
        channel: ChannelName,
        user: User,
        session: SessionId,
        registration: Option<Arc<Registration>>,
    ) -> Arc<Self> {
        let membership = Arc::new(Self {
            operation: guard.lease.next_operation(),
            state: Mutex::default(),
            channel,
            user,
            session,
            guard,
            replaces: (registration.as_ref()).map_or_else(Vec::new, |it| it.replaces()),
            roster: Arc::clone(roster),
            registration,
        });
        roster.add(&membership);
        if let Some(registration) = &membership.registration {
            registration.has_begun(&membership);
        }
        membership
    }

    pub(crate) fn channel(&self) -> &ChannelName {
        &self.channel
    }

    /// The login of the session.
    pub(super) fn registration(&self) -> Option<&Arc<Registration>> {
        self.registration.as_ref()
    }

    pub(crate) fn session(&self) -> &SessionId {
        &self.session
    }

    /// Begins another membership of the same session.
    #[cfg(test)]
    pub(crate) fn again(&self) -> Arc<Self> {
        let (channel, user) = (self.channel.clone(), self.user.clone());
        let (guard, registration) = (Arc::clone(&self.guard), self.registration.clone());
        Self::begin(
            &self.roster,
            guard,
            channel,
            user,
            self.session.clone(),
            registration,
        )
    }

    pub(crate) fn user(&self) -> &User {
        &self.user
    }

    pub(super) fn lease(&self) -> &HeldLease {
        &self.guard.lease
    }

    /// The request to join. From now on it may take effect, whether it is answered or not.
    pub(crate) fn join(&self) -> JoinRequest {
        self.state.lock().unanswered = true;
        self.join_request()
    }

    fn join_request(&self) -> JoinRequest {
        let deadline = self.guard.deadline();
        let info = self.registration.as_ref().and_then(|it| it.info());
        JoinRequest {
            channel: self.channel.to_string(),
            user: self.user.id.to_string(),
            user_is_number: self.user.is_number,
            session: Some(self.lease().wire_session(&self.session)),
            operation: self.operation,
            deadline: (deadline > 0).then(|| timestamp(deadline)),
            replaces: self.replaces.clone(),
            repairs: None,
            info_json: info.map_or_else(Bytes::new, |it| it.as_str().to_owned().into()),
        }
    }

    /// Sends the join. If it comes too late by the clock of the channel's server, and the incarnation is found alive,
    /// it is sent once more with a deadline by that clock.
    ///
    /// # Errors
    /// Those of [`Chat::join`].
    pub(crate) async fn send(
        &self,
        chat: &Chat,
        join: JoinRequest,
        until: Instant,
    ) -> Result<Answered<JoinResponse>, CallError> {
        let now = match chat.join(join.clone(), until).await {
            Err(CallError::Late { now }) => now,
            answered => return answered,
        };
        let Some(time) = self.guard.time_if_alive(until).await else {
            return Err(CallError::Late { now });
        };
        let deadline = Some(timestamp(now.saturating_add(time)));
        chat.join(JoinRequest { deadline, ..join }, until).await
    }

    /// The join was answered so. If it was repeated, another copy may still be under way.
    pub(crate) fn joined(&self, answered: &Answered<JoinResponse>) {
        let Answered { answer, repeated } = answered;
        let mut state = self.state.lock();
        state.began = Some(Beginning {
            life: answer.life.clone(),
            deletion: answer.deletion.clone(),
        });
        if state.phase == Phase::Joining {
            state.phase = Phase::Member;
        }
        state.unanswered = false;
        state.copied |= *repeated;
    }

    /// Ends the membership: draws the number of its leave now, whenever the leave is sent. In the store it stays a
    /// member until the leave lands.
    pub(crate) fn end(&self) {
        self.number_of_leave(&mut self.state.lock());
    }

    fn number_of_leave(&self, state: &mut State) -> u64 {
        let draw = || self.lease().next_operation();
        *state.leave.get_or_insert_with(draw)
    }

    /// Does the same as [`end`](Self::end). In addition, the join is not sent again.
    pub(crate) fn begin_leaving(&self) {
        self.end();
        self.state.lock().phase = Phase::Leaving;
    }

    /// The request to leave. All copies are equal, except for the fence.
    pub(crate) fn leave(&self) -> LeaveRequest {
        let lease = self.lease();
        let mut state = self.state.lock();
        state.phase = Phase::Leaving;
        let operation = self.number_of_leave(&mut state);
        let fence = state.copied || state.unanswered;
        drop(state);
        lease.leave(&self.channel, &self.user, &self.session, operation, fence)
    }

    /// Sends the leave once. True: it has landed. The leave is sent as usual all the same.
    pub(crate) async fn land(&self, chat: &Chat, until: Instant) -> bool {
        chat.leave(self.leave(), until).await.is_ok()
    }

    /// True from the moment when the number of its leave is drawn.
    pub(crate) fn has_ended(&self) -> bool {
        self.state.lock().leave.is_some()
    }

    /// The join once more, because the store has lost the member. `None`: it is leaving.
    pub(super) fn join_again(&self) -> Option<JoinRequest> {
        let repairs = {
            let mut state = self.state.lock();
            if state.phase == Phase::Leaving {
                return None;
            }
            state.copied = true;
            // An older chat names no life.
            state.began.clone().filter(|it| !it.life.is_empty())
        };
        Some(JoinRequest {
            repairs,
            ..self.join_request()
        })
    }

    /// The store says that the channel was deleted after this membership began. So the store has lost nothing, and the session is
    /// out of the channel.
    pub(crate) fn was_deleted(&self) {
        {
            let mut state = self.state.lock();
            state.phase = Phase::Leaving;
            state.deleted = true;
        }
        let connection = (self.registration.as_ref()).and_then(|it| it.connection.upgrade());
        if let Some(connection) = connection {
            connection.note_out();
        }
    }

    /// True if the store has said that the channel was deleted after this membership began.
    pub(crate) fn is_deleted(&self) -> bool {
        self.state.lock().deleted
    }

    /// The store says that another session has taken this place. If the membership has ended, nothing is lost, and its
    /// join is not sent again. Otherwise returns the login of its session, which must be closed.
    pub(crate) fn replaced(&self) -> Option<&Arc<Registration>> {
        let mut state = self.state.lock();
        if state.leave.is_some() {
            state.phase = Phase::Leaving;
            return None;
        }
        self.registration.as_ref()
    }

    /// Something shows that the incarnation was declared dead.
    pub(crate) fn found_dead(&self) {
        self.guard.found_dead();
    }

    /// The store says that this is no member, so the reconciler must look.
    pub(crate) fn suspect(&self) {
        let place = Place::Channel(self.channel.clone());
        self.guard.suspect(place);
    }

    /// True if the join was answered, and the membership has not ended.
    pub(super) fn lasts(&self) -> bool {
        let state = self.state.lock();
        state.phase == Phase::Member && state.leave.is_none()
    }

    fn is_present(&self) -> bool {
        self.state.lock().phase == Phase::Member
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.roster.remove(&self.channel, &self.session);
        if let Some(registration) = &self.registration {
            registration.has_ended_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::chat::answered;
    use channel_store::UserId;
    use std::sync::mpsc;
    use std::time::Duration;

    fn guard() -> Arc<IndexGuard> {
        guard_of("c:1")
    }

    fn guard_of(incarnation: &str) -> Arc<IndexGuard> {
        let incarnation = Incarnation::new(incarnation).unwrap();
        let lease = Arc::new(HeldLease::new(incarnation, Duration::from_secs(10)));
        Arc::new(IndexGuard {
            lease,
            places: Vec::new(),
        })
    }

    fn begin(roster: &Arc<Roster>, guard: &Arc<IndexGuard>, session: &str) -> Arc<Membership> {
        let user = User {
            id: UserId::new("u").unwrap(),
            is_number: false,
        };
        let channel = ChannelName::new("room").unwrap();
        let session = SessionId::new(session).unwrap();
        Membership::begin(roster, Arc::clone(guard), channel, user, session, None)
    }

    fn operation(leave: &LeaveRequest) -> u64 {
        leave.operation
    }

    #[test]
    fn the_operation_number_of_a_leave_is_taken_when_the_membership_ends() {
        let (roster, guard) = (Arc::<Roster>::default(), guard());
        let first = begin(&roster, &guard, "s");
        first.end();
        let second = begin(&roster, &guard, "s");
        let leave = first.leave();
        assert!(operation(&leave) < second.operation);
        assert_eq!(first.leave(), leave);
    }

    #[test]
    fn the_members_of_an_incarnation_are_those_that_joined_and_have_not_left() {
        let roster = Arc::default();
        let (first, second) = (guard_of("c:1"), guard_of("c:2"));
        let mine = begin(&roster, &first, "mine");
        let other = begin(&roster, &second, "another incarnation's");
        let joining = begin(&roster, &first, "joining");
        mine.joined(&answered(false));
        other.joined(&answered(false));
        let members = || {
            let members = roster.members(&first.lease.incarnation, mine.channel());
            let members = members.iter().map(|it| it.session().as_str().to_owned());
            members.collect::<Vec<_>>()
        };
        assert_eq!(members(), ["mine"]);
        joining.joined(&answered(false));
        assert_eq!(members(), ["joining", "mine"]);
        mine.begin_leaving();
        assert_eq!(members(), ["joining"]);
    }

    #[test]
    fn a_leave_is_fenced_while_a_copy_of_the_join_may_travel() {
        let (roster, guard) = (Arc::<Roster>::default(), guard());
        let membership = begin(&roster, &guard, "s");
        assert!(!membership.leave().fence, "no join was sent");
        membership.join();
        assert!(membership.leave().fence, "the join was not answered");
        membership.joined(&answered(false));
        assert!(!membership.leave().fence, "the first try was answered");
        membership.joined(&answered(true));
        assert!(membership.leave().fence, "the join was repeated");
    }

    #[test]
    fn memberships_can_end_while_another_thread_looks_at_all_of_them() {
        const ROUNDS: usize = 20_000;
        let (roster, guard) = (Arc::<Roster>::default(), guard());
        let (done, is_done) = mpsc::channel();
        let looking = (Arc::clone(&roster), done.clone());
        std::thread::spawn(move || {
            let (roster, done) = looking;
            let incarnation = Incarnation::new("c:1").unwrap();
            let channel = ChannelName::new("room").unwrap();
            for _ in 0..ROUNDS {
                roster.members(&incarnation, &channel);
            }
            done.send(()).unwrap();
        });
        std::thread::spawn(move || {
            for _ in 0..ROUNDS {
                drop(begin(&roster, &guard, "s"));
            }
            done.send(()).unwrap();
        });
        for _ in 0..2 {
            let waited = is_done.recv_timeout(Duration::from_secs(60));
            waited.expect("the two threads are in a deadlock");
        }
    }
}
