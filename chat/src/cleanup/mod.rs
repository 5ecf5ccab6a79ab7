//! Cleans up what nobody else looks after: members of dead connectors, detached members whose time is over, connectors of
//! which the store has lost the lease, and channels in the directory that have ended.

mod detached;
mod directory;
mod places;
mod queue;
mod reaper;
mod restorer;

use channel_store::{ChannelName, ChannelStore, Leases, UserRegistry};
use detached::{Detached, expire_in_time};
use places::PlaceReaper;
use queue::ChannelQueue;
use reaper::Reaper;
use restorer::LeaseRestorer;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::task::AbortOnDropHandle;

/// The largest number of channels that wait to be checked. A channel that comes when the queue is full is checked when somebody
/// joins or lists it again.
const UNCHECKED: usize = 1_000;

/// Cleans up until it is dropped. The default does nothing.
pub struct Cleanup {
    unchecked: Arc<ChannelQueue>,
    detached: Arc<Detached>,
    _reaper: Option<Reaper>,
    _tasks: Vec<AbortOnDropHandle<()>>,
}

impl Default for Cleanup {
    fn default() -> Self {
        Self {
            unchecked: Arc::new(ChannelQueue::new(UNCHECKED)),
            detached: Arc::default(),
            _reaper: None,
            _tasks: Vec::new(),
        }
    }
}

impl Cleanup {
    /// Begins to clean up in this store, whose connectors hold these leases and whose users log in at this registry.
    #[must_use]
    pub fn begin(
        store: Arc<dyn ChannelStore>,
        leases: Arc<dyn Leases>,
        registry: Arc<dyn UserRegistry>,
    ) -> Arc<Self> {
        let places = PlaceReaper::new(store.clone(), registry.clone());
        let unchecked = Arc::new(ChannelQueue::new(UNCHECKED));
        let detached = Arc::<Detached>::default();
        let restorer = LeaseRestorer {
            leases: leases.clone(),
            places: places.clone(),
        };
        let restoring = tokio::spawn(restorer.check_all(unchecked.clone()));
        let sweeping = tokio::spawn(directory::sweep(store.clone()));
        let expiring = tokio::spawn(expire_in_time(store, detached.clone()));
        Arc::new(Self {
            unchecked,
            detached,
            _reaper: Some(Reaper::begin(places, leases, registry)),
            _tasks: [restoring, sweeping, expiring]
                .map(AbortOnDropHandle::new)
                .into(),
        })
    }

    /// Checks later whether every connector that has members in this channel is watched.
    pub(crate) fn check_later(&self, channel: &ChannelName) {
        self.unchecked.add(channel);
    }

    /// False if the membership of a detached member that joins there could not be ended in time.
    pub(crate) fn has_room_for_detached(&self, channel: &ChannelName) -> bool {
        self.detached.has_room_for(channel)
    }

    /// A detached member has joined this channel just now, for this time.
    pub(crate) fn detached_has_joined(&self, channel: &ChannelName, stay: Duration) {
        self.detached.add(channel, stay);
    }
}

#[cfg(test)]
mod tests;
