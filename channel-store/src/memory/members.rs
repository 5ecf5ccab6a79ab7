//! A channel's members in memory: sessions as a set, users by their number of sessions, and the tombstones of sessions
//! that have left.

use crate::name::{Incarnation, SessionId, User, UserId};
use crate::publication::Position;
use crate::{Join, Joined, MembersPage, Membership};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ops::Bound;
use std::time::Duration;
use tokio::time::Instant;

/// Begins every page token: what does not is none.
const TOKEN: &str = "after:";
/// A session that another one has replaced has left with this operation, which is beyond all others: 2^53 - 1.
const REPLACED: u64 = (1 << 53) - 1;

#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Session {
    Connected(SessionId),
    Detached(UserId),
}

#[derive(Clone, Default)]
pub(super) struct Members {
    sessions: BTreeMap<Session, Record>,
    users: BTreeMap<UserId, u32>,
    detached: Detached,
    left: HashMap<Session, Tombstone>,
    /// In the order in which they were set, and so about that in which they end.
    tombstones: VecDeque<(Instant, Session)>,
    /// Incarnations that were reaped here, and until when that is remembered.
    dead: HashMap<Incarnation, Instant>,
}

#[derive(Clone)]
struct Record {
    operation: u64,
    incarnation: Option<Incarnation>,
    user: User,
    joined: Joined,
}

#[derive(Clone)]
struct Tombstone {
    operation: u64,
    until: Instant,
}

/// When detached members are due, by member and by time.
#[derive(Clone, Default)]
struct Detached {
    due: HashMap<UserId, Instant>,
    order: BTreeSet<(Instant, UserId)>,
}

impl Members {
    pub(super) fn is_empty(&self, now: Instant) -> bool {
        let no_tombstone =
            self.left.values().all(|it| it.until <= now) && self.dead.values().all(|it| *it <= now);
        self.sessions.is_empty() && no_tombstone
    }

    pub(super) fn has_sessions(&self) -> bool {
        !self.sessions.is_empty()
    }

    pub(super) fn contains(&self, session: &Session) -> bool {
        self.sessions.contains_key(session)
    }

    /// The answer to a join of a session that is a member already: to a copy of its join the first answer, to a newer join
    /// the present end of the log. From now on only a leave that is newer than this operation ends it.
    pub(super) fn joined_again(
        &mut self,
        session: &Session,
        operation: u64,
        head: impl FnOnce() -> Position,
    ) -> Option<Joined> {
        let record = self.sessions.get_mut(session)?;
        if record.operation < operation {
            record.operation = operation;
            record.joined = Joined {
                position: head(),
                published: false,
            };
        }
        Some(record.joined.clone())
    }

    pub(super) fn insert(&mut self, session: Session, join: &Join, operation: u64, joined: Joined) {
        let incarnation = match &join.membership {
            Membership::Session { incarnation, .. } => Some(incarnation.clone()),
            Membership::Detached => None,
        };
        let record = Record {
            operation,
            incarnation,
            user: join.user.clone(),
            joined,
        };
        self.sessions.insert(session, record);
    }

