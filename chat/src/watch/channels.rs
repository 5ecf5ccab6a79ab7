//! All channels with watchers, by name, and the reads that keep them contiguous.

use super::channel::WatchedChannel;
use super::ready::Ready;
use crate::error::Error;
use crate::metering;
use channel_store::follow::Next;
use channel_store::{ChannelName, LogPage, Position, Since, StoreError, WatchFeed};
use parking_lot::{Mutex, RwLock};
use runtime::Backoff;
use std::collections::HashMap;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::time::timeout;

/// The most publications in one answer of the store.
const PAGE: usize = 256;
/// Pauses between tries to read a log that does not answer.
pub(super) const BACKOFF: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
/// How long a read may take, with its wait for other reads.
const READ_TIME: Duration = Duration::from_secs(10);
/// The most channels that one chat follows. Each costs about a kilobyte, and a subscription at the store.
const MOST: usize = 200_000;

/// The channels.
#[derive(Default)]
pub(super) struct Channels {
    by_name: RwLock<HashMap<ChannelName, Arc<WatchedChannel>>>,
    /// Held while it is decided whether a channel is followed, and while the feed is told. The feed holds locks of its own
    /// while it calls back, and no call back takes this one.
    deciding: Mutex<()>,
    feed: OnceLock<Arc<dyn WatchFeed>>,
    rings: Arc<AtomicUsize>,
}

impl Channels {
    /// Sets the feed. False: it was set before.
    pub(super) fn follow(&self, feed: Arc<dyn WatchFeed>) -> bool {
        self.feed.set(feed).is_ok()
    }

    pub(super) fn feed(&self) -> Result<&Arc<dyn WatchFeed>, StoreError> {
        let none = || StoreError::Unavailable("this chat follows no channels".into());
        self.feed.get().ok_or_else(none)
    }

    pub(super) fn find(&self, name: &ChannelName) -> Option<Arc<WatchedChannel>> {
        self.by_name.read().get(name).cloned()
    }

    /// All channels, in the order of their names.
    pub(super) fn all(&self) -> Vec<Arc<WatchedChannel>> {
        let mut channels: Vec<_> = self.by_name.read().values().cloned().collect();
        channels.sort_unstable_by(|one, other| one.name().cmp(other.name()));
        channels
    }

    /// Adds a watcher to a channel, which it calls `key`. The first one begins to follow the channel.
    ///
    /// # Errors
    /// [`Error::Overloaded`] if chat follows too many channels already.
    pub(super) fn attach(
        self: &Arc<Self>,
        name: &ChannelName,
        key: u64,
        ready: &Arc<Ready>,
    ) -> Result<Watch, Error> {
        let _deciding = self.deciding.lock();
        let known = self.find(name);
        let is_new = known.is_none();
        if is_new && self.by_name.read().len() >= MOST {
            return Err(Error::Overloaded);
        }
        let channel =
            known.unwrap_or_else(|| WatchedChannel::new(name.clone(), Arc::clone(&self.rings)));
        let id = channel.attach(key, ready);
        if is_new {
            self.by_name
                .write()
                .insert(name.clone(), Arc::clone(&channel));
            metering::watched_channels(1.0);
            self.feed()?.subscribe(name);
        }
        Ok(Watch {
            channel,
            id,
            channels: Arc::clone(self),
        })
    }

    /// The bytes that all rings hold.
    #[cfg(test)]
    pub(super) fn ring_bytes(&self) -> usize {
        self.rings.load(std::sync::atomic::Ordering::Relaxed)
    }

    fn detach(&self, channel: &WatchedChannel, id: u64) {
        let _deciding = self.deciding.lock();
        if channel.detach(id) {
            let removed = self.by_name.write().remove(channel.name());
            drop(removed);
            metering::watched_channels(-1.0);
            if let Ok(feed) = self.feed() {
                feed.unsubscribe(channel.name());
            }
        }
    }

    /// Reads in the background until the channel is contiguous again, or has no watchers any more.
    pub(super) fn repair(self: &Arc<Self>, channel: Arc<WatchedChannel>) {
        let channels = Arc::clone(self);
        tokio::spawn(async move {
            let mut backoff = BACKOFF;
            while let Some(since) = channel.since() {
                match channels.step(&channel, &since).await {
                    Ok(Next::Done) => return,
                    Ok(Next::Read) => continue,
                    Ok(Next::ReadLater) => {}
                    Err(error) => {
                        let channel = channel.name().as_str();
                        tracing::debug!(channel, %error, "can't read the log");
                    }
                }
                backoff.wait().await;
            }
        });
    }

    async fn step(&self, channel: &WatchedChannel, since: &Since) -> Result<Next, StoreError> {
        // The end is only looked at: asking the log for it would begin an epoch where there is none.
        if *since == Since::Head {
            let look = self.feed()?.look(std::slice::from_ref(channel.name()));
            let look = in_time(look).await?.pop();
            let none = || StoreError::Unavailable("no answer".into());
            return Ok(channel.looked(look.ok_or_else(none)?, true));
        }
        let page = self.feed()?.read(channel.name(), since, PAGE);
        Ok(channel.read(in_time(page).await?))
    }

    /// What follows a position in the log. Watchers that ask for the same at the same time share one answer.
    pub(super) async fn read(
        &self,
        channel: &WatchedChannel,
        since: &Position,
    ) -> Result<Arc<LogPage>, StoreError> {
        let read = async {
            let since = Since::Position(since.clone());
            let page = self.feed()?.read(channel.name(), &since, PAGE);
            in_time(page).await.map(Arc::new)
        };
        channel.reads.share((since.clone(), PAGE), read).await
    }
}

async fn in_time<T>(answer: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    let late = |_| StoreError::Unavailable("not answered in time".into());
    timeout(READ_TIME, answer).await.map_err(late)?
}

/// One watcher's place in the list of one channel, until it is dropped.
pub(super) struct Watch {
    pub(super) channel: Arc<WatchedChannel>,
    pub(super) id: u64,
    channels: Arc<Channels>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.channels.detach(&self.channel, self.id);
    }
}
