//! Limits how many reads of logs and lists this process has under way, and shares them out fairly.
//!
//! Each read is bounded in bytes. So a limit on their number also limits the memory that their answers take, here and in
//! the servers' output buffers. All reads wait in one line, but for each key (usually a channel) at most [`EACH`] reads
//! are in that line or under way; the other reads for that key wait behind them. So a channel that is read very often
//! delays the others by two reads only.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::{Arc, Weak};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Reads that are under way at once.
const ALL: usize = 8;
/// Reads for one key that may be under way or in the line for that.
const EACH: usize = 2;

/// Gives out turns at reading.
pub(super) struct Turns {
    all: Arc<Semaphore>,
    keys: Mutex<Keys>,
}

#[derive(Default)]
struct Keys {
    /// The line of each key. Some of them are no longer in use.
    lines: HashMap<String, Weak<Semaphore>>,
    /// When there are this many lines, those that are no longer in use are removed.
    room: usize,
}

/// A turn at reading. Dropping it lets the next read begin.
pub(super) struct Turn {
    _of_all: OwnedSemaphorePermit,
    _of_key: OwnedSemaphorePermit,
}

impl Default for Turns {
    fn default() -> Self {
        Self {
            all: Arc::new(Semaphore::new(ALL)),
            keys: Mutex::default(),
        }
    }
}

impl Turns {
    /// Waits for a turn. It has no time-out of its own: the caller sets one, and gives up its place by dropping the future.
    pub(super) async fn take(&self, key: &str) -> Turn {
        let of_key = pass(self.line(key)).await;
        let of_all = pass(self.all.clone()).await;
        Turn {
            _of_all: of_all,
            _of_key: of_key,
        }
    }

    fn line(&self, key: &str) -> Arc<Semaphore> {
        let mut keys = self.keys.lock();
        if let Some(line) = keys.lines.get(key).and_then(Weak::upgrade) {
            return line;
        }
        if keys.lines.len() >= keys.room {
            keys.lines.retain(|_, line| line.strong_count() > 0);
            keys.room = (2 * keys.lines.len()).max(64);
        }
        let line = Arc::new(Semaphore::new(EACH));
        keys.lines.insert(key.to_owned(), Arc::downgrade(&line));
        line
    }
}

/// Takes a permit. The semaphores here are never closed, so an error can't happen.
async fn pass(line: Arc<Semaphore>) -> OwnedSemaphorePermit {
    match line.acquire_owned().await {
        Ok(permit) => permit,
        Err(_) => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[tokio::test]
    async fn many_reads_of_one_key_do_not_delay_another_key() {
        let turns = Turns::default();
        let many: Vec<_> = (0..40).map(|_| turns.take("busy")).collect();
        let mut many: Vec<_> = many.into_iter().map(Box::pin).collect();
        let begun = many.iter_mut().filter_map(|it| it.now_or_never());
        let begun: Vec<_> = begun.collect();
        assert_eq!(begun.len(), EACH);
        let other = turns.take("quiet").now_or_never();
        assert!(other.is_some(), "a read of another key begins at once");
    }

    #[tokio::test]
    async fn the_number_of_reads_is_limited_and_a_dropped_read_frees_its_place() {
        let turns = Turns::default();
        let take = |n: usize| {
            turns
                .take(["a", "b", "c", "d", "e", "f", "g", "h", "i"][n])
                .now_or_never()
        };
        let mut taken: Vec<_> = (0..ALL).map(|n| take(n).expect("there is room")).collect();
        assert!(take(8).is_none(), "it is refused at once");
        taken.pop();
        assert!(take(8).is_some());
    }

    #[tokio::test]
    async fn queues_of_keys_that_are_not_read_any_more_are_removed() {
        let turns = Turns::default();
        for n in 0..10_000 {
            drop(turns.take(&n.to_string()).await);
        }
        assert!(turns.keys.lock().lines.len() <= 64);
    }
}
