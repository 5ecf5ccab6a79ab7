//! A channel's members: the sessions, the number of sessions of each user, and what is remembered of those that left.

use super::tombstones::Tombstones;
use crate::name::{Incarnation, SessionId, User, UserId};
use crate::publication::Position;
use crate::user_info::UserInfo;
use crate::{Join, Joined, MembersPage, Membership, PresentUser};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use tokio::time::Instant;

/// Every page token begins with this.
const TOKEN: &str = "after:";
/// The operation number with which a session has left that another one has replaced. No join has a higher one.
const REPLACED: u64 = (1 << 53) - 1;

/// A member of a channel.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Member {
    Session(SessionId),
    /// A back end made this user a member, without a session.
    Detached(UserId),
}

impl Member {
    pub(super) fn of(membership: &Membership, user: &UserId) -> Self {
        match membership {
            Membership::Session { session, .. } => Self::Session(session.clone()),
            Membership::Detached => Self::Detached(user.clone()),
        }
    }
}

/// The members, and the tombstones that refuse joins which come too late.
#[derive(Clone, Default)]
pub(super) struct Members {
    members: BTreeMap<Member, Record>,
    users: BTreeMap<UserId, Presence>,
    /// Detached members by the time at which their membership ends.
    due: BTreeSet<(Instant, UserId)>,
    /// Those that have left, with the operation by which they did.
    left: Tombstones<Member>,
    /// Incarnations that were reaped here.
    reaped: Tombstones<Incarnation>,
}

/// What is known of a user who is here.
#[derive(Clone, Default)]
struct Presence {
    members: u32,
    info: Option<UserInfo>,
}

#[derive(Clone)]
struct Record {
    operation: u64,
    /// `None` for a detached member.
    incarnation: Option<Incarnation>,
    user: User,
    joined: Joined,
    /// When a detached membership ends.
    due: Option<Instant>,
}

impl Members {
    /// True if nobody is a member.
    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// How many users there are.
    pub(super) fn users(&self) -> u64 {
        self.users.len() as u64
    }

    /// How many members there are.
    pub(super) fn sessions(&self) -> u64 {
        self.members.len() as u64
    }

    /// True if a tombstone still refuses joins.
    pub(super) fn has_tombstones(&self, now: Instant) -> bool {
        !self.left.is_empty(now) || !self.reaped.is_empty(now)
    }

    pub(super) fn contains(&self, member: &Member) -> bool {
        self.members.contains_key(member)
    }

    /// True if the user is a member, by a session or detached.
    pub(super) fn is_user(&self, user: &UserId) -> bool {
        self.users.contains_key(user)
    }

    /// The answer to the join of somebody who is a member already: the first answer if it is a copy of that join, and the
    /// present end of the log if it is a newer join. In that case only a leave that is newer than `operation` ends the
    /// membership.
    pub(super) fn join_again(
        &mut self,
        member: &Member,
        operation: u64,
        join: &Join,
        end: impl FnOnce() -> Position,
    ) -> Option<Joined> {
        let record = self.members.get_mut(member)?;
        let is_newer = record.operation < operation;
        // Joins of a detached member have no numbers: the last one decides.
        let describes = is_newer || record.incarnation.is_none();
        if is_newer {
            record.operation = operation;
            record.joined = Joined {
                position: end(),
                published: false,
                trimmed: 0,
                life: record.joined.life.clone(),
                deletion: record.joined.deletion.clone(),
            };
        }
        let joined = record.joined.clone();
        if describes {
            self.describe(&join.user.id, join.info.as_ref());
        }
        Some(joined)
    }

    pub(super) fn insert(&mut self, member: Member, join: &Join, joined: Joined) {
        let (operation, incarnation) = match &join.membership {
            Membership::Session {
                operation,
                incarnation,
                ..
            } => (*operation, Some(incarnation.clone())),
            Membership::Detached => (0, None),
        };
        let record = Record {
            operation,
            incarnation,
            user: join.user.clone(),
            joined,
            due: None,
        };
        self.members.insert(member, record);
        self.describe(&join.user.id, join.info.as_ref());
    }

    /// Ends a membership that is older than the operation. Answers whose it was.
    pub(super) fn remove(&mut self, member: &Member, operation: Option<u64>) -> Option<User> {
        let record = self.members.get(member)?;
        if operation.is_some_and(|operation| record.operation >= operation) {
            return None;
        }
        let record = self.members.remove(member)?;
        if let Some(due) = record.due {
            self.due.remove(&(due, record.user.id.clone()));
        }
        Some(record.user)
    }

    /// Ends the memberships of the same user that the joining session takes over, and refuses later joins of those
    /// sessions until then. Answers how many memberships it ended.
    pub(super) fn replace(&mut self, join: &Join, now: Instant, until: Instant) -> u32 {
        let own = match &join.membership {
            Membership::Session { session, .. } => Some(session),
            Membership::Detached => None,
        };
        let mut ended = 0;
        for replaced in &join.replaces {
            let member = Member::Session(replaced.session.clone());
            let record = self.members.get(&member);
            let is_of_another_user = record.is_some_and(|it| it.user.id != join.user.id);
            if Some(&replaced.session) == own || is_of_another_user {
                continue;
            }
            let incarnation = record.and_then(|it| it.incarnation.as_ref());
            if incarnation == Some(&replaced.incarnation) {
                self.members.remove(&member);
                ended += 1;
            }
            self.fence(member, REPLACED, now, until);
        }
        if let Some(user) = self.users.get_mut(&join.user.id) {
            user.members = user.members.saturating_sub(ended);
        }
        ended
    }

