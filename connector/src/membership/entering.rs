//! Indexes a place before a session comes to it.

use super::incarnation::{HeldLease, IndexGuard};
use super::lease_keeper::LeaseKeeper;
use channel_store::{Indexed, Place, StoreError};
use runtime::backoff::pause;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout_at;

/// The pause between attempts to index a place while a login or join waits for it.
const INDEX_RETRY: Duration = Duration::from_millis(25);

impl LeaseKeeper {
    /// Returns when a new session may come to these places; `None`: it can't now. The session belongs to the oldest
    /// incarnation whose shard answers.
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

    /// Does the same for a session that is there already. Such a session keeps its incarnation.
    pub(crate) async fn enter_beside(
        &self,
        present: &IndexGuard,
        places: Vec<Place>,
    ) -> Option<IndexGuard> {
        let guard = IndexGuard::begin(Arc::clone(&present.lease), places);
        self.indexed(&guard).await.then_some(guard)
    }

    /// True if a session can't come to this place, but could if its client reconnected: the shard of its lease is away,
    /// the shard of the place is another one, and another lease is renewed.
    pub(crate) fn is_better_off_anew(&self, present: &IndexGuard, place: &Place) -> bool {
        let own = &present.lease;
        let is_elsewhere = || self.leases.shard(place) != self.leases.home(&own.incarnation);
        own.is_silent() && is_elsewhere() && self.other_that_answers(own)
    }

    /// Waits until there is an incarnation. Those that wait are served in the order in which they came.
    async fn begin(&self, places: &[Place]) -> IndexGuard {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            {
                // Under the lock, so that the incarnation is not given up meanwhile.
                let held = self.held.lock();
                let answers = held.iter().find(|it| !it.is_silent());
                if let Some(lease) = answers.or(held.first()) {
                    return IndexGuard::begin(Arc::clone(lease), places.to_vec());
                }
            }
            changed.await;
        }
    }

    /// Returns when the shard of this incarnation is away and that of another one answers.
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

    /// Writes the places of a session into the index. True: they stand in it.
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
                    lease.found_dead.notify_one();
                    return false;
                }
                Ok(Indexed::Lost) => lease.renew_now.notify_one(),
                Err(StoreError::Full) => return false,
                Err(error) => tracing::debug!(%error, "not indexed"),
            }
            pause(INDEX_RETRY).await;
        }
    }
}
