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
use crate::metering::{KICKS, count_repair};
use crate::transport::{Connection, close_paced};
use channel_store::{
    Claim, Claimed, EntryState, Hints, Incarnation, Leases, LoggedIn, Login, LoginPolicy, Place,
    Predecessor, Proof, SessionId, StoreError, UserEntry, UserId, UserLook, UserRegistry,
};
use futures_util::future::join_all;
use metrics::counter;
use parking_lot::Mutex;
use runtime::backoff::pause;
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout_at};
use wire::Disconnect;

/// How long a policy stays in force after a connector announced it last. It is longer than any lease, so that no two
/// policies are in force.
const POLICY_LASTS: Duration = Duration::from_secs(60);
/// The pause between two announcements of this connector's policy.
const AGREE: Duration = Duration::from_secs(3);
/// The pause after a login or an announcement without an answer.
const RETRY: Duration = Duration::from_millis(100);
/// How long the lease may take to be renewed after a login or claim was refused as late.
const RENEWAL: Duration = Duration::from_secs(1);
/// The most holders of a user whose leases are looked at.
const HOLDERS: usize = 8;

/// The answer to a login.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// The user is let in.
    Yes,
    /// 用户已登录.
    Taken,
}

/// The logins of this connector's sessions, and the access to those of all users.
pub struct Registry {
    policy: LoginPolicy,
    users: Arc<dyn UserRegistry>,
    hints: Arc<dyn Hints>,
    leases: Arc<dyn Leases>,
    agreed: watch::Sender<bool>,
    /// The policy in force, which may be another one than this connector's. Under two policies each of two sessions
    /// could close the other one.
    held: Mutex<LoginPolicy>,
    known: Arc<Known>,
}

/// All logins, from before they are sent until they are closed.
type Known = Mutex<BTreeMap<UserId, BTreeMap<SessionId, Weak<Registration>>>>;

/// The login of one session.
pub(crate) struct Registration {
    user: UserId,
    session: SessionId,
    /// The proof of the client's secret, if it has one.
    proof: Option<Proof>,
    /// Weak, because a lingering session keeps no socket.
    connection: Weak<Connection>,
    guard: Arc<IndexGuard>,
    standing: Mutex<Standing>,
    known: Arc<Known>,
}

#[derive(Default)]
struct Standing {
    /// The login rank, once the login was answered. `None`: nothing was written.
    generation: Option<u64>,
    /// The sessions whose place this one takes when it joins, as the answer to the login named them.
    predecessors: Arc<[Predecessor]>,
    /// The session has joined, and its client is about to be told. Before that it marks no other session, because its
    /// join may still fail.
    joined: bool,
    /// There may be sessions that it outranks, and it has not claimed its rank yet.
    is_to_claim: bool,
    /// The client is gone, and the session stays a member for a while.
    lingers: bool,
    /// The login was undone. The client may log in again on the same socket, so this session must not close it any
    /// more.
    undone: bool,
    /// The login is being closed.
    over: bool,
    /// The login was sent and is not answered yet.
    asked: bool,
    /// A copy of the login or of a claim may arrive after the close, so the close must be fenced.
    fence: bool,
}

/// What a look at users has found.
#[derive(Default)]
pub(crate) struct Findings {
    /// Sessions whose entries are missing, or whose rivals are not marked as they should be.
    claims: Vec<Arc<Registration>>,
    /// Lingering sessions whose entries do not say so.
    lingering: Vec<Arc<Registration>>,
    /// Entries of this incarnation whose sessions are over.
    over: Vec<(UserId, SessionId)>,
    /// Incarnations that should look at these users.
    hints: BTreeSet<(Incarnation, UserId)>,
    /// Other incarnations that have entries of these users.
    met: BTreeSet<(Incarnation, UserId)>,
}

