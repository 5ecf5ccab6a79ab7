//! Takes out what dead connectors have left, whoever finds it.

use crate::metering::REAPED;
use channel_store::{ChannelStore, Incarnation, Place, StoreError, UserRegistry};
use metrics::{Counter, counter};
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Runs of the script that reaps, at once.
const REAPS: usize = 32;

/// One for a process: what it does at once is bounded.
pub(crate) struct Reaper {
    store: Arc<dyn ChannelStore>,
    registry: Arc<dyn UserRegistry>,
    running: Semaphore,
    reaped: Counter,
}

impl Reaper {
    pub(crate) fn new(store: Arc<dyn ChannelStore>, registry: Arc<dyn UserRegistry>) -> Arc<Self> {
        Arc::new(Self {
            store,
            registry,
            running: Semaphore::new(REAPS),
            reaped: counter!(REAPED),
        })
    }

    /// Until nothing of a dead incarnation remains there.
    pub(crate) async fn reap(
        &self,
        place: &Place,
        incarnation: &Incarnation,
    ) -> Result<(), StoreError> {
        loop {
            let _permit = self.running.acquire().await;
            let remaining = match place {
                Place::Channel(channel) => {
                    let reaped = self.store.reap(channel, incarnation).await?;
                    self.reaped.increment(reaped.ended);
                    reaped.remaining
                }
                Place::User(user) => {
                    self.registry.reap(user, incarnation).await?;
                    0
                }
            };
            if remaining == 0 {
                return Ok(());
            }
        }
    }
}
