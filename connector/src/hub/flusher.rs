//! Writes what channels have pending, one channel after the other.
//!
//! The first publication since the last flush wakes the flusher; before it writes it lets everything else that is ready
//! run once, so that more publications arrive and leave in the same write: one write costs the same whatever its size.

use super::channel::LocalChannel;
use parking_lot::Mutex;
use std::sync::Arc;
use tokio::sync::Notify;
use tokio::task::yield_now;

/// Flushes between two looks at everything else that waits.
const CHANNELS_AT_ONCE: usize = 32;

#[derive(Default)]
pub(super) struct Flusher {
    dirty: Mutex<Vec<Arc<LocalChannel>>>,
    wake: Notify,
}

impl Flusher {
    pub(super) fn add(&self, channel: Arc<LocalChannel>) {
        let mut dirty = self.dirty.lock();
        dirty.push(channel);
        if dirty.len() == 1 {
            self.wake.notify_one();
        }
    }

    pub(super) async fn run(self: Arc<Self>) {
        loop {
            self.wake.notified().await;
            yield_now().await;
            let dirty = std::mem::take(&mut *self.dirty.lock());
            for channels in dirty.chunks(CHANNELS_AT_ONCE) {
                for channel in channels {
                    channel.flush();
                }
                yield_now().await;
            }
        }
    }
}
