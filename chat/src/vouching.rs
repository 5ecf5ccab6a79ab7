//! Vouching: members of a connector that the store has forgotten are found by whoever meets them.
//!
//! Lease, index and the entry in the directory may be lost together, and the connector be dead before it could write them
//! again: then no funeral would ever find its members. So channels where somebody joins, or that somebody lists, are
//! checked in the background: an incarnation that is there and stands in no directory gets all three back (MEMBERSHIP.md).
//! If it lives, that changes nothing; else the funeral begins when the lease is over.

use crate::line::Line;
use channel_store::{ChannelName, Incarnation, Leases, Place, StoreError};
use futures_util::future::join_all;
use metrics::{counter, describe_counter};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// So many channels are checked in so long, however many people join.
const CHECKS: usize = 20;
const ROUND: Duration = Duration::from_secs(1);

const VOUCHED: &str = "chat_vouched_total";

pub(crate) async fn vouch_for_the_forgotten(leases: Arc<dyn Leases>, met: Arc<Line>) {
    describe_counter!(
        VOUCHED,
        "Connectors met in a channel that no directory knew of"
    );
    loop {
        let channels = met.next(CHECKS).await;
        if let Err(error) = check(&*leases, &channels).await {
            tracing::debug!(%error, "channels not checked");
        }
        sleep(ROUND).await;
    }
}

async fn check(leases: &dyn Leases, channels: &[ChannelName]) -> Result<(), StoreError> {
    // Who is there comes first: then whoever lives has stood in the directory for long.
    let present = join_all(channels.iter().map(|it| leases.present(it))).await;
    if !present.iter().flatten().any(|some| !some.is_empty()) {
        return Ok(());
    }
    let known: HashSet<_> = leases.directory().await?;
    for (channel, present) in channels.iter().zip(present) {
        for incarnation in present? {
            if !known.contains(&incarnation) {
                vouch(leases, channel, &incarnation).await?;
            }
        }
    }
    Ok(())
}

async fn vouch(
    leases: &dyn Leases,
    channel: &ChannelName,
    incarnation: &Incarnation,
) -> Result<(), StoreError> {
    let state = leases
        .vouch(incarnation, &Place::Channel(channel.clone()))
        .await?;
    // The directory comes last: as long as it doesn't know, the channel is checked again.
    leases.note(incarnation, Duration::ZERO).await?;
    counter!(VOUCHED).increment(1);
    tracing::warn!(%channel, %incarnation, dead = state.dead, "vouched for");
    Ok(())
}
