//! A connector's side of channels in Redis: what is published, as it is published.
//!
//! Publications come as pushes on a connection's own task and go to the sink from there, one at a time. On each new
//! connection everything that is followed there is subscribed again, and each confirmation tells the sink to read what
//! came before (`topics.rs`).

use super::ask::{by_connection, in_order};
use super::heads::{Lives, end_of_log, heads};
use super::keys::Keys;
use super::leases::RedisLeases;
use super::location::OpenError;
use super::nodes::Nodes;
use super::read::read;
use super::registry::{RedisHints, RedisRegistry};
use super::reply::wants_another_connection;
use super::topics::Topics;
use crate::name::ChannelName;
use crate::probe::{Met, ProbeFeed, ProbePoint};
use crate::publication::Position;
use crate::registry::{Hints, UserRegistry};
use crate::rules::EMPTY_LIFE;
use crate::{ChannelFeed, FeedSink, Head, LogPage, Since, StoreError, StoreOptions};
use crate::{Leases, Shard};
use async_trait::async_trait;
use futures_util::future::try_join_all;
use redis::{Pipeline, Value};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How long a probe that stands in the log may take to be heard.
const HEARING: Duration = Duration::from_millis(500);

/// Channels in Redis, for a connector.
pub struct RedisFeed {
    nodes: Arc<Nodes>,
    keys: Keys,
    prefix: String,
    lives: Lives,
    topics: Arc<Topics>,
    leases: Arc<dyn Leases>,
    registry: Arc<dyn UserRegistry>,
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
        let nodes = Arc::new(Nodes::open(url, &options, 0, Some(topics.clone())).await?);
        Ok(Self {
            leases: RedisLeases::over(nodes.clone(), &options),
            registry: RedisRegistry::over(nodes.clone(), &options),
            nodes,
            lives: Lives {
                log_seconds: super::seconds(options.log_life),
                channel_seconds: super::channel_seconds(&options),
                empty_seconds: super::seconds(EMPTY_LIFE),
            },
            keys,
            prefix: options.prefix,
            topics,
        })
    }
}

impl RedisFeed {
    /// Leases, over this feed's own connections: who can't hear can't renew.
    #[must_use]
    pub fn leases(&self) -> Arc<dyn Leases> {
        self.leases.clone()
    }

    /// Says which servers can't be used and why; `None`: all can be used. It keeps no connection open.
    pub fn why_unavailable(&self) -> impl Fn() -> Option<String> + Send + Sync + use<> {
        self.nodes.why_unavailable()
    }

    /// The registry of users, over the same connections.
    #[must_use]
    pub fn registry(&self) -> Arc<dyn UserRegistry> {
        self.registry.clone()
    }

    /// Hints to and from other connectors.
    #[must_use]
    pub fn hints(&self) -> Arc<dyn Hints> {
        Arc::new(RedisHints {
            nodes: self.nodes.clone(),
            topics: self.topics.clone(),
            keys: self.keys.clone(),
        })
    }

    /// One question for each connection that serves some of the channels.
    async fn ends(
        &self,
        channels: &[ChannelName],
        touch: Option<&Lives>,
    ) -> Result<Vec<Option<Head>>, StoreError> {
        let parts = by_connection(channels, |channel| self.nodes.connection(channel))?;
        let answers = parts.into_iter().map(async |(connection, indices)| {
            let its = indices.iter().map(|index| channels[*index].clone());
            let heads = heads(&connection, &self.keys, &its.collect::<Vec<_>>(), touch).await?;
            Ok((indices, heads))
        });
        in_order(try_join_all(answers).await?)
    }
}

#[async_trait]
impl ProbeFeed for RedisFeed {
    fn points(&self) -> Vec<ProbePoint> {
        self.topics.points()
    }

    async fn meets(&self, set: u64, nonce: u64, position: &Position) -> Met {
        let Some(heard) = self.topics.hears(set, nonce, HEARING).await else {
            return Met::Unknown;
        };
        let keys = self.keys.of_probe(set);
        let Ok(connection) = self.nodes.connection_of(|| keys.topic()) else {
            return Met::Unknown;
        };
        let mut ask = Pipeline::with_capacity(1);
        ask.cmd("HMGET").arg(keys.meta()).arg("e").arg("n");
        let Ok(answer) = connection.ask(&ask, 0, 1).await else {
            return Met::Unknown;
        };
        match answer.first() {
            Some(Value::ServerError(error)) if wants_another_connection(error) => Met::Unknown,
            Some(Value::ServerError(error)) => Met::Refused(error.to_string()),
            Some(answer) => {
                // Another probe may have come after it: they share an epoch.
                let end = end_of_log(answer).flatten();
                let is_logged = end.is_some_and(|end| {
                    end.epoch == position.epoch && end.offset >= position.offset
                });
                if heard && is_logged {
                    Met::Yes
                } else {
                    Met::No { heard }
                }
            }
            None => Met::Unknown,
        }
    }

    fn prefix(&self) -> &str {
        &self.prefix
    }

    fn database(&self) -> i64 {
        self.nodes.database()
    }

    fn shard(&self, channel: &str) -> Shard {
        // Asked for each send: without a cluster nobody looks at the name.
        if !self.nodes.is_cluster() {
            return Shard::default();
        }
        let channel = ChannelName::new(channel);
        channel.map_or_else(
            |_| Shard::default(),
            |channel| ChannelFeed::shard(self, &channel),
        )
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
        let reading = self.nodes.reading_of(channel).await?;
        let keys = self.keys.of(channel);
        read(&reading.connection, &keys, since, limit).await
    }

    async fn heads(&self, channels: &[ChannelName]) -> Result<Vec<Option<Head>>, StoreError> {
        self.ends(channels, None).await
    }

    async fn touch(&self, channels: &[ChannelName]) -> Result<Vec<Option<Head>>, StoreError> {
        self.ends(channels, Some(&self.lives)).await
    }

    fn shard(&self, channel: &ChannelName) -> Shard {
        self.nodes.shard_of(|| self.keys.of(channel).topic())
    }

    fn available(&self) -> watch::Receiver<bool> {
        self.nodes.available()
    }
}
