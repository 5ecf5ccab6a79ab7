//! The logins of all users.

use super::held_restrictions::Held;
use super::tombstones::Tombstones;
use crate::error::StoreError;
use crate::membership::Predecessor;
use crate::name::{Incarnation, SessionId, UserId};
use crate::registry::{
    Claim, Claimed, ENTRIES, EntryState, LoggedIn, Login, LoginPolicy, PREDECESSORS, SUPERSEDED,
    UserEntry,
};
use crate::restrictions::Forbidden;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use tokio::time::Instant;

#[derive(Clone, Default)]
pub(super) struct UserTable {
    users: BTreeMap<UserId, User>,
    /// The highest rank given to a login of any user. Users are forgotten when they have no entries and tombstones left, so
    /// their own highest ranks would be forgotten too soon.
    last_rank: u64,
    /// The login policy in force, and until when.
    pub(super) policy: Option<(LoginPolicy, Instant)>,
}

/// What is registered of one user.
#[derive(Clone, Default)]
pub(super) struct User {
    pub(super) entries: BTreeMap<SessionId, UserEntry>,
    /// Incarnations that were reaped here: their logins are refused.
    reaped: Tombstones<Incarnation>,
    /// Sessions that are over: late copies of their logins are refused.
    closed: Tombstones<SessionId>,
    /// What is forbidden to the user.
    pub(super) held: Held,
}

impl UserTable {
    /// Works on one user, and forgets it if nothing of it is left. `last_rank` is the highest rank given to anybody.
    pub(super) fn with_user<T>(
        &mut self,
        user: &UserId,
        now: Instant,
        work: impl FnOnce(&mut User, &mut u64) -> T,
    ) -> T {
        let known = self.users.entry(user.clone()).or_default();
        let answer = work(known, &mut self.last_rank);
        if known.is_over(now) {
            self.users.remove(user);
        }
        answer
    }
}

impl User {
    /// Says why a login or claim is refused. `clock`: the time of the user's server, in milliseconds since 1970.
    pub(super) fn check(&self, login: &Login, clock: u64, now: Instant) -> Result<(), StoreError> {
        if self.refuses(&login.incarnation, now) {
            return Err(StoreError::ConnectorDead);
        }
        if clock > login.deadline {
            return Err(StoreError::Late { now: clock });
        }
        match self.closed.get(&login.session, now) {
            Some(_) => Err(StoreError::StaleOperation),
            None => Ok(()),
        }
    }

    /// Why a login is forbidden, if it is.
    pub(super) fn forbid(&mut self, login: &Login, clock: u64) -> Option<Forbidden> {
        self.held.in_force(clock).forbid(login.token.as_ref())
    }

    /// True if logins of this incarnation are refused, because it is dead.
    pub(super) fn refuses(&self, incarnation: &Incarnation, now: Instant) -> bool {
        self.reaped.get(incarnation, now).is_some()
    }

    /// Removes the entries of a dead incarnation, and refuses its logins until then. Answers how many entries there were.
    pub(super) fn reap(&mut self, incarnation: &Incarnation, now: Instant, until: Instant) -> u64 {
        self.reaped.set(incarnation.clone(), 0, now, until);
        let before = self.entries.len();
        self.entries
            .retain(|_, entry| entry.incarnation != *incarnation);
        (before - self.entries.len()) as u64
    }

    /// Removes the entry of a session. With `fence`, late copies of its login are refused until then.
    pub(super) fn close(&mut self, session: &SessionId, fence: Option<Instant>, now: Instant) {
        self.entries.remove(session);
        if let Some(until) = fence {
            self.closed.set(session.clone(), 0, now, until);
        }
    }

