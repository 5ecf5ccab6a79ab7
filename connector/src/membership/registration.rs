//! The login of one session, as its connector knows it.

use super::incarnation::{IndexGuard, LiveSession};
use super::members::Membership;
use super::session_commands::SessionCommands;
use crate::metering::KICKS;
use crate::transport::Connection;
use channel_store::{
    ChannelName, Claim, Incarnation, Login, LoginPolicy, Place, Predecessor, Proof, SessionId,
    ShownToken, UserId, UserInfo,
};
use metrics::counter;
use parking_lot::{Mutex, MutexGuard};
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use tokio::sync::Notify;
use wire::Disconnect;

/// The logins of some users.
type Users = BTreeMap<UserId, Sessions>;

/// The logins of one user, in the order of their sessions. A vector, because nearly every user has one session: a node of a map
/// has room for eleven.
#[derive(Clone, Default)]
pub(super) struct Sessions(Vec<(SessionId, Weak<Registration>)>);

impl Sessions {
    fn place(&self, session: &SessionId) -> Result<usize, usize> {
        self.0.binary_search_by(|(it, _)| it.cmp(session))
    }

    pub(super) fn insert(&mut self, session: SessionId, registration: Weak<Registration>) {
        if self.0.is_empty() {
            self.0.reserve_exact(1);
        }
        match self.place(&session) {
            Ok(place) => self.0[place].1 = registration,
            Err(place) => self.0.insert(place, (session, registration)),
        }
    }

    fn remove(&mut self, session: &SessionId) {
        if let Ok(place) = self.place(session) {
            self.0.remove(place);
        }
    }

    pub(super) fn contains(&self, session: &SessionId) -> bool {
        self.place(session).is_ok()
    }

    pub(super) fn all(&self) -> &[(SessionId, Weak<Registration>)] {
        &self.0
    }

    /// Those after this session; `None`: all of them.
    pub(super) fn after(&self, session: Option<&SessionId>) -> &[(SessionId, Weak<Registration>)] {
        let first = session.map_or(0, |it| match self.place(it) {
            Ok(place) => place + 1,
            Err(place) => place,
        });
        &self.0[first..]
    }
}

/// All logins, from before they are sent until they are closed.
#[derive(Default)]
pub(super) struct Known {
    users: Mutex<Users>,
    /// Told when one is closed.
    closed: Notify,
}

impl Known {
    /// While this is held, no [`Registration`] may be dropped: that takes the same lock.
    pub(super) fn lock(&self) -> MutexGuard<'_, Users> {
        self.users.lock()
    }

    /// Returns when all of these are closed.
    pub(super) async fn closed(&self, registrations: &[Weak<Registration>]) {
        loop {
            let closed = self.closed.notified();
            tokio::pin!(closed);
            closed.as_mut().enable();
            if registrations.iter().all(|it| it.strong_count() == 0) {
                return;
            }
            closed.await;
        }
    }
}

/// What a client has shown at its login.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shown {
    /// The proof of its secret, if it has one.
    pub(crate) proof: Option<Proof>,
    /// Its token, if it needs one.
    pub(crate) token: Option<ShownToken>,
    /// What the token tells everybody about the user.
    pub(crate) info: Option<UserInfo>,
}

/// The login of one session.
pub(crate) struct Registration {
    pub(super) user: UserId,
    pub(super) session: SessionId,
    /// The proof of the client's secret, if it has one.
    pub(super) proof: Option<Proof>,
    /// Weak, because a lingering session keeps no socket.
    pub(super) connection: Weak<Connection>,
    pub(super) guard: Arc<IndexGuard>,
    /// When the login began, by this process' clock: milliseconds since 1970.
    pub(super) since: u64,
    /// The memberships of the session, some of which may have ended.
    pub(super) memberships: Mutex<Vec<Weak<Membership>>>,
    pub(super) state: Mutex<LoginState>,
    /// What back ends want the session to do.
    pub(super) commands: SessionCommands,
    pub(super) known: Arc<Known>,
}

