//! Who is logged in, cluster-wide: this connector's part of it (MEMBERSHIP.md).
//!
//! A login is registered before its session joins, and taken out when its leave has landed. Under `reject` whoever finds
//! the user taken looks at the holders' leases first: the dead hold nobody. A session that has joined, and whose client is
//! still there, claims its rank: that marks the sessions that are to give way, and their connectors are hinted to look.
//! A session gives way only when it finds itself marked: what one connector says to another may be lost, what is written
//! is found by the reconciler.
//!
//! A client that shows its secret takes the place of the sessions that have the same one, and any login takes that of the
//! user's lingering sessions. Its joins name these predecessors, so chat moves their memberships; the claim and the hint
//! come after the join, because a client that is gone by then must drive nobody out.

use super::incarnation::IndexGuard;
use crate::metering::{KICKS, count_repair};
use crate::transport::{Connection, close_paced};
use channel_store::{
    Claim, Claimed, EntryState, Hints, Incarnation, Leases, LoggedIn, Login, LoginPolicy, Place,
    Predecessor, Proof, SessionId, StoreError, UserEntries, UserEntry, UserId, UserRegistry,
};
use futures_util::future::join_all;
use metrics::counter;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout_at};
use wire::Disconnect;

/// How long a policy that nobody speaks for any more holds: longer than any lease, so that no two are in force.
const POLICY_LASTS: Duration = Duration::from_secs(60);
const AGREE: Duration = Duration::from_secs(3);
/// After a login, or an agreement, without an answer.
const RETRY: Duration = Duration::from_millis(100);
/// How long the lease may take to be renewed after a login or claim came too late by the clock of the user's server.
const RENEWAL: Duration = Duration::from_secs(1);
/// Calls of one user's holders at once, at most.
const HOLDERS: usize = 8;

/// What a login was told.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// Come in.
    Yes,
    /// 用户已登录.
    Taken,
}

/// This connector's logins, and the way to everybody's.
pub struct Registry {
    policy: LoginPolicy,
    users: Arc<dyn UserRegistry>,
    hints: Arc<dyn Hints>,
    leases: Arc<dyn Leases>,
    agreed: watch::Sender<bool>,
    /// The policy in force, also where this connector has another: by two, two sessions would each drive the other out.
    held: Mutex<LoginPolicy>,
    known: Arc<Known>,
}

/// Logins from before they are sent until their end has landed.
type Known = Mutex<BTreeMap<UserId, BTreeMap<SessionId, Weak<Registration>>>>;

/// One session's login.
pub(crate) struct Registration {
    user: UserId,
    session: SessionId,
    /// Of the client's secret, if it has one.
    proof: Option<Proof>,
    /// Weak, because a session that lingers keeps no socket.
    connection: Weak<Connection>,
    guard: Arc<IndexGuard>,
    standing: Mutex<Standing>,
    known: Arc<Known>,
}

#[derive(Default)]
struct Standing {
    /// From the login's answer on. None where nothing was registered.
    login_rank: Option<u64>,
    /// Whose place it takes where it joins, as its login was answered.
    predecessors: Arc<[Predecessor]>,
    /// It has joined, and its client is about to be told. Before that it drives nobody out: its join may still fail.
    joined: bool,
    /// There are others whom it may outrank, and it has not claimed its rank yet.
    is_to_claim: bool,
    /// Its client is gone, and it stays a member for a while.
    lingers: bool,
    /// The login was undone. The client may log in again on the same socket, so this one must not close it any more.
    undone: bool,
    /// Its end is on its way.
    over: bool,
    /// Its login was sent, and not answered yet.
    asked: bool,
    /// A copy of its login, or of a claim, may arrive after its end.
    fence: bool,
}

/// What a look at users has found.
#[derive(Default)]
pub(crate) struct Findings {
    /// Sessions that are not registered, or not marked as they should be.
    claims: Vec<Arc<Registration>>,
    /// Sessions that linger, and whose entries do not say so.
    lingering: Vec<Arc<Registration>>,
    /// Entries of this incarnation's sessions that are over.
    over: Vec<(UserId, SessionId)>,
    /// Whose connectors have something to find out.
    hints: BTreeSet<(Incarnation, UserId)>,
    /// Other incarnations that have entries of these users.
    met: BTreeSet<(Incarnation, UserId)>,
}

impl Registry {
    /// Says nothing before the connector serves. The policy is to be the same for all connectors: see
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

    /// True while the other connectors have the same policy.
    #[must_use]
    pub fn agreed(&self) -> watch::Receiver<bool> {
        self.agreed.subscribe()
    }

    /// Which policy others have, for people; `None`: it is the same, or not known.
    #[must_use]
    pub fn why_disagreed(&self) -> Option<String> {
        let (held, own) = (*self.held.lock(), self.policy);
        (held != own).then(|| {
            format!("other connectors have --login-policy {held}, this one {own}; it holds until a minute after the last of them is gone")
        })
    }

