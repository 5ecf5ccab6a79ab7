//! Writes what channels have pending, one channel after the other.
//!
//! The first publication since the last flush wakes the flusher; before it writes it lets everything else that is ready
//! run, as long as that brings more publications, so that they leave in the same write: one write costs the same whatever
//! its size.

use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::yield_now;
use tokio::time::Instant;

/// The longest that the first of what is pending waits for more.
const PATIENCE: Duration = Duration::from_millis(1);
/// Flushes between two looks at everything else that waits.
const CHANNELS_AT_ONCE: usize = 32;

/// Something with bytes that wait for sockets.
pub(super) trait Pending: Send + Sync {
    /// Hands them to the sockets.
    fn flush(&self);
}

#[derive(Default)]
pub(super) struct Flusher {
    dirty: Mutex<Vec<Arc<dyn Pending>>>,
    wake: Notify,
    /// Publications that were appended anywhere.
    arrivals: AtomicU64,
}

impl Flusher {
    pub(super) fn add(&self, channel: Arc<dyn Pending>) {
        let mut dirty = self.dirty.lock();
        dirty.push(channel);
        if dirty.len() == 1 {
            self.wake.notify_one();
        }
    }

    /// A publication was appended somewhere.
    pub(super) fn note_arrival(&self) {
        self.arrivals.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) async fn run(self: Arc<Self>) {
        loop {
            self.wake.notified().await;
            self.let_more_arrive().await;
            let dirty = std::mem::take(&mut *self.dirty.lock());
            for channels in dirty.chunks(CHANNELS_AT_ONCE) {
                for channel in channels {
                    channel.flush();
                }
                yield_now().await;
            }
        }
    }

    /// As long as each round of everything else brings more.
    async fn let_more_arrive(&self) {
        let end = Instant::now() + PATIENCE;
        loop {
            let before = self.arrivals.load(Ordering::Relaxed);
            yield_now().await;
            if self.arrivals.load(Ordering::Relaxed) == before || Instant::now() > end {
                return;
            }
        }
    }
}
