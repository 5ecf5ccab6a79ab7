//! A connector's side of channels in memory.

use super::channel::Follower;
use super::{Channels, Now, before_all};
use crate::name::ChannelName;
use crate::{ChannelFeed, Continuity, FeedSink, Head, LogPage, ServerLifetime, Since, StoreError};
use async_trait::async_trait;
use parking_lot::Mutex;
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::watch;

/// Follows channels until it is dropped. Its connection ends with a server lifetime only.
struct MemoryFeed {
    channels: Arc<Channels>,
    available: watch::Receiver<bool>,
    follower: Follower,
    followed: Mutex<HashSet<ChannelName>>,
}

pub(super) fn open(
    channels: Arc<Channels>,
    available: watch::Receiver<bool>,
    sink: Arc<dyn FeedSink>,
) -> Arc<dyn ChannelFeed> {
    static FEEDS: AtomicU64 = AtomicU64::new(0);
    Arc::new(MemoryFeed {
        channels,
        available,
        follower: Follower {
            feed: FEEDS.fetch_add(1, Ordering::Relaxed),
            sink,
        },
        followed: Mutex::default(),
    })
}

impl MemoryFeed {
    fn look(&self, names: &[ChannelName], touch: bool) -> Vec<Option<Head>> {
        let (now, channels) = (Now::new(), &self.channels);
        let head = |name| Some(channels.find(name)?.head(touch, now));
        names.iter().map(head).collect()
    }
}

#[async_trait]
impl ChannelFeed for MemoryFeed {
    fn subscribe(&self, channel: &ChannelName) {
        self.followed.lock().insert(channel.clone());
        let now = Now::new().instant;
        self.channels
            .find_or_create(channel, now)
            .follow(&self.follower);
    }

    fn unsubscribe(&self, channel: &ChannelName) {
        self.followed.lock().remove(channel);
        if let Some(channel) = self.channels.find(channel) {
            channel.unfollow(self.follower.feed);
        }
    }

    async fn read(
        &self,
        channel: &ChannelName,
        since: &Since,
        limit: usize,
    ) -> Result<LogPage, StoreError> {
        let (now, channels) = (Now::new(), &self.channels);
        let found = match since {
            Since::Head => Some(channels.find_or_create(channel, now.instant)),
            Since::Position(_) => channels.find(channel),
        };
        Ok(match found {
            Some(found) => found.read(since, limit, now),
            None => without_life(since, channels.lifetime()),
        })
    }

    async fn heads(&self, channels: &[ChannelName]) -> Result<Vec<Option<Head>>, StoreError> {
        Ok(self.look(channels, false))
    }

    async fn touch(&self, channels: &[ChannelName]) -> Result<Vec<Option<Head>>, StoreError> {
        Ok(self.look(channels, true))
    }

    fn available(&self) -> watch::Receiver<bool> {
        self.available.clone()
    }
}

/// What a channel without a life answers.
fn without_life(since: &Since, lifetime: ServerLifetime) -> LogPage {
    let end = before_all();
    LogPage {
        continuity: match since {
            Since::Head => Continuity::Contiguous,
            Since::Position(it) if *it == end => Continuity::Contiguous,
            Since::Position(_) => Continuity::Unknown,
        },
        lifetime,
        position: end,
        last: 0,
        entries: Vec::new(),
    }
}

impl Drop for MemoryFeed {
    fn drop(&mut self) {
        for channel in self.followed.lock().drain() {
            if let Some(channel) = self.channels.find(&channel) {
                channel.unfollow(self.follower.feed);
            }
        }
    }
}
