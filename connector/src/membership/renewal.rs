//! How a lease is taken, renewed, and resigned.

use super::incarnation::{Asking, HeldLease};
use super::lease_keeper::LeaseKeeper;
use crate::metering::LEASES_LOST;
use channel_store::{Indexed, LEASE_MEMORY, Renewed, StoreError};
use metrics::counter;
use runtime::backoff::pause;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// The number of renewals in the length of a lease.
pub(super) const RENEWALS: u32 = 3;
/// The pause after a renewal that failed. It is much shorter than the time for which others observe a lease before they
/// declare death.
const RETRY: Duration = Duration::from_millis(150);
/// The pause between renewals while the incarnation could not be scheduled yet.
const NOTE_AGAIN: Duration = Duration::from_secs(1);
/// How long a further incarnation waits to be scheduled before its lease is taken.
const NOTE: Duration = Duration::from_millis(100);
/// The longest time for a resignation, or a last renewal.
const RESIGN: Duration = Duration::from_millis(500);

impl LeaseKeeper {
    /// True: the incarnation is dead. False: it is given up, because an older one is renewed and nothing of it is left.
    pub(super) async fn renew_until_over(&self, lease: &Arc<HeldLease>) -> bool {
        let mut renewed = Instant::now();
        while renewed.elapsed() < LEASE_MEMORY / 2 {
            let began = Instant::now();
            let outcome = self.renew(lease).await;
            self.report();
            match outcome {
                Ok(true) => {
                    renewed = began;
                    if self.is_given_up(lease) {
                        return false;
                    }
                    let pause = match lease.scheduled.load(Ordering::Relaxed) {
                        true => self.length / RENEWALS,
                        false => NOTE_AGAIN.min(self.length / RENEWALS),
                    };
                    let pause = pause.saturating_sub(began.elapsed());
                    // Whatever comes first ends the pause.
                    let _ = timeout(pause, lease.renew_now.notified()).await;
                }
                Ok(false) => return true,
                Err(error) => {
                    tracing::debug!(%error, incarnation = %lease.incarnation, "not renewed");
                    pause(RETRY).await;
                }
            }
        }
        true
    }

    /// The shard of a lease is about to be asked.
    pub(super) fn ask<'a>(&self, lease: &'a HeldLease) -> Asking<'a> {
        let asking = lease.ask();
        self.asked.notify_one();
        asking
    }

    /// The shard has answered.
    pub(super) fn answered(&self, asking: Asking<'_>) {
        if asking.answered() {
            self.changed.notify_waiters();
        }
    }

    /// Renews the lease. False: it is dead.
    pub(super) async fn renew(&self, lease: &Arc<HeldLease>) -> Result<bool, StoreError> {
        let HeldLease { incarnation, .. } = &**lease;
        let is_scheduled = lease.scheduled.load(Ordering::Relaxed);
        let note = async {
            self.leases.schedule(incarnation).await?;
            lease.scheduled.store(true, Ordering::Relaxed);
            Ok::<_, StoreError>(())
        };
        let renew = async {
            let began = Instant::now();
            let asking = self.ask(lease);
            let renewed = self.leases.renew(incarnation, self.length).await?;
            self.answered(asking);
            Ok::<_, StoreError>((began, renewed))
        };
        let (began, renewed) = if is_scheduled {
            // A directory that is away must not keep the lease from being renewed.
            let (_, renewed) = tokio::join!(note, renew);
            renewed?
        } else if self.renewed.borrow().is_some() {
            // This is a further incarnation. If it is not scheduled and this process ends now, nobody looks for it
            // until a chat meets its members. But the directory may be on the same shard as the first lease, and
            // nobody could log in while that is away. So the lease does not wait for the schedule, which is repeated.
            let _ = timeout(NOTE, note).await;
            renew.await?
        } else {
            note.await?;
            renew.await?
        };
        let (term, was_lost) = match renewed {
            Renewed::Dead => return Ok(false),
            Renewed::Live(term) => (term, false),
            Renewed::Lost(term) => (term, true),
        };
        let is_held = |held: &[Arc<HeldLease>]| held.iter().any(|it| Arc::ptr_eq(it, lease));
        let is_first = !is_held(&self.held.lock());
        if was_lost && !is_first {
            counter!(LEASES_LOST).increment(1);
            tracing::warn!(%incarnation, "the store has lost the lease: taken again");
        }
        let expected = lease.index.lock().len_written();
        if term.indexed != expected || lease.note_lifetime(&term.lifetime) {
            self.reconcile_index(lease).await?;
        }
        if was_lost {
            lease.suspects.extend(lease.index.lock().places());
        }
        lease.renewed(began, term.until);
        self.renewed.send_replace(Some(began));
        if is_first {
            let mut held = self.held.lock();
            if !is_held(&held) && !lease.is_over() {
                tracing::info!(%incarnation, "lease taken");
                held.push(Arc::clone(lease));
                self.changed.notify_waiters();
            }
        }
        Ok(true)
    }

    /// Makes the index in the store equal to the one here: writes what is missing, and takes over what is unknown.
    async fn reconcile_index(&self, lease: &HeldLease) -> Result<(), StoreError> {
        let found = self.leases.index(&lease.incarnation).await?;
        let missing = lease.index.lock().reconcile(found);
        match self.leases.index_add(&lease.incarnation, &missing).await? {
            Indexed::Yes => lease.index.lock().written(&missing),
            Indexed::Lost => lease.renew_now.notify_one(),
            Indexed::Dead => lease.found_dead.notify_one(),
        }
        Ok(())
    }

    /// Gives up a further incarnation if its index is empty, so that no session or leave of it is left, and new
    /// sessions belong to an older one.
    fn is_given_up(&self, lease: &Arc<HeldLease>) -> bool {
        let mut held = self.held.lock();
        let mut before = held.iter().take_while(|it| !Arc::ptr_eq(it, lease));
        // A new session holds the same lock until it stands in the index.
        let is_left = before.any(|it| !it.is_silent()) && lease.index.lock().is_empty();
        if is_left {
            held.retain(|it| !Arc::ptr_eq(it, lease));
        }
        is_left
    }

    /// Tells the store once that the incarnation is dead. If this fails, chats find out when the lease is over.
    pub(super) async fn resign(&self, lease: &HeldLease) {
        let resign = async {
            self.leases.resign(&lease.incarnation).await?;
            self.leases.schedule(&lease.incarnation).await
        };
        match timeout(RESIGN, resign).await {
            Ok(Ok(())) => tracing::info!(incarnation = %lease.incarnation, "resigned"),
            Ok(Err(error)) => tracing::warn!(%error, "not resigned"),
            Err(_) => tracing::warn!("not resigned in time"),
        }
    }

    /// Renews a lease for the last time, for the length of the grace. After that it is over without anybody's help.
    pub(super) async fn leave_to_itself(&self, lease: &HeldLease, grace: Duration) {
        let incarnation = &lease.incarnation;
        let renewed = async {
            self.leases.renew_last(incarnation, grace).await?;
            self.leases.schedule(incarnation).await
        };
        match timeout(RESIGN, renewed).await {
            Ok(Ok(())) => tracing::info!(%incarnation, ?grace, "renewed once more, for the grace"),
            Ok(Err(error)) => tracing::warn!(%error, "not renewed for the grace"),
            Err(_) => tracing::warn!("not renewed for the grace"),
        }
    }
}
