//! One channel: its log and members under one lock, and the feeds that follow it.

use super::Now;
use super::log::Log;
use super::members::{Members, Session};
use crate::lease::Presence;
use crate::name::{ChannelName, Incarnation, SessionId, User, UserId};
use crate::publication::{ON_JOIN, ON_LEAVE, Payload, Position, Publication};
use crate::rules::{EMPTY_LIFE, LogPolicy};
use crate::{
    FeedConnection, FeedSink, Head, Join, Joined, Leave, LogPage, MembersPage, Membership, Publish,
    Published, Reaped, ServerLifetime, Since, StoreError, StoreOptions,
};
use crate::{HistoryPage, HistoryRange};
use parking_lot::{Mutex, ReentrantMutex};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Members of a dead incarnation that one call ends at most.
const REAPED_AT_ONCE: usize = 200;

/// Detached members that an operation removes at most when their time is over.
const EXPIRED_AT_ONCE: usize = 10;

pub(super) struct Channel {
    name: ChannelName,
    /// Held while the channel is changed and the change delivered, so deliveries come in the log's order. Reentrant,
    /// because a sink may call its feed.
    order: ReentrantMutex<()>,
    /// Never held while a sink is called.
    state: Mutex<State>,
}

/// What a channel is.
pub(super) struct State {
    policy: LogPolicy,
    kept: Kept,
    /// The server lifetime, as feeds see it.
    server: FeedConnection,
    followers: Vec<Follower>,
    used: Instant,
    /// Published and not delivered yet.
    fresh: Vec<Publication>,
}

/// What a server's disk would hold of a channel.
#[derive(Clone)]
pub(super) struct Kept {
    log: Log,
    members: Members,
}

impl Kept {
    pub(super) fn new(started: Instant, options: &StoreOptions, lifetime: &ServerLifetime) -> Self {
        Self {
            log: Log::new(started, options, lifetime.clone()),
            members: Members::default(),
        }
    }
}

/// A feed that follows the channel.
#[derive(Clone)]
pub(super) struct Follower {
    pub(super) feed: u64,
    pub(super) sink: Arc<dyn FeedSink>,
}

impl Channel {
    pub(super) fn new(
        name: ChannelName,
        kept: Kept,
        server: FeedConnection,
        now: Instant,
        policy: LogPolicy,
    ) -> Self {
        Self {
            name,
            order: ReentrantMutex::new(()),
            state: Mutex::new(State {
                policy,
                kept,
                server,
                followers: Vec::new(),
                used: now,
                fresh: Vec::new(),
            }),
        }
    }

    pub(super) fn name(&self) -> &ChannelName {
        &self.name
    }

