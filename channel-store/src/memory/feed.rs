//! How a connector follows channels, and how chat watches them.

use super::channel::Context;
use super::log::Log;
use super::outbox::Follower;
use super::shared::Shared;
use crate::error::StoreError;
use crate::feed::{ChannelFeed, FeedSink, Head};
use crate::name::ChannelName;
use crate::page::{HistoryRange, LogPage, Since};
use crate::publication::{Epoch, Position, Publication};
use crate::watch::{Births, Look, NotedPage, WatchFeed};
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
    /// `only_looks`: the feed keeps no channel from expiring.
    pub(super) fn new(shared: Arc<Shared>, sink: Arc<dyn FeedSink>, only_looks: bool) -> Self {
        static FEEDS: AtomicU64 = AtomicU64::new(0);
        Self {
            shared,
            follower: Follower {
                feed: FEEDS.fetch_add(1, Ordering::Relaxed),
                sink,
                only_looks,
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
                    let log = Log::of_unknown(&server.lifetime, now.instant);
                    log.read(since, limit, &server.lifetime)
                })
            }
        }))
    }

    async fn read_back(
        &self,
        channel: &ChannelName,
        upto: &Position,
        limit: usize,
    ) -> Result<Vec<Publication>, StoreError> {
        let range = HistoryRange::UpTo(upto.clone());
        let page = self
            .shared
            .with(|state| state.in_known(channel, |it, at| it.history(&range, limit, at)));
        Ok(page.map(|page| page.entries).unwrap_or_default())
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

#[async_trait]
impl WatchFeed for MemoryFeed {
    async fn look(&self, channels: &[ChannelName]) -> Result<Vec<Look>, StoreError> {
        Ok(self.shared.with(|state| {
            let lifetime = state.context.server.lifetime.clone();
            let look = |name| {
                let watched = state.in_known(name, |it, at| it.watched(at)).flatten();
                let (position, life) = watched.unzip();
                let before_all = || Position {
                    epoch: Epoch::new(""),
                    offset: 0,
                };
                Look {
                    head: Head {
                        position: position.unwrap_or_else(before_all),
                        lifetime: lifetime.clone(),
                    },
                    life,
                }
            };
            channels.iter().map(look).collect()
        }))
    }

    fn births(&self) -> Births {
        let (slot, births) = Births::new();
        // All births are heard from the beginning.
        slot.missed();
        let closed: Vec<_> = self.shared.with(|state| {
            let closed = state.births.extract_if(.., |it| it.is_closed()).collect();
            state.births.push(slot);
            closed
        });
        drop(closed);
        births
    }

    async fn noted(
        &self,
        part: usize,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<NotedPage, StoreError> {
        // All channels are in the first part.
        if part > 0 {
            return Ok(NotedPage {
                channels: Vec::new(),
                next: None,
            });
        }
        Ok(self.shared.with(|state| {
            let mut channels = state.names_after(prefix, after, limit);
            let last = channels.last().filter(|_| channels.len() == limit);
            let next = last.map(ToString::to_string);
            channels.retain(|name| state.in_known(name, |it, _| it.exists()) == Some(true));
            NotedPage { channels, next }
        }))
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