    /// Enters a login, unless the policy forbids it. The entry gets a rank above `last_rank`, which follows the clock.
    pub(super) fn login(&mut self, login: &Login, clock: u64, last_rank: &mut u64) -> LoggedIn {
        let own = self.entries.get(&login.session);
        let own = own.map(|entry| entry.login_rank);
        let (mut predecessors, mut holders) = (Vec::new(), Vec::new());
        let mut comes_back = false;
        for entry in self.others(&login.session) {
            let is_kin = entry.has_same_proof_as(login);
            comes_back |= is_kin && entry.state == EntryState::Live;
            // If this login is a repeated one, its client may have a later session by now, which it must not replace.
            let is_older = own.is_none_or(|own| entry.login_rank < own);
            if entry.state == EntryState::Lingering || is_kin && is_older {
                predecessors.push(entry);
            } else if !is_kin && entry.state == EntryState::Live {
                // A superseded entry holds nobody off. Its session is being closed, or its connector has ended already.
                holders.push(entry.incarnation.clone());
            }
        }
        let others = self.others(&login.session).count();
        if own.is_none() && !comes_back {
            if login.policy == LoginPolicy::Reject && !holders.is_empty() {
                return LoggedIn::Taken(each_once(holders));
            }
            if login.policy == LoginPolicy::Allow {
                if let Some(holders) = self.holders_if_full(login) {
                    return LoggedIn::Full(holders);
                }
                if others >= ENTRIES {
                    return LoggedIn::Unregistered;
                }
            }
        }
        predecessors.sort_by_key(|entry| Reverse(entry.login_rank));
        let newest = predecessors.into_iter().take(PREDECESSORS);
        let predecessors = newest.map(|entry| Predecessor {
            session: entry.session.clone(),
            incarnation: entry.incarnation.clone(),
        });
        let predecessors = predecessors.collect();
        let login_rank = own.unwrap_or_else(|| {
            *last_rank = (*last_rank + 1).max(clock.saturating_mul(1_000));
            self.enter(login, *last_rank);
            *last_rank
        });
        LoggedIn::Yes {
            login_rank,
            others: others > 0,
            predecessors,
        }
    }

    /// Puts a session's entry back if it is missing, and marks the entries that give way to it.
    pub(super) fn claim(&mut self, claim: &Claim) -> Claimed {
        let Claim {
            login, login_rank, ..
        } = claim;
        match self.entries.get_mut(&login.session) {
            Some(entry) => {
                // If the store has lost data, a late copy of the login may have entered it again with another rank.
                entry.login_rank = *login_rank;
                if entry.state != EntryState::Live {
                    // The claim comes late: the client is gone, or the session is to give way itself.
                    return Claimed::default();
                }
            }
            None => self.enter(login, *login_rank),
        }
        let (mut superseded, mut better) = (Vec::new(), Vec::new());
        for entry in self.entries.values_mut() {
            if entry.gives_way_to(claim) {
                // A lingering session has no client that would have to be closed.
                if entry.state != EntryState::Lingering {
                    superseded.push(entry.incarnation.clone());
                }
                entry.state = EntryState::Superseded;
            } else if entry.outranks(claim) {
                better.push(entry.incarnation.clone());
            }
        }
        self.forget_old_marks(&login.session);
        Claimed {
            superseded: each_once(superseded),
            better: each_once(better),
            forbidden: None,
        }
    }

    /// Removes the oldest superseded entries if there are many. A client that comes back very often leaves one each time,
    /// until its connector has seen it. A connector that has not seen its mark yet puts the entry back, and is marked again.
    fn forget_old_marks(&mut self, except: &SessionId) {
        let marked = self.others(except);
        let marked = marked.filter(|entry| entry.state == EntryState::Superseded);
        let mut marked: Vec<_> = marked
            .map(|entry| (entry.login_rank, entry.session.clone()))
            .collect();
        marked.sort_unstable_by(|a, b| b.cmp(a));
        for (_, session) in marked.into_iter().skip(SUPERSEDED) {
            self.entries.remove(&session);
        }
    }

    /// The incarnations that hold the user, if there are as many live sessions as there may be. Entries that are superseded
    /// or linger do not count. But if there are too many of all kinds, a further session could not be entered, and so not
    /// be counted.
    fn holders_if_full(&self, login: &Login) -> Option<Vec<Incarnation>> {
        let most = login.most_sessions as usize;
        let others = || self.others(&login.session);
        let is_held =
            |it: &&UserEntry| it.state == EntryState::Live && !it.has_same_proof_as(login);
        let is_full = others().filter(is_held).count() >= most || others().count() >= ENTRIES;
        let holders = others().map(|it| it.incarnation.clone());
        (most > 0 && is_full).then(|| each_once(holders.collect()))
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

    /// True if there is neither an entry nor a tombstone.
    fn is_over(&self, now: Instant) -> bool {
        self.entries.is_empty()
            && self.held.is_empty()
            && self.reaped.is_empty(now)
            && self.closed.is_empty(now)
    }
}

fn each_once(mut incarnations: Vec<Incarnation>) -> Vec<Incarnation> {
    incarnations.sort();
    incarnations.dedup();
    incarnations
}
