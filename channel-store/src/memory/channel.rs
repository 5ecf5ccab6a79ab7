//! One channel: its log, its members and its followers. What is done to it follows the scripts in Redis.

use super::clock::{Clock, Now};
use super::keys::Keys;
use super::log::Log;
use super::members::{Member, Members};
use super::outbox::Outbox;
use crate::directory::ChannelSummary;
use crate::error::StoreError;
use crate::feed::Head;
use crate::lease::Presence;
use crate::membership::{Join, Joined, Leave, MembersPage, Membership, Reaped};
use crate::name::{ChannelName, IdempotencyKey, Incarnation, User};
use crate::options::StoreOptions;
use crate::page::{HistoryPage, HistoryRange, LogPage, Since};
use crate::publication::{Ephemeral, ON_JOIN, ON_LEAVE, Payload, Position};
use crate::publish::{Publish, Published};
use crate::rules::{EMPTY_LIFE, LogPolicy, RuleTable};
use crate::server::FeedConnection;
use std::time::Duration;
use tokio::time::Instant;
use traces::{Kind, Span, TraceContext};

/// One call ends at most so many memberships of a dead incarnation.
const REAPED_AT_ONCE: usize = 200;

/// One operation ends at most so many detached memberships whose time is over.
const EXPIRED_AT_ONCE: usize = 10;

pub(super) struct Channel {
    policy: LogPolicy,
    /// What held at the last publication: it says how long the log and the channel live.
    lives_by: LogPolicy,
    pub(super) content: Content,
    pub(super) outbox: Outbox,
    /// When the channel was used for the last time.
    used: Instant,
}

/// The part of a channel that Redis keeps on disk.
#[derive(Clone)]
pub(super) struct Content {
    log: Log,
    keys: Keys,
    members: Members,
}

/// What an operation has to know beside its channel.
pub(super) struct Context {
    /// When the operation takes place.
    pub(super) now: Now,
    pub(super) clock: Clock,
    pub(super) options: StoreOptions,
    pub(super) policies: RuleTable<LogPolicy>,
    /// The present server lifetime, as feeds see it.
    pub(super) server: FeedConnection,
}

impl Context {
    /// Until when a tombstone stands that is set now.
    pub(super) fn tombstone_end(&self) -> Instant {
        self.now.instant + self.options.tombstone_life
    }
}

impl Content {
    /// An empty log and no members.
    pub(super) fn new(at: &Context) -> Self {
        Self {
            log: Log::new(&at.server.lifetime, at.now.instant),
            keys: Keys::new(at.clock.started(), at.options.key_life),
            members: Members::default(),
        }
    }
}

impl Channel {
    pub(super) fn new(name: &ChannelName, at: &Context) -> Self {
        Self {
            policy: *at.policies.of(name),
            lives_by: *at.policies.of(name),
            content: Content::new(at),
            outbox: Outbox::default(),
            used: at.now.instant,
        }
    }

    /// What holds from the next publication on.
    pub(super) fn set_policy(&mut self, policy: LogPolicy) {
        self.policy = policy;
    }

