//! Restores the leases of connectors that the store has forgotten, so that their members are looked after.
//!
//! The store may lose the lease of a connector, its index and its entry in the directory, and the connector may die before
//! it writes them again. Then no reaper would ever find its members. So a channel is checked in the background when somebody
//! joins or lists it: an incarnation that has members there, and that is missing from the directory or is dead, gets back what is
//! missing. If the connector lives, that changes nothing. If it was declared dead, its members of the channel are taken out at
//! once. Otherwise the restored lease runs out, and the reaper does its work.

use super::places::PlaceReaper;
use super::queue::ChannelQueue;
use crate::metering::RESTORED;
use channel_store::{ChannelName, Incarnation, Leases, Place, StoreError};
use futures_util::future::join_all;
use metrics::counter;
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// How many channels are checked in one round, however many people join.
const CHECKS: usize = 20;
/// The time between two rounds.
const ROUND: Duration = Duration::from_secs(1);

/// See the module.
pub(crate) struct LeaseRestorer {
    pub(crate) leases: Arc<dyn Leases>,
    pub(crate) places: Arc<PlaceReaper>,
}

impl LeaseRestorer {
    /// Checks the channels in this queue, for ever.
    pub(crate) async fn check_all(self, queue: Arc<ChannelQueue>) {
        loop {
            let channels = queue.next(CHECKS).await;
            if let Err(error) = self.check(&channels).await {
                tracing::debug!(%error, "could not check channels for forgotten connectors");
                // The directory is away. The channels must not be forgotten: a connector may have begun an incarnation that
                // could not be written into the directory, and may have died since.
                channels.iter().for_each(|channel| queue.add(channel));
            }
            sleep(ROUND).await;
        }
    }

    /// A channel on a shard that is away is left out. It is checked when somebody joins or lists it again.
    ///
    /// # Errors
    /// The directory is away, so nothing was checked.
    async fn check(&self, channels: &[ChannelName]) -> Result<(), StoreError> {
        // The members are read before the directory. So a connector that lives has been in the directory for long.
        let present = join_all(channels.iter().map(|it| self.leases.present(it))).await;
        if !present.iter().flatten().any(|some| !some.is_empty()) {
            return Ok(());
        }
        let watched = self.watched(present.iter().flatten().flatten()).await?;
        for (channel, present) in channels.iter().zip(present) {
            for incarnation in present.unwrap_or_default() {
                if !watched.contains(&incarnation)
                    && let Err(error) = self.restore(channel, &incarnation).await
                {
                    let (channel, incarnation) = (channel.as_str(), incarnation.as_str());
                    tracing::debug!(%error, channel, incarnation, "could not restore a lease");
                }
            }
        }
        Ok(())
    }

    /// The incarnations that some reaper watches: they stand in the directory and are not dead. A dead one stands there until it
    /// is reaped, but its reaper finds only what the index has.
    async fn watched(
        &self,
        present: impl Iterator<Item = &Incarnation>,
    ) -> Result<HashSet<Incarnation>, StoreError> {
        let directory = self.leases.directory().await?;
        let known: BTreeSet<_> = present.filter(|it| directory.contains_key(*it)).collect();
        let known: Vec<_> = known.into_iter().cloned().collect();
        let leases = self.leases.observe(&known).await;
        let watched = known
            .into_iter()
            .zip(leases)
            .filter(|(_, lease)| match lease {
                Ok(lease) => lease.is_some_and(|it| !it.dead),
                // The lease cannot be read now, so nothing says that it is missing.
                Err(_) => true,
            });
        Ok(watched.map(|(incarnation, _)| incarnation).collect())
    }

    async fn restore(
        &self,
        channel: &ChannelName,
        incarnation: &Incarnation,
    ) -> Result<(), StoreError> {
        let place = Place::Channel(channel.clone());
        let state = self.leases.vouch(incarnation, &place).await?;
        // The directory comes last: as long as the incarnation is missing there, the channel is checked again.
        self.leases.note(incarnation).await?;
        counter!(RESTORED).increment(1);
        tracing::info!(
            channel = channel.as_str(),
            incarnation = incarnation.as_str(),
            dead = state.dead,
            "restored the lease of a connector that the store had forgotten"
        );
        if state.dead {
            self.places.reap(&place, incarnation).await?;
        }
        Ok(())
    }
}
