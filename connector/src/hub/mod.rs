//! Fan-out on one connector: the only place that knows local sockets by channel.
//!
//! A channel is followed from its first local member to its last. The feed calls in; delivery never waits. Reading the
//! log, which does wait, happens in a task of its own, one at a time for each channel.

mod channel;
mod flusher;
mod ring;
#[cfg(test)]
mod tests;

use crate::codec;
use crate::connection::Connection;
use crate::disconnect::Disconnect;
use channel::{LocalChannel, Next};
use channel_store::{
    ChannelFeed, ChannelName, FeedConnection, FeedSink, Position, Publication, Since, Standing,
};
use flusher::Flusher;
use metrics::{Counter, counter};
use parking_lot::{Mutex, RwLock};
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tokio_util::task::AbortOnDropHandle;

/// Publications in one answer of the log.
const PAGE: usize = 100;
/// Pauses between tries to read a log that does not answer.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// How long a member that has joined may take to begin. Beyond it the client is better off reconnecting.
const BEGIN: Duration = Duration::from_secs(10);

/// What the hub counts.
#[derive(Clone)]
struct HubMetrics {
    encodings: Counter,
    writes: Counter,
    gaps: Counter,
    positions_lost: Counter,
}

impl HubMetrics {
    fn new() -> Self {
        Self {
            encodings: counter!("connector_encodings_total"),
            writes: counter!("connector_channel_writes_total"),
            gaps: counter!("connector_feed_gaps_total"),
            positions_lost: counter!("connector_positions_lost_total"),
        }
    }
}

/// All channels with local members.
pub struct Hub {
    channels: RwLock<HashMap<ChannelName, Arc<LocalChannel>>>,
    /// Held from a decision to follow or not to follow a channel until the feed knows it; the sink never takes it.
    deciding: Mutex<()>,
    feed: OnceLock<Arc<dyn ChannelFeed>>,
    flusher: Arc<Flusher>,
    metrics: HubMetrics,
    _flushing: AbortOnDropHandle<()>,
}

/// A connection's place in a channel; dropped, it is gone.
pub struct Member {
    hub: Arc<Hub>,
    channel: Arc<LocalChannel>,
    connection: Arc<Connection>,
    key: usize,
}

impl Hub {
    /// An empty hub. Give it as the sink to a feed, and then the feed to [`Hub::follow`].
    #[must_use]
    pub fn new() -> Arc<Self> {
        let flusher = Arc::new(Flusher::default());
        Arc::new(Self {
            channels: RwLock::default(),
            deciding: Mutex::default(),
            feed: OnceLock::new(),
            metrics: HubMetrics::new(),
            _flushing: AbortOnDropHandle::new(tokio::spawn(Arc::clone(&flusher).run())),
            flusher,
        })
    }

    /// Where publications come from. Once, before the first member.
    pub fn follow(&self, feed: Arc<dyn ChannelFeed>) {
        if self.feed.set(feed).is_err() {
            tracing::error!("the hub follows a feed already");
        }
    }

    /// Registers a connection with a channel. It gets nothing before [`Member::begin`].
    pub fn attach(self: &Arc<Self>, name: &ChannelName, connection: &Arc<Connection>) -> Member {
        let _deciding = self.deciding.lock();
        let known = self.channels.read().get(name).cloned();
        let is_new = known.is_none();
        let channel = known.unwrap_or_else(|| {
            LocalChannel::new(
                name.clone(),
                Arc::clone(&self.flusher),
                self.metrics.clone(),
            )
        });
        let key = channel.attach(connection);
        if is_new {
            self.channels
                .write()
                .insert(name.clone(), Arc::clone(&channel));
            if let Some(feed) = self.feed.get() {
                feed.subscribe(name);
            }
        }
        Member {
            hub: Arc::clone(self),
            channel,
            connection: Arc::clone(connection),
            key,
        }
    }

