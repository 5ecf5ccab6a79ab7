//! What is done for members when no call does it: those of dead connectors, and those without one.

use crate::detached::{Detached, expire_in_time};
use crate::funerals::Funerals;
use crate::line::Line;
use crate::reaper::Reaper;
use crate::vouching::Voucher;
use channel_store::{ChannelName, ChannelStore, Leases, UserRegistry};
use std::sync::Arc;
use tokio_util::task::AbortOnDropHandle;

/// Channels that wait to be checked at most. Those that come when it is full are checked when they are met again.
const MET: usize = 1_000;

/// Looks after members until it is dropped. The default looks after nobody.
pub struct Aftercare {
    met: Arc<Line>,
    detached: Arc<Detached>,
    _funerals: Option<Funerals>,
    _tasks: Vec<AbortOnDropHandle<()>>,
}

impl Default for Aftercare {
    fn default() -> Self {
        Self {
            met: Arc::new(Line::new(MET)),
            detached: Arc::default(),
            _funerals: None,
            _tasks: Vec::new(),
        }
    }
}

impl Aftercare {
    /// Begins to look after the members in this store, whose connectors hold these leases, and after their logins.
    #[must_use]
    pub fn begin(
        store: Arc<dyn ChannelStore>,
        leases: Arc<dyn Leases>,
        registry: Arc<dyn UserRegistry>,
    ) -> Arc<Self> {
        let reaper = Reaper::new(store.clone(), registry.clone());
        let (met, detached) = (Arc::new(Line::new(MET)), Arc::<Detached>::default());
        let voucher = Voucher {
            leases: leases.clone(),
            reaper: reaper.clone(),
        };
        let vouching = tokio::spawn(voucher.check_all(met.clone()));
        let expiring = tokio::spawn(expire_in_time(store, detached.clone()));
        Arc::new(Self {
            met,
            detached,
            _funerals: Some(Funerals::begin(reaper, leases, registry)),
            _tasks: [vouching, expiring].map(AbortOnDropHandle::new).into(),
        })
    }

    /// Somebody deals with this channel, and may meet members there whom nobody looks after.
    pub(crate) fn meets(&self, channel: &ChannelName) {
        self.met.add(channel);
    }

    /// False if a member without a connector that joins there would not be looked after.
    pub(crate) fn has_room_for_detached_in(&self, channel: &ChannelName) -> bool {
        self.detached.has_room_for(channel)
    }

    /// A member without a connector has joined this channel.
    pub(crate) fn expects_the_end_in(&self, channel: &ChannelName) {
        self.detached.add(channel);
    }
}

#[cfg(test)]
mod tests;