    /// The sessions of one incarnation.
    pub(super) fn sessions_of<'a>(
        &'a self,
        incarnation: &'a Incarnation,
    ) -> impl Iterator<Item = &'a Session> {
        let is_its = move |record: &Record| record.incarnation.as_ref() == Some(incarnation);
        let sessions = self.sessions.iter();
        sessions.filter_map(move |(session, record)| is_its(record).then_some(session))
    }

    /// The same, with their users.
    pub(super) fn list(&self, incarnation: &Incarnation) -> BTreeMap<SessionId, User> {
        let sessions = self.sessions.iter();
        let listed = sessions.filter_map(|(session, record)| match session {
            Session::Connected(session) if record.incarnation.as_ref() == Some(incarnation) => {
                Some((session.clone(), record.user.clone()))
            }
            Session::Connected(_) | Session::Detached(_) => None,
        });
        listed.collect()
    }

    /// Those that have sessions here.
    pub(super) fn incarnations(&self) -> BTreeSet<Incarnation> {
        let records = self.sessions.values();
        records.filter_map(|it| it.incarnation.clone()).collect()
    }

    /// Refuses joins of a dead incarnation until then.
    pub(super) fn bury(&mut self, incarnation: &Incarnation, now: Instant, until: Instant) {
        self.dead.retain(|_, until| *until > now);
        self.dead.insert(incarnation.clone(), until);
    }

    /// True if the incarnation was reaped here, as far as is remembered.
    pub(super) fn is_dead(&self, incarnation: &Incarnation, now: Instant) -> bool {
        self.dead.get(incarnation).is_some_and(|until| *until > now)
    }

    /// Ends a membership that is older than the operation, and answers whose it was.
    pub(super) fn remove(&mut self, session: &Session, operation: Option<u64>) -> Option<User> {
        let record = self.sessions.get(session)?;
        if operation.is_some_and(|operation| record.operation >= operation) {
            return None;
        }
        if let Session::Detached(user) = session {
            self.detached.remove(user);
        }
        self.sessions.remove(session).map(|record| record.user)
    }

    /// Ends the memberships of the same user that another session takes over; answers how many there were. None of these
    /// sessions joins here any more.
    pub(super) fn carry(&mut self, join: &Join, now: Instant, life: Duration) -> u32 {
        let own = match &join.membership {
            Membership::Session { session, .. } => Some(session),
            Membership::Detached => None,
        };
        let mut carried = 0;
        for replaced in &join.replaces {
            let session = Session::Connected(replaced.session.clone());
            let record = self.sessions.get(&session);
            let is_others = record.is_some_and(|it| it.user.id != join.user.id);
            if Some(&replaced.session) == own || is_others {
                continue;
            }
            let whose = record.and_then(|it| it.incarnation.as_ref());
            if whose == Some(&replaced.incarnation) {
                self.sessions.remove(&session);
                carried += 1;
            }
            self.fence(session, REPLACED, now, life);
        }
        if let Some(count) = self.users.get_mut(&join.user.id) {
            *count = count.saturating_sub(carried);
        }
        carried
    }

    /// One session of the user more; true if it is the first.
    pub(super) fn count_in(&mut self, user: &UserId) -> bool {
        let count = self.users.entry(user.clone()).or_default();
        *count += 1;
        *count == 1
    }

    /// One session of the user less; true if it was the last.
    pub(super) fn count_out(&mut self, user: &UserId) -> bool {
        match self.users.get_mut(user) {
            Some(count) if *count > 1 => {
                *count -= 1;
                false
            }
            _ => self.users.remove(user).is_some(),
        }
    }

    /// A detached member stays until then.
    pub(super) fn renew(&mut self, user: &UserId, until: Instant) {
        self.detached.remove(user);
        self.detached.due.insert(user.clone(), until);
        self.detached.order.insert((until, user.clone()));
    }

    /// When the first detached member is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.detached.order.first().map(|(due, _)| *due)
    }

    /// Ends a detached membership whose time is over.
    pub(super) fn remove_due(&mut self, now: Instant) -> Option<User> {
        let (due, user) = self.detached.order.first()?;
        if *due > now {
            return None;
        }
        let session = Session::Detached(user.clone());
        self.remove(&session, None)
    }

    /// True if the session has left with a later operation, as far as is remembered.
    pub(super) fn left_after(&self, session: &Session, operation: u64, now: Instant) -> bool {
        let left = self.left.get(session);
        left.is_some_and(|it| it.operation > operation && it.until > now)
    }

    /// Joins of this session that are older than the operation come too late from now on.
    pub(super) fn fence(&mut self, session: Session, operation: u64, now: Instant, life: Duration) {
        while let Some((_, ended)) = self.tombstones.front().filter(|(until, _)| *until <= now) {
            // Unless it was set again since.
            if self.left.get(ended).is_some_and(|it| it.until <= now) {
                self.left.remove(ended);
            }
            self.tombstones.pop_front();
        }
        let until = now + life;
        let known = self.left.get(&session).map_or(0, |it| it.operation);
        let operation = operation.max(known);
        self.tombstones.push_back((until, session.clone()));
        self.left.insert(session, Tombstone { operation, until });
    }

    /// A page of users; `None` if the token is none.
    pub(super) fn page(&self, token: Option<&str>, limit: usize) -> Option<MembersPage> {
        let after = match token {
            None => Bound::Unbounded,
            Some(token) => Bound::Excluded(token.strip_prefix(TOKEN)?),
        };
        let mut users = self.users.range::<str, _>((after, Bound::Unbounded));
        let page = users.by_ref().take(limit.max(1));
        let members: Vec<_> = page.map(|(user, count)| (user.clone(), *count)).collect();
        let last = members.last().filter(|_| users.next().is_some());
        let next = last.map(|(user, _)| format!("{TOKEN}{user}"));
        let users = self.users.len() as u64;
        Some(MembersPage {
            members,
            users,
            next,
        })
    }
}

impl Detached {
    fn remove(&mut self, user: &UserId) {
        if let Some(due) = self.due.remove(user) {
            self.order.remove(&(due, user.clone()));
        }
    }
}
