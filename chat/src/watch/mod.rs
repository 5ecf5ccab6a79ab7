//! Follows channels for back ends (`Watch` of the contract).
//!
//! A channel is followed once, however many watchers it has ([`channel`]): what is published goes into a ring, and each
//! watcher **pulls** at its own pace ([`watcher`]). While its place is in the ring, it takes from there. Otherwise it reads
//! pages of the log. So nothing is queued for a slow watcher, and it delays nobody. Watchers only look: a channel expires as
//! if nobody watched it.
//!
//! `docs/design/log.md` explains why nothing is missing that is not told.

mod channel;
mod channels;
mod looks;
mod prefix;
mod ready;
#[cfg(test)]
mod tests;
mod watcher;

pub(crate) use watcher::{Begin, Event, MOST, Plan, Watcher};

use crate::error::Error;
use crate::metering;
use crate::port::connections::Caller;
use crate::port::share::{Share, Taken};
use channel_store::follow::Confirmed;
use channel_store::{ChannelName, FeedConnection, FeedSink, Publication, WatchFeed};
use channels::Channels;
use futures_util::future::BoxFuture;
use looks::Unconfirmed;
use parking_lot::Mutex;
use prefix::{Ears, hear};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio_util::task::AbortOnDropHandle;

/// How often every watched channel is looked at. A channel lives at least three times as long, unless it is set otherwise.
const LOOK_INTERVAL: Duration = Duration::from_secs(40);

/// Follows channels for back ends. The default has no feed, and then nobody can watch.
pub struct Watching {
    channels: Arc<Channels>,
    unconfirmed: Arc<Unconfirmed>,
    ears: Arc<Ears>,
    look_interval: Duration,
    looking: OnceLock<[AbortOnDropHandle<()>; 2]>,
    /// Hears of channels that begin, once somebody watches a prefix.
    hearing: Mutex<Option<AbortOnDropHandle<()>>>,
}

impl Default for Watching {
    fn default() -> Self {
        Self {
            channels: Arc::default(),
            unconfirmed: Arc::default(),
            ears: Arc::default(),
            look_interval: LOOK_INTERVAL,
            looking: OnceLock::new(),
            hearing: Mutex::default(),
        }
    }
}

impl Watching {
    /// Give it to a feed as the sink, and then give the feed to [`Watching::follow`].
    ///
    /// `channel_life`: how long an idle channel lives. Channels are looked at three times in it, so that one that expires can be
    /// told from one that was lost.
    #[must_use]
    pub fn new(channel_life: Duration) -> Arc<Self> {
        Arc::new(Self {
            look_interval: LOOK_INTERVAL.min(channel_life / 3),
            ..Self::default()
        })
    }

    /// Sets the feed that brings publications. To be called once.
    pub fn follow(&self, feed: Arc<dyn WatchFeed>) {
        if !self.channels.follow(feed) {
            return tracing::error!("watchers follow a feed already");
        }
        let settle = looks::settle(Arc::clone(&self.channels), Arc::clone(&self.unconfirmed));
        let look = looks::look(Arc::clone(&self.channels), self.look_interval);
        let looking = [tokio::spawn(settle), tokio::spawn(look)];
        let _ = self.looking.set(looking.map(AbortOnDropHandle::new));
    }

    /// Begins to watch.
    ///
    /// # Errors
    /// [`Error::Overloaded`] if chat follows too many channels already; [`Error::Store`] without a feed.
    pub(crate) fn watch(
        &self,
        plan: Plan,
        place: WatchPlace,
        ending: BoxFuture<'static, Error>,
    ) -> Result<Watcher, Error> {
        let feed = self.channels.feed()?;
        let ear = plan.prefix.clone().map(|prefix| {
            let mut hearing = self.hearing.lock();
            if hearing.is_none() {
                let heard = hear(feed.births(), Arc::clone(&self.ears));
                *hearing = Some(AbortOnDropHandle::new(tokio::spawn(heard)));
            }
            drop(hearing);
            self.ears.add(prefix)
        });
        Watcher::begin(Arc::clone(&self.channels), plan, ear, place, ending)
    }
}

/// All places of watchers at one chat.
pub(crate) struct WatchPlaces(Arc<Share>);

/// The place of one watcher, until it is dropped.
pub(crate) struct WatchPlace {
    _taken: Taken,
}

impl WatchPlaces {
    pub(crate) fn new(most: usize) -> Self {
        Self(Share::new(most))
    }

    /// A place for another watcher of this caller.
    ///
    /// # Errors
    /// [`Error::Overloaded`] if the caller must leave the rest to others.
    pub(crate) fn enter(&self, caller: &Arc<Caller>) -> Result<WatchPlace, Error> {
        let taken = self.0.take(&caller.watches, 1).ok_or(Error::Overloaded)?;
        metering::watchers(1.0);
        Ok(WatchPlace { _taken: taken })
    }
}

impl Drop for WatchPlace {
    fn drop(&mut self) {
        metering::watchers(-1.0);
    }
}

impl FeedSink for Watching {
    fn subscribed(&self, connection: &FeedConnection, name: &ChannelName) {
        let Some(channel) = self.channels.find(name) else {
            return;
        };
        match channel.subscribed(connection) {
            Confirmed::Nothing => {}
            // Where the log ends is found out by looks, for many channels at once.
            Confirmed::Read | Confirmed::Compare => self.unconfirmed.add(channel),
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
            self.channels.repair(channel);
        }
    }
}
