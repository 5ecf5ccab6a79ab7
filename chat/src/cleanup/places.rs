//! Takes out what a dead connector has left in one place: its members of a channel, or its logins of a user.

use crate::metering::REAPED;
use channel_store::{ChannelStore, Incarnation, Place, StoreError, UserRegistry};
use metrics::{Counter, counter};
use std::sync::Arc;
use tokio::sync::Semaphore;

/// How many places are reaped at once.
const REAPS: usize = 32;

/// There is one for each process, so that all reaping together is bounded.
pub(crate) struct PlaceReaper {
    store: Arc<dyn ChannelStore>,
    registry: Arc<dyn UserRegistry>,
    running: Semaphore,
    reaped: Counter,
}

impl PlaceReaper {
    pub(crate) fn new(store: Arc<dyn ChannelStore>, registry: Arc<dyn UserRegistry>) -> Arc<Self> {
        Arc::new(Self {
            store,
            registry,
            running: Semaphore::new(REAPS),
            reaped: counter!(REAPED),
        })
    }

    /// Goes on until nothing of the dead incarnation remains there.
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
