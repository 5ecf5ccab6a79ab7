//! Writes the pending bytes of channels, one channel after the other.
//!
//! The first publication since the last flush wakes the flusher. Before it writes, it yields to all other tasks that
//! are ready, and again as long as that brings more publications. So they leave in one write, which costs the same
//! whatever its size.

use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::yield_now;
use tokio::time::Instant;

/// The longest time for which the first pending publication waits for more.
const PATIENCE: Duration = Duration::from_millis(1);
/// After this many flushes the flusher yields, so that other tasks do not wait for all channels.
const CHANNELS_AT_ONCE: usize = 32;

/// The age of one flush in so many is measured.
const MEASURED: u64 = 8;

/// A holder of bytes that wait for sockets.
pub(super) trait Pending: Send + Sync {
    /// Hands the bytes to the sockets.
    fn flush(&self);
}

#[derive(Default)]
pub(super) struct Flusher {
    dirty: Mutex<Vec<Arc<dyn Pending>>>,
    wake: Notify,
    /// The number of publications that were appended, in all channels.
    arrivals: AtomicU64,
    /// The number of flushes that were ordered.
    ordered: AtomicU64,
}

impl Flusher {
    /// Orders a flush. Returns whether the age of what is flushed should be measured. That costs as much as some members do, so
    /// it is done for one flush in [`MEASURED`].
    pub(super) fn add(&self, channel: Arc<dyn Pending>) -> bool {
        let mut dirty = self.dirty.lock();
        dirty.push(channel);
        if dirty.len() == 1 {
            self.wake.notify_one();
        }
        drop(dirty);
        let number = self.ordered.fetch_add(1, Ordering::Relaxed);
        number.is_multiple_of(MEASURED)
    }

    /// A publication was appended in some channel.
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

    /// Yields to the other tasks, again and again, until a round brings no more publications.
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
