//! The in-flight window of a session: its unanswered sends. It keeps their order and bounds their number and bytes.

use super::ordered_stream::Lane;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Notify;

/// The bounds of a window: unanswered sends, and their bytes. While it is full, the session's next request waits.
const FLOW_SENDS: usize = 64;
const FLOW_BYTES: usize = 256 << 10;

/// A session's in-flight window.
#[derive(Default)]
pub struct Flow {
    state: Mutex<FlowState>,
    changed: Notify,
    keys: AtomicU64,
}

#[derive(Default)]
struct FlowState {
    lane: Option<Arc<Lane>>,
    sends: usize,
    bytes: usize,
}

impl Flow {
    /// A number that no other send of this session has, for its idempotency key.
    pub(crate) fn next_key(&self) -> u64 {
        self.keys.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Counts a send in. Returns the ordered stream that takes it: the one with the session's other unanswered sends,
    /// or else a newly chosen one.
    pub(super) fn enter(
        &self,
        bytes: usize,
        choose: impl FnOnce() -> Option<Arc<Lane>>,
    ) -> Option<Arc<Lane>> {
        let mut state = self.state.lock();
        if state.sends == 0 {
            state.lane = choose();
        }
        state.sends += 1;
        state.bytes += bytes;
        state.lane.clone()
    }

    /// Counts an answered send out.
    pub(super) fn exit(&self, bytes: usize) {
        let mut state = self.state.lock();
        state.sends -= 1;
        state.bytes -= bytes;
        if state.sends == 0 {
            state.lane = None;
        }
        self.changed.notify_one();
    }

    /// Returns when all sends are answered. So the next command takes effect after them.
    pub async fn settled(&self) {
        self.wait_until(|state| state.sends == 0).await;
    }

    /// Returns when there is room for another send. So a slow chat pushes back on the client.
    pub async fn room(&self) {
        self.wait_until(|state| state.sends < FLOW_SENDS && state.bytes < FLOW_BYTES)
            .await;
    }

    async fn wait_until(&self, holds: impl Fn(&FlowState) -> bool) {
        while !holds(&self.state.lock()) {
            self.changed.notified().await;
        }
    }
}
