//! One channel: its log and members under one lock, and the feeds that follow it.

use super::Now;
use super::log::Log;
use super::members::{Members, Session};
use crate::name::{ChannelName, User, UserId};
use crate::publication::{ON_JOIN, ON_LEAVE, Payload, Position, Publication};
use crate::store::{
    FeedConnection, FeedSink, Generation, Join, Joined, Leave, LogPage, MembersPage, Membership,
    Publish, Published, Since, StoreError, StoreOptions,
};
use parking_lot::{Mutex, ReentrantMutex};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

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
    log: Log,
    members: Members,
    followers: Vec<Follower>,
    used: Instant,
    /// Published and not delivered yet.
    fresh: Vec<Publication>,
}

/// A feed that follows the channel.
#[derive(Clone)]
pub(super) struct Follower {
    pub(super) feed: u64,
    pub(super) connection: FeedConnection,
    pub(super) sink: Arc<dyn FeedSink>,
}

impl Channel {
    pub(super) fn new(
        name: ChannelName,
        started: Instant,
        now: Instant,
        options: &StoreOptions,
    ) -> Self {
        Self {
            name,
            order: ReentrantMutex::new(()),
            state: Mutex::new(State {
                log: Log::new(started, options),
                members: Members::default(),
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
        let (outcome, publications, followers) = {
            let mut state = self.state.lock();
            let outcome = change(&mut state);
            let fresh = std::mem::take(&mut state.fresh);
            let followers = match fresh[..] {
                [] => Vec::new(),
                _ => state.followers.clone(),
            };
            (outcome, fresh, followers)
        };
        for publication in publications {
            for follower in &followers {
                let (connection, publication) = (&follower.connection, publication.clone());
                follower
                    .sink
                    .publication(connection, &self.name, publication);
            }
        }
        outcome
    }

    /// A feed follows from now on; it hears so, and then all that is published.
    pub(super) fn follow(&self, follower: &Follower) {
        let _order = self.order.lock();
        self.state.lock().unfollow(follower.feed);
        self.state.lock().followers.push(follower.clone());
        follower.sink.subscribed(&follower.connection, &self.name);
    }

    /// A feed follows no longer. Does not wait for deliveries.
    pub(super) fn unfollow(&self, feed: u64) {
        self.state.lock().unfollow(feed);
    }

    pub(super) fn read(
        &self,
        since: &Since,
        limit: usize,
        generation: Generation,
        now: Now,
        options: &StoreOptions,
    ) -> LogPage {
        let mut state = self.state.lock();
        state.log.expire(now.instant, options);
        state.log.page(since, limit, generation)
    }

    /// The end of the log. A touched channel lives on as if something had been published.
    pub(super) fn head(&self, touch: bool, now: Now, options: &StoreOptions) -> Position {
        let mut state = self.state.lock();
        state.log.expire(now.instant, options);
        if touch {
            state.used = now.instant;
            state.log.touch(now.instant);
        }
        state.log.head()
    }

    /// True if nobody is or was here for that time.
    pub(super) fn is_idle(&self, now: Instant, life: Duration) -> bool {
        let state = self.state.lock();
        state.members.is_empty(now)
            && state.followers.is_empty()
            && now.duration_since(state.used) >= life
    }
}

impl State {
    pub(super) fn publish(
        &mut self,
        publish: Publish,
        now: Now,
        options: &StoreOptions,
    ) -> Result<Published, StoreError> {
        self.log.expire(now.instant, options);
        let key = publish.key.map(|key| (publish.user, key));
        if let Some(first) = key.as_ref().and_then(|key| self.log.find(key, now.instant)) {
            return self.log.repeated(first, &publish.payload, now);
        }
        let session = publish.session.map(Session::Connected);
        if session.is_some_and(|session| !self.members.contains(&session)) {
            return Err(StoreError::NotMember);
        }
        let position = self.append(publish.payload, now, options.log_entries);
        if let Some(key) = key {
            self.log.remember(key, position.offset, now.instant);
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
        now: Now,
        options: &StoreOptions,
    ) -> Result<Joined, StoreError> {
        let session = Session::of(&join.membership, &join.user.id);
        let operation = match &join.membership {
            Membership::Session { operation, .. } => *operation,
            Membership::Detached => 0,
        };
        self.log.expire(now.instant, options);
        if self.members.left_after(&session, operation, now.instant) {
            return Err(StoreError::StaleOperation);
        }
        self.expire_detached(now, options);
        if let Session::Detached(user) = &session {
            self.members
                .renew(user, now.instant + options.detached_life);
        }
        self.used = now.instant;
        if let Some(joined) = self.members.joined_again(&session, operation) {
            return Ok(joined);
        }
        let published = self.members.count_in(&join.user.id);
        if published {
            self.announce(ON_JOIN, &join.user, now, options);
        }
        let joined = Joined {
            position: self.log.head(),
            published,
        };
        self.members
            .insert(session, operation, join.user.clone(), joined.clone());
        Ok(joined)
    }

    pub(super) fn leave(&mut self, leave: &Leave, now: Now, options: &StoreOptions) -> bool {
        let session = Session::of(&leave.membership, &leave.user.id);
        let operation = match &leave.membership {
            Membership::Session { operation, .. } => Some(*operation),
            Membership::Detached => None,
        };
        self.log.expire(now.instant, options);
        self.expire_detached(now, options);
        let ended = self.members.remove(&session, operation);
        if let Some(user) = &ended {
            self.used = now.instant;
            self.count_out(user, now, options);
        }
        if let (true, Some(operation)) = (leave.fence, operation) {
            self.members
                .fence(session, operation, now.instant, options.tombstone_life);
        }
        ended.is_some()
    }

    pub(super) fn members(
        &mut self,
        page: Option<&str>,
        limit: usize,
        now: Now,
        options: &StoreOptions,
    ) -> Result<MembersPage, StoreError> {
        if page.is_none() {
            self.expire_detached(now, options);
        }
        self.members
            .page(page, limit)
            .ok_or(StoreError::BadPageToken)
    }

    fn expire_detached(&mut self, now: Now, options: &StoreOptions) {
        for _ in 0..EXPIRED_AT_ONCE {
            let Some(user) = self.members.remove_due(now.instant) else {
                return;
            };
            self.count_out(&user, now, options);
        }
    }

    /// One session of the user less; says so if it was the last.
    fn count_out(&mut self, user: &User, now: Now, options: &StoreOptions) {
        if self.members.count_out(&user.id) {
            self.announce(ON_LEAVE, user, now, options);
        }
    }

    fn announce(&mut self, route: &'static str, user: &User, now: Now, options: &StoreOptions) {
        self.append(
            Payload::of_membership(route, user),
            now,
            options.log_entries,
        );
    }

    fn append(&mut self, payload: Payload, now: Now, bound: u64) -> Position {
        self.used = now.instant;
        let publication = self.log.append(payload, now, bound);
        self.fresh.push(publication.clone());
        self.log.head()
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
