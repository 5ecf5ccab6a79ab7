//! A connector's side of channels in Redis: what is published, as it is published.
//!
//! Publications come as pushes on the connection's own task and go to the sink from there, one at a time. On each new
//! connection everything that is followed is subscribed again, and each confirmation tells the sink to read what came
//! before. Pushes of an earlier connection can't arrive any more: the link has ended it before it makes the next.

use super::connection::Connection;
use super::heads::{Lives, heads};
use super::keys::Keys;
use super::link::{Link, OpenError};
use super::read::read;
use super::reply::announced;
use crate::name::ChannelName;
use crate::publication::Epoch;
use crate::store::{
    ChannelFeed, FeedConnection, FeedSink, Head, LogPage, Since, StoreError, StoreOptions,
};
use async_trait::async_trait;
use parking_lot::Mutex;
use redis::{PushInfo, PushKind, Value};
use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::sync::Arc;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;

/// Topics in one SUBSCRIBE: bounds how long others wait for the connection.
const CHUNK: usize = 500;

/// Channels in Redis, for a connector.
pub struct RedisFeed {
    link: Link,
    keys: Keys,
    lives: Lives,
    topics: Arc<Topics>,
    available: watch::Receiver<bool>,
    follower: AbortHandle,
}

impl RedisFeed {
    /// Opens the feed at a URL like `redis://:password@host:6379/0`. It succeeds while Redis is unreachable, too: the
    /// feed is then not available yet.
    ///
    /// # Errors
    /// [`OpenError`]: with this URL, or with the data found there, the feed will never work.
    pub async fn open(
        url: &str,
        options: StoreOptions,
        sink: Arc<dyn FeedSink>,
    ) -> Result<Self, OpenError> {
        let keys = Keys::new(&options.prefix);
        let topics = Arc::new(Topics {
            sink,
            state: Mutex::default(),
            changed: Notify::new(),
        });
        let push = topics.clone();
        let on_push = Arc::new(move |info| push.push(info));
        let link = Link::open(url, &keys, Some(on_push)).await?;
        let (available, watch_available) = watch::channel(false);
        let follower = follow(topics.clone(), link.connections(), available);
        Ok(Self {
            link,
            lives: Lives {
                log_seconds: super::seconds(options.log_life),
                channel_seconds: super::channel_seconds(&options),
            },
            keys,
            topics,
            available: watch_available,
            follower: tokio::spawn(follower).abort_handle(),
        })
    }
}

impl Drop for RedisFeed {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

#[async_trait]
impl ChannelFeed for RedisFeed {
    fn subscribe(&self, channel: &ChannelName) {
        self.topics
            .want(self.keys.of(channel).topic(), Some(channel));
    }

    fn unsubscribe(&self, channel: &ChannelName) {
        self.topics.want(self.keys.of(channel).topic(), None);
    }

    async fn read(
        &self,
        channel: &ChannelName,
        since: &Since,
        limit: usize,
    ) -> Result<LogPage, StoreError> {
        let connection = self.link.connection()?;
        read(
            &connection,
            &self.keys,
            &self.lives.channel_seconds,
            channel,
            since,
            limit,
        )
        .await
    }

    async fn heads(&self, channels: &[ChannelName]) -> Result<Vec<Option<Head>>, StoreError> {
        heads(&self.link.connection()?, &self.keys, channels, None).await
    }

    async fn touch(&self, channels: &[ChannelName]) -> Result<Vec<Option<Head>>, StoreError> {
        let connection = self.link.connection()?;
        heads(&connection, &self.keys, channels, Some(&self.lives)).await
    }

