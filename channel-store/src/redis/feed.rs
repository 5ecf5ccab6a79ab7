//! A connector's side of channels in Redis: what is published, as it is published.
//!
//! Publications come as pushes on a connection's own task and go to the sink from there, one at a time. On each new
//! connection everything that is followed there is subscribed again, and each confirmation tells the sink to read what
//! came before (`topics.rs`).

use super::keys::Keys;
use super::location::OpenError;
use super::nodes::Nodes;
use super::read::read;
use super::topics::Topics;
use crate::name::ChannelName;
use crate::store::{ChannelFeed, FeedSink, LogPage, Since, StoreError, StoreOptions};
use async_trait::async_trait;
use std::sync::Arc;
use tokio::sync::watch;

/// Channels in Redis, for a connector.
pub struct RedisFeed {
    nodes: Nodes,
    keys: Keys,
    channel_seconds: String,
    topics: Arc<Topics>,
}

impl RedisFeed {
    /// Opens the feed at a URL as [`RedisStore::open`](super::RedisStore::open) takes it. It succeeds while Redis is
    /// unreachable, too: the feed is then not available yet.
    ///
    /// # Errors
    /// [`OpenError`]: with this URL, or with the data found there, the feed will never work.
    pub async fn open(
        url: &str,
        options: StoreOptions,
        sink: Arc<dyn FeedSink>,
    ) -> Result<Self, OpenError> {
        let keys = Keys::new(&options.prefix);
        let topics = Arc::new(Topics::new(sink, keys.clone()));
        Ok(Self {
            nodes: Nodes::open(url, &options, 0, Some(topics.clone())).await?,
            channel_seconds: super::channel_seconds(&options),
            keys,
            topics,
        })
    }
}

#[async_trait]
impl ChannelFeed for RedisFeed {
    fn subscribe(&self, channel: &ChannelName) {
        self.topics.follow(channel);
    }

    fn unsubscribe(&self, channel: &ChannelName) {
        self.topics.leave(channel);
    }

    async fn read(
        &self,
        channel: &ChannelName,
        since: &Since,
        limit: usize,
    ) -> Result<LogPage, StoreError> {
        let connection = self.nodes.connection(channel)?;
        read(
            &connection,
            &self.keys,
            &self.channel_seconds,
            channel,
            since,
            limit,
        )
        .await
    }

    fn available(&self) -> watch::Receiver<bool> {
        self.nodes.available()
    }
}
