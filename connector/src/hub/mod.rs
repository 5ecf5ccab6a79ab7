//! Fan-out on one connector: the only place that knows local sockets by channel.
//!
//! A channel is followed from its first local member to its last. The feed calls in; delivery never waits. What does
//! wait, reading the log, happens in tasks: one at a time for each channel that is behind, one for each member that is
//! brought up to date, and two that look after all channels.

mod audience;
mod channel;
mod flusher;
mod member;
mod reader;
mod ring;
#[cfg(test)]
mod tests;
mod watch;

pub use member::{Judgement, Member};

use crate::metering::{CHANNEL_WRITES, ENCODINGS, FEED_GAPS, FEED_REPAIRED, POSITIONS_LOST};
use crate::suspects::Suspects;
use crate::transport::Connection;
use audience::Receiver;
use channel::{Confirmed, LocalChannel};
use channel_store::{ChannelFeed, ChannelName, FeedConnection, FeedSink, Place, Publication};
use flusher::Flusher;
use metrics::{Counter, counter};
use parking_lot::{Mutex, RwLock};
use reader::Reader;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio_util::task::AbortOnDropHandle;
use watch::Doubtful;
use wire::{Moved, WireFormat};

/// How often a hub touches its channels, unless an operator knows better.
pub const TOUCH_INTERVAL: Duration = Duration::from_secs(60);

/// What the hub counts.
#[derive(Clone)]
struct HubMetrics {
    encodings: Counter,
    writes: Counter,
    gaps: Counter,
    repaired: Counter,
    diverged: Counter,
    trimmed: Counter,
    unknown: Counter,
}

impl HubMetrics {
    fn new() -> Self {
        let lost = |reason: Moved| counter!(POSITIONS_LOST, "reason" => reason.reason());
        Self {
            encodings: counter!(ENCODINGS),
            writes: counter!(CHANNEL_WRITES),
            gaps: counter!(FEED_GAPS),
            repaired: counter!(FEED_REPAIRED),
            diverged: lost(Moved::Diverged),
            trimmed: lost(Moved::Trimmed),
            unknown: lost(Moved::Unknown),
        }
    }

    /// A member's position is lost.
    fn lost(&self, moved: Moved) {
        match moved {
            Moved::NewEpoch => {}
            Moved::Diverged => self.diverged.increment(1),
            Moved::Trimmed => self.trimmed.increment(1),
            Moved::Unknown => self.unknown.increment(1),
        }
    }
}

/// All channels with local members.
pub struct Hub {
    channels: RwLock<HashMap<ChannelName, Arc<LocalChannel>>>,
    /// Held from a decision to follow or not to follow a channel until the feed knows it; the sink never takes it.
    deciding: Mutex<()>,
    reader: Arc<Reader>,
    doubtful: Arc<Doubtful>,
    suspects: Arc<Suspects>,
    flusher: Arc<Flusher>,
    metrics: HubMetrics,
    touch_interval: Duration,
    _flushing: AbortOnDropHandle<()>,
    watching: OnceLock<[AbortOnDropHandle<()>; 2]>,
}

impl Hub {
    /// An empty hub. Give it as the sink to a feed, and then the feed to [`Hub::follow`].
    ///
    /// Every `touch_interval` it compares each channel with the end of its log, and keeps its keys from expiring: so at
    /// most a third of the shortest life that a log has.
    #[must_use]
    pub fn new(touch_interval: Duration) -> Arc<Self> {
        let flusher = Arc::new(Flusher::default());
        Arc::new(Self {
            channels: RwLock::default(),
            deciding: Mutex::default(),
            reader: Arc::default(),
            doubtful: Arc::default(),
            suspects: Arc::default(),
            metrics: HubMetrics::new(),
            touch_interval,
            _flushing: AbortOnDropHandle::new(tokio::spawn(Arc::clone(&flusher).run())),
            flusher,
            watching: OnceLock::new(),
        })
    }

    /// Channels whose members the store may have forgotten.
    #[must_use]
    pub fn suspects(&self) -> Arc<Suspects> {
        Arc::clone(&self.suspects)
    }

    /// Where publications come from. Once, before the first member.
    pub fn follow(self: &Arc<Self>, feed: Arc<dyn ChannelFeed>) {
        if !self.reader.follow(feed) {
            return tracing::error!("the hub follows a feed already");
        }
        let (reader, doubtful) = (Arc::clone(&self.reader), Arc::clone(&self.doubtful));
        let look = tokio::spawn(watch::look(reader, doubtful));
        let touch = tokio::spawn(watch::touch(Arc::downgrade(self), self.touch_interval));
        let _ = self.watching.set([look, touch].map(AbortOnDropHandle::new));
    }

    /// Registers a connection with a channel, in a form of its protocol. It gets nothing before [`Member::begin`].
    pub fn attach(
        self: &Arc<Self>,
        name: &ChannelName,
        connection: &Arc<Connection>,
        format: WireFormat,
    ) -> Member {
        let _deciding = self.deciding.lock();
        let known = self.channels.read().get(name).cloned();
        let is_new = known.is_none();
        let channel = known.unwrap_or_else(|| {
            LocalChannel::new(
                name.clone(),
                Arc::clone(&self.flusher),
                Arc::clone(&self.suspects),
                self.metrics.clone(),
            )
        });
        let receiver = Receiver {
            connection: Arc::clone(connection),
            format,
        };
        let key = channel.attach(receiver.clone());
        if is_new {
            self.channels
                .write()
                .insert(name.clone(), Arc::clone(&channel));
            if let Some(feed) = self.reader.feed() {
                feed.subscribe(name);
            }
        }
        Member::new(Arc::clone(self), channel, receiver, key)
    }

    /// A member is gone.
    fn detach(&self, channel: &LocalChannel, key: usize) {
        let _deciding = self.deciding.lock();
        if channel.detach(key) {
            self.channels.write().remove(channel.name());
            if let Some(feed) = self.reader.feed() {
                feed.unsubscribe(channel.name());
            }
        }
    }

    fn find(&self, name: &ChannelName) -> Option<Arc<LocalChannel>> {
        self.channels.read().get(name).cloned()
    }

    fn start_reading(&self, channel: Arc<LocalChannel>) {
        tokio::spawn(Arc::clone(&self.reader).repair(channel));
    }
}

impl FeedSink for Hub {
    fn subscribed(&self, connection: &FeedConnection, name: &ChannelName) {
        let Some(channel) = self.find(name) else {
            return;
        };
        match channel.subscribed(connection) {
            Confirmed::Nothing => {}
            Confirmed::Read => self.start_reading(channel),
            Confirmed::Look => {
                // Perhaps by another server, which was behind.
                self.suspects.add(Place::Channel(name.clone()));
                self.doubtful.add(channel);
            }
        }
    }

    fn publication(
        &self,
        connection: &FeedConnection,
        name: &ChannelName,
        publication: Publication,
    ) {
        self.publications(connection, name, &mut std::iter::once(publication));
    }

    fn publications(
        &self,
        connection: &FeedConnection,
        name: &ChannelName,
        run: &mut dyn Iterator<Item = Publication>,
    ) {
        let Some(channel) = self.find(name) else {
            return;
        };
        if channel.publications(connection.number, run) {
            self.start_reading(channel);
        }
    }
}