    fn available(&self) -> watch::Receiver<bool> {
        self.available.clone()
    }
}

/// What is followed, and by which connection.
struct Topics {
    sink: Arc<dyn FeedSink>,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    followed: HashMap<Arc<str>, Followed>,
    /// Topics whose change the present connection has not been told.
    untold: HashSet<Arc<str>>,
    connection: Option<FeedConnection>,
}

struct Followed {
    channel: ChannelName,
    /// The last epoch seen: the next publication most likely has it too.
    epoch: Option<Epoch>,
}

impl Topics {
    /// Changes what is followed. Without a connection that is all: the next one begins with everything.
    fn want(&self, topic: String, channel: Option<&ChannelName>) {
        let topic: Arc<str> = topic.into();
        let mut state = self.state.lock();
        if let Some(channel) = channel {
            state
                .followed
                .entry(topic.clone())
                .or_insert_with(|| Followed {
                    channel: channel.clone(),
                    epoch: None,
                });
        } else {
            state.followed.remove(&topic);
        }
        if state.connection.is_some() {
            state.untold.insert(topic);
            drop(state);
            self.changed.notify_one();
        }
    }

    /// From now on `connection` is the one, and has to be told everything.
    fn begin(&self, connection: Option<&Connection>) {
        let mut state = self.state.lock();
        state.connection = connection.map(|connection| FeedConnection {
            number: connection.number,
            generation: connection.generation.clone(),
        });
        state.untold = match connection {
            Some(_) => state.followed.keys().cloned().collect(),
            None => HashSet::new(),
        };
    }

    /// What the connection has to be told next: topics to follow, and topics not to. A topic that changed several times
    /// comes once, as it ended; the order between topics does not matter.
    fn changes(&self) -> (Vec<Arc<str>>, Vec<Arc<str>>) {
        let mut state = self.state.lock();
        let topics: Vec<_> = state.untold.iter().take(CHUNK).cloned().collect();
        for topic in &topics {
            state.untold.remove(topic);
        }
        topics
            .into_iter()
            .partition(|topic| state.followed.contains_key(topic))
    }

    /// Takes a push.
    fn push(&self, info: PushInfo) {
        let mut data = info.data.into_iter();
        let (Some(Value::BulkString(topic)), Some(content)) = (data.next(), data.next()) else {
            return;
        };
        let Ok(topic) = std::str::from_utf8(&topic) else {
            return;
        };
        let mut state = self.state.lock();
        let State {
            followed,
            connection: Some(connection),
            ..
        } = &mut *state
        else {
            return;
        };
        // Not followed any more: what was under way.
        let Some(followed) = followed.get_mut(topic) else {
            return;
        };
        let (connection, channel) = (connection.clone(), followed.channel.clone());
        match (info.kind, content) {
            (PushKind::Subscribe, _) => {
                drop(state);
                self.sink.subscribed(&connection, &channel);
            }
            (PushKind::Message, Value::BulkString(content)) => {
                // What is no publication leaves a gap at most, and the next publication shows it.
                let Some(publication) = announced(content, followed.epoch.as_ref()) else {
                    return;
                };
                followed.epoch = Some(publication.position.epoch.clone());
                drop(state);
                self.sink.publication(&connection, &channel, publication);
            }
            _ => {}
        }
    }
}

/// Tells each connection what is followed, and what changes.
async fn follow(
    topics: Arc<Topics>,
    mut connections: watch::Receiver<Option<Connection>>,
    available: watch::Sender<bool>,
) -> Result<Infallible, watch::error::RecvError> {
    loop {
        let connection = connections.borrow_and_update().clone();
        topics.begin(connection.as_ref());
        if let Some(connection) = connection {
            tokio::select! {
                _ = tell(&topics, &connection, &available) => connection.close(),
                changed = connections.changed() => {
                    changed?;
                    available.send_replace(false);
                    continue;
                }
            }
            available.send_replace(false);
        }
        connections.changed().await?;
    }
}

/// Returns when the connection failed.
async fn tell(
    topics: &Topics,
    connection: &Connection,
    available: &watch::Sender<bool>,
) -> Result<Infallible, StoreError> {
    loop {
        let (wanted, unwanted) = topics.changes();
        if wanted.is_empty() && unwanted.is_empty() {
            available.send_replace(true);
            topics.changed.notified().await;
        }
        if !wanted.is_empty() {
            connection.subscribe(&wanted).await?;
        }
        if !unwanted.is_empty() {
            connection.unsubscribe(&unwanted).await?;
        }
    }
}
