//! Channels in this process's memory: for one process, and for tests.
//!
//! The same promises as in Redis, by simpler means: a channel's log and members lie under one lock, and what is
//! published is delivered before the call returns. Nothing here waits, and nothing is left behind: logs, keys and
//! tombstones are bounded as the options say, and a channel that has been idle for its time is forgotten.

mod channel;
mod clocks;
mod feed;
mod leases;
mod log;
mod members;
mod registry;
mod restart;

use crate::lease::Leases;
use crate::name::{ChannelName, Incarnation};
use crate::publication::{Epoch, Position};
use crate::registry::{Hints, UserRegistry};
use crate::rules::{EMPTY_LIFE, LogPolicy, RuleTable};
use crate::{
    ChannelFeed, ChannelStore, Continuity, FeedConnection, FeedSink, Join, Joined, Leave,
    MembersPage, Publish, Published, Publisher, Reaped, ServerLifetime, StoreError, StoreOptions,
};
use crate::{HistoryPage, HistoryRange};
use async_trait::async_trait;
use channel::{Channel, Idle, Kept};
use clocks::Clocks;
use leases::{MemoryLeases, Registered};
use parking_lot::Mutex;
use registry::{Listeners, MemoryRegistry, Users};
pub use restart::Snapshot;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;
use tokio::time::Instant;

/// Channels that an operation looks after at most, beside its own.
const LOOKS: usize = 2;

/// Channels in memory. Chat uses it as its store; each connector follows it through a [`MemoryStore::feed`].
pub struct MemoryStore {
    channels: Arc<Channels>,
    available: watch::Sender<bool>,
}

impl MemoryStore {
    /// An empty store. The options' prefix means nothing here.
    #[must_use]
    pub fn new(options: StoreOptions) -> Arc<Self> {
        Arc::new(Self {
            channels: Arc::new(Channels {
                policies: RuleTable::new(&options, |policy| policy),
                options,
                clocks: Clocks::new(),
                registered: Mutex::default(),
                users: Mutex::default(),
                listeners: Mutex::default(),
                registry: Mutex::new(Registry {
                    server: restart::next(0),
                    by_name: HashMap::new(),
                    to_look_at: BTreeMap::new(),
                    looks: 0,
                }),
            }),
            available: watch::Sender::new(true),
        })
    }

    /// A feed of its own for each connector. Publications and confirmations reach the sink from within
    /// [`Publisher::publish`] and [`ChannelFeed::subscribe`].
    #[must_use]
    pub fn feed(&self, sink: Arc<dyn FeedSink>) -> Arc<dyn ChannelFeed> {
        feed::open(self.channels.clone(), self.available.subscribe(), sink)
    }

    /// The registry of users.
    #[must_use]
    pub fn registry(&self) -> Arc<dyn UserRegistry> {
        Arc::new(MemoryRegistry {
            channels: self.channels.clone(),
        })
    }

    /// Hints to and from connectors.
    #[must_use]
    pub fn hints(&self) -> Arc<dyn Hints> {
        Arc::new(MemoryRegistry {
            channels: self.channels.clone(),
        })
    }

    /// Leases, for connectors and whoever looks after them.
    #[must_use]
    pub fn leases(&self) -> Arc<dyn Leases> {
        Arc::new(MemoryLeases {
            channels: self.channels.clone(),
            available: self.available.subscribe(),
        })
    }
}

#[async_trait]
impl ChannelStore for MemoryStore {
    fn publisher(&self) -> Result<Arc<dyn Publisher>, StoreError> {
        Ok(self.channels.clone())
    }

    async fn join(&self, join: Join) -> Result<Joined, StoreError> {
        let (now, channels) = (Now::new(), &self.channels);
        let late = join.deadline.and_then(|deadline| {
            let now = channels.clocks.milliseconds(join.channel.as_str());
            (now > deadline).then_some(StoreError::Late { now })
        });
        channels
            .find_or_create(&join.channel, now.instant)
            .change(|state| state.join(&join, late, now, &channels.options))
    }

