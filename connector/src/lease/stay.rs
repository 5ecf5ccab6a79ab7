//! A session's stay in some places, from before it comes there until nothing more is to be said of it.

use super::tenure::Tenure;
use channel_store::{Incarnation, Place};
use std::sync::Arc;
use tokio::time::Instant;

/// As long as it exists, its places stand in the index of the incarnation to which its session belongs.
pub(crate) struct Stay {
    pub(super) tenure: Arc<Tenure>,
    pub(super) places: Vec<Place>,
}

impl Stay {
    /// From now on these places are to stand in the index.
    pub(super) fn begin(tenure: Arc<Tenure>, places: Vec<Place>) -> Self {
        {
            let mut index = tenure.index.lock();
            for place in &places {
                index.enter(place);
            }
        }
        Self { tenure, places }
    }

    /// Later than this, by the store's clock, a join must have no effect.
    pub(crate) fn deadline(&self) -> u64 {
        self.tenure.deadline()
    }

    /// For one more try of what was refused as [`channel_store::StoreError::Late`]: by how many milliseconds its deadline
    /// may be later than the time that came with the refusal. `None` unless the incarnation is found alive in time.
    pub(crate) async fn time_if_alive(&self, until: Instant) -> Option<u64> {
        self.tenure.time_if_alive(until).await
    }

    /// Whose session it is.
    pub(crate) fn incarnation(&self) -> &Incarnation {
        &self.tenure.incarnation
    }

    /// True once the incarnation is over: nothing new may begin in its name.
    pub(crate) fn is_over(&self) -> bool {
        self.tenure.is_over()
    }

    /// The incarnation was found to be declared dead.
    pub(crate) fn condemn(&self) {
        self.tenure.condemned.notify_one();
    }

    /// What is to be looked at.
    #[cfg(test)]
    pub(crate) fn suspects(&self) -> &crate::suspects::Suspects {
        &self.tenure.suspects
    }

    /// What the store has there may have to be put right.
    pub(crate) fn suspect(&self, place: Place) {
        self.tenure.suspects.add(place);
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        let mut index = self.tenure.index.lock();
        for place in &self.places {
            index.exit(place);
        }
    }
}
