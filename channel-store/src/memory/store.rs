//! The store itself: how chat writes and reads channels, and what connectors get.

use super::channel::{Channel, Context};
use super::channel_pages::most_looks;
use super::feed::MemoryFeed;
use super::log::Log;
use super::members::Members;
use super::shared::{Shared, State};
use crate::directory::{ChannelSummary, ChannelsPage};
use crate::error::StoreError;
use crate::feed::{ChannelFeed, FeedSink};
use crate::inbox::Inboxes;
use crate::lease::Leases;
use crate::membership::{Join, Joined, Leave, MembersPage, Reaped};
use crate::name::{ChannelName, IdempotencyKey, Incarnation};
use crate::options::{LogRule, StoreOptions};
use crate::page::{HistoryPage, HistoryRange};
use crate::publication::Position;
use crate::publish::{Publish, Published, Publisher};
use crate::registry::{Hints, UserRegistry};
use crate::store::ChannelStore;
use crate::watch::WatchFeed;
use async_trait::async_trait;
use std::iter::once;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Channels in this process's memory. Chat uses it as its store, and each connector follows it through a
/// [`MemoryStore::feed`]. The options' prefix means nothing here.
pub struct MemoryStore {
    pub(super) shared: Arc<Shared>,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new(options: StoreOptions) -> Arc<Self> {
        Arc::new(Self {
            shared: Arc::new(Shared::new(options)),
        })
    }

    /// A feed for one connector. The sink is called from within [`ChannelFeed::subscribe`] and from within every call that
    /// publishes. If another call delivers in the same channel at that moment, that one calls the sink, and the caller gets
    /// its answer before.
    #[must_use]
    pub fn feed(&self, sink: Arc<dyn FeedSink>) -> Arc<dyn ChannelFeed> {
        Arc::new(MemoryFeed::new(self.shared.clone(), sink, false))
    }

    /// A feed that watches channels and keeps none of them. Its sink is called as that of a [`MemoryStore::feed`].
    #[must_use]
    pub fn watch_feed(&self, sink: Arc<dyn FeedSink>) -> Arc<dyn WatchFeed> {
        Arc::new(MemoryFeed::new(self.shared.clone(), sink, true))
    }

    /// The registry of users.
    #[must_use]
    pub fn registry(&self) -> Arc<dyn UserRegistry> {
        self.shared.clone()
    }

    /// Hints to and from connectors.
    #[must_use]
    pub fn hints(&self) -> Arc<dyn Hints> {
        self.shared.clone()
    }

    /// Letters between connectors and chats.
    #[must_use]
    pub fn inboxes(&self) -> Arc<dyn Inboxes> {
        self.shared.clone()
    }

    /// Leases, for connectors and for the chats that watch them.
    #[must_use]
    pub fn leases(&self) -> Arc<dyn Leases> {
        self.shared.clone()
    }

    /// Works on a channel, and publishes in it what the work appends. Creates the channel if the store does not know it.
    async fn in_any<T>(
        &self,
        name: &ChannelName,
        work: impl FnOnce(&mut Channel, &Context) -> T,
    ) -> T {
        let state = self.shared.room_in(once(name)).await;
        self.shared.work_on(state, |state| state.in_any(name, work))
    }

    /// The same, but only if the store knows the channel.
    async fn in_known<T>(
        &self,
        name: &ChannelName,
        work: impl FnOnce(&mut Channel, &Context) -> T,
    ) -> Option<T> {
        let state = self.shared.room_in(once(name)).await;
        self.shared
            .work_on(state, |state| state.in_known(name, work))
    }
}

#[async_trait]
impl Publisher for Shared {
    async fn publish(
        &self,
        batch: Vec<Publish>,
    ) -> Result<Vec<Result<Published, StoreError>>, StoreError> {
        let state = self.room_in(batch.iter().map(|it| &it.channel)).await;
        let outcomes = self.work_on(state, |state| {
            let publish = |publish: Publish| {
                let channel = publish.channel.clone();
                state.in_any(&channel, |it, at| it.publish(publish, at))
            };
            batch.into_iter().map(publish).collect()
        });
        Ok(outcomes)
    }
}