    fn find(&self, name: &ChannelName) -> Option<Arc<LocalChannel>> {
        self.channels.read().get(name).cloned()
    }

    fn start_reading(&self, channel: Arc<LocalChannel>) {
        if let Some(feed) = self.feed.get() {
            tokio::spawn(read(Arc::clone(feed), channel));
        }
    }
}

impl FeedSink for Hub {
    fn subscribed(&self, connection: &FeedConnection, name: &ChannelName) {
        if let Some(channel) = self
            .find(name)
            .filter(|channel| channel.subscribed(connection))
        {
            self.start_reading(channel);
        }
    }

    fn publication(
        &self,
        connection: &FeedConnection,
        name: &ChannelName,
        publication: Publication,
    ) {
        let Some(channel) = self.find(name) else {
            return;
        };
        if channel.publication(connection.number, publication) {
            self.start_reading(channel);
        }
    }
}

/// Reads until the channel is live again, or nobody is there any more.
async fn read(feed: Arc<dyn ChannelFeed>, channel: Arc<LocalChannel>) {
    let mut pause = BACK_OFF.0;
    while let Some(since) = channel.since() {
        let limit = if since == Since::Head { 0 } else { PAGE };
        match feed
            .read(channel.name(), &since, limit)
            .await
            .map(|page| channel.read(page))
        {
            Ok(Next::Done) => return,
            Ok(Next::Read) => continue,
            Ok(Next::ReadLater) => {}
            Err(error) => tracing::debug!(channel = %channel.name(), %error, "can't read the log"),
        }
        sleep(pause.mul_f64(0.5 + fastrand::f64())).await;
        pause = BACK_OFF.1.min(pause * 2);
    }
}

impl Member {
    /// Returns when the channel is followed: what is published from now on will be delivered, so the session may join.
    pub async fn followed(&self) {
        self.channel.wait_until_located().await;
    }

    /// Delivers what follows a position, in order and without a gap, and goes on from there for ever.
    ///
    /// What can't be had any more closes the connection with [`Disconnect::PositionsLost`].
    pub async fn begin(&self, mut start: Position) {
        let deadline = Instant::now() + BEGIN;
        while !self.channel.start(self.key, &start) {
            match self.catch_up(&start).await {
                Some(reached) if reached != start => start = reached,
                Some(_) if self.wait(&start) => return,
                None | Some(_) if Instant::now() < deadline => sleep(BACK_OFF.0).await,
                None | Some(_) => return self.connection.close(Disconnect::PositionsLost),
            }
            if self.connection.closing().is_some() {
                return;
            }
        }
    }

    /// The log ends here, and yet the hub is not here: it reads, too, and this member waits for it. `false`: the hub
    /// has gone on.
    fn wait(&self, start: &Position) -> bool {
        let waits = self.channel.wait_for(self.key, start);
        if self.channel.doubt() {
            self.hub.start_reading(Arc::clone(&self.channel));
        }
        waits
    }

    /// Sends a page of the log to this member alone; the position that it has then.
    async fn catch_up(&self, start: &Position) -> Option<Position> {
        let feed = self.hub.feed.get()?;
        let since = Since::Position(start.clone());
        let page = feed.read(self.channel.name(), &since, PAGE).await.ok()?;
        if page.standing != Standing::Exact {
            self.connection.close(Disconnect::PositionsLost);
            return Some(page.position);
        }
        let mut frames = Vec::new();
        for publication in &page.entries {
            codec::push(
                self.connection.format(),
                self.channel.name(),
                publication,
                &mut frames,
            );
        }
        self.connection.send(&frames, &mut None);
        Some(
            page.entries
                .last()
                .map_or(page.position, |last| last.position.clone()),
        )
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let _deciding = self.hub.deciding.lock();
        if self.channel.detach(self.key) {
            self.hub.channels.write().remove(self.channel.name());
            if let Some(feed) = self.hub.feed.get() {
                feed.unsubscribe(self.channel.name());
            }
        }
    }
}
