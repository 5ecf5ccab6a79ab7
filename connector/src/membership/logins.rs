//! The logins of this connector's sessions (`docs/design/membership.md`, "Logins").
//!
//! A login is written before its session joins, and removed after its leaves have landed. Under `reject`, a login that
//! finds the user taken looks at the leases of the holders first, because a dead connector must not block the user. A
//! session that has joined, and whose client is still there, claims its rank. This marks the sessions that have to give
//! way, and their connectors get a hint to look. A session gives way only when its connector finds the mark: a hint may
//! be lost, but the reconciler finds what is written.
//!
//! A client that shows its secret takes the place of the sessions that have the same secret, and any login takes that
//! of the user's lingering sessions. The joins of the new session name these predecessors, so chat moves their
//! memberships. Claim and hint come after the join. If the client is gone by then, no other session must be closed for
//! it.

use super::incarnation::IndexGuard;
use super::registration::{Known, LoginState, Registration, Sessions, Shown};
use super::session_commands::SessionCommands;
use crate::transport::{Connection, close_paced};
use channel_store::{
    Claim, Claimed, EntryState, Forbidden, Hints, Incarnation, Leases, LoggedIn, LoginPolicy,
    Place, SessionId, StoreError, UserEntries, UserEntry, UserId, UserRegistry,
};
use futures_util::future::join_all;
use parking_lot::Mutex;
use proto::time::now;
use runtime::backoff::pause;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout_at};
use wire::Disconnect;

/// How long a policy stays in force after a connector announced it last. It is longer than any lease, so that no two
/// policies are in force.
const POLICY_LASTS: Duration = Duration::from_secs(60);
/// The pause between two announcements of this connector's policy.
const ANNOUNCE: Duration = Duration::from_secs(3);
/// The pause after a login or an announcement without an answer.
const RETRY: Duration = Duration::from_millis(100);
/// How long the lease may take to be renewed after a login or claim was refused as late.
const RENEWAL: Duration = Duration::from_secs(1);
/// The most holders of a user whose leases are looked at.
const HOLDERS: usize = 16;

/// The answer to a login.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// The user is let in.
    Yes,
    /// 用户已登录.
    Taken,
    /// The user has as many sessions as a user may have.
    Full,
    /// The user is blocked, or the token was revoked.
    Forbidden(Forbidden),
}

/// The logins of this connector's sessions, and the access to those of all users.
pub struct Logins {
    policy: LoginPolicy,
    pub(super) users: Arc<dyn UserRegistry>,
    hints: Arc<dyn Hints>,
    leases: Arc<dyn Leases>,
    is_in_force: watch::Sender<bool>,
    /// The policy in force, which may be another one than this connector's. Under two policies each of two sessions
    /// could close the other one.
    pub(super) in_force: Mutex<LoginPolicy>,
    pub(super) known: Arc<Known>,
    /// The most live sessions of a user in the whole cluster. 0: there is no limit.
    most_sessions: AtomicU32,
}

impl Logins {
    /// Announces nothing before the connector serves. All connectors must have the same policy: see
    /// [`Logins::policy_in_force`].
    #[must_use]
    pub fn new(
        policy: LoginPolicy,
        users: Arc<dyn UserRegistry>,
        hints: Arc<dyn Hints>,
        leases: Arc<dyn Leases>,
    ) -> Arc<Self> {
        Arc::new(Self {
            policy,
            users,
            hints,
            leases,
            is_in_force: watch::Sender::new(false),
            in_force: Mutex::new(policy),
            known: Arc::default(),
            most_sessions: AtomicU32::new(0),
        })
    }

    /// From now on a user may have so many live sessions in the whole cluster. 0: there is no limit.
    pub(crate) fn limit_sessions(&self, most: u32) {
        self.most_sessions.store(most, Ordering::Relaxed);
    }

    /// The most live sessions of a user.
    #[cfg(test)]
    pub(crate) fn most_sessions(&self) -> u32 {
        self.most_sessions.load(Ordering::Relaxed)
    }

    /// True while the policy in force is that of this connector.
    #[must_use]
    pub fn policy_in_force(&self) -> watch::Receiver<bool> {
        self.is_in_force.subscribe()
    }

    /// How the policy in force differs from this connector's, in words for an operator; `None`: they are the same, or
    /// it is not known.
    #[must_use]
    pub fn why_another_policy(&self) -> Option<String> {
        let (held, own) = (*self.in_force.lock(), self.policy);
        (held != own).then(|| {
            format!("other connectors have --login-policy {held}, this one {own}; it holds until a minute after the last of them is gone")
        })
    }