#[derive(Default)]
pub(super) struct LoginState {
    /// The login rank, once the login was answered. `None`: nothing was written.
    pub(super) login_rank: Option<u64>,
    /// The sessions whose place this one takes when it joins, as the answer to the login named them.
    pub(super) predecessors: Arc<[Predecessor]>,
    /// The session has joined, and its client is about to be told. Before that it marks no other session, because its
    /// join may still fail.
    pub(super) joined: bool,
    /// The client was told that it is logged in.
    pub(super) answered: bool,
    /// Counts the session until its client is gone.
    pub(super) live: Option<LiveSession>,
    /// There may be sessions that it outranks, and it has not claimed its rank yet.
    pub(super) is_to_claim: bool,
    /// The client is gone, and the session stays a member for a while.
    pub(super) lingers: bool,
    /// The login was undone. The client may log in again on the same socket, so this session must not close it any
    /// more.
    pub(super) undone: bool,
    /// The login is being closed.
    pub(super) over: bool,
    /// The login was sent and is not answered yet.
    pub(super) unanswered: bool,
    /// A copy of the login or of a claim may arrive after the close, so the close must be fenced.
    pub(super) fence: bool,
    /// The token that was accepted last, if clients must show one.
    pub(super) token: Option<ShownToken>,
    /// A newer one, while the store is asked whether it is forbidden.
    pub(super) next_token: Option<Box<ShownToken>>,
    /// What everybody in the session's channels may know of the user, as its last token says.
    pub(super) info: Option<UserInfo>,
}

impl Registration {
    /// The user of the login.
    pub(crate) fn user(&self) -> &UserId {
        &self.user
    }

    /// Counts the session at the places of its login, and tells its incarnation.
    pub(crate) fn guard(&self) -> &Arc<IndexGuard> {
        &self.guard
    }

    /// The client was told that it is logged in, so from now on it may be given messages, and the session counts as live.
    pub(crate) fn answered(&self) {
        let mut state = self.state.lock();
        state.answered = true;
        state.live = Some(LiveSession::begin(&self.guard));
    }

    /// The client is gone: the session does not count as live any more, and carries out no commands.
    pub(crate) fn session_is_over(&self) {
        let live = self.state.lock().live.take();
        drop(live);
        self.commands.end();
    }

    /// What back ends want the session to do.
    pub(crate) fn commands(&self) -> &SessionCommands {
        &self.commands
    }

    /// What everybody in the session's channels may know of the user.
    pub(super) fn info(&self) -> Option<UserInfo> {
        self.state.lock().info.clone()
    }

    /// The session has begun a membership.
    pub(super) fn has_begun(&self, membership: &Arc<Membership>) {
        self.memberships.lock().push(Arc::downgrade(membership));
    }

    /// A membership of the session is over.
    pub(super) fn has_ended_one(&self) {
        self.memberships.lock().retain(|it| it.strong_count() > 0);
    }

    /// The channels that the session is in, sorted.
    pub(super) fn channels(&self) -> Vec<ChannelName> {
        let memberships = self.known_memberships();
        let lasting = memberships.iter().filter(|it| it.lasts());
        let mut channels: Vec<_> = lasting.map(|it| it.channel().clone()).collect();
        channels.sort_unstable();
        channels.dedup();
        channels
    }

    /// The memberships of the session in a channel that have ended, and may still be listed there.
    pub(crate) fn ended_in(&self, channel: &ChannelName) -> Vec<Arc<Membership>> {
        let mut memberships = self.known_memberships();
        memberships.retain(|it| it.channel() == channel && it.has_ended());
        memberships
    }

    /// Those that are not dropped yet. They are looked at, and perhaps dropped, after the lock is released: to drop the last
    /// reference takes the lock.
    fn known_memberships(&self) -> Vec<Arc<Membership>> {
        let memberships = self.memberships.lock();
        memberships.iter().filter_map(Weak::upgrade).collect()
    }

