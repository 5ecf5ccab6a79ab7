//! The registry of users in memory.

use super::Channels;
use crate::name::{Incarnation, SessionId, UserId};
use crate::registry::{
    Claim, Claimed, ENTRIES, EntryState, HINTS, Hints, LoggedIn, Login, LoginPolicy, PREDECESSORS,
    SUPERSEDED, UserEntries, UserEntry, UserRegistry,
};
use crate::{Predecessor, StoreError};
use async_trait::async_trait;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

pub(super) struct MemoryRegistry {
    pub(super) channels: Arc<Channels>,
}

/// All users' logins, and the policy.
#[derive(Clone, Default)]
pub(super) struct Users {
    by_name: BTreeMap<UserId, User>,
    /// The last login rank given, to whomever: users are forgotten sooner than the clock moves.
    last: u64,
    policy: Option<(LoginPolicy, Instant)>,
}

/// Whoever listens to hints: no data, so that no restart loses them.
pub(super) type Listeners = HashMap<Incarnation, mpsc::Sender<UserId>>;

#[derive(Clone, Default)]
struct User {
    entries: BTreeMap<SessionId, UserEntry>,
    dead: HashMap<Incarnation, Instant>,
    closed: HashMap<SessionId, Instant>,
}

impl User {
    fn bury(&mut self, incarnation: &Incarnation, until: Instant) -> u64 {
        self.dead.insert(incarnation.clone(), until);
        let before = self.entries.len();
        self.entries
            .retain(|_, entry| entry.incarnation != *incarnation);
        (before - self.entries.len()) as u64
    }

    fn refuse(&self, login: &Login, clock: u64, now: Instant) -> Result<(), StoreError> {
        if self.is_dead(&login.incarnation, now) {
            return Err(StoreError::ConnectorDead);
        }
        if clock > login.deadline {
            return Err(StoreError::Late { now: clock });
        }
        match self.closed.get(&login.session) {
            Some(until) if *until > now => Err(StoreError::StaleOperation),
            _ => Ok(()),
        }
    }

    fn is_dead(&self, incarnation: &Incarnation, now: Instant) -> bool {
        self.dead.get(incarnation).is_some_and(|until| *until > now)
    }

    fn others(&self, session: &SessionId) -> impl Iterator<Item = &UserEntry> {
        let entries = self.entries.values();
        entries.filter(move |entry| entry.session != *session)
    }

    fn enter(&mut self, login: &Login, login_rank: u64) {
        let entry = UserEntry {
            session: login.session.clone(),
            login_rank,
            incarnation: login.incarnation.clone(),
            state: EntryState::Live,
            proof: login.proof,
        };
        self.entries.insert(login.session.clone(), entry);
    }

    fn login(
        &mut self,
        login: &Login,
        next_generation: impl FnOnce() -> u64,
    ) -> Result<LoggedIn, StoreError> {
        let own = self.entries.get(&login.session);
        let own = own.map(|entry| entry.login_rank);
        let (mut predecessors, mut holders) = (Vec::new(), Vec::new());
        let mut comes_back = false;
        for entry in self.others(&login.session) {
            let is_kin = entry.has_same_proof_as(login);
            comes_back |= is_kin && entry.state == EntryState::Live;
            // When a login is repeated, its client may have another session by now, which came later.
            let is_older = own.is_none_or(|own| entry.login_rank < own);
            if entry.state == EntryState::Lingering || is_kin && is_older {
                predecessors.push(entry);
            } else if !is_kin {
                holders.push(entry.incarnation.clone());
            }
        }
        let others = self.others(&login.session).count();
        if own.is_none() && !comes_back {
            if login.policy == LoginPolicy::Reject && !holders.is_empty() {
                holders.sort();
                holders.dedup();
                return Ok(LoggedIn::Taken(holders));
            }
            if login.policy == LoginPolicy::Allow && others >= ENTRIES {
                return Ok(LoggedIn::Unregistered);
            }
        }
        predecessors.sort_by_key(|entry| std::cmp::Reverse(entry.login_rank));
        let predecessors = predecessors.into_iter().take(PREDECESSORS);
        let predecessors = predecessors.map(|entry| Predecessor {
            session: entry.session.clone(),
            incarnation: entry.incarnation.clone(),
        });
        let predecessors = predecessors.collect();
        let login_rank = own.unwrap_or_else(|| {
            let login_rank = next_generation();
            self.enter(login, login_rank);
            login_rank
        });
        Ok(LoggedIn::Yes {
            login_rank,
            others: others > 0,
            predecessors,
        })
    }

    fn claim(&mut self, claim: &Claim) -> Claimed {
        let Claim {
            login, login_rank, ..
        } = claim;
        // A late copy of the login may have entered it anew after a loss of data, with another login rank.
        match self.entries.get_mut(&login.session) {
            Some(entry) => {
                entry.login_rank = *login_rank;
                if entry.state != EntryState::Live {
                    // It comes late: its client is gone, or it gives way itself.
                    return Claimed::default();
                }
            }
            None => self.enter(login, *login_rank),
        }
        let (mut superseded, mut better) = (Vec::new(), Vec::new());
        for entry in self.entries.values_mut() {
            if entry.gives_way_to(claim) {
                entry.state = EntryState::Superseded;
                superseded.push(entry.incarnation.clone());
            } else if entry.outranks(claim) {
                better.push(entry.incarnation.clone());
            }
        }
        self.forget_old_marks(&login.session);
        for found in [&mut superseded, &mut better] {
            found.sort();
            found.dedup();
        }
        Claimed { superseded, better }
    }