    pub(super) fn publish(
        &mut self,
        publish: Publish,
        at: &Context,
    ) -> Result<Published, StoreError> {
        self.expire_log(at);
        let now = at.now.instant;
        let key = publish.key.filter(|_| !publish.ephemeral);
        let key = key.map(|key| (Some(publish.user.clone()), key));
        let Content { log, keys, members } = &mut self.content;
        if let Some(first) = key.as_ref().and_then(|key| keys.find(key, now)) {
            return log.repeated(first, &publish.payload, at.now);
        }
        let session = publish.session.map(Member::Session);
        let is_missing = session.is_some_and(|session| !members.contains(&session))
            || publish.require_member && !members.is_user(&publish.user);
        if is_missing {
            return Err(StoreError::NotMember);
        }
        if publish.expected.is_some_and(|it| !log.ends_at(&it)) {
            let end = log.end_of_published();
            return Err(StoreError::PositionMismatch { end });
        }
        let step = publish.span.as_ref().map(|span| span.context());
        let step = Span::child(step, "memory publish", Kind::Internal);
        let context = step.as_ref().map(|step| step.context());
        let reached = u32::try_from(self.outbox.followers()).unwrap_or(u32::MAX);
        if publish.ephemeral {
            let ephemeral = Ephemeral {
                place: log.end(),
                time: at.now.milliseconds,
                payload: publish.payload,
            };
            self.outbox.ephemeral(ephemeral, context, &at.server);
            return Ok(Published {
                position: log.end_of_published(),
                time: at.now.milliseconds,
                reached,
                repeated: false,
                ephemeral: true,
            });
        }
        let position = self.append_traced(publish.payload, context, at);
        let Content { log, keys, .. } = &mut self.content;
        log.note_message();
        if let Some(key) = key {
            keys.remember(key, position.offset, now);
        }
        Ok(Published {
            position,
            time: at.now.milliseconds,
            reached,
            repeated: false,
            ephemeral: false,
        })
    }

    pub(super) fn join(&mut self, join: &Join, at: &Context) -> Result<Joined, StoreError> {
        let now = at.now.instant;
        let member = Member::of(&join.membership, &join.user.id);
        let (operation, incarnation) = match &join.membership {
            Membership::Session {
                operation,
                incarnation,
                ..
            } => (*operation, Some(incarnation)),
            Membership::Detached => (0, None),
        };
        let members = &self.content.members;
        if incarnation.is_some_and(|it| members.refuses(it, now)) {
            return Err(StoreError::ConnectorDead);
        }
        if let Some(deadline) = join.deadline {
            let now = at.clock.milliseconds(join.channel.as_str());
            if now > deadline {
                return Err(StoreError::Late { now });
            }
        }
        self.expire_log(at);
        if self.content.members.left_after(&member, operation, now) {
            return Err(StoreError::StaleOperation);
        }
        let log = &self.content.log;
        if (join.repairs.as_ref()).is_some_and(|it| log.was_deleted_after(it)) {
            return Err(StoreError::ChannelDeleted);
        }
        self.expire_members(at);
        self.used = now;
        let Content { members, log, .. } = &mut self.content;
        let replaced = members.replace(join, now, at.tombstone_end());
        let joined = match members.join_again(&member, operation, join, || log.end()) {
            Some(joined) => joined,
            None => {
                let is_first = members.count_in(&join.user.id) && replaced == 0;
                let published = is_first && self.policy.announce_members;
                if published {
                    let info = join.info.as_ref();
                    self.append(Payload::of_membership(ON_JOIN, &join.user, info), at);
                }
                let joined = Joined {
                    position: self.content.log.end(),
                    published,
                    trimmed: 0,
                    life: self.content.log.life().clone(),
                    deletion: self.content.log.deletion().clone(),
                };
                let members = &mut self.content.members;
                members.insert(member.clone(), join, joined.clone());
                joined
            }
        };
        let members = &mut self.content.members;
        let stay = join.stay.unwrap_or(at.options.detached_life);
        members.stay(&member, now + stay);
        Ok(Joined {
            trimmed: self.content.log.trimmed(),
            life: self.content.log.life().clone(),
            deletion: self.content.log.deletion().clone(),
            ..joined
        })
    }

    /// True if a membership ended.
    pub(super) fn leave(&mut self, leave: &Leave, at: &Context) -> bool {
        let member = Member::of(&leave.membership, &leave.user.id);
        let operation = match &leave.membership {
            Membership::Session { operation, .. } => Some(*operation),
            Membership::Detached => None,
        };
        self.expire_log(at);
        self.expire_members(at);
        let ended = self.content.members.remove(&member, operation);
        if let Some(user) = &ended {
            self.used = at.now.instant;
            self.count_out(user, at);
        }
        if let (true, Some(operation)) = (leave.fence, operation) {
            let (now, until) = (at.now.instant, at.tombstone_end());
            self.content.members.fence(member, operation, now, until);
        }
        ended.is_some()
    }

