//! Vouching: members of a connector that the store has forgotten are found by whoever meets them.
//!
//! Lease, index and the entry in the directory may be lost, and the connector be dead before it could write them again:
//! then no funeral would find its members. So channels where somebody joins, or that somebody lists, are checked in the
//! background: an incarnation that is there, and is not in the directory or is dead, gets back what is
//! missing. If it lives, that changes nothing; if it was declared dead, its members there are taken out at
//! once; else the funeral begins when the lease is over.

use crate::line::Line;
use crate::metering::VOUCHED;
use crate::reaper::Reaper;
use channel_store::{ChannelName, Incarnation, Leases, Place, StoreError};
use futures_util::future::join_all;
use metrics::counter;
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// So many channels are checked in so long, however many people join.
const CHECKS: usize = 20;
const ROUND: Duration = Duration::from_secs(1);

/// What vouching needs.
pub(crate) struct Voucher {
    pub(crate) leases: Arc<dyn Leases>,
    pub(crate) reaper: Arc<Reaper>,
}

impl Voucher {
    /// Checks channels where somebody was met, for ever.
    pub(crate) async fn check_all(self, met: Arc<Line>) {
        loop {
            let channels = met.next(CHECKS).await;
            if let Err(error) = self.check(&channels).await {
                tracing::debug!(%error, "channels not checked");
                // The directory is away. Who was met must not be forgotten: a connector may have begun an incarnation that
                // could not be noted, and be dead.
                channels.iter().for_each(|channel| met.add(channel));
            }
            sleep(ROUND).await;
        }
    }

    /// What is on a shard that is away is left out, and checked when somebody is met there again.
    ///
    /// # Errors
    /// The directory is away: nothing was checked.
    async fn check(&self, channels: &[ChannelName]) -> Result<(), StoreError> {
        // Who is there comes first: then whoever lives has stood in the directory for long.
        let present = join_all(channels.iter().map(|it| self.leases.incarnations_in(it))).await;
        if !present.iter().flatten().any(|some| !some.is_empty()) {
            return Ok(());
        }
        let well = self.well(present.iter().flatten().flatten()).await?;
        for (channel, present) in channels.iter().zip(present) {
            for incarnation in present.unwrap_or_default() {
                if !well.contains(&incarnation)
                    && let Err(error) = self.vouch(channel, &incarnation).await
                {
                    let (channel, incarnation) = (channel.as_str(), incarnation.as_str());
                    tracing::debug!(%error, channel, incarnation, "not vouched for");
                }
            }
        }
        Ok(())
    }

    /// Those of the incarnations that somebody looks after: they stand in the directory. A dead one stands there, too,
    /// until its funeral is over, but the funeral finds only what its index has.
    async fn well(
        &self,
        met: impl Iterator<Item = &Incarnation>,
    ) -> Result<HashSet<Incarnation>, StoreError> {
        let directory = self.leases.directory().await?;
        let met: BTreeSet<_> = met.filter(|it| directory.contains_key(*it)).collect();
        let met: Vec<_> = met.into_iter().cloned().collect();
        let leases = self.leases.observe(&met).await;
        let well = met
            .into_iter()
            .zip(leases)
            .filter(|(_, lease)| match lease {
                Ok(lease) => lease.is_some_and(|it| !it.dead),
                // Nobody knows better at present.
                Err(_) => true,
            });
        Ok(well.map(|(incarnation, _)| incarnation).collect())
    }

    async fn vouch(
        &self,
        channel: &ChannelName,
        incarnation: &Incarnation,
    ) -> Result<(), StoreError> {
        let place = Place::Channel(channel.clone());
        let state = self.leases.restore(incarnation, &place).await?;
        // The directory comes after: as long as it doesn't know, the channel is checked again.
        self.leases.schedule(incarnation).await?;
        counter!(VOUCHED).increment(1);
        tracing::info!(
            channel = channel.as_str(),
            incarnation = incarnation.as_str(),
            dead = state.dead,
            "vouched for"
        );
        if state.dead {
            self.reaper.reap(&place, incarnation).await?;
        }
        Ok(())
    }
}
