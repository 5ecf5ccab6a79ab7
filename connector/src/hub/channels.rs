//! All channels with local members, by name.

use super::audience::Receiver;
use super::channel::LocalChannel;
use super::counters::HubMetrics;
use super::flusher::Flusher;
use super::reader::Reader;
use crate::suspects::Suspects;
use channel_store::ChannelName;
use parking_lot::{Mutex, RwLock};
use std::collections::HashMap;
use std::sync::Arc;

/// The followed channels. A channel is followed from its first local member to its last.
pub(super) struct Channels {
    by_name: RwLock<HashMap<ChannelName, Arc<LocalChannel>>>,
    /// Held from the decision to follow a channel, or to stop following it, until the feed knows. The feed's sink never
    /// takes it.
    deciding: Mutex<()>,
    pub(super) reader: Arc<Reader>,
    pub(super) suspects: Arc<Suspects>,
    pub(super) flusher: Arc<Flusher>,
    pub(super) metrics: HubMetrics,
}

impl Channels {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            by_name: RwLock::default(),
            deciding: Mutex::default(),
            reader: Arc::default(),
            suspects: Arc::default(),
            flusher: Arc::default(),
            metrics: HubMetrics::new(),
        })
    }

    /// Registers a member, which gets nothing yet. Returns its channel, which is followed from now on, and its key
    /// there.
    pub(super) fn attach(
        &self,
        name: &ChannelName,
        receiver: Receiver,
    ) -> (Arc<LocalChannel>, usize) {
        let _deciding = self.deciding.lock();
        let known = self.find(name);
        let is_new = known.is_none();
        let channel = known.unwrap_or_else(|| {
            LocalChannel::new(
                name.clone(),
                Arc::clone(&self.flusher),
                Arc::clone(&self.suspects),
                self.metrics.clone(),
            )
        });
        let key = channel.attach(receiver);
        if is_new {
            let mut channels = self.by_name.write();
            channels.insert(name.clone(), Arc::clone(&channel));
            drop(channels);
            if let Some(feed) = self.reader.feed() {
                feed.subscribe(name);
            }
        }
        (channel, key)
    }

    /// Removes a member. After the last one, the channel is no longer followed.
    pub(super) fn detach(&self, channel: &LocalChannel, key: usize) {
        let _deciding = self.deciding.lock();
        if channel.detach(key) {
            self.by_name.write().remove(channel.name());
            if let Some(feed) = self.reader.feed() {
                feed.unsubscribe(channel.name());
            }
        }
    }

    pub(super) fn find(&self, name: &ChannelName) -> Option<Arc<LocalChannel>> {
        self.by_name.read().get(name).cloned()
    }

    /// The number of channels.
    pub(super) fn count(&self) -> usize {
        self.by_name.read().len()
    }

    /// All channels, sorted by name. So about the same time passes for each of them from one touch to the next.
    pub(super) fn all(&self) -> Vec<Arc<LocalChannel>> {
        let mut channels: Vec<_> = self.by_name.read().values().cloned().collect();
        channels.sort_unstable_by(|one, other| one.name().cmp(other.name()));
        channels
    }
}
