//! Which of a watcher's channels have something for it.

use parking_lot::Mutex;
use std::collections::VecDeque;
use tokio::sync::Notify;

/// The keys of channels to pull from. A channel adds its key only when the watcher has taken it before, so there are at most
/// as many keys as channels.
#[derive(Default)]
pub(super) struct Ready {
    keys: Mutex<VecDeque<u64>>,
    grown: Notify,
}

impl Ready {
    pub(super) fn push(&self, key: u64) {
        self.keys.lock().push_back(key);
        self.grown.notify_one();
    }

    /// The next key. It may be cancelled.
    pub(super) async fn next(&self) -> u64 {
        loop {
            if let Some(key) = self.keys.lock().pop_front() {
                return key;
            }
            self.grown.notified().await;
        }
    }
}
