//! Bounds that many callers share, so that a greedy caller leaves room for others.
//!
//! A caller gets more only if at least as much stays free as it holds then. So one caller that takes all it can gets half of the
//! whole, two of them get a third each, and something is always left for the next caller.

use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Notify;

/// How much all callers together may hold: calls, streams or bytes.
pub(crate) struct Share {
    total: u64,
    /// This may exceed the total for a moment, because what is held already may grow.
    held: Mutex<u64>,
    freed: Notify,
}

/// How much of a [`Share`] one caller holds.
#[derive(Debug, Default)]
pub(crate) struct Holding(AtomicU64);

/// A part of a [`Share`], given back when it is dropped.
pub(crate) struct Taken {
    share: Arc<Share>,
    by: Arc<Holding>,
    amount: u64,
}

impl Share {
    pub(crate) fn new(total: usize) -> Arc<Self> {
        Arc::new(Self {
            total: total as u64,
            held: Mutex::new(0),
            freed: Notify::new(),
        })
    }

    /// Takes this amount, or the total if that is less. `None` if the caller must leave it to others.
    pub(crate) fn take(self: &Arc<Self>, by: &Arc<Holding>, amount: usize) -> Option<Taken> {
        let amount = (amount as u64).min(self.total);
        let mut held = self.held.lock();
        if by.amount() + amount > self.total.saturating_sub(*held) {
            return None;
        }
        Some(self.give(&mut held, by, amount))
    }

    /// Takes this amount whether it is free or not, because somebody else is about to give it back.
    pub(crate) fn take_anyway(self: &Arc<Self>, by: &Arc<Holding>, amount: usize) -> Taken {
        self.give(&mut self.held.lock(), by, amount as u64)
    }

    fn give(self: &Arc<Self>, held: &mut u64, by: &Arc<Holding>, amount: u64) -> Taken {
        *held += amount;
        by.0.fetch_add(amount, Ordering::Relaxed);
        Taken {
            share: Arc::clone(self),
            by: Arc::clone(by),
            amount,
        }
    }

    /// As [`Share::take`], but waits until the amount is free. The caller bounds the wait.
    pub(crate) async fn taken(self: &Arc<Self>, by: &Arc<Holding>, amount: usize) -> Taken {
        loop {
            // Registered before the try, so that nothing that is given back in between is missed.
            let mut freed = std::pin::pin!(self.freed.notified());
            freed.as_mut().enable();
            if let Some(taken) = self.take(by, amount) {
                return taken;
            }
            freed.await;
        }
    }
}

impl Holding {
    pub(crate) fn amount(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Taken {
    /// Changes the amount. It may grow beyond what is free, because it is held already.
    pub(crate) fn resize(&mut self, amount: usize) {
        let (before, amount) = (self.amount, amount as u64);
        self.amount = amount;
        if amount > before {
            *self.share.held.lock() += amount - before;
            self.by.0.fetch_add(amount - before, Ordering::Relaxed);
        } else {
            self.give_back(before - amount);
        }
    }

    /// Takes more under the rule of [`Share::take`]. False if the caller must leave it to others.
    pub(crate) fn grow(&mut self, more: usize) -> bool {
        match self.share.take(&self.by, more) {
            Some(mut taken) => {
                self.amount += std::mem::take(&mut taken.amount);
                true
            }
            None => false,
        }
    }

    fn give_back(&self, amount: u64) {
        if amount == 0 {
            return;
        }
        self.by.0.fetch_sub(amount, Ordering::Relaxed);
        *self.share.held.lock() -= amount;
        self.share.freed.notify_waiters();
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.give_back(self.amount);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    fn take_all(share: &Arc<Share>, by: &Arc<Holding>) -> Vec<Taken> {
        std::iter::from_fn(|| share.take(by, 1)).collect()
    }

    #[test]
    fn a_greedy_caller_leaves_room_for_others() {
        let share = Share::new(12);
        let [first, second, third] = [(); 3].map(|()| Arc::<Holding>::default());
        let firsts = take_all(&share, &first);
        assert_eq!(firsts.len(), 6);
        let seconds = take_all(&share, &second);
        assert_eq!(seconds.len(), 3);
        assert!(share.take(&third, 1).is_some());
        drop(firsts);
        assert_eq!(first.amount(), 0);
        assert!(share.take(&first, 4).is_some());
    }

    #[test]
    fn a_request_for_more_than_the_total_takes_the_total() {
        let (share, by) = (Share::new(10), Arc::default());
        let all = share.take(&by, 100).unwrap();
        assert!(share.take(&Arc::default(), 1).is_none());
        drop(all);
        assert!(share.take(&by, 10).is_some());
    }

    #[tokio::test]
    async fn a_waiting_call_gets_what_is_returned() {
        let (share, by) = (Share::new(10), Arc::default());
        let mut held = share.take(&by, 10).unwrap();
        let other = Arc::default();
        let mut waiting = std::pin::pin!(share.taken(&other, 4));
        assert!(waiting.as_mut().now_or_never().is_none());
        held.resize(7);
        assert!(waiting.as_mut().now_or_never().is_none());
        held.resize(2);
        assert!(waiting.as_mut().now_or_never().is_some());
        held.resize(20);
        drop(held);
        assert!(
            share.take(&by, 10).is_some(),
            "the whole amount is free again"
        );
    }
}
