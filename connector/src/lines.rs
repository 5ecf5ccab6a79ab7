//! Log lines that clients can cause as often as they like: so many a second are written, the rest is counted.

use parking_lot::Mutex;
use std::time::Duration;
use tokio::time::Instant;

const WINDOW: Duration = Duration::from_secs(1);

/// Bounds the lines of one kind.
#[derive(Debug)]
pub(crate) struct Lines {
    /// In each window.
    limit: u32,
    window: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    begun: Option<Instant>,
    written: u32,
    suppressed: u64,
}

impl Lines {
    /// At most `limit` lines a second.
    pub(crate) fn new(limit: u32) -> Self {
        Self {
            limit,
            window: WINDOW,
            state: Mutex::default(),
        }
    }

    /// The same in so much time, not in a second.
    pub(crate) fn over(self, window: Duration) -> Self {
        Self { window, ..self }
    }

    /// `Some` if a line may be written now: how many were not since the last one.
    pub(crate) fn next(&self) -> Option<u64> {
        let mut state = self.state.lock();
        let now = Instant::now();
        let is_over = |begun| now.duration_since(begun) >= self.window;
        if state.begun.is_none_or(is_over) {
            state.begun = Some(now);
            state.written = 0;
        }
        if state.written == self.limit {
            state.suppressed += 1;
            return None;
        }
        state.written += 1;
        Some(std::mem::take(&mut state.suppressed))
    }

    /// How many lines were not written since the last one. They count as told from now on.
    pub(crate) fn suppressed(&self) -> u64 {
        std::mem::take(&mut self.state.lock().suppressed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    #[tokio::test(start_paused = true)]
    async fn so_many_lines_a_second_are_written_and_the_rest_is_counted() {
        let lines = Lines::new(2);
        assert_eq!([lines.next(), lines.next()], [Some(0), Some(0)]);
        assert_eq!([lines.next(), lines.next()], [None, None]);
        advance(WINDOW).await;
        assert_eq!([lines.next(), lines.next()], [Some(2), Some(0)]);
        assert_eq!(lines.next(), None);
        assert_eq!([lines.suppressed(), lines.suppressed()], [1, 0]);
    }
}