    /// Announces this connector's policy again and again.
    pub(crate) async fn keep_announcing_policy(&self) -> Infallible {
        let mut said = false;
        loop {
            match self.users.propose_policy(self.policy, POLICY_LASTS).await {
                Ok(held) => {
                    let is_same = held == self.policy;
                    if !is_same && !std::mem::replace(&mut said, true) {
                        tracing::error!(%held, own = %self.policy, "another login policy is in force: no logins here");
                    }
                    said &= !is_same;
                    self.is_in_force.send_replace(is_same);
                    *self.in_force.lock() = held;
                    sleep(ANNOUNCE).await;
                }
                Err(error) => {
                    tracing::debug!(%error, "no login policy agreed upon");
                    pause(RETRY).await;
                }
            }
        }
    }

    /// The logins of a user.
    #[cfg(test)]
    pub(crate) fn of(&self, user: &UserId) -> Vec<Arc<Registration>> {
        let known = self.known.lock();
        let sessions = known.get(user).into_iter().flat_map(Sessions::all);
        sessions.filter_map(|(_, it)| it.upgrade()).collect()
    }

    /// Announces the policy once.
    #[cfg(test)]
    pub(crate) async fn announce_policy(&self) {
        let held = self.users.propose_policy(self.policy, POLICY_LASTS).await;
        self.is_in_force.send_replace(held == Ok(self.policy));
    }

    /// The place to be indexed before a user's login is sent.
    pub(crate) fn place(user: &UserId) -> Place {
        Place::User(user.clone())
    }

    /// Closes the sockets of all sessions of an incarnation that was declared dead, batch by batch.
    pub(crate) async fn close_all_of(&self, incarnation: &Incarnation) {
        let sessions: Vec<_> = {
            let known = self.known.lock();
            let sessions = known.values().flat_map(Sessions::all);
            sessions.filter_map(|(_, it)| it.upgrade()).collect()
        };
        let own = sessions
            .iter()
            .filter(|it| it.guard.incarnation() == incarnation && !it.state.lock().undone);
        let connections: Vec<_> = own.filter_map(|it| it.connection.upgrade()).collect();
        drop(sessions);
        tracing::info!(connections = connections.len(), "closing");
        close_paced(&connections, Disconnect::Dead).await;
    }

    /// Begins a login. It must be ended, whatever happens to it.
    pub(crate) fn begin(
        &self,
        guard: &Arc<IndexGuard>,
        user: &UserId,
        session: &SessionId,
        connection: &Arc<Connection>,
        Shown { proof, token, info }: Shown,
    ) -> Arc<Registration> {
        let registration = Arc::new(Registration {
            user: user.clone(),
            session: session.clone(),
            proof,
            connection: Arc::downgrade(connection),
            guard: Arc::clone(guard),
            since: now(),
            // Most sessions are in one channel.
            memberships: Mutex::new(Vec::with_capacity(1)),
            state: Mutex::new(LoginState {
                token,
                info,
                ..LoginState::default()
            }),
            commands: SessionCommands::default(),
            known: Arc::clone(&self.known),
        });
        let mut known = self.known.lock();
        let sessions = known.entry(user.clone()).or_default();
        sessions.insert(session.clone(), Arc::downgrade(&registration));
        registration
    }