    /// True if the client has a secret. Then its next session can take the place of this one.
    pub(crate) fn can_come_back(&self) -> bool {
        self.proof.is_some()
    }

    pub(super) fn login(&self, policy: LoginPolicy) -> Login {
        self.login_with(policy, self.state.lock().token)
    }

    fn login_with(&self, policy: LoginPolicy, token: Option<ShownToken>) -> Login {
        Login {
            user: self.user.clone(),
            session: self.session.clone(),
            incarnation: self.guard.incarnation().clone(),
            deadline: self.guard.deadline(),
            policy,
            proof: self.proof,
            token,
            most_sessions: 0,
        }
    }

    /// The claim of this session, if the incarnation has logged it in and it has not ended.
    pub(super) fn present(&self, incarnation: &Incarnation, policy: LoginPolicy) -> Option<Claim> {
        let state = self.state.lock();
        let is_present = !state.over && self.guard.incarnation() == incarnation;
        state.login_rank.filter(|_| is_present)?;
        self.as_claim(&state, policy)
    }

    /// The same, and copies of the claim may be under way from now on. `None` also if the client is gone or the login
    /// was undone. If the session has not joined yet, the claim is put off.
    pub(super) fn claim(&self, policy: LoginPolicy) -> Option<Claim> {
        let mut state = self.state.lock();
        if state.over || state.lingers || state.undone || self.is_closing() {
            return None;
        }
        if !state.joined {
            state.is_to_claim = true;
            return None;
        }
        state.fence = true;
        self.as_claim(&state, policy)
    }

    fn as_claim(&self, state: &LoginState, policy: LoginPolicy) -> Option<Claim> {
        Some(Claim {
            login: self.login_with(policy, state.token),
            login_rank: state.login_rank?,
            predecessors: Arc::clone(&state.predecessors),
        })
    }

    fn is_closing(&self) -> bool {
        let connection = self.connection.upgrade();
        connection.is_none_or(|connection| connection.closing().is_some())
    }

    /// The sessions whose place this one takes when it joins a channel. If the client is gone, it takes no places.
    pub(crate) fn replaces(&self) -> Vec<proto::connector::v1::Session> {
        if self.is_closing() {
            return Vec::new();
        }
        let predecessors = Arc::clone(&self.state.lock().predecessors);
        let replaces = predecessors.iter().map(|it| proto::connector::v1::Session {
            incarnation: it.incarnation.to_string(),
            id: it.session.to_string(),
        });
        replaces.collect()
    }

    /// The client is gone, and the session stays a member for a while. It claims nothing any more.
    pub(crate) fn begin_lingering(&self) {
        self.state.lock().lingers = true;
    }

    /// The login has failed. From now on this closes no socket, whatever is found about it.
    pub(crate) fn undo(&self) {
        self.state.lock().undone = true;
    }

    /// Lets the reconciler look at the user soon.
    pub(super) fn suspect(&self) {
        self.guard.suspect(Place::User(self.user.clone()));
    }

    /// True if nothing was written, and no copy may be under way.
    pub(crate) fn is_nowhere(&self) -> bool {
        let state = self.state.lock();
        state.login_rank.is_none() && !state.fence && !state.unanswered
    }

    /// The session gives way: closes its socket.
    pub(super) fn close(&self, reason: Disconnect) {
        let connection = self.connection.upgrade();
        let connection = connection.filter(|_| !self.state.lock().undone);
        if let Some(connection) = connection.filter(|it| it.closing().is_none()) {
            counter!(KICKS).increment(1);
            connection.close(reason);
        }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let mut known = self.known.lock();
        if let Some(sessions) = known.get_mut(&self.user) {
            sessions.remove(&self.session);
            if sessions.0.is_empty() {
                known.remove(&self.user);
            }
        }
        drop(known);
        self.known.closed.notify_waiters();
    }
}
