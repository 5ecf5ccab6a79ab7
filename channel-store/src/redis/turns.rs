//! Who reads next: a bound on the reads of this process that are under way, and a fair share of it for everybody.
//!
//! Each read has a bound in bytes, so a bound on their number is one on what is held of them, here and in the servers'
//! output buffers. All wait in one line, but of each key (a channel, as a rule) at most [`EACH`] reads are in that line or
//! under way, and the others wait behind these: so who asks for much waits for itself, and delays others by two reads.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::{Arc, Weak};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Reads under way at once.
const ALL: usize = 8;
/// Reads for one key that may be in line for those or among them.
const EACH: usize = 2;

/// Turns at reading.
pub(super) struct Turns {
    all: Arc<Semaphore>,
    keys: Mutex<Keys>,
}

#[derive(Default)]
struct Keys {
    /// Those that somebody reads or waits for, and others that are no longer in use.
    lines: HashMap<String, Weak<Semaphore>>,
    /// How many there may be before those that are not in use are thrown away.
    room: usize,
}

/// A turn at reading, until it is dropped.
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
    /// Waits for a turn; who no longer waits gives up its place. Bounded by the caller's own time.
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

/// A permit of a semaphore that is never closed.
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
    async fn who_asks_for_much_waits_for_itself() {
        let turns = Turns::default();
        let many: Vec<_> = (0..40).map(|_| turns.take("busy")).collect();
        let mut many: Vec<_> = many.into_iter().map(Box::pin).collect();
        let begun = many.iter_mut().filter_map(|it| it.now_or_never());
        let begun: Vec<_> = begun.collect();
        assert_eq!(begun.len(), EACH);
        let other = turns.take("quiet").now_or_never();
        assert!(other.is_some(), "another one's turn comes at once");
    }

    #[tokio::test]
    async fn no_more_are_under_way_than_there_may_be_and_who_gives_up_leaves_its_place() {
        let turns = Turns::default();
        let take = |n: usize| {
            turns
                .take(["a", "b", "c", "d", "e", "f", "g", "h", "i"][n])
                .now_or_never()
        };
        let mut taken: Vec<_> = (0..ALL).map(|n| take(n).expect("there is room")).collect();
        assert!(take(8).is_none(), "given up at once");
        taken.pop();
        assert!(take(8).is_some());
    }

    #[tokio::test]
    async fn keys_that_nobody_reads_any_more_are_forgotten() {
        let turns = Turns::default();
        for n in 0..10_000 {
            drop(turns.take(&n.to_string()).await);
        }
        assert!(turns.keys.lock().lines.len() <= 64);
    }
}
