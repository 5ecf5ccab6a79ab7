//! The pace at which a session may join channels.
//!
//! A session is in a bounded number of channels at once, but it could join and leave one new channel after another.
//! Each of them costs the store some kilobytes for the two minutes for which an empty channel is kept. So a session may
//! join a burst of channels, and then one more in each interval. This is a generic cell rate algorithm: its only state
//! is one time.

use std::time::Duration;
use tokio::time::Instant;

/// The number of joins in a burst.
const BURST: u32 = 1_000;
/// The time after which one more join is allowed. In two minutes these are as many as in a burst.
const INTERVAL: Duration = Duration::from_millis(120);

/// The pace of one session's joins.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// When a whole burst is allowed again. `None`: it is allowed now.
    whole_at: Option<Instant>,
}

impl Pace {
    /// Takes one join.
    ///
    /// # Errors
    /// The time to wait before the next attempt.
    pub(super) fn take(&mut self, now: Instant) -> Result<(), Duration> {
        let whole_at = self.whole_at.map_or(now, |it| it.max(now));
        let waits = (whole_at + INTERVAL).saturating_duration_since(now + BURST * INTERVAL);
        if waits.is_zero() {
            self.whole_at = Some(whole_at + INTERVAL);
            Ok(())
        } else {
            Err(waits)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_allowed_at_once_and_then_one_in_each_interval() {
        let mut pace = Pace::default();
        let now = Instant::now();
        for _ in 0..BURST {
            assert_eq!(pace.take(now), Ok(()));
        }
        assert_eq!(pace.take(now), Err(INTERVAL));
        let later = now + INTERVAL / 3;
        assert_eq!(pace.take(later), Err(INTERVAL - INTERVAL / 3));
        let later = now + 2 * INTERVAL;
        assert_eq!(pace.take(later), Ok(()));
        assert_eq!(pace.take(later), Ok(()));
        assert_eq!(pace.take(later), Err(INTERVAL));
        let rested = later + 2 * BURST * INTERVAL;
        for _ in 0..BURST {
            assert_eq!(pace.take(rested), Ok(()));
        }
        assert_eq!(pace.take(rested), Err(INTERVAL));
    }
}