    async fn leave(&self, leave: Leave) -> Result<bool, StoreError> {
        let (now, channels) = (Now::new(), &self.channels);
        let channel = if leave.fence {
            channels.find_or_create(&leave.channel, now.instant)
        } else {
            match channels.find(&leave.channel) {
                Some(channel) => channel,
                None => return Ok(false),
            }
        };
        let left = channel.change(|state| state.leave(&leave, now, &channels.options));
        Ok(left)
    }

    async fn reap(
        &self,
        channel: &ChannelName,
        incarnation: &Incarnation,
    ) -> Result<Reaped, StoreError> {
        let (now, channels) = (Now::new(), &self.channels);
        let reaped = channels
            .find_or_create(channel, now.instant)
            .change(|state| state.reap(incarnation, now, &channels.options));
        Ok(reaped)
    }

    async fn expire(&self, channel: &ChannelName) -> Result<Option<Duration>, StoreError> {
        let now = Now::new();
        let channel = self.channels.find(channel);
        Ok(channel.and_then(|it| it.change(|state| state.expire(now))))
    }

    async fn members(
        &self,
        channel: &ChannelName,
        page: Option<&str>,
        limit: usize,
    ) -> Result<MembersPage, StoreError> {
        let now = Now::new();
        match self.channels.find(channel) {
            Some(channel) => channel.change(|state| state.members(page, limit, now)),
            None => members::Members::default()
                .page(page, limit)
                .ok_or(StoreError::BadPageToken),
        }
    }

    async fn history(
        &self,
        channel: &ChannelName,
        range: &HistoryRange,
        limit: usize,
    ) -> Result<HistoryPage, StoreError> {
        let now = Now::new();
        Ok(match self.channels.find(channel) {
            Some(channel) => channel.history(range, limit, now),
            None => history_without_life(range),
        })
    }

    fn available(&self) -> watch::Receiver<bool> {
        self.available.subscribe()
    }
}

/// Where a channel without a life ends.
fn before_all() -> Position {
    Position {
        epoch: Epoch::new(""),
        offset: 0,
    }
}

/// What a channel without a life answers.
fn history_without_life(range: &HistoryRange) -> HistoryPage {
    let continuity = match range {
        HistoryRange::Oldest | HistoryRange::Newest => Continuity::Contiguous,
        HistoryRange::After(it) | HistoryRange::UpTo(it) if *it == before_all() => {
            Continuity::Contiguous
        }
        HistoryRange::After(_) | HistoryRange::UpTo(_) => Continuity::Unknown,
    };
    let judgement = (continuity, before_all());
    HistoryPage::new(range, judgement, before_all(), Vec::new(), false)
}

/// The present, on both clocks: the one that measures, and the one that people read.
#[derive(Clone, Copy)]
struct Now {
    instant: Instant,
    milliseconds: u64,
}

impl Now {
    fn new() -> Self {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            instant: Instant::now(),
            milliseconds: since_1970
                .map_or(0, |it| u64::try_from(it.as_millis()).unwrap_or(u64::MAX)),
        }
    }
}

/// All channels that are not forgotten.
struct Channels {
    options: StoreOptions,
    policies: RuleTable<LogPolicy>,
    clocks: Clocks,
    registered: Mutex<Registered>,
    users: Mutex<Users>,
    listeners: Mutex<Listeners>,
    registry: Mutex<Registry>,
}

struct Registry {
    /// The server lifetime, as feeds see it.
    server: FeedConnection,
    by_name: HashMap<ChannelName, Arc<Channel>>,
    /// Each channel once, by the time to see whether it is idle; those of one moment by their numbers.
    to_look_at: BTreeMap<(Instant, u64), Arc<Channel>>,
    looks: u64,
}

impl Channels {
    /// The server lifetime, as feeds see it.
    fn lifetime(&self) -> ServerLifetime {
        self.registry.lock().server.lifetime.clone()
    }

    fn find(&self, name: &ChannelName) -> Option<Arc<Channel>> {
        self.registry.lock().by_name.get(name).cloned()
    }