#[async_trait]
impl ChannelStore for MemoryStore {
    fn publisher(&self) -> Result<Arc<dyn Publisher>, StoreError> {
        Ok(self.shared.clone())
    }

    async fn join(&self, join: Join) -> Result<Joined, StoreError> {
        self.in_any(&join.channel, |it, at| it.join(&join, at))
            .await
    }

    async fn leave(&self, leave: Leave) -> Result<bool, StoreError> {
        let work = |channel: &mut Channel, at: &Context| channel.leave(&leave, at);
        // A fence has to stand also where the join has not arrived yet.
        Ok(if leave.fence {
            self.in_any(&leave.channel, work).await
        } else {
            let left = self.in_known(&leave.channel, work).await;
            left.unwrap_or(false)
        })
    }

    async fn reap(
        &self,
        channel: &ChannelName,
        incarnation: &Incarnation,
    ) -> Result<Reaped, StoreError> {
        let reaped = self.in_any(channel, |it, at| it.reap(incarnation, at));
        Ok(reaped.await)
    }

    async fn expire(&self, channel: &ChannelName) -> Result<Option<Duration>, StoreError> {
        let next = self.in_known(channel, |it, at| it.expire(at)).await;
        Ok(next.flatten())
    }

    async fn members(
        &self,
        channel: &ChannelName,
        page: Option<&str>,
        limit: usize,
    ) -> Result<MembersPage, StoreError> {
        let found = self.in_known(channel, |it, at| it.members_page(page, limit, at));
        let found = found.await;
        found
            .unwrap_or_else(|| Members::default().page(page, limit))
            .ok_or(StoreError::BadPageToken)
    }

    async fn history(
        &self,
        channel: &ChannelName,
        range: &HistoryRange,
        limit: usize,
    ) -> Result<HistoryPage, StoreError> {
        Ok(self.shared.with(|state| {
            let page = state.in_known(channel, |it, at| it.history(range, limit, at));
            page.unwrap_or_else(|| {
                let Context { server, now, .. } = &state.context;
                Log::of_unknown(&server.lifetime, now.instant).history(range, limit)
            })
        }))
    }

    async fn trim(
        &self,
        channel: &ChannelName,
        upto: &Position,
    ) -> Result<Option<u64>, StoreError> {
        let held = self.in_known(channel, |it, at| it.trim(upto, at)).await;
        held.flatten().transpose()
    }

    async fn delete(
        &self,
        channel: &ChannelName,
        key: Option<&IdempotencyKey>,
    ) -> Result<Option<Position>, StoreError> {
        let deleted = self.in_known(channel, |it, at| it.delete(key, at)).await;
        Ok(deleted.flatten())
    }

    async fn summaries(
        &self,
        channels: &[ChannelName],
    ) -> Result<Vec<Option<ChannelSummary>>, StoreError> {
        // A summary ends detached memberships whose time is over, and so it may publish.
        let state = self.shared.room_in(channels.iter()).await;
        Ok(self.shared.work_on(state, |state| {
            let mut summary = |name| state.in_known(name, Channel::summary).flatten();
            channels.iter().map(&mut summary).collect()
        }))
    }

    async fn channels(
        &self,
        prefix: &str,
        page: Option<&str>,
        limit: usize,
    ) -> Result<ChannelsPage, StoreError> {
        let names = self
            .shared
            .with(|state| state.names_from(prefix, page, most_looks(limit)));
        let names = names.ok_or(StoreError::BadPageToken)?;
        // What is shown may have to publish first, as in `summaries`.
        let state = self.shared.room_in(names.iter()).await;
        let page = |state: &mut State| state.channels_page(&names, limit);
        Ok(self.shared.work_on(state, page))
    }

    fn detached_life(&self) -> Duration {
        self.shared
            .with(|state| state.context.options.detached_life)
    }

    fn log_rule(&self, channel: &ChannelName) -> Option<String> {
        self.shared.with(|state| {
            let rules = &state.context.policies;
            rules.pattern_of(channel).map(str::to_owned)
        })
    }

    fn set_log_rules(&self, rules: Vec<LogRule>) {
        self.shared.with(|state| state.set_log_rules(rules));
    }

    fn available(&self) -> watch::Receiver<bool> {
        self.shared.available.subscribe()
    }
}