    /// Changes the channel and delivers what that has published.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let _order = self.order.lock();
        let (outcome, publications, followers, connection) = {
            let mut state = self.state.lock();
            let outcome = change(&mut state);
            let fresh = std::mem::take(&mut state.fresh);
            let followers = match fresh[..] {
                [] => Vec::new(),
                _ => state.followers.clone(),
            };
            (outcome, fresh, followers, state.server.clone())
        };
        for publication in publications {
            for follower in &followers {
                follower
                    .sink
                    .publication(&connection, &self.name, publication.clone());
            }
        }
        outcome
    }

    /// A feed follows from now on; it hears so, and then all that is published.
    pub(super) fn follow(&self, follower: &Follower) {
        let _order = self.order.lock();
        let connection = {
            let mut state = self.state.lock();
            state.unfollow(follower.feed);
            state.followers.push(follower.clone());
            state.server.clone()
        };
        follower.sink.subscribed(&connection, &self.name);
    }

    pub(super) fn kept(&self) -> Kept {
        self.state.lock().kept.clone()
    }

    /// Another server lifetime, on other data if given. Who follows hears of the new connection before anything else.
    pub(super) fn restart(&self, server: &FeedConnection, kept: Option<Kept>) {
        let _order = self.order.lock();
        let followers = {
            let mut state = self.state.lock();
            state.server = server.clone();
            if let Some(kept) = kept {
                state.kept = kept;
            }
            state.followers.clone()
        };
        for follower in followers {
            follower.sink.subscribed(server, &self.name);
        }
    }

    /// A feed follows no longer. Does not wait for deliveries.
    pub(super) fn unfollow(&self, feed: u64) {
        self.state.lock().unfollow(feed);
    }

    pub(super) fn read(&self, since: &Since, limit: usize, now: Now) -> LogPage {
        let mut state = self.state.lock();
        state.expire_log(now);
        let lifetime = state.server.lifetime.clone();
        state.kept.log.page(since, limit, lifetime)
    }

    pub(super) fn history(&self, range: &HistoryRange, limit: usize, now: Now) -> HistoryPage {
        let mut state = self.state.lock();
        state.expire_log(now);
        state.kept.log.history(range, limit)
    }

    /// The end of the log. A touched channel lives on as if something had been published.
    pub(super) fn head(&self, touch: bool, now: Now) -> Head {
        let mut state = self.state.lock();
        state.expire_log(now);
        if touch {
            state.used = now.instant;
            state.kept.log.touch(now.instant);
        }
        Head {
            position: state.kept.log.head(),
            lifetime: state.server.lifetime.clone(),
        }
    }

    pub(super) fn look(&self, incarnation: &Incarnation, now: Instant) -> Presence {
        let state = self.state.lock();
        Presence {
            sessions: state.kept.members.sessions_of(incarnation).count() as u64,
            tombstoned: state.kept.members.is_dead(incarnation, now),
            overdue: state.kept.members.next_due().is_some_and(|it| it <= now),
            lifetime: state.server.lifetime.clone(),
        }
    }

    /// Those that have members, in an order that repeats.
    pub(super) fn incarnations(&self) -> Vec<Incarnation> {
        let state = self.state.lock();
        state.kept.members.incarnations().into_iter().collect()
    }

    pub(super) fn list(&self, incarnation: &Incarnation) -> BTreeMap<SessionId, User> {
        let state = self.state.lock();
        state.kept.members.list(incarnation)
    }

    /// Whether it is to be forgotten, or when to look at it again.
    pub(super) fn look_after(&self, now: Instant) -> Idle {
        let mut state = self.state.lock();
        let life = if state.kept.log.is_silent(now) {
            state.policy.channel_life.min(EMPTY_LIFE)
        } else {
            state.policy.channel_life
        };
        if state.kept.members.has_sessions() || !state.followers.is_empty() {
            return Idle::LookAgain(now + life);
        }
        if state.used + life > now {
            return Idle::LookAgain(state.used + life);
        }
        if state.kept.members.is_empty(now) {
            return Idle::Over;
        }
        // Tombstones stand on their own: all else is over.
        let lifetime = state.server.lifetime.clone();
        state.kept.log.end_life(lifetime);
        Idle::LookAgain(now + life)
    }
}

/// What becomes of a channel that was looked at.
pub(super) enum Idle {
    Over,
    LookAgain(Instant),
}

impl State {
    pub(super) fn publish(&mut self, publish: Publish, now: Now) -> Result<Published, StoreError> {
        self.expire_log(now);
        let key = publish.key.map(|key| (publish.user, key));
        if let Some(first) = key
            .as_ref()
            .and_then(|key| self.kept.log.find(key, now.instant))
        {
            return self.kept.log.repeated(first, &publish.payload, now);
        }
        let session = publish.session.map(Session::Connected);
        if session.is_some_and(|session| !self.kept.members.contains(&session)) {
            return Err(StoreError::NotMember);
        }
        let position = self.append(publish.payload, now);
        self.kept.log.note_spoken();
        if let Some(key) = key {
            self.kept.log.remember(key, position.offset, now.instant);
        }
        Ok(Published {
            position,
            time: now.milliseconds,
            reached: u32::try_from(self.followers.len()).unwrap_or(u32::MAX),
            repeated: false,
        })
    }