    /// Ends all memberships. What is remembered of those that left stays.
    pub(super) fn end_all(&mut self) {
        self.members.clear();
        self.users.clear();
        self.due.clear();
    }

    /// Counts one more member of the user. True if it is the first.
    pub(super) fn count_in(&mut self, user: &UserId) -> bool {
        let user = self.users.entry(user.clone()).or_default();
        user.members += 1;
        user.members == 1
    }

    /// Replaces what is known of a user who is here.
    fn describe(&mut self, user: &UserId, info: Option<&UserInfo>) {
        if let (Some(user), Some(info)) = (self.users.get_mut(user), info) {
            user.info = Some(info.clone());
        }
    }

    /// Counts one member of the user less. True if it was the last.
    pub(super) fn count_out(&mut self, user: &UserId) -> bool {
        match self.users.get_mut(user) {
            Some(user) if user.members > 1 => {
                user.members -= 1;
                false
            }
            _ => self.users.remove(user).is_some(),
        }
    }

    /// Lets a detached member stay until then, and no longer. Nothing happens if it is not a member.
    pub(super) fn stay(&mut self, member: &Member, until: Instant) {
        if let (Some(record), Member::Detached(user)) = (self.members.get_mut(member), member) {
            if let Some(due) = record.due.replace(until) {
                self.due.remove(&(due, user.clone()));
            }
            self.due.insert((until, user.clone()));
        }
    }

    /// When the first detached membership ends.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.due.first().map(|(due, _)| *due)
    }

    /// Ends one detached membership whose time is over. Answers whose it was.
    pub(super) fn remove_due(&mut self, now: Instant) -> Option<User> {
        let (_, user) = self.due.first().filter(|(due, _)| *due <= now)?;
        self.remove(&Member::Detached(user.clone()), None)
    }

    /// The members of one incarnation, with their users.
    fn of<'a>(
        &'a self,
        incarnation: &'a Incarnation,
    ) -> impl Iterator<Item = (&'a Member, &'a User)> {
        let members = self.members.iter();
        let its = members.filter(move |(_, it)| it.incarnation.as_ref() == Some(incarnation));
        its.map(|(member, record)| (member, &record.user))
    }

    /// How many members an incarnation has here.
    pub(super) fn count_of(&self, incarnation: &Incarnation) -> u64 {
        self.of(incarnation).count() as u64
    }

    /// Some of an incarnation's members.
    pub(super) fn some_of(&self, incarnation: &Incarnation, limit: usize) -> Vec<Member> {
        let its = self.of(incarnation).map(|(member, _)| member.clone());
        its.take(limit).collect()
    }

    /// All sessions of an incarnation that are members, with their users.
    pub(super) fn sessions_of(&self, incarnation: &Incarnation) -> BTreeMap<SessionId, User> {
        let its = self.of(incarnation);
        let sessions = its.filter_map(|(member, user)| match member {
            Member::Session(session) => Some((session.clone(), user.clone())),
            Member::Detached(_) => None,
        });
        sessions.collect()
    }

    /// The incarnations that have members here, in order.
    pub(super) fn incarnations(&self) -> BTreeSet<Incarnation> {
        let records = self.members.values();
        records.filter_map(|it| it.incarnation.clone()).collect()
    }

    /// Refuses joins of an incarnation until then, because it is dead.
    pub(super) fn refuse(&mut self, incarnation: &Incarnation, now: Instant, until: Instant) {
        self.reaped.set(incarnation.clone(), 0, now, until);
    }

    /// True if joins of this incarnation are refused.
    pub(super) fn refuses(&self, incarnation: &Incarnation, now: Instant) -> bool {
        self.reaped.get(incarnation, now).is_some()
    }

    /// Refuses joins with a lower operation until then, because the member has left after them.
    pub(super) fn fence(&mut self, member: Member, operation: u64, now: Instant, until: Instant) {
        self.left.set(member, operation, now, until);
    }

    /// True if a join with this operation comes too late.
    pub(super) fn left_after(&self, member: &Member, operation: u64, now: Instant) -> bool {
        self.left
            .get(member, now)
            .is_some_and(|left| left > operation)
    }

    /// A page of users. `None` if the token is not one of this store's.
    pub(super) fn page(&self, token: Option<&str>, limit: usize) -> Option<MembersPage> {
        let after = match token {
            None => Bound::Unbounded,
            Some(token) => Bound::Excluded(token.strip_prefix(TOKEN)?),
        };
        let mut users = self.users.range::<str, _>((after, Bound::Unbounded));
        let page = users.by_ref().take(limit.max(1));
        let page = page.map(|(user, presence)| PresentUser {
            id: user.clone(),
            sessions: presence.members,
            info: presence.info.clone(),
        });
        let members: Vec<_> = page.collect();
        let last = members.last().filter(|_| users.next().is_some());
        let next = last.map(|user| format!("{TOKEN}{}", user.id));
        Some(MembersPage {
            members,
            users: self.users(),
            next,
        })
    }
}
