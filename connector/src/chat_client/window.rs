//! The in-flight window of a session: its unanswered sends. It keeps their order and bounds their number and bytes.

use super::line::Line;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Notify;

/// The bounds of a window: unanswered sends, and their bytes. While it is full, the session's next request waits.
const WINDOW_SENDS: usize = 64;
const WINDOW_BYTES: usize = 256 << 10;

/// A session's in-flight window.
#[derive(Default)]
pub struct Window {
    state: Mutex<WindowState>,
    changed: Notify,
    keys: AtomicU64,
}

#[derive(Default)]
struct WindowState {
    line: Option<Arc<Line>>,
    sends: usize,
    bytes: usize,
}

impl Window {
    /// A number that no other send of this session has, for its idempotency key.
    pub(crate) fn next_key(&self) -> u64 {
        self.keys.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Counts a send in. Returns the ordered stream that takes it: the one with the session's other unanswered sends,
    /// or else a newly chosen one.
    pub(super) fn enter(
        &self,
        bytes: usize,
        choose: impl FnOnce() -> Option<Arc<Line>>,
    ) -> Option<Arc<Line>> {
        let mut state = self.state.lock();
        if state.sends == 0 {
            state.line = choose();
        }
        state.sends += 1;
        state.bytes += bytes;
        state.line.clone()
    }

    /// Counts an answered send out.
    pub(super) fn exit(&self, bytes: usize) {
        let mut state = self.state.lock();
        state.sends -= 1;
        state.bytes -= bytes;
        if state.sends == 0 {
            state.line = None;
        }
        self.changed.notify_one();
    }

    /// Returns when all sends are answered. So the next command takes effect after them.
    pub async fn settled(&self) {
        self.wait_until(|state| state.sends == 0).await;
    }

    /// Returns when there is room for another send. So a slow chat pushes back on the client.
    pub async fn room(&self) {
        self.wait_until(|state| state.sends < WINDOW_SENDS && state.bytes < WINDOW_BYTES)
            .await;
    }

    async fn wait_until(&self, holds: impl Fn(&WindowState) -> bool) {
        while !holds(&self.state.lock()) {
            self.changed.notified().await;
        }
    }
}