    /// Logs a session in. Repeats this until there is an answer.
    pub(crate) async fn login(&self, registration: &Registration) -> Result<Admission, StoreError> {
        let (mut dead, mut later) = (Vec::new(), None);
        loop {
            let mut login = registration.login(self.policy);
            login.most_sessions = self.most_sessions.load(Ordering::Relaxed);
            if let Some(deadline) = later {
                login.deadline = deadline;
            }
            registration.state.lock().unanswered = true;
            let answer = self.users.login(&login, &dead).await;
            registration.state.lock().unanswered = false;
            let is_full = matches!(answer, Ok(LoggedIn::Full(_)));
            match answer {
                Ok(LoggedIn::Yes {
                    login_rank,
                    others,
                    predecessors,
                }) => {
                    let mut state = registration.state.lock();
                    state.login_rank = Some(login_rank);
                    state.is_to_claim =
                        !predecessors.is_empty() || others && self.policy == LoginPolicy::KickOld;
                    state.predecessors = predecessors.into();
                    return Ok(Admission::Yes);
                }
                Ok(LoggedIn::Unregistered) => return Ok(Admission::Yes),
                Ok(LoggedIn::Forbidden(forbidden)) => return Ok(Admission::Forbidden(forbidden)),
                Ok(LoggedIn::Taken(holders) | LoggedIn::Full(holders)) => {
                    let of_dead = self.dead_among(&holders, &registration.user).await?;
                    if of_dead.iter().all(|it| dead.contains(it)) {
                        return Ok(if is_full {
                            Admission::Full
                        } else {
                            Admission::Taken
                        });
                    }
                    dead = of_dead;
                }
                Err(StoreError::Unavailable(reason)) => {
                    let session = registration.session.as_str();
                    tracing::debug!(session, reason, "login unanswered");
                    registration.state.lock().fence = true;
                    pause(RETRY).await;
                }
                Err(StoreError::Late { now }) if later.is_none() => {
                    let time = registration.guard.time_if_alive(Instant::now() + RENEWAL);
                    let time = time.await.ok_or(StoreError::Late { now })?;
                    later = Some(now.saturating_add(time));
                }
                Err(error) => {
                    if error == StoreError::ConnectorDead {
                        registration.guard.found_dead();
                    }
                    return Err(error);
                }
            }
        }
    }

    /// Claims the rank of a session. To be called when it has joined, and before its client is told. If this fails, or
    /// does not end by the deadline, the reconciler does it.
    pub(crate) async fn claim(&self, registration: &Registration, deadline: Instant) {
        let is_to_claim = {
            let mut state = registration.state.lock();
            state.joined = true;
            state.is_to_claim
        };
        if !is_to_claim {
            return;
        }
        let claiming = self.claim_rank(registration);
        if timeout_at(deadline, claiming).await.is_err() {
            registration.suspect();
        }
    }

    async fn claim_rank(&self, registration: &Registration) {
        let Some(claim) = registration.claim(self.policy) else {
            return;
        };
        let claimed = self.claim_in_time(&registration.guard, vec![claim]).await;
        let user = &registration.user;
        if let Ok(Some(Ok(claimed))) = claimed.map(|mut claimed| claimed.pop()) {
            if let Some(forbidden) = &claimed.forbidden {
                return registration.close_forbidden(forbidden);
            }
            registration.state.lock().is_to_claim = false;
            // Chats must find these incarnations in the directory if they are dead.
            if let Err(error) = self.dead_among(&claimed.superseded, user).await {
                tracing::debug!(%error, "leases of superseded sessions not restored");
            }
            let better = claimed.better.into_iter();
            self.hint(better.map(|it| (it, user.clone()))).await;
        } else {
            registration.suspect();
        }
    }

    /// Another session has taken this session's place in a channel, so its socket is closed. If its entry is marked,
    /// the client is told the reason.
    ///
    /// # Errors
    /// Those of [`UserRegistry::entries`]. Then repeat the call.
    pub(crate) async fn displace(&self, registration: &Registration) -> Result<(), StoreError> {
        let users = std::slice::from_ref(&registration.user);
        let incarnation = registration.guard.incarnation();
        let looks = self.users.entries(incarnation, users).await?;
        let entries = looks.first().map_or(&[][..], |look| &look.entries);
        let reason = self.marked(registration, entries);
        registration.close(reason.unwrap_or(Disconnect::Displaced));
        Ok(())
    }

    /// Why a session must give way, if its entry is marked.
    pub(super) fn marked(
        &self,
        registration: &Registration,
        entries: &[UserEntry],
    ) -> Option<Disconnect> {
        let mut of_session = entries.iter();
        let own = of_session.find(|entry| entry.session == registration.session)?;
        if own.state != EntryState::Superseded {
            return None;
        }
        let by_kin = entries.iter().any(|other| {
            own.proof.is_some() && other.proof == own.proof && other.rank() > own.rank()
        });
        Some(match *self.in_force.lock() {
            _ if by_kin => Disconnect::Replaced,
            LoginPolicy::KickOld => Disconnect::Kicked,
            // Under these policies, another client's session closes this one only after the store has lost data. So the
            // client may find its place free again. Or the session that replaced this one is over already.
            LoginPolicy::Reject | LoginPolicy::Allow => Disconnect::Displaced,
        })
    }