    /// Who comes back very often leaves a mark each time, until its connector has seen to it. The oldest ones are
    /// forgotten: an owner that has not seen its mark yet puts its entry back, and is marked again.
    fn forget_old_marks(&mut self, but: &SessionId) {
        let marked = self.others(but);
        let marked = marked.filter(|entry| entry.state == EntryState::Superseded);
        let mut marked: Vec<_> = marked
            .map(|entry| (entry.login_rank, entry.session.clone()))
            .collect();
        marked.sort_by(|a, b| b.cmp(a));
        for (_, session) in marked.into_iter().skip(SUPERSEDED) {
            self.entries.remove(&session);
        }
    }

    /// Nothing is left of it, nor will come: login ranks follow the clock.
    fn is_over(&self, now: Instant) -> bool {
        let tombstones = self.dead.values().chain(self.closed.values());
        self.entries.is_empty() && tombstones.into_iter().all(|until| *until <= now)
    }
}

impl MemoryRegistry {
    fn with<T>(&self, user: &UserId, act: impl FnOnce(&mut User, Instant) -> T) -> T {
        self.with_last(user, |user, _, now| act(user, now))
    }

    /// The same, with the last login rank given.
    fn with_last<T>(
        &self,
        user: &UserId,
        act: impl FnOnce(&mut User, &mut u64, Instant) -> T,
    ) -> T {
        let now = Instant::now();
        let mut users = self.channels.users.lock();
        let users = &mut *users;
        let known = users.by_name.entry(user.clone()).or_default();
        let answer = act(known, &mut users.last, now);
        if users.by_name.get(user).is_some_and(|it| it.is_over(now)) {
            users.by_name.remove(user);
        }
        answer
    }

    fn until(&self, now: Instant) -> Instant {
        now + self.channels.options.tombstone_life
    }
}

#[async_trait]
impl UserRegistry for MemoryRegistry {
    async fn login(&self, login: &Login, dead: &[Incarnation]) -> Result<LoggedIn, StoreError> {
        let clock = self.channels.clocks.milliseconds(login.user.as_str());
        self.with_last(&login.user, |user, last, now| {
            user.refuse(login, clock, now)?;
            for incarnation in dead {
                user.bury(incarnation, self.until(now));
            }
            user.login(login, || {
                *last = (*last + 1).max(clock.saturating_mul(1_000));
                *last
            })
        })
    }

    async fn claim(
        &self,
        claims: &[Claim],
    ) -> Result<Vec<Result<Claimed, StoreError>>, StoreError> {
        let claim = |claim: &Claim| {
            let clock = self.channels.clocks.milliseconds(claim.login.user.as_str());
            self.with_last(&claim.login.user, |user, last, now| {
                user.refuse(&claim.login, clock, now)?;
                *last = (*last).max(claim.login_rank);
                Ok(user.claim(claim))
            })
        };
        Ok(claims.iter().map(claim).collect())
    }

    async fn linger(&self, user: &UserId, session: &SessionId) -> Result<(), StoreError> {
        self.with(user, |user, _| {
            let entry = user.entries.get_mut(session);
            if let Some(entry) = entry.filter(|it| it.state == EntryState::Live) {
                entry.state = EntryState::Lingering;
            }
        });
        Ok(())
    }

    async fn close(
        &self,
        user: &UserId,
        session: &SessionId,
        fence: bool,
    ) -> Result<(), StoreError> {
        self.with(user, |user, now| {
            user.entries.remove(session);
            if fence {
                user.closed.retain(|_, until| *until > now);
                user.closed.insert(session.clone(), self.until(now));
            }
        });
        Ok(())
    }

    async fn reap(&self, user: &UserId, incarnation: &Incarnation) -> Result<u64, StoreError> {
        let reaped = self.with(user, |user, now| user.bury(incarnation, self.until(now)));
        Ok(reaped)
    }

    async fn entries(
        &self,
        incarnation: &Incarnation,
        users: &[UserId],
    ) -> Result<Vec<UserEntries>, StoreError> {
        let lifetime = self.channels.registry.lock().server.lifetime.clone();
        let look = |user: &UserId| {
            self.with(user, |user, now| UserEntries {
                entries: user.entries.values().cloned().collect(),
                tombstoned: user.is_dead(incarnation, now),
                lifetime: lifetime.clone(),
            })
        };
        Ok(users.iter().map(look).collect())
    }

    async fn propose_policy(
        &self,
        policy: LoginPolicy,
        lasts: Duration,
    ) -> Result<LoginPolicy, StoreError> {
        let now = Instant::now();
        let held = &mut self.channels.users.lock().policy;
        match held {
            Some((held, until)) if *held != policy && *until > now => Ok(*held),
            _ => {
                *held = Some((policy, now + lasts));
                Ok(policy)
            }
        }
    }
}

#[async_trait]
impl Hints for MemoryRegistry {
    async fn hint(&self, incarnation: &Incarnation, user: &UserId) -> Result<(), StoreError> {
        if let Some(listener) = self.channels.listeners.lock().get(incarnation) {
            // Where nobody keeps up, or is left, it is lost.
            let _ = listener.try_send(user.clone());
        }
        Ok(())
    }

    fn listen(&self, incarnation: &Incarnation) -> mpsc::Receiver<UserId> {
        let (sender, receiver) = mpsc::channel(HINTS);
        let mut listeners = self.channels.listeners.lock();
        listeners.retain(|_, listener| !listener.is_closed());
        listeners.insert(incarnation.clone(), sender);
        receiver
    }
}
