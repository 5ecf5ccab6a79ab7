//! What one session has under way: the order of its commands, and how much of them there may be.

use super::ordered_stream::Lane;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Notify;

/// Unanswered sends and bytes of one session; beyond it its socket is not read.
const FLOW_SENDS: usize = 64;
const FLOW_BYTES: usize = 256 << 10;

/// What one session has under way.
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

    /// Counts a send in, and says which lane takes it: the one that has the session's other sends, else a new choice.
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

    /// Counts a settled send out.
    pub(super) fn exit(&self, bytes: usize) {
        let mut state = self.state.lock();
        state.sends -= 1;
        state.bytes -= bytes;
        if state.sends == 0 {
            state.lane = None;
        }
        self.changed.notify_one();
    }

    /// Returns when everything is answered: the next command takes effect after all sends before it.
    pub async fn settled(&self) {
        self.wait_until(|state| state.sends == 0).await;
    }

    /// Returns when there is room for another send: so a slow chat pushes back on the socket.
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