    /// Keeps saying which policy this connector has.
    pub(crate) async fn keep_agreeing(&self) -> Infallible {
        let mut said = false;
        loop {
            match self.users.propose_policy(self.policy, POLICY_LASTS).await {
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
                    sleep(RETRY.mul_f64(0.5 + fastrand::f64())).await;
                }
            }
        }
    }

    /// Once, and nothing else.
    #[cfg(test)]
    pub(crate) async fn agree(&self) {
        let held = self.users.propose_policy(self.policy, POLICY_LASTS).await;
        self.agreed.send_replace(held == Ok(self.policy));
    }

    /// What a login leaves in the index before it is sent.
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

    /// Begins a login, which is to be ended whatever becomes of it. The proof is of the secret that the client holds.
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

    /// Registers a session: as often as it takes to get an answer.
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
                    login_rank,
                    others,
                    predecessors,
                }) => {
                    let mut standing = registration.standing.lock();
                    standing.login_rank = Some(login_rank);
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
                    sleep(RETRY.mul_f64(0.5 + fastrand::f64())).await;
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

    /// The others are to go: to be called when the session has joined, and before its client is told. What fails here,
    /// or is given up when the time is over, is done by the reconciler.
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
            // Whoever looks after the dead is to find them here.
            if let Err(error) = self.dead_among(&claimed.superseded, user).await {
                tracing::debug!(%error, "nobody vouched for");
            }
            let better = claimed.better.into_iter();
            self.hint(better.map(|it| (it, user.clone()))).await;
        } else {
            registration.suspect();
        }
    }

    /// Another session has the place of this one in a channel: its socket is closed. If the entry is marked, that tells
    /// why.
    ///
    /// # Errors
    /// As [`UserRegistry::look`]: to be repeated.
    pub(crate) async fn displace(&self, registration: &Registration) -> Result<(), StoreError> {
        let users = std::slice::from_ref(&registration.user);
        let incarnation = registration.guard.incarnation();
        let looks = self.users.entries(incarnation, users).await?;
        let entries = looks.first().map_or(&[][..], |look| &look.entries);
        let reason = self.marked(registration, entries);
        registration.close(reason.unwrap_or(Disconnect::Displaced));
        Ok(())
    }

    /// Why a session gives way, if its entry says that it does.
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
            // Under these a session is driven out by somebody else's only after the store has lost data: the client may
            // find its place free again. Or the one that replaced it is over already.
            LoginPolicy::Reject | LoginPolicy::Allow => Disconnect::Displaced,
        })
    }

    /// Says of a session whose client is gone that it stays for a while, and holds nobody off.
    ///
    /// # Errors
    /// As [`UserRegistry::linger`]: to be repeated.
    pub(crate) async fn linger(&self, registration: &Registration) -> Result<(), StoreError> {
        let Registration { user, session, .. } = registration;
        self.users.linger(user, session).await
    }

    /// Claims in the name of one incarnation. What comes too late by the clock of its user's server is claimed once more,
    /// if the incarnation is found alive.
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

    /// Which of the holders of a user are dead. Each of them will be found if it dies, and the living get to know that
    /// somebody asks.
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
                // One whose lease is on a shard that is away keeps no other from hearing of it.
                Err(error) => unknown = Some(error),
            }
        }
        self.hint(living).await;
        unknown.map_or(Ok(dead), Err)
    }

    /// Sees to it that an incarnation which has something in a place is found there if it dies. True if it is dead.
    async fn look_after(
        &self,
        incarnation: &Incarnation,
        place: &Place,
    ) -> Result<bool, StoreError> {
        let state = self.leases.restore(incarnation, place).await?;
        if !state.dead {
            // Nobody may be looking after it: the store may have lost the note, or the incarnation began while the directory
            // was away. What is noted already stays so.
            let noted = self.leases.schedule(incarnation).await;
            if let Err(error) = noted {
                tracing::debug!(%error, %incarnation, "not noted");
            }
        }
        Ok(state.dead)
    }

    async fn hint(&self, hints: impl IntoIterator<Item = (Incarnation, UserId)>) {
        let hints = hints.into_iter();
        let hinted = hints.map(async |(incarnation, user)| {
            if let Err(error) = self.hints.hint(&incarnation, &user).await {
                tracing::debug!(%error, "not hinted");
            }
        });
        join_all(hinted).await;
    }

    /// Takes a session out that is over.
    ///
    /// # Errors
    /// As [`UserRegistry::close`]: to be repeated.
    pub(crate) async fn close(&self, registration: &Registration) -> Result<(), StoreError> {
        let fence = {
            let mut standing = registration.standing.lock();
            standing.over = true;
            standing.fence || standing.asked
        };
        let Registration { user, session, .. } = registration;
        self.users.close(user, session, fence).await
    }

    /// Hears what other connectors say to an incarnation.
    pub(crate) fn listen(&self, incarnation: &Incarnation) -> mpsc::Receiver<UserId> {
        self.hints.listen(incarnation)
    }

    /// What is registered of users.
    ///
    /// # Errors
    /// As [`UserRegistry::look`].
    pub(crate) async fn look(
        &self,
        incarnation: &Incarnation,
        users: &[UserId],
    ) -> Result<Vec<UserEntries>, StoreError> {
        self.users.entries(incarnation, users).await
    }

    /// Compares a user's entries with the sessions here. Whoever finds itself superseded gives way at once.
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
                // Also one that has not heard yet that it is logged in: nobody will say so again.
                registration.close(reason);
                continue;
            }
            let Some(claim) = registration.present(incarnation, policy) else {
                continue;
            };
            let own = entries.iter().find(|entry| entry.session == *session);
            if registration.standing.lock().lingers {
                // Nobody claims for it any more.
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
                // Only the better one's connector is told: if both told each other, they would never stop.
                if other.outranks(&claim) {
                    findings.hints.insert(whose.clone());
                }
                // Also an entry that gives way: a store that fell back may have brought it back, and nothing else by
                // which it would be found if its connector is dead.
                if other.incarnation != *incarnation {
                    findings.met.insert(whose);
                }
            }
            // An entry with another rank is as good as none: a late copy of the login has entered it after a loss of data.
            let is_entered = own.is_some_and(|own| own.login_rank == claim.login_rank);
            if !is_entered || !is_marked {
                findings.claims.push(registration);
            }
        }
        let own = entries.iter().filter(|it| it.incarnation == *incarnation);
        let over = own.filter(|entry| !sessions.contains_key(&entry.session));
        let over = over.map(|entry| (user.clone(), entry.session.clone()));
        findings.over.extend(over);
    }

    /// Puts right what was found; true if all of it is.
    ///
    /// # Errors
    /// As [`UserRegistry::claim`].
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
                // Its end was faster.
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
                .inspect_err(|error| tracing::debug!(%error, %incarnation, "not looked after"))
                .is_ok();
        }
        Ok(is_settled)
    }
}