    fn find_or_create(&self, name: &ChannelName, now: Instant) -> Arc<Channel> {
        let mut registry = self.registry.lock();
        for _ in 0..LOOKS {
            if !registry.look_at_one(now) {
                break;
            }
        }
        if let Some(channel) = registry.by_name.get(name) {
            return channel.clone();
        }
        let server = registry.server.clone();
        let kept = Kept::new(self.clocks.started(), &self.options, &server.lifetime);
        let policy = *self.policies.of(name);
        let channel = Arc::new(Channel::new(name.clone(), kept, server, now, policy));
        registry.by_name.insert(name.clone(), channel.clone());
        registry.look_again(now + EMPTY_LIFE.min(policy.channel_life), channel.clone());
        channel
    }
}

impl Registry {
    /// Forgets a channel that is idle, if it is time to look at one.
    fn look_at_one(&mut self, now: Instant) -> bool {
        let Some(entry) = self.to_look_at.first_entry().filter(|it| it.key().0 <= now) else {
            return false;
        };
        let channel = entry.remove();
        // Here and in the map, and clones are made under this lock: nobody else can be about to change it.
        if Arc::strong_count(&channel) > 2 {
            self.look_again(now + EMPTY_LIFE, channel);
            return true;
        }
        match channel.look_after(now) {
            Idle::Over => {
                self.by_name.remove(channel.name());
            }
            Idle::LookAgain(at) => self.look_again(at, channel),
        }
        true
    }

    fn look_again(&mut self, at: Instant, channel: Arc<Channel>) {
        self.looks += 1;
        self.to_look_at.insert((at, self.looks), channel);
    }
}

#[async_trait]
impl Publisher for Channels {
    async fn publish(
        &self,
        batch: Vec<Publish>,
    ) -> Result<Vec<Result<Published, StoreError>>, StoreError> {
        let now = Now::new();
        let outcomes = batch.into_iter().map(|publish| {
            self.find_or_create(&publish.channel, now.instant)
                .change(|state| state.publish(publish, now))
        });
        Ok(outcomes.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::{Route, User, UserId};
    use crate::publication::Payload;

    async fn publish(store: &MemoryStore, channel: &str) -> Published {
        let user = User {
            id: UserId::new("u").unwrap(),
            is_number: false,
        };
        let publish = Publish {
            channel: ChannelName::new(channel).unwrap(),
            session: None,
            payload: Payload::new(&Route::new("onMessage").unwrap(), &user, b"{}"),
            user: user.id,
            key: None,
        };
        store.publish(publish).await.unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn idle_channels_are_forgotten_while_others_are_used() {
        let store = MemoryStore::new(StoreOptions {
            log_life: Duration::from_secs(10),
            channel_life: Duration::from_secs(10),
            ..StoreOptions::default()
        });
        for n in 0..100 {
            publish(&store, &format!("idle-{n}")).await;
        }
        let first = publish(&store, "used").await;
        for _ in 0..60 {
            tokio::time::advance(Duration::from_secs(1)).await;
            let next = publish(&store, "used").await;
            assert_eq!(next.position.epoch, first.position.epoch);
        }
        assert_eq!(store.channels.registry.lock().by_name.len(), 1);
        let reborn = publish(&store, "idle-0").await;
        assert_eq!(reborn.position.offset, 1);
        assert_ne!(reborn.position.epoch, first.position.epoch);
    }

    #[tokio::test(start_paused = true)]
    async fn a_channel_that_somebody_is_about_to_change_is_not_forgotten() {
        let store = MemoryStore::new(StoreOptions::default());
        publish(&store, "4").await;
        let held = store
            .channels
            .find_or_create(&ChannelName::new("4").unwrap(), Instant::now());
        tokio::time::advance(Duration::from_secs(48 * 3600)).await;
        publish(&store, "5").await;
        let found = store.channels.find_or_create(held.name(), Instant::now());
        assert!(Arc::ptr_eq(&held, &found));
    }
}