    /// Marks the entry of a session whose client is gone as lingering, so that it blocks no other login.
    ///
    /// # Errors
    /// Those of [`UserRegistry::linger`]. Then repeat the call.
    pub(crate) async fn linger(&self, registration: &Registration) -> Result<(), StoreError> {
        let Registration { user, session, .. } = registration;
        self.users.linger(user, session).await
    }

    /// Sends claims of one incarnation. Those that are refused as late are sent once more, if the incarnation is found
    /// alive.
    pub(super) async fn claim_in_time(
        &self,
        guard: &IndexGuard,
        mut claims: Vec<Claim>,
    ) -> Result<Vec<Result<Claimed, StoreError>>, StoreError> {
        let mut claimed = self.users.claim(&claims).await?;
        let is_late = |it: &Result<_, StoreError>| matches!(it, Err(StoreError::Late { .. }));
        if !claimed.iter().any(is_late) {
            return Ok(claimed);
        }
        let Some(time) = guard.time_if_alive(Instant::now() + RENEWAL).await else {
            return Ok(claimed);
        };
        let mut late = Vec::new();
        for (place, claimed) in claimed.iter().enumerate() {
            if let Err(StoreError::Late { now }) = claimed {
                claims[place].login.deadline = now.saturating_add(time);
                late.push((place, claims[place].clone()));
            }
        }
        let (places, late): (Vec<_>, Vec<_>) = late.into_iter().unzip();
        for (place, again) in places.into_iter().zip(self.users.claim(&late).await?) {
            claimed[place] = again;
        }
        Ok(claimed)
    }

    /// Which of a user's holders are dead. Sees to it that chats look after each holder, and sends the living ones a
    /// hint.
    async fn dead_among(
        &self,
        holders: &[Incarnation],
        user: &UserId,
    ) -> Result<Vec<Incarnation>, StoreError> {
        let place = Place::User(user.clone());
        let some = holders.iter().take(HOLDERS);
        let states = some.map(async |holder| (holder, self.restore_lease(holder, &place).await));
        let (mut dead, mut living, mut unknown) = (Vec::new(), Vec::new(), None);
        for (holder, is_dead) in join_all(states).await {
            match is_dead {
                Ok(true) => dead.push(holder.clone()),
                Ok(false) => living.push((holder.clone(), user.clone())),
                // A lease on a shard that is away must not keep the other holders from getting their hints.
                Err(error) => unknown = Some(error),
            }
        }
        self.hint(living).await;
        unknown.map_or(Ok(dead), Err)
    }

    /// Sees to it that chats look after an incarnation which has something at a place, and find that place. True: it is
    /// dead.
    pub(super) async fn restore_lease(
        &self,
        incarnation: &Incarnation,
        place: &Place,
    ) -> Result<bool, StoreError> {
        let state = self.leases.restore(incarnation, place).await?;
        if !state.dead {
            // Perhaps no chat looks after it: the store may have lost its entry in the directory, or the incarnation
            // began while the directory was away. If it is scheduled already, it stays so.
            let noted = self.leases.schedule(incarnation).await;
            if let Err(error) = noted {
                tracing::debug!(%error, %incarnation, "not scheduled");
            }
        }
        Ok(state.dead)
    }

    pub(super) async fn hint(&self, hints: impl IntoIterator<Item = (Incarnation, UserId)>) {
        let hints = hints.into_iter();
        let hinted = hints.map(async |(incarnation, user)| {
            if let Err(error) = self.hints.hint(&incarnation, &user).await {
                tracing::debug!(%error, "hint not sent");
            }
        });
        join_all(hinted).await;
    }

    /// Closes the login of a session that is over.
    ///
    /// # Errors
    /// Those of [`UserRegistry::close`]. Then repeat the call.
    pub(crate) async fn close(&self, registration: &Registration) -> Result<(), StoreError> {
        let fence = {
            let mut state = registration.state.lock();
            state.over = true;
            state.fence || state.unanswered
        };
        let Registration { user, session, .. } = registration;
        self.users.close(user, session, fence).await
    }

    /// Receives the hints for an incarnation.
    pub(crate) fn listen(&self, incarnation: &Incarnation) -> mpsc::Receiver<UserId> {
        self.hints.listen(incarnation)
    }

    /// The entries of users.
    ///
    /// # Errors
    /// Those of [`UserRegistry::entries`].
    pub(crate) async fn entries(
        &self,
        incarnation: &Incarnation,
        users: &[UserId],
    ) -> Result<Vec<UserEntries>, StoreError> {
        self.users.entries(incarnation, users).await
    }
}

#[cfg(test)]
mod tests;