impl Findings {
    /// True if something is to be written.
    pub(crate) fn wants_claims(&self) -> bool {
        !self.claims.is_empty()
    }
}

impl Registration {
    /// Whose login it is.
    pub(crate) fn user(&self) -> &UserId {
        &self.user
    }

    /// The session's stay where it logged in, and so the incarnation to which it belongs.
    pub(crate) fn guard(&self) -> &Arc<IndexGuard> {
        &self.guard
    }

    /// True if its client has a secret, by which a new session takes the place of this one.
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

    /// What it would claim, if it is logged in by this incarnation, and has not ended.
    fn present(&self, incarnation: &Incarnation, policy: LoginPolicy) -> Option<Claim> {
        let standing = self.standing.lock();
        let is_present = !standing.over && self.guard.incarnation() == incarnation;
        standing.login_rank.filter(|_| is_present)?;
        self.as_claim(&standing, policy)
    }

    /// The same, and a claim may travel from now on. `None` also if the client is gone, or its login has failed; and as
    /// long as the session has not joined, when it is put off.
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
            login_rank: standing.login_rank?,
            predecessors: Arc::clone(&standing.predecessors),
        })
    }

    fn is_closing(&self) -> bool {
        let connection = self.connection.upgrade();
        connection.is_none_or(|connection| connection.closing().is_some())
    }

    /// Whose place it takes where it joins. A client that is gone takes nobody's.
    pub(crate) fn replaces(&self) -> Vec<proto::v1::Predecessor> {
        if self.is_closing() {
            return Vec::new();
        }
        let predecessors = Arc::clone(&self.standing.lock().predecessors);
        let replaces = predecessors.iter().map(|it| proto::v1::Predecessor {
            incarnation: it.incarnation.to_string(),
            session: it.session.to_string(),
        });
        replaces.collect()
    }

    /// Its client is gone, and it stays a member for a while: nobody claims for it any more.
    pub(crate) fn begin_lingering(&self) {
        self.standing.lock().lingers = true;
    }

    /// Its login has failed: it closes no socket any more, whatever is found of it.
    pub(crate) fn undo(&self) {
        self.standing.lock().undone = true;
    }

    /// What the store has of it may have to be put right.
    fn suspect(&self) {
        self.guard.suspect(Place::User(self.user.clone()));
    }

    /// True if nothing was sent whose copy may still travel, and nothing was written.
    pub(crate) fn is_nowhere(&self) -> bool {
        let standing = self.standing.lock();
        standing.login_rank.is_none() && !standing.fence && !standing.asked
    }

    /// It gives way.
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
