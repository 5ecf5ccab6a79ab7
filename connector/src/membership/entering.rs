//! Before a session comes to a place, that stands in the index of its incarnation.

use super::incarnation::{HeldLease, IndexGuard};
use super::lease_keeper::LeaseKeeper;
use channel_store::{Indexed, Place, StoreError};
use runtime::backoff::pause;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout_at;

/// Between tries to index a channel for somebody who waits.
const INDEX_RETRY: Duration = Duration::from_millis(25);

impl LeaseKeeper {
    /// Returns when a new session may come to these places; `None`: not now. It belongs to the incarnation that was taken
    /// first among those whose shard answers.
    pub(crate) async fn enter(&self, places: Vec<Place>) -> Option<IndexGuard> {
        loop {
            let guard = self.begin(&places).await;
            tokio::select! {
                biased;
                indexed = self.indexed(&guard) => return indexed.then_some(guard),
                () = self.is_better_elsewhere(&guard.lease) => {}
            }
        }
    }

    /// The same for a session that is there already: it belongs to its incarnation for life.
    pub(crate) async fn enter_beside(
        &self,
        present: &IndexGuard,
        places: Vec<Place>,
    ) -> Option<IndexGuard> {
        let guard = IndexGuard::begin(Arc::clone(&present.lease), places);
        self.indexed(&guard).await.then_some(guard)
    }

    /// True if a session could not come to this place, but would if its client came again: its own lease is on a shard that
    /// is away, the place is not, and another lease is renewed.
    pub(crate) fn is_better_off_anew(&self, present: &IndexGuard, place: &Place) -> bool {
        let own = &present.lease;
        let is_elsewhere = || self.leases.shard(place) != self.leases.home(&own.incarnation);
        own.is_silent() && is_elsewhere() && self.other_that_answers(own)
    }

    /// As soon as there is an incarnation: who waits for it is served in turn.
    async fn begin(&self, places: &[Place]) -> IndexGuard {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            {
                // Under the lock, so that none is given up meanwhile.
                let held = self.held.lock();
                let answers = held.iter().find(|it| !it.is_silent());
                if let Some(lease) = answers.or(held.first()) {
                    return IndexGuard::begin(Arc::clone(lease), places.to_vec());
                }
            }
            changed.await;
        }
    }

    /// Returns when another incarnation's shard answers, and that of this one does not.
    async fn is_better_elsewhere(&self, lease: &Arc<HeldLease>) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if lease.is_silent() && self.other_that_answers(lease) {
                return;
            }
            match lease.silent_from().filter(|_| !lease.is_silent()) {
                Some(from) => {
                    let _ = timeout_at(from, changed).await;
                }
                None => changed.await,
            }
        }
    }

    fn other_that_answers(&self, lease: &Arc<HeldLease>) -> bool {
        let held = self.held.lock();
        let mut others = held.iter().filter(|it| !Arc::ptr_eq(it, lease));
        others.any(|it| !it.is_silent())
    }

    /// True once the places of a stay stand in the index.
    async fn indexed(&self, guard: &IndexGuard) -> bool {
        let IndexGuard { lease, places } = guard;
        loop {
            let entries = lease.index.lock().unwritten(places);
            if entries.is_empty() {
                return true;
            }
            if lease.is_over() {
                return false;
            }
            let asking = self.ask(lease);
            let added = self.leases.index_add(&lease.incarnation, &entries).await;
            if !matches!(added, Err(StoreError::Unavailable(_))) {
                self.answered(asking);
            }
            match added {
                Ok(Indexed::Yes) => {
                    lease.index.lock().written(&entries);
                    return true;
                }
                Ok(Indexed::Dead) => {
                    lease.condemned.notify_one();
                    return false;
                }
                Ok(Indexed::Lost) => lease.hurry.notify_one(),
                Err(StoreError::Full) => return false,
                Err(error) => tracing::debug!(%error, "not indexed"),
            }
            pause(INDEX_RETRY).await;
        }
    }
}
