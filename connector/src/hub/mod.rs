//! Fan-out on one connector. Only the hub knows which local sockets are in which channel.
//!
//! A channel is followed from its first local member to its last. The feed calls the hub, and delivery never waits.
//! Reading the log does wait, so tasks do it: at most one for each channel that is behind, one for each member that is
//! brought up to date, and two that watch all channels. `docs/design/log.md` explains the rules.

mod arriving;
mod audience;
mod channel;
mod channels;
mod counters;
mod flusher;
mod member;
mod newest;
mod pacing;
mod reader;
#[cfg(test)]
mod tests;
mod watch;

pub use member::{Member, Resume};

use crate::suspects::Suspects;
use crate::transport::Connection;
use audience::Receiver;
use channel_store::follow::Confirmed;
use channel_store::{
    ChannelFeed, ChannelName, Ephemeral, FeedConnection, FeedSink, Place, Publication, Traced,
};
use channels::Channels;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio_util::task::AbortOnDropHandle;
use watch::Unconfirmed;
use wire::WireFormat;

/// How often a hub touches its channels, unless the configuration says otherwise.
pub const TOUCH_INTERVAL: Duration = Duration::from_secs(60);

/// Delivers to the local members of all channels.
pub struct Hub {
    channels: Arc<Channels>,
    unconfirmed: Arc<Unconfirmed>,
    touch_interval: Duration,
    _flushing: AbortOnDropHandle<()>,
    watching: OnceLock<[AbortOnDropHandle<()>; 2]>,
}

impl Hub {
    /// An empty hub. Give it to a feed as the sink, and then give the feed to [`Hub::follow`].
    ///
    /// Every `touch_interval` it compares each channel with the end of its log, and postpones the expiry of the
    /// channel's keys. So the interval should be at most a third of the shortest life of a log.
    #[must_use]
    pub fn new(touch_interval: Duration) -> Arc<Self> {
        let channels = Channels::new();
        let flushing = tokio::spawn(Arc::clone(&channels.flusher).run());
        Arc::new(Self {
            channels,
            unconfirmed: Arc::default(),
            touch_interval,
            _flushing: AbortOnDropHandle::new(flushing),
            watching: OnceLock::new(),
        })
    }

    /// Channels whose members the store may have forgotten.
    #[must_use]
    pub fn suspects(&self) -> Arc<Suspects> {
        Arc::clone(&self.channels.suspects)
    }

    /// The number of channels that have a member here.
    pub(crate) fn followed(&self) -> usize {
        self.channels.count()
    }

    /// Sets the feed that brings publications. To be called once, before the first member.
    pub fn follow(&self, feed: Arc<dyn ChannelFeed>) {
        let reader = &self.channels.reader;
        if !reader.follow(feed) {
            return tracing::error!("the hub follows a feed already");
        }
        let compare = watch::compare(Arc::clone(reader), Arc::clone(&self.unconfirmed));
        let touch = watch::touch(Arc::clone(&self.channels), self.touch_interval);
        let watching = [tokio::spawn(compare), tokio::spawn(touch)];
        let _ = self.watching.set(watching.map(AbortOnDropHandle::new));
    }

    /// Registers a connection with a channel, and its wire format there. It gets nothing before [`Member::begin`].
    pub fn attach(
        &self,
        name: &ChannelName,
        connection: &Arc<Connection>,
        format: WireFormat,
    ) -> Member {
        let receiver = Receiver {
            connection: Arc::clone(connection),
            format,
            joined: None,
        };
        let (channel, key) = self.channels.attach(name, receiver.clone());
        Member::new(Arc::clone(&self.channels), channel, receiver, key)
    }
}

impl FeedSink for Hub {
    fn subscribed(&self, connection: &FeedConnection, name: &ChannelName) {
        let Some(channel) = self.channels.find(name) else {
            return;
        };
        match channel.subscribed(connection) {
            Confirmed::Nothing => {}
            Confirmed::Read => self.channels.reader.start(channel),
            Confirmed::Compare => {
                // The subscription may have moved to a server that was behind and has lost members.
                self.channels.suspects.add(Place::Channel(name.clone()));
                self.unconfirmed.add(channel);
            }
        }
    }

    fn publications(
        &self,
        connection: &FeedConnection,
        name: &ChannelName,
        run: &mut dyn Iterator<Item = Publication>,
    ) {
        let Some(channel) = self.channels.find(name) else {
            return;
        };
        if channel.publications(connection.number, run) {
            self.channels.reader.start(channel);
        }
    }

    fn traced(&self, name: &ChannelName, marks: Vec<Traced>) {
        if let Some(channel) = self.channels.find(name) {
            channel.traced(marks);
        }
    }

    fn ephemeral(&self, connection: &FeedConnection, name: &ChannelName, ephemeral: Ephemeral) {
        let Some(channel) = self.channels.find(name) else {
            return;
        };
        if channel.ephemeral(connection.number, ephemeral) {
            self.channels.reader.start(channel);
        }
    }
}
