//! A connector's side of channels in Redis: it brings what is published.
//!
//! Publications arrive as pushes on a connection's own task, which gives them to the sink. All topics are subscribed again
//! on each new connection. Each confirmation of a subscription tells the sink to read what was published before.

use super::births::hear_births;
use super::call::{ByConnection, by_connection};
use super::channel_listener::ChannelListener;
use super::directory::Directory;
use super::inboxes::RedisInboxes;
use super::keys::Keys;
use super::lease::RedisLeases;
use super::log::{Lives, end_of_log, heads, history, looks, read};
use super::logins::{RedisHints, RedisRegistry};
use super::net::{
    Connection, Nodes, NodesOptions, OpenError, Subscriptions, unexpected_reply,
    wants_another_connection,
};
use super::run::Run;
use crate::error::StoreError;
use crate::feed::{ChannelFeed, FeedSink, Head};
use crate::inbox::Inboxes;
use crate::lease::Leases;
use crate::name::ChannelName;
use crate::options::StoreOptions;
use crate::page::{HistoryRange, LogPage, Since};
use crate::probe::{ProbeFeed, ProbeFound, ProbePoint, nonce};
use crate::publication::{Position, Publication};
use crate::registry::{Hints, UserRegistry};
use crate::rules::EMPTY_LIFE;
use crate::server::Shard;
use crate::watch::{Births, Look, NotedPage, WatchFeed};
use async_trait::async_trait;
use futures_util::future::try_join_all;
use redis::Value;
use std::sync::Arc;
use tokio::sync::watch;

/// Channels in Redis, for a connector.
pub struct RedisFeed {
    nodes: Arc<Nodes>,
    keys: Keys,
    directory: Directory,
    prefix: String,
    lives: Lives,
    sink: Arc<dyn FeedSink>,
    subscriptions: Arc<Subscriptions>,
    leases: Arc<dyn Leases>,
    registry: Arc<dyn UserRegistry>,
}

impl RedisFeed {
    /// Opens the feed at a URL of the same form as that of [`RedisStore::open`](super::RedisStore::open). It also succeeds
    /// while Redis can't be reached: then the feed is not available yet.
    ///
    /// # Errors
    /// [`OpenError`]: with this URL, or with what Redis holds, the feed will never work.
    pub async fn open(
        url: &str,
        options: StoreOptions,
        sink: Arc<dyn FeedSink>,
    ) -> Result<Self, OpenError> {
        Self::open_nodes(url, options, sink, true).await
    }