    /// Ends memberships of a dead incarnation and refuses its joins.
    pub(super) fn reap(&mut self, incarnation: &Incarnation, at: &Context) -> Reaped {
        self.expire_log(at);
        let members = &mut self.content.members;
        members.refuse(incarnation, at.now.instant, at.tombstone_end());
        let its = members.some_of(incarnation, REAPED_AT_ONCE);
        for member in &its {
            if let Some(user) = self.content.members.remove(member, None) {
                self.used = at.now.instant;
                self.count_out(&user, at);
            }
        }
        Reaped {
            ended: its.len() as u64,
            remaining: self.content.members.count_of(incarnation),
        }
    }

    /// Ends detached memberships whose time is over. Answers how long until the next one ends.
    pub(super) fn expire(&mut self, at: &Context) -> Option<Duration> {
        self.expire_log(at);
        self.expire_members(at);
        let due = self.content.members.next_due()?;
        Some(due.saturating_duration_since(at.now.instant))
    }

    /// A page of users. `None` if the token is not one of this store's.
    pub(super) fn members_page(
        &mut self,
        page: Option<&str>,
        limit: usize,
        at: &Context,
    ) -> Option<MembersPage> {
        if page.is_none() {
            self.expire_members(at);
        }
        self.content.members.page(page, limit)
    }

    pub(super) fn read(&mut self, since: &Since, limit: usize, at: &Context) -> LogPage {
        self.expire_log(at);
        let log = &self.content.log;
        log.read(since, limit, &at.server.lifetime)
    }

    pub(super) fn history(
        &mut self,
        range: &HistoryRange,
        limit: usize,
        at: &Context,
    ) -> HistoryPage {
        self.expire_log(at);
        self.content.log.history(range, limit)
    }

    /// Removes the log up to a position. Answers how many publications are left.
    pub(super) fn trim(
        &mut self,
        upto: &Position,
        at: &Context,
    ) -> Option<Result<u64, StoreError>> {
        self.expire_log(at);
        self.exists().then(|| self.content.log.trim_up_to(upto))
    }

    /// Deletes the channel. `None`: it does not exist.
    pub(super) fn delete(
        &mut self,
        key: Option<&IdempotencyKey>,
        at: &Context,
    ) -> Option<Position> {
        self.expire_log(at);
        let now = at.now.instant;
        let key = key.map(|key| (None, key.clone()));
        let Content { log, keys, .. } = &mut self.content;
        if let Some(was) = key.as_ref().and_then(|key| keys.find(key, now)) {
            return Some(log.at(was));
        }
        if !self.exists() {
            return None;
        }
        let Content { log, keys, members } = &mut self.content;
        members.end_all();
        let publication = log.delete(at.now, &self.policy, &at.server.lifetime);
        let position = publication.position.clone();
        if let Some(key) = key {
            keys.remember(key, position.offset, now);
        }
        self.used = now;
        self.outbox.publish(publication, None, &at.server);
        Some(position)
    }

    /// True if something was published that was not deleted, or there is a member.
    pub(super) fn exists(&self) -> bool {
        let Content { log, members, .. } = &self.content;
        log.has_begun() || !members.is_empty()
    }

    /// What is known of the channel. `None`: it does not exist.
    pub(super) fn summary(&mut self, at: &Context) -> Option<ChannelSummary> {
        self.expire_log(at);
        self.expire_members(at);
        self.exists().then(|| {
            let Content { log, members, .. } = &self.content;
            let (held, oldest, newest) = log.held();
            ChannelSummary {
                end: log.end(),
                users: members.users(),
                sessions: members.sessions(),
                held,
                held_bytes: log.bytes(),
                oldest,
                newest,
            }
        })
    }

    /// Where the log ends. `touch` keeps the channel as if something had been published.
    pub(super) fn head(&mut self, touch: bool, at: &Context) -> Head {
        self.expire_log(at);
        if touch {
            self.used = at.now.instant;
            self.content.log.touch(at.now.instant);
        }
        Head {
            position: self.content.log.end(),
            lifetime: at.server.lifetime.clone(),
        }
    }

