//! How a connector follows channels.

use super::channel::Context;
use super::log::Log;
use super::outbox::Follower;
use super::shared::Shared;
use crate::error::StoreError;
use crate::feed::{ChannelFeed, FeedSink, Head};
use crate::name::ChannelName;
use crate::page::{LogPage, Since};
use async_trait::async_trait;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::watch;

/// Follows channels until it is dropped. It gets a new connection only when a server lifetime begins.
pub(super) struct MemoryFeed {
    shared: Arc<Shared>,
    follower: Follower,
}

impl MemoryFeed {
    pub(super) fn new(shared: Arc<Shared>, sink: Arc<dyn FeedSink>) -> Self {
        static FEEDS: AtomicU64 = AtomicU64::new(0);
        Self {
            shared,
            follower: Follower {
                feed: FEEDS.fetch_add(1, Ordering::Relaxed),
                sink,
            },
        }
    }

    fn ends(&self, channels: &[ChannelName], touch: bool) -> Vec<Option<Head>> {
        self.shared.with(|state| {
            let end = |name| state.in_known(name, |it, at| it.head(touch, at));
            channels.iter().map(end).collect()
        })
    }
}

#[async_trait]
impl ChannelFeed for MemoryFeed {
    fn subscribe(&self, channel: &ChannelName) {
        self.shared.with(|state| {
            let follower = &self.follower;
            state.in_any(channel, |it, at| it.outbox.follow(follower, &at.server));
        });
    }

    fn unsubscribe(&self, channel: &ChannelName) {
        let feed = self.follower.feed;
        self.shared.with(|state| {
            state.in_known(channel, |it, _| it.outbox.unfollow(feed));
        });
    }

    async fn read(
        &self,
        channel: &ChannelName,
        since: &Since,
        limit: usize,
    ) -> Result<LogPage, StoreError> {
        Ok(self.shared.with(|state| match since {
            Since::Head => state.in_any(channel, |it, at| it.read(since, limit, at)),
            Since::Position(_) => {
                let page = state.in_known(channel, |it, at| it.read(since, limit, at));
                page.unwrap_or_else(|| {
                    let Context { server, now, .. } = &state.context;
                    let log = Log::of_unknown(&server.generation, now.instant);
                    log.read(since, limit, &server.generation)
                })
            }
        }))
    }

    async fn heads(&self, channels: &[ChannelName]) -> Result<Vec<Option<Head>>, StoreError> {
        Ok(self.ends(channels, false))
    }

    async fn touch(&self, channels: &[ChannelName]) -> Result<Vec<Option<Head>>, StoreError> {
        Ok(self.ends(channels, true))
    }

    fn available(&self) -> watch::Receiver<bool> {
        self.shared.available.subscribe()
    }
}

impl Drop for MemoryFeed {
    fn drop(&mut self) {
        let feed = self.follower.feed;
        self.shared.with(|state| {
            for channel in state.channels.values_mut() {
                channel.outbox.unfollow(feed);
            }
        });
    }
}