    /// Like [`open`](Self::open), in a process that also has a store on these servers. If a server can't be reached, only the
    /// store logs it, so that an operator reads it once.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    pub async fn open_beside_store(
        url: &str,
        options: StoreOptions,
        sink: Arc<dyn FeedSink>,
    ) -> Result<Self, OpenError> {
        Self::open_nodes(url, options, sink, false).await
    }

    async fn open_nodes(
        url: &str,
        options: StoreOptions,
        sink: Arc<dyn FeedSink>,
        logs_failures: bool,
    ) -> Result<Self, OpenError> {
        let keys = Keys::new(&options.prefix);
        let of_probe = keys.clone();
        let echo_topic = move |set| of_probe.of_probe(set).topic().to_string();
        let subscriptions = Arc::new(Subscriptions::new(echo_topic, nonce_of_probe));
        let nodes_options = NodesOptions {
            logs_failures,
            ..super::nodes_options(&options, 0)
        };
        let nodes = Nodes::open(url, nodes_options, Some(subscriptions.clone())).await?;
        let nodes = Arc::new(nodes);
        Ok(Self {
            leases: RedisLeases::over(nodes.clone(), &options),
            registry: RedisRegistry::over(nodes.clone(), &options),
            directory: Directory::new(&nodes, &options),
            nodes,
            lives: Lives {
                log_seconds: super::seconds(options.log_life),
                channel_seconds: super::channel_seconds(&options),
                empty_seconds: super::seconds(EMPTY_LIFE),
            },
            keys,
            prefix: options.prefix,
            sink,
            subscriptions,
        })
    }

    /// Leases, over the connections of this feed. So a connector that does not hear what is published can't renew its lease,
    /// either.
    #[must_use]
    pub fn leases(&self) -> Arc<dyn Leases> {
        self.leases.clone()
    }

    /// A function that says which servers can't be used and why. It answers `None` if all of them can be used. It keeps no
    /// connection open.
    pub fn why_unavailable(&self) -> impl Fn() -> Option<String> + Send + Sync + use<> {
        self.nodes.why_unavailable()
    }

    /// The registry of users, over the connections of this feed.
    #[must_use]
    pub fn registry(&self) -> Arc<dyn UserRegistry> {
        self.registry.clone()
    }

    /// Hints to and from other connectors.
    #[must_use]
    pub fn hints(&self) -> Arc<dyn Hints> {
        Arc::new(RedisHints {
            nodes: self.nodes.clone(),
            subscriptions: self.subscriptions.clone(),
            keys: self.keys.clone(),
        })
    }

    /// Letters to and from other processes.
    #[must_use]
    pub fn inboxes(&self) -> Arc<dyn Inboxes> {
        Arc::new(RedisInboxes {
            nodes: self.nodes.clone(),
            subscriptions: self.subscriptions.clone(),
            keys: self.keys.clone(),
        })
    }

    /// Asks where logs end: one pipeline for each connection.
    async fn ends(
        &self,
        channels: &[ChannelName],
        touch: Option<&Lives>,
    ) -> Result<Vec<Option<Head>>, StoreError> {
        let parts = self.parts(channels)?.into_iter();
        let answers = parts.map(async |(connection, places)| {
            let its = at(channels, &places);
            let heads = heads(&connection, &self.keys, &its, touch).await?;
            Ok((places, heads))
        });
        in_order(channels.len(), try_join_all(answers).await?)
    }

    /// The connections that listen to channels, each with the places of its channels in the list.
    fn parts(&self, channels: &[ChannelName]) -> Result<Vec<(Connection, Vec<usize>)>, StoreError> {
        let connection = |channel: &ChannelName| self.nodes.connection(|| self.topic(channel));
        let ByConnection { parts, unreachable } = by_connection(channels, connection);
        match unreachable.into_iter().next() {
            Some((_, error)) => Err(error),
            None => Ok(parts),
        }
    }

    fn topic(&self, channel: &ChannelName) -> String {
        self.keys.of_channel(channel).topic().to_string()
    }
}

fn at(channels: &[ChannelName], places: &[usize]) -> Vec<ChannelName> {
    places.iter().map(|it| channels[*it].clone()).collect()
}

/// Answers in the order of the questions. They come by connection, with the places of the questions.
fn in_order<T>(count: usize, answers: Vec<(Vec<usize>, Vec<T>)>) -> Result<Vec<T>, StoreError> {
    let answers = answers.into_iter();
    let mut answers: Vec<_> = answers
        .flat_map(|(places, answers)| places.into_iter().zip(answers))
        .collect();
    if answers.len() != count {
        return Err(unexpected_reply());
    }
    answers.sort_unstable_by_key(|(place, _)| *place);
    Ok(answers.into_iter().map(|(_, answer)| answer).collect())
}

/// The nonce of a probe's publication, as it comes on the topic.
fn nonce_of_probe(content: Vec<u8>) -> Option<u64> {
    let publication = Run::parse(content, None)?.next()?;
    nonce(publication.payload.body())
}

#[async_trait]
impl ProbeFeed for RedisFeed {
    fn points(&self) -> Vec<ProbePoint> {
        self.subscriptions.probe_points()
    }