    /// Where the log ends, and how long the channel lives if nothing more happens. `None`: it does not exist.
    pub(super) fn watched(&mut self, at: &Context) -> Option<(Position, Duration)> {
        self.expire_log(at);
        self.exists().then(|| {
            let until = self.idle_at(at).unwrap_or(at.now.instant);
            let life = until.saturating_duration_since(at.now.instant);
            (self.content.log.end(), life)
        })
    }

    /// Begins another life, in which nothing has happened yet.
    pub(super) fn begin_again(&mut self, at: &Context) {
        self.content = Content::new(at);
        self.used = at.now.instant;
    }

    /// What an incarnation has here.
    pub(super) fn look(&self, incarnation: &Incarnation, at: &Context) -> Presence {
        let (members, now) = (&self.content.members, at.now.instant);
        Presence {
            sessions: members.count_of(incarnation),
            tombstoned: members.refuses(incarnation, now),
            overdue: members.next_due().is_some_and(|due| due <= now),
            lifetime: at.server.lifetime.clone(),
        }
    }

    /// The members.
    pub(super) fn members(&self) -> &Members {
        &self.content.members
    }

    /// When to look for the first time whether the channel is idle.
    pub(super) fn first_look(&self, at: &Context) -> Instant {
        at.now.instant + EMPTY_LIFE.min(self.policy.channel_life)
    }

    /// Looks whether the channel is idle. Answers when to look again, or `None` if it is to be forgotten.
    pub(super) fn next_look(&mut self, at: &Context) -> Option<Instant> {
        let now = at.now.instant;
        if let Some(later) = self.idle_at(at) {
            return Some(later);
        }
        let life = self.life(at);
        let Content { log, members, .. } = &mut self.content;
        if !members.has_tombstones(now) {
            return None;
        }
        // Only the tombstones are still of use: what comes next in this channel begins another log.
        *log = Log::new(&at.server.lifetime, now);
        Some(now + life)
    }

    /// When the channel will be idle if nothing more happens. `None`: it is.
    fn idle_at(&mut self, at: &Context) -> Option<Instant> {
        let now = at.now.instant;
        let life = self.life(at);
        let members = &self.content.members;
        if !members.is_empty() || !self.outbox.is_idle() {
            return Some(now + life);
        }
        Some(self.used + life).filter(|idle| *idle > now)
    }

    /// How long the channel lives when nothing happens.
    fn life(&mut self, at: &Context) -> Duration {
        let life = self.lives_by.channel_life;
        let Content { log, keys, .. } = &mut self.content;
        if log.is_without_messages() && keys.is_empty(at.now.instant) {
            return life.min(EMPTY_LIFE);
        }
        life
    }

    fn expire_log(&mut self, at: &Context) {
        self.content.log.expire(at.now.instant, self.lives_by.life);
    }

    fn expire_members(&mut self, at: &Context) {
        for _ in 0..EXPIRED_AT_ONCE {
            let Some(user) = self.content.members.remove_due(at.now.instant) else {
                return;
            };
            self.count_out(&user, at);
        }
    }

    /// Counts one member of the user less, and publishes onLeave if it was the last.
    fn count_out(&mut self, user: &User, at: &Context) {
        if self.content.members.count_out(&user.id) && self.policy.announce_members {
            self.append(Payload::of_membership(ON_LEAVE, user, None), at);
        }
    }

    /// Appends a publication to the log, and puts it into the outbox.
    fn append(&mut self, payload: Payload, at: &Context) -> Position {
        self.append_traced(payload, None, at)
    }

    /// Does the same as a step of a trace.
    fn append_traced(
        &mut self,
        payload: Payload,
        context: Option<TraceContext>,
        at: &Context,
    ) -> Position {
        self.used = at.now.instant;
        self.lives_by = self.policy;
        let (log, lifetime) = (&mut self.content.log, &at.server.lifetime);
        let publication = log.append(payload, at.now, &self.policy, lifetime);
        let position = publication.position.clone();
        self.outbox.publish(publication, context, &at.server);
        position
    }
}