    pub(super) fn join(
        &mut self,
        join: &Join,
        late: Option<StoreError>,
        now: Now,
        options: &StoreOptions,
    ) -> Result<Joined, StoreError> {
        let session = Session::of(&join.membership, &join.user.id);
        let (operation, incarnation) = match &join.membership {
            Membership::Session {
                operation,
                incarnation,
                ..
            } => (*operation, Some(incarnation)),
            Membership::Detached => (0, None),
        };
        let members = &self.kept.members;
        if incarnation.is_some_and(|it| members.is_dead(it, now.instant)) {
            return Err(StoreError::ConnectorDead);
        }
        if let Some(late) = late {
            return Err(late);
        }
        self.expire_log(now);
        if self
            .kept
            .members
            .left_after(&session, operation, now.instant)
        {
            return Err(StoreError::StaleOperation);
        }
        self.expire_detached(now);
        if let Session::Detached(user) = &session {
            self.kept
                .members
                .renew(user, now.instant + options.detached_life);
        }
        self.used = now.instant;
        let Kept { members, log } = &mut self.kept;
        let carried = members.carry(join, now.instant, options.tombstone_life);
        if let Some(joined) = members.joined_again(&session, operation, || log.head()) {
            return Ok(joined);
        }
        let is_first = self.kept.members.count_in(&join.user.id);
        let published = is_first && carried == 0 && self.policy.announce_members;
        if published {
            self.append(Payload::of_membership(ON_JOIN, &join.user), now);
        }
        let joined = Joined {
            position: self.kept.log.head(),
            published,
        };
        self.kept
            .members
            .insert(session, join, operation, joined.clone());
        Ok(joined)
    }

    pub(super) fn reap(
        &mut self,
        incarnation: &Incarnation,
        now: Now,
        options: &StoreOptions,
    ) -> Reaped {
        self.expire_log(now);
        let until = now.instant + options.tombstone_life;
        self.kept.members.bury(incarnation, now.instant, until);
        let sessions = self.kept.members.sessions_of(incarnation).cloned();
        let sessions: Vec<_> = sessions.take(REAPED_AT_ONCE).collect();
        for session in &sessions {
            if let Some(user) = self.kept.members.remove(session, None) {
                self.used = now.instant;
                self.count_out(&user, now);
            }
        }
        Reaped {
            ended: sessions.len() as u64,
            remaining: self.kept.members.sessions_of(incarnation).count() as u64,
        }
    }

    pub(super) fn leave(&mut self, leave: &Leave, now: Now, options: &StoreOptions) -> bool {
        let session = Session::of(&leave.membership, &leave.user.id);
        let operation = match &leave.membership {
            Membership::Session { operation, .. } => Some(*operation),
            Membership::Detached => None,
        };
        self.expire_log(now);
        self.expire_detached(now);
        let ended = self.kept.members.remove(&session, operation);
        if let Some(user) = &ended {
            self.used = now.instant;
            self.count_out(user, now);
        }
        if let (true, Some(operation)) = (leave.fence, operation) {
            self.kept
                .members
                .fence(session, operation, now.instant, options.tombstone_life);
        }
        ended.is_some()
    }

    pub(super) fn members(
        &mut self,
        page: Option<&str>,
        limit: usize,
        now: Now,
    ) -> Result<MembersPage, StoreError> {
        if page.is_none() {
            self.expire_detached(now);
        }
        self.kept
            .members
            .page(page, limit)
            .ok_or(StoreError::BadPageToken)
    }

    /// Ends detached memberships whose time is over; answers how long until the next one's is.
    pub(super) fn expire(&mut self, now: Now) -> Option<Duration> {
        self.expire_log(now);
        self.expire_detached(now);
        let due = self.kept.members.next_due()?;
        Some(due.saturating_duration_since(now.instant))
    }

    fn expire_detached(&mut self, now: Now) {
        for _ in 0..EXPIRED_AT_ONCE {
            let Some(user) = self.kept.members.remove_due(now.instant) else {
                return;
            };
            self.count_out(&user, now);
        }
    }

    /// One session of the user less; says so if it was the last.
    fn count_out(&mut self, user: &User, now: Now) {
        if self.kept.members.count_out(&user.id) && self.policy.announce_members {
            self.append(Payload::of_membership(ON_LEAVE, user), now);
        }
    }

    fn expire_log(&mut self, now: Now) {
        self.kept.log.expire(now.instant, self.policy);
    }

    fn append(&mut self, payload: Payload, now: Now) -> Position {
        self.used = now.instant;
        let lifetime = &self.server.lifetime;
        let publication = self.kept.log.append(payload, now, self.policy, lifetime);
        self.fresh.push(publication);
        self.kept.log.head()
    }

    fn unfollow(&mut self, feed: u64) {
        self.followers.retain(|it| it.feed != feed);
    }
}

impl Session {
    fn of(membership: &Membership, user: &UserId) -> Self {
        match membership {
            Membership::Session { session, .. } => Self::Connected(session.clone()),
            Membership::Detached => Self::Detached(user.clone()),
        }
    }
}