    async fn find_probe(&self, set: u64, nonce: u64, position: &Position) -> ProbeFound {
        let Some(heard) = self.subscriptions.hears(set, nonce).await else {
            return ProbeFound::Unknown;
        };
        let keys = self.keys.of_probe(set);
        let Ok(connection) = self.nodes.connection(|| keys.topic().to_string()) else {
            return ProbeFound::Unknown;
        };
        let mut ask = redis::cmd("HMGET");
        ask.arg(keys.meta()).arg("e").arg("n");
        match connection.request_one_unchecked(ask).await {
            Err(_) => ProbeFound::Unknown,
            Ok(Value::ServerError(error)) if wants_another_connection(&error) => {
                ProbeFound::Unknown
            }
            Ok(Value::ServerError(error)) => ProbeFound::Refused(error.to_string()),
            Ok(reply) => {
                // Another probe may have been written after it, in the same epoch.
                let end = end_of_log(&reply).flatten();
                let is_logged = end.is_some_and(|end| {
                    end.epoch == position.epoch && end.offset >= position.offset
                });
                if heard && is_logged {
                    ProbeFound::Yes
                } else {
                    ProbeFound::No { heard }
                }
            }
        }
    }

    fn prefix(&self) -> &str {
        &self.prefix
    }

    fn database(&self) -> i64 {
        self.nodes.database()
    }

    fn shard(&self, channel: &str) -> Shard {
        // This is called for each message that is sent. Without a cluster the name does not matter.
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
        let listener = ChannelListener::new(channel.clone(), self.sink.clone());
        self.subscriptions.subscribe(self.topic(channel), listener);
    }

    fn unsubscribe(&self, channel: &ChannelName) {
        self.subscriptions.unsubscribe(&self.topic(channel));
    }

    async fn read(
        &self,
        channel: &ChannelName,
        since: &Since,
        limit: usize,
    ) -> Result<LogPage, StoreError> {
        let keys = self.keys.of_channel(channel);
        let reading = self.nodes.reading(keys.topic().to_string()).await?;
        read(&reading.connection, &keys, since, limit).await
    }

    async fn read_back(
        &self,
        channel: &ChannelName,
        upto: &Position,
        limit: usize,
    ) -> Result<Vec<Publication>, StoreError> {
        let keys = self.keys.of_channel(channel);
        let reading = self.nodes.reading(keys.topic().to_string()).await?;
        let range = HistoryRange::UpTo(upto.clone());
        let page = history(&reading.connection, &keys, &range, limit).await?;
        Ok(page.entries)
    }

    async fn heads(&self, channels: &[ChannelName]) -> Result<Vec<Option<Head>>, StoreError> {
        self.ends(channels, None).await
    }

    async fn touch(&self, channels: &[ChannelName]) -> Result<Vec<Option<Head>>, StoreError> {
        let heads = self.ends(channels, Some(&self.lives)).await?;
        // A channel with members here stays noted, however quiet it is.
        let exist = channels.iter().zip(&heads);
        let exist: Vec<_> = exist
            .filter_map(|(channel, head)| head.is_some().then_some(channel))
            .collect();
        self.directory.write(&exist).await;
        Ok(heads)
    }

    fn shard(&self, channel: &ChannelName) -> Shard {
        self.nodes.shard(|| self.topic(channel))
    }

    fn available(&self) -> watch::Receiver<bool> {
        self.nodes.available()
    }
}

#[async_trait]
impl WatchFeed for RedisFeed {
    async fn look(&self, channels: &[ChannelName]) -> Result<Vec<Look>, StoreError> {
        let parts = self.parts(channels)?.into_iter();
        let answers = parts.map(async |(connection, places)| {
            let its = at(channels, &places);
            let looks = looks(&connection, &self.keys, &its).await?;
            Ok((places, looks))
        });
        in_order(channels.len(), try_join_all(answers).await?)
    }

    fn births(&self) -> Births {
        hear_births(&self.subscriptions, &self.keys)
    }

    async fn noted(
        &self,
        part: usize,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<NotedPage, StoreError> {
        let mut pages = self.directory.read(&[part], prefix, after, limit).await?;
        let page = pages.pop().ok_or_else(unexpected_reply)?;
        let channels = page.entries.into_iter().map(|(channel, _)| channel);
        Ok(NotedPage {
            channels: channels.collect(),
            next: page.next,
        })
    }
}