impl Registry {
    /// Announces nothing before the connector serves. All connectors must have the same policy: see
    /// [`Registry::agreed`].
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
            agreed: watch::Sender::new(false),
            held: Mutex::new(policy),
            known: Arc::default(),
        })
    }

    /// True while the policy in force is that of this connector.
    #[must_use]
    pub fn agreed(&self) -> watch::Receiver<bool> {
        self.agreed.subscribe()
    }

    /// How the policy in force differs from this connector's, in words for an operator; `None`: they are the same, or
    /// it is not known.
    #[must_use]
    pub fn why_disagreed(&self) -> Option<String> {
        let (held, own) = (*self.held.lock(), self.policy);
        (held != own).then(|| {
            format!("other connectors have --login-policy {held}, this one {own}; it holds until a minute after the last of them is gone")
        })
    }

    /// Announces this connector's policy again and again.
    pub(crate) async fn keep_agreeing(&self) -> Infallible {
        let mut said = false;
        loop {
            match self.users.agree(self.policy, POLICY_LASTS).await {
                Ok(held) => {
                    let is_same = held == self.policy;
                    if !is_same && !std::mem::replace(&mut said, true) {
                        tracing::error!(%held, own = %self.policy, "another login policy is in force: no logins here");
                    }
                    said &= !is_same;
                    self.agreed.send_replace(is_same);
                    *self.held.lock() = held;
                    sleep(AGREE).await;
                }
                Err(error) => {
                    tracing::debug!(%error, "no login policy agreed upon");
                    pause(RETRY).await;
                }
            }
        }
    }

    /// Announces the policy once.
    #[cfg(test)]
    pub(crate) async fn agree(&self) {
        let held = self.users.agree(self.policy, POLICY_LASTS).await;
        self.agreed.send_replace(held == Ok(self.policy));
    }

    /// The place to be indexed before a user's login is sent.
    pub(crate) fn place(user: &UserId) -> Place {
        Place::User(user.clone())
    }

    /// Closes the sockets of all sessions of an incarnation that was declared dead, batch by batch.
    pub(crate) async fn close_all_of(&self, incarnation: &Incarnation) {
        let sessions: Vec<_> = {
            let known = self.known.lock();
            let sessions = known.values().flat_map(BTreeMap::values);
            sessions.filter_map(Weak::upgrade).collect()
        };
        let own = sessions
            .iter()
            .filter(|it| it.guard.incarnation() == incarnation && !it.standing.lock().undone);
        let connections: Vec<_> = own.filter_map(|it| it.connection.upgrade()).collect();
        drop(sessions);
        tracing::info!(connections = connections.len(), "closing");
        close_paced(&connections, Disconnect::Dead).await;
    }

    /// Begins a login. It must be ended, whatever happens to it. `proof` is that of the client's secret.
    pub(crate) fn begin(
        &self,
        guard: &Arc<IndexGuard>,
        user: &UserId,
        session: &SessionId,
        connection: &Arc<Connection>,
        proof: Option<Proof>,
    ) -> Arc<Registration> {
        let registration = Arc::new(Registration {
            user: user.clone(),
            session: session.clone(),
            proof,
            connection: Arc::downgrade(connection),
            guard: Arc::clone(guard),
            standing: Mutex::default(),
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
            if let Some(deadline) = later {
                login.deadline = deadline;
            }
            registration.standing.lock().asked = true;
            let answer = self.users.login(&login, &dead).await;
            registration.standing.lock().asked = false;
            match answer {
                Ok(LoggedIn::Yes {
                    generation,
                    others,
                    predecessors,
                }) => {
                    let mut standing = registration.standing.lock();
                    standing.generation = Some(generation);
                    standing.is_to_claim =
                        !predecessors.is_empty() || others && self.policy == LoginPolicy::KickOld;
                    standing.predecessors = predecessors.into();
                    return Ok(Admission::Yes);
                }
                Ok(LoggedIn::Unregistered) => return Ok(Admission::Yes),
                Ok(LoggedIn::Taken(holders)) => {
                    let of_dead = self.dead_among(&holders, &registration.user).await?;
                    if of_dead.iter().all(|it| dead.contains(it)) {
                        return Ok(Admission::Taken);
                    }
                    dead = of_dead;
                }
                Err(StoreError::Unavailable(reason)) => {
                    tracing::debug!(reason, "login unanswered");
                    registration.standing.lock().fence = true;
                    pause(RETRY).await;
                }
                Err(StoreError::Late { now }) if later.is_none() => {
                    let time = registration.guard.time_if_alive(Instant::now() + RENEWAL);
                    let time = time.await.ok_or(StoreError::Late { now })?;
                    later = Some(now.saturating_add(time));
                }
                Err(error) => {
                    if error == StoreError::ConnectorDead {
                        registration.guard.condemn();
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
            let mut standing = registration.standing.lock();
            standing.joined = true;
            standing.is_to_claim
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
            registration.standing.lock().is_to_claim = false;
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
    /// Those of [`UserRegistry::look`]. Then repeat the call.
    pub(crate) async fn displace(&self, registration: &Registration) -> Result<(), StoreError> {
        let users = std::slice::from_ref(&registration.user);
        let incarnation = registration.guard.incarnation();
        let looks = self.users.look(incarnation, users).await?;
        let entries = looks.first().map_or(&[][..], |look| &look.entries);
        let reason = self.marked(registration, entries);
        registration.close(reason.unwrap_or(Disconnect::Displaced));
        Ok(())
    }

    /// Why a session must give way, if its entry is marked.
    fn marked(&self, registration: &Registration, entries: &[UserEntry]) -> Option<Disconnect> {
        let mut of_session = entries.iter();
        let own = of_session.find(|entry| entry.session == registration.session)?;
        if own.state != EntryState::Superseded {
            return None;
        }
        let by_kin = entries.iter().any(|other| {
            own.proof.is_some() && other.proof == own.proof && other.rank() > own.rank()
        });
        Some(match *self.held.lock() {
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
    async fn claim_in_time(
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
        let states = some.map(async |holder| (holder, self.look_after(holder, &place).await));
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
    async fn look_after(
        &self,
        incarnation: &Incarnation,
        place: &Place,
    ) -> Result<bool, StoreError> {
        let state = self.leases.vouch(incarnation, place).await?;
        if !state.dead {
            // Perhaps no chat looks after it: the store may have lost its entry in the directory, or the incarnation
            // began while the directory was away. If it is scheduled already, it stays so.
            let noted = self.leases.note(incarnation).await;
            if let Err(error) = noted {
                tracing::debug!(%error, %incarnation, "not scheduled");
            }
        }
        Ok(state.dead)
    }

    async fn hint(&self, hints: impl IntoIterator<Item = (Incarnation, UserId)>) {
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
            let mut standing = registration.standing.lock();
            standing.over = true;
            standing.fence || standing.asked
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
    /// Those of [`UserRegistry::look`].
    pub(crate) async fn look(
        &self,
        incarnation: &Incarnation,
        users: &[UserId],
    ) -> Result<Vec<UserLook>, StoreError> {
        self.users.look(incarnation, users).await
    }

    /// Compares the entries of a user with the sessions here. A session whose entry is marked gives way at once.
    pub(crate) fn compare(
        &self,
        incarnation: &Incarnation,
        user: &UserId,
        entries: &[UserEntry],
        findings: &mut Findings,
    ) {
        let sessions = self.known.lock().get(user).cloned().unwrap_or_default();
        let policy = *self.held.lock();
        for (session, registration) in &sessions {
            let Some(registration) = registration.upgrade() else {
                continue;
            };
            if let Some(reason) = self.marked(&registration, entries) {
                // This also closes a session that does not know yet that it is logged in, because nothing will tell it
                // later.
                registration.close(reason);
                continue;
            }
            let Some(claim) = registration.present(incarnation, policy) else {
                continue;
            };
            let own = entries.iter().find(|entry| entry.session == *session);
            if registration.standing.lock().lingers {
                // A lingering session claims nothing any more.
                if own.is_some_and(|own| own.state == EntryState::Live) {
                    findings.lingering.push(registration);
                }
                continue;
            }
            let others = entries.iter().filter(|entry| entry.session != *session);
            let mut is_marked = true;
            for other in others {
                let is_superseded = other.state == EntryState::Superseded;
                is_marked &= is_superseded || !other.gives_way_to(&claim);
                let whose = (other.incarnation.clone(), user.clone());
                // Only the connector of the better entry gets a hint. If both sent hints to each other, they would
                // never stop.
                if other.outranks(&claim) {
                    findings.hints.insert(whose.clone());
                }
                // Also if the entry gives way. A store that fell back may have brought back only this entry. If its
                // connector is dead, nothing else would lead to it.
                if other.incarnation != *incarnation {
                    findings.met.insert(whose);
                }
            }
            // An entry with another rank does not count: after a loss of data, a late copy of the login has written it.
            let is_entered = own.is_some_and(|own| own.generation == claim.generation);
            if !is_entered || !is_marked {
                findings.claims.push(registration);
            }
        }
        let own = entries.iter().filter(|it| it.incarnation == *incarnation);
        let over = own.filter(|entry| !sessions.contains_key(&entry.session));
        let over = over.map(|entry| (user.clone(), entry.session.clone()));
        findings.over.extend(over);
    }

    /// Repairs what was found. True: all of it is repaired.
    ///
    /// # Errors
    /// Those of [`UserRegistry::claim`].
    pub(crate) async fn settle(&self, findings: Findings) -> Result<bool, StoreError> {
        let Findings {
            claims,
            lingering,
            over,
            mut hints,
            met,
        } = findings;
        let (mut is_settled, policy) = (true, *self.held.lock());
        let logins = claims.iter();
        let logins: Vec<_> = logins.filter_map(|it| it.claim(policy)).collect();
        let answers = match claims.first() {
            Some(registration) => {
                self.claim_in_time(&registration.guard, logins.clone())
                    .await?
            }
            None => Vec::new(),
        };
        for (claimed, Claim { login, .. }) in answers.into_iter().zip(&logins) {
            match claimed {
                Ok(Claimed { superseded, better }) => {
                    count_repair("login-lost");
                    let concerned = superseded.into_iter().chain(better);
                    hints.extend(concerned.map(|it| (it, login.user.clone())));
                }
                Err(StoreError::ConnectorDead) => {
                    if let Some(registration) = claims.first() {
                        registration.guard.condemn();
                    }
                }
                // The session has ended meanwhile.
                Err(StoreError::StaleOperation) => {}
                Err(error) => {
                    tracing::debug!(%error, "login not claimed");
                    is_settled = false;
                }
            }
        }
        for registration in lingering {
            self.linger(&registration).await?;
        }
        for (user, session) in over {
            self.users.close(&user, &session, true).await?;
            count_repair("login-ghost");
        }
        self.hint(hints).await;
        for (incarnation, user) in met {
            let seen_to = self.look_after(&incarnation, &Place::User(user)).await;
            is_settled &= seen_to
                .inspect_err(|error| tracing::debug!(%error, %incarnation, "lease not restored"))
                .is_ok();
        }
        Ok(is_settled)
    }
}

impl Findings {
    /// True if there is something to claim.
    pub(crate) fn wants_claims(&self) -> bool {
        !self.claims.is_empty()
    }
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

    /// True if the client has a secret. Then its next session can take the place of this one.
    pub(crate) fn can_come_back(&self) -> bool {
        self.proof.is_some()
    }

    fn login(&self, policy: LoginPolicy) -> Login {
        Login {
            user: self.user.clone(),
            session: self.session.clone(),
            incarnation: self.guard.incarnation().clone(),
            deadline: self.guard.deadline(),
            policy,
            proof: self.proof,
        }
    }

    /// The claim of this session, if the incarnation has logged it in and it has not ended.
    fn present(&self, incarnation: &Incarnation, policy: LoginPolicy) -> Option<Claim> {
        let standing = self.standing.lock();
        let is_present = !standing.over && self.guard.incarnation() == incarnation;
        standing.generation.filter(|_| is_present)?;
        self.as_claim(&standing, policy)
    }

    /// The same, and copies of the claim may be under way from now on. `None` also if the client is gone or the login
    /// was undone. If the session has not joined yet, the claim is put off.
    fn claim(&self, policy: LoginPolicy) -> Option<Claim> {
        let mut standing = self.standing.lock();
        if standing.over || standing.lingers || standing.undone || self.is_closing() {
            return None;
        }
        if !standing.joined {
            standing.is_to_claim = true;
            return None;
        }
        standing.fence = true;
        self.as_claim(&standing, policy)
    }

    fn as_claim(&self, standing: &Standing, policy: LoginPolicy) -> Option<Claim> {
        Some(Claim {
            login: self.login(policy),
            generation: standing.generation?,
            predecessors: Arc::clone(&standing.predecessors),
        })
    }

    fn is_closing(&self) -> bool {
        let connection = self.connection.upgrade();
        connection.is_none_or(|connection| connection.closing().is_some())
    }

    /// Whose place it takes where it joins. A client that is gone takes nobody's.
    pub(crate) fn replaces(&self) -> Vec<proto::connector::v1::Session> {
        if self.is_closing() {
            return Vec::new();
        }
        let predecessors = Arc::clone(&self.standing.lock().predecessors);
        let replaces = predecessors.iter().map(|it| proto::connector::v1::Session {
            incarnation: it.incarnation.to_string(),
            id: it.session.to_string(),
        });
        replaces.collect()
    }

    /// The client is gone, and the session stays a member for a while. It claims nothing any more.
    pub(crate) fn begin_lingering(&self) {
        self.standing.lock().lingers = true;
    }

    /// The login has failed. From now on this closes no socket, whatever is found about it.
    pub(crate) fn undo(&self) {
        self.standing.lock().undone = true;
    }

    /// Lets the reconciler look at the user soon.
    fn suspect(&self) {
        self.guard.suspect(Place::User(self.user.clone()));
    }

    /// True if nothing was written, and no copy may be under way.
    pub(crate) fn is_nowhere(&self) -> bool {
        let standing = self.standing.lock();
        standing.generation.is_none() && !standing.fence && !standing.asked
    }

    /// The session gives way: closes its socket.
    fn close(&self, reason: Disconnect) {
        let connection = self.connection.upgrade();
        let connection = connection.filter(|_| !self.standing.lock().undone);
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
            if sessions.is_empty() {
                known.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests;
