//! How one lease is taken, renewed, and given back.

use super::Lease;
use super::tenure::{Asking, Tenure};
use crate::metering::LEASES_LOST;
use channel_store::{Indexed, LEASE_MEMORY, Renewed, StoreError};
use metrics::counter;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// Renewals in the time of a lease.
pub(super) const RENEWALS: u32 = 3;
/// After a renewal without an answer: well within the time that others observe a lease before they declare it over.
const RETRY: Duration = Duration::from_millis(150);
/// Between renewals of an incarnation that could not be noted in the directory yet.
const NOTE_AGAIN: Duration = Duration::from_secs(1);
/// How long a further incarnation waits to be noted before its lease is taken.
const NOTE: Duration = Duration::from_millis(100);
/// How long a parting word may take.
const RESIGN: Duration = Duration::from_millis(500);

impl Lease {
    /// True: it is dead. False: it is given up, for another one is renewed, and nothing of it is left.
    pub(super) async fn renew_until_over(&self, tenure: &Arc<Tenure>) -> bool {
        let mut renewed = Instant::now();
        while renewed.elapsed() < LEASE_MEMORY / 2 {
            let began = Instant::now();
            let outcome = self.renew(tenure).await;
            self.report();
            match outcome {
                Ok(true) => {
                    renewed = began;
                    if self.is_given_up(tenure) {
                        return false;
                    }
                    let pause = match tenure.noted.load(Ordering::Relaxed) {
                        true => self.length / RENEWALS,
                        false => NOTE_AGAIN.min(self.length / RENEWALS),
                    };
                    let pause = pause.saturating_sub(began.elapsed());
                    // Whichever comes first.
                    let _ = timeout(pause, tenure.hurry.notified()).await;
                }
                Ok(false) => return true,
                Err(error) => {
                    tracing::debug!(%error, incarnation = %tenure.incarnation, "not renewed");
                    sleep(RETRY.mul_f64(0.5 + fastrand::f64())).await;
                }
            }
        }
        true
    }

    /// The shard of a lease is about to be asked.
    pub(super) fn ask<'a>(&self, tenure: &'a Tenure) -> Asking<'a> {
        let asking = tenure.ask();
        self.asked.notify_one();
        asking
    }

    /// It has answered.
    pub(super) fn answered(&self, asking: Asking<'_>) {
        if asking.answered() {
            self.changed.notify_waiters();
        }
    }

    /// False if it is dead.
    pub(super) async fn renew(&self, tenure: &Arc<Tenure>) -> Result<bool, StoreError> {
        let Tenure { incarnation, .. } = &**tenure;
        let is_noted = tenure.noted.load(Ordering::Relaxed);
        let note = async {
            self.leases.note(incarnation).await?;
            tenure.noted.store(true, Ordering::Relaxed);
            Ok::<_, StoreError>(())
        };
        let renew = async {
            let began = Instant::now();
            let asking = self.ask(tenure);
            let renewed = self.leases.renew(incarnation, self.length).await?;
            self.answered(asking);
            Ok::<_, StoreError>((began, renewed))
        };
        let (began, renewed) = if is_noted {
            // The directory's server must not keep the lease from being renewed.
            let (_, renewed) = tokio::join!(note, renew);
            renewed?
        } else if self.renewed.borrow().is_some() {
            // This is a further incarnation. Without the note nobody looks for it if this process ends now, until
            // somebody meets its members. But the directory may be on the same shard as the first lease, and nobody could
            // log in as long as that is away. So it does not wait for the note, which is repeated.
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
        let is_held = |tenures: &[Arc<Tenure>]| tenures.iter().any(|it| Arc::ptr_eq(it, tenure));
        let is_first = !is_held(&self.tenures.lock());
        if was_lost && !is_first {
            counter!(LEASES_LOST).increment(1);
            tracing::warn!(%incarnation, "the store has lost the lease: taken again");
        }
        let expected = tenure.index.lock().len_written();
        if term.indexed != expected || self.meet(tenure, &term.generation) {
            self.reconcile(tenure).await?;
        }
        if was_lost {
            tenure.suspects.extend(tenure.index.lock().places());
        }
        tenure.renewed(began, term.until);
        self.renewed.send_replace(Some(began));
        if is_first {
            let mut tenures = self.tenures.lock();
            if !is_held(&tenures) && !tenure.is_over() {
                tracing::info!(%incarnation, "lease taken");
                tenures.push(Arc::clone(tenure));
                self.changed.notify_waiters();
            }
        }
        Ok(true)
    }

    /// Makes the index in the store what it is here: writes what is missing, and looks after what is unknown.
    async fn reconcile(&self, tenure: &Tenure) -> Result<(), StoreError> {
        let found = self.leases.index(&tenure.incarnation).await?;
        let missing = tenure.index.lock().reconcile(found);
        match self.leases.index_add(&tenure.incarnation, &missing).await? {
            Indexed::Yes => tenure.index.lock().written(&missing),
            Indexed::Lost => tenure.hurry.notify_one(),
            Indexed::Dead => tenure.condemned.notify_one(),
        }
        Ok(())
    }

    /// Gives a further incarnation up, if nothing of it is left, neither session nor leave nor entry of the index, and new
    /// sessions belong to one that was taken before.
    fn is_given_up(&self, tenure: &Arc<Tenure>) -> bool {
        let mut tenures = self.tenures.lock();
        let mut before = tenures.iter().take_while(|it| !Arc::ptr_eq(it, tenure));
        // A session that comes holds the same lock until it stands in the index.
        let is_left = before.any(|it| !it.is_silent()) && tenure.index.lock().is_empty();
        if is_left {
            tenures.retain(|it| !Arc::ptr_eq(it, tenure));
        }
        is_left
    }

    /// Said once: without it the lease ends by itself.
    pub(super) async fn resign(&self, tenure: &Tenure) {
        let resign = async {
            self.leases.resign(&tenure.incarnation).await?;
            self.leases.note(&tenure.incarnation).await
        };
        match timeout(RESIGN, resign).await {
            Ok(Ok(())) => tracing::info!(incarnation = %tenure.incarnation, "resigned"),
            Ok(Err(error)) => tracing::warn!(%error, "not resigned"),
            Err(_) => tracing::warn!("not resigned in time"),
        }
    }

    /// Renews a lease for the last time, for a grace: it ends by itself.
    pub(super) async fn leave_to_itself(&self, tenure: &Tenure, grace: Duration) {
        let incarnation = &tenure.incarnation;
        let renewed = async {
            self.leases.renew(incarnation, grace).await?;
            self.leases.note(incarnation).await
        };
        match timeout(RESIGN, renewed).await {
            Ok(Ok(())) => tracing::info!(%incarnation, ?grace, "the lease ends by itself"),
            Ok(Err(error)) => tracing::warn!(%error, "the lease ends when it ends"),
            Err(_) => tracing::warn!("the lease ends when it ends"),
        }
    }
}
