//! Who is logged in, cluster-wide: this connector's part of it (MEMBERSHIP.md).
//!
//! A login is registered before its session joins, and taken out when its leave has landed. Under `reject` whoever finds
//! the user taken looks at the holders' leases first: the dead hold nobody. Under `kick-old` it claims its rank at once,
//! which marks the others, and hints their connectors to look. A session gives way only when it finds itself marked:
//! what one connector says to another may be lost, what is written is found by the patrol.

use crate::connection::Connection;
use crate::disconnect::Disconnect;
use crate::lease::{Stay, count_repair};
use crate::metering::KICKS;
use channel_store::{
    Claimed, Hints, Incarnation, Leases, LoggedIn, Login, LoginPolicy, Place, SessionId,
    StoreError, UserEntry, UserId, UserLook, UserRegistry,
};
use futures_util::future::join_all;
use metrics::counter;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};

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
    connection: Arc<Connection>,
    stay: Arc<Stay>,
    standing: Mutex<Standing>,
    known: Arc<Known>,
}

#[derive(Default)]
struct Standing {
    /// From the login's answer on.
    generation: Option<u64>,
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

    /// Keeps saying which policy this connector has.
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
                    sleep(RETRY.mul_f64(0.5 + fastrand::f64())).await;
                }
            }
        }
    }

    /// Once, and nothing else.
    #[cfg(test)]
    pub(crate) async fn agree(&self) {
        let held = self.users.agree(self.policy, POLICY_LASTS).await;
        self.agreed.send_replace(held == Ok(self.policy));
    }

    /// What a login leaves in the index before it is sent.
    pub(crate) fn place(&self, user: &UserId) -> Option<Place> {
        (self.policy != LoginPolicy::Allow).then(|| Place::User(user.clone()))
    }

    /// Begins a login, which is to be ended whatever becomes of it; `None` where nothing is registered.
    pub(crate) fn begin(
        &self,
        stay: &Arc<Stay>,
        user: &UserId,
        session: &SessionId,
        connection: &Arc<Connection>,
    ) -> Option<Arc<Registration>> {
        if self.policy == LoginPolicy::Allow {
            return None;
        }
        let registration = Arc::new(Registration {
            user: user.clone(),
            session: session.clone(),
            connection: Arc::clone(connection),
            stay: Arc::clone(stay),
            standing: Mutex::default(),
            known: Arc::clone(&self.known),
        });
        let mut known = self.known.lock();
        let sessions = known.entry(user.clone()).or_default();
        sessions.insert(session.clone(), Arc::downgrade(&registration));
        Some(registration)
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
                Ok(LoggedIn::Yes { generation, others }) => {
                    registration.standing.lock().generation = Some(generation);
                    if others && self.policy == LoginPolicy::KickOld {
                        self.claim_rank(registration, generation).await;
                    }
                    return Ok(Admission::Yes);
                }
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
                    let time = registration.stay.time_if_alive(Instant::now() + RENEWAL);
                    let time = time.await.ok_or(StoreError::Late { now })?;
                    later = Some(now.saturating_add(time));
                }
                Err(error) => {
                    if error == StoreError::ConnectorDead {
                        registration.stay.condemn();
                    }
                    return Err(error);
                }
            }
        }
    }

    /// The others are to go. What fails here is done by the patrol.
    async fn claim_rank(&self, registration: &Registration, generation: u64) {
        if registration.connection.closing().is_some() {
            return;
        }
        registration.standing.lock().fence = true;
        let claim = (registration.login(self.policy), generation);
        let claimed = self.claim(&registration.stay, vec![claim]).await;
        let user = &registration.user;
        if let Ok(Some(Ok(claimed))) = claimed.map(|mut claimed| claimed.pop()) {
            // Whoever looks after the dead is to find them here.
            if let Err(error) = self.dead_among(&claimed.superseded, user).await {
                tracing::debug!(%error, "nobody vouched for");
            }
            let better = claimed.better.into_iter();
            self.hint(better.map(|it| (it, user.clone()))).await;
        } else {
            registration.stay.suspect(Place::User(user.clone()));
        }
    }

    /// Claims in the name of one incarnation. What comes too late by the clock of its user's server is claimed once more,
    /// if the incarnation is found alive.
    async fn claim(
        &self,
        stay: &Stay,
        mut claims: Vec<(Login, u64)>,
    ) -> Result<Vec<Result<Claimed, StoreError>>, StoreError> {
        let mut claimed = self.users.claim(&claims).await?;
        let is_late = |it: &Result<_, StoreError>| matches!(it, Err(StoreError::Late { .. }));
        if !claimed.iter().any(is_late) {
            return Ok(claimed);
        }
        let Some(time) = stay.time_if_alive(Instant::now() + RENEWAL).await else {
            return Ok(claimed);
        };
        let mut late = Vec::new();
        for (place, claimed) in claimed.iter().enumerate() {
            if let Err(StoreError::Late { now }) = claimed {
                claims[place].0.deadline = now.saturating_add(time);
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
        let (mut dead, mut living) = (Vec::new(), Vec::new());
        for (holder, is_dead) in join_all(states).await {
            if is_dead? {
                dead.push(holder.clone());
            } else {
                living.push((holder.clone(), user.clone()));
            }
        }
        self.hint(living).await;
        Ok(dead)
    }

    /// Sees to it that an incarnation which has something in a place is found there if it dies. True if it is dead.
    async fn look_after(
        &self,
        incarnation: &Incarnation,
        place: &Place,
    ) -> Result<bool, StoreError> {
        let state = self.leases.vouch(incarnation, place).await?;
        if state.provisional && !state.dead {
            // Nobody may be looking after it.
            self.leases.note(incarnation).await?;
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
    ) -> Result<Vec<UserLook>, StoreError> {
        self.users.look(incarnation, users).await
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
            let own = entries.iter().find(|entry| entry.session == *session);
            if own.is_some_and(|own| own.superseded) {
                // Also one that has not heard yet that it is logged in: nobody will say so again.
                registration.kick();
                continue;
            }
            let Some(generation) = registration.present(incarnation) else {
                continue;
            };
            let others = entries.iter().filter(|entry| entry.session != *session);
            let mut is_marked = true;
            for other in others {
                is_marked &= other.superseded || !policy.outranks(generation, other.generation);
                let whose = (other.incarnation.clone(), user.clone());
                // Only the better one's connector is told: if both told each other, they would never stop.
                if !other.superseded && policy.outranks(other.generation, generation) {
                    findings.hints.insert(whose.clone());
                }
                // Also an entry that gives way: a store that fell back may have brought it back, and nothing else by
                // which it would be found if its connector is dead.
                if other.incarnation != *incarnation {
                    findings.met.insert(whose);
                }
            }
            // An entry with another rank is as good as none: a late copy of the login has entered it after a loss of data.
            let is_entered = own.is_some_and(|own| own.generation == generation);
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
            over,
            mut hints,
            met,
        } = findings;
        let (mut is_settled, policy) = (true, *self.held.lock());
        let logins: Vec<_> = claims
            .iter()
            .filter_map(|registration| {
                let generation = registration.claim()?;
                Some((registration.login(policy), generation))
            })
            .collect();
        let claimed = match claims.first() {
            Some(registration) => self.claim(&registration.stay, logins.clone()).await?,
            None => Vec::new(),
        };
        for (claimed, (login, _)) in claimed.into_iter().zip(&logins) {
            match claimed {
                Ok(Claimed { superseded, better }) => {
                    count_repair("login-lost");
                    let concerned = superseded.into_iter().chain(better);
                    hints.extend(concerned.map(|it| (it, login.user.clone())));
                }
                Err(StoreError::ConnectorDead) => {
                    if let Some(registration) = claims.first() {
                        registration.stay.condemn();
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
        for (user, session) in over {
            self.users.close(&user, &session, true).await?;
            count_repair("login-ghost");
        }
        for (incarnation, user) in met {
            self.look_after(&incarnation, &Place::User(user)).await?;
        }
        self.hint(hints).await;
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

    fn login(&self, policy: LoginPolicy) -> Login {
        Login {
            user: self.user.clone(),
            session: self.session.clone(),
            incarnation: self.stay.incarnation().clone(),
            deadline: self.stay.deadline(),
            policy,
        }
    }

    /// Its rank, if it is logged in by this incarnation, and has not ended.
    fn present(&self, incarnation: &Incarnation) -> Option<u64> {
        let standing = self.standing.lock();
        let is_present = !standing.over && self.stay.incarnation() == incarnation;
        standing.generation.filter(|_| is_present)
    }

    /// The same, and a claim may travel from now on.
    fn claim(&self) -> Option<u64> {
        let mut standing = self.standing.lock();
        if standing.over || self.connection.closing().is_some() {
            return None;
        }
        standing.fence = true;
        standing.generation
    }

    /// True if nothing was sent whose copy may still travel, and nothing was written.
    pub(crate) fn is_nowhere(&self) -> bool {
        let standing = self.standing.lock();
        standing.generation.is_none() && !standing.fence && !standing.asked
    }

    fn kick(&self) {
        if self.connection.closing().is_none() {
            counter!(KICKS).increment(1);
            self.connection.close(Disconnect::Kicked);
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
