//! Whether this process traces, and the spans that have ended and wait to be exported.
//!
//! The queue is bounded in bytes. If nobody takes spans, or not fast enough, new ones are dropped and counted: a request never waits
//! for its trace.

use super::ended::Ended;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::sync::Notify;

/// The most bytes of spans that wait.
const LIMIT: usize = 4 << 20;
/// So many bytes that they should be exported now.
const ENOUGH: usize = LIMIT / 4;

static IS_ON: AtomicBool = AtomicBool::new(false);
/// Of all numbers of 64 bits, those below this one stand for the traces that are kept.
static KEPT: AtomicU64 = AtomicU64::new(0);
static QUEUE: Queue = Queue::new();

struct Queue {
    waiting: Mutex<Waiting>,
    /// Told when there is [`ENOUGH`].
    filled: Notify,
    dropped: AtomicU64,
}

struct Waiting {
    spans: VecDeque<Ended>,
    bytes: usize,
}

impl Queue {
    const fn new() -> Self {
        Self {
            waiting: Mutex::new(Waiting {
                spans: VecDeque::new(),
                bytes: 0,
            }),
            filled: Notify::const_new(),
            dropped: AtomicU64::new(0),
        }
    }

    fn put(&self, span: Ended) {
        let size = span.size();
        let mut waiting = self.waiting.lock();
        let bytes = waiting.bytes + size;
        if bytes > LIMIT {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let is_enough = waiting.bytes < ENOUGH && bytes >= ENOUGH;
        waiting.bytes = bytes;
        waiting.spans.push_back(span);
        drop(waiting);
        if is_enough {
            self.filled.notify_one();
        }
    }

    fn take(&self, most: usize) -> Vec<Ended> {
        let mut waiting = self.waiting.lock();
        let count = most.min(waiting.spans.len());
        let taken: Vec<_> = waiting.spans.drain(..count).collect();
        waiting.bytes -= taken.iter().map(Ended::size).sum::<usize>();
        taken
    }
}

/// From now on this process traces. Of the traces that begin here, this share is kept: 0 for none, 1 for all. Traces of callers are
/// kept if the callers keep them.
pub fn begin(ratio: f64) {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the cast stays within the range of the number, and a ratio outside 0 to 1 means the nearer of them"
    )]
    let kept = (ratio * 2_f64.powi(64)) as u64;
    KEPT.store(kept, Ordering::Relaxed);
    IS_ON.store(true, Ordering::Relaxed);
}

/// True if this process traces.
#[must_use]
pub fn is_on() -> bool {
    IS_ON.load(Ordering::Relaxed)
}

/// Decides whether a trace that begins here is kept.
pub(crate) fn keeps() -> bool {
    let kept = KEPT.load(Ordering::Relaxed);
    kept > 0 && (kept == u64::MAX || fastrand::u64(..) < kept)
}

/// Takes at most so many of the oldest spans that have ended.
#[must_use]
pub fn take(most: usize) -> Vec<Ended> {
    QUEUE.take(most)
}

/// Returns when so many spans wait that they should be taken now. Only one task may wait.
pub async fn filled() {
    QUEUE.filled.notified().await;
}

/// How many spans were dropped because too many were waiting, since the last call.
#[must_use]
pub fn dropped() -> u64 {
    QUEUE.dropped.swap(0, Ordering::Relaxed)
}

pub(crate) fn put(span: Ended) {
    QUEUE.put(span);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::TraceContext;
    use crate::ended::{Kind, Value};
    use std::time::Duration;

    fn span(bytes: usize) -> Ended {
        Ended {
            context: TraceContext::new(),
            parent: None,
            name: "test",
            kind: Kind::Internal,
            began: Duration::ZERO,
            took: Duration::ZERO,
            values: vec![("text", Value::Text("x".repeat(bytes)))],
            error: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_takes_is_bounded_in_bytes_and_counted_when_it_is_dropped() {
        let queue = Queue::new();
        let size = 64 << 10;
        for _ in 0..2 * LIMIT / size {
            queue.put(span(size));
        }
        let waiting = queue.waiting.lock().bytes;
        assert!(waiting <= LIMIT && waiting > LIMIT / 2, "{waiting}");
        let dropped = queue.dropped.load(Ordering::Relaxed);
        assert!(dropped >= (LIMIT / size) as u64, "{dropped}");
        // The exporter was woken, once.
        queue.filled.notified().await;

        assert_eq!(queue.take(10).len(), 10);
        queue.put(span(size));
        assert_eq!(queue.dropped.load(Ordering::Relaxed), dropped);
        while !queue.take(100).is_empty() {}
        assert_eq!(queue.waiting.lock().bytes, 0);
    }
}
