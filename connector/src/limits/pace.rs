//! How often somebody may do something: so many times in a second, and in a burst once in a while.
//!
//! This is the generic cell rate algorithm. Its only state is one time.

use std::time::Duration;
use tokio::time::Instant;

/// How often something is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rate {
    /// The time after which one more is allowed.
    interval: Duration,
    /// How many are allowed at once after a rest.
    burst: u32,
}

impl Rate {
    /// So many in a second, and `burst` after a rest. `None`: it is not limited.
    pub(crate) fn of(each_second: u32, burst: u32) -> Option<Self> {
        let interval = Duration::from_secs(1).checked_div(each_second)?;
        let burst = burst.max(1);
        Some(Self { interval, burst })
    }

    pub(crate) const fn every(interval: Duration, burst: u32) -> Self {
        Self { interval, burst }
    }
}

/// The pace of one session or address.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Pace {
    /// When a whole burst is allowed again. `None`: it is allowed now.
    whole_at: Option<Instant>,
}

impl Pace {
    /// Takes one, if it is allowed at this rate.
    ///
    /// # Errors
    /// The time to wait before the next attempt.
    pub(crate) fn take(&mut self, rate: &Rate, now: Instant) -> Result<(), Duration> {
        let whole_at = self.whole_at.map_or(now, |it| it.max(now)) + rate.interval;
        let waits = whole_at.saturating_duration_since(now + rate.burst * rate.interval);
        if waits.is_zero() {
            self.whole_at = Some(whole_at);
            Ok(())
        } else {
            Err(waits)
        }
    }

    /// True if it is as if nothing had been taken yet.
    pub(crate) fn has_rested(&self, now: Instant) -> bool {
        self.whole_at.is_none_or(|it| it <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_allowed_at_once_and_then_one_in_each_interval() {
        let interval = Duration::from_millis(120);
        let (rate, mut pace) = (Rate::every(interval, 1_000), Pace::default());
        let now = Instant::now();
        assert!(pace.has_rested(now));
        for _ in 0..1_000 {
            assert_eq!(pace.take(&rate, now), Ok(()));
        }
        assert!(!pace.has_rested(now));
        assert_eq!(pace.take(&rate, now), Err(interval));
        let later = now + interval / 3;
        assert_eq!(pace.take(&rate, later), Err(interval - interval / 3));
        let later = now + 2 * interval;
        assert_eq!(pace.take(&rate, later), Ok(()));
        assert_eq!(pace.take(&rate, later), Ok(()));
        assert_eq!(pace.take(&rate, later), Err(interval));
        let rested = later + 2 * 1_000 * interval;
        assert!(pace.has_rested(rested));
        for _ in 0..1_000 {
            assert_eq!(pace.take(&rate, rested), Ok(()));
        }
        assert_eq!(pace.take(&rate, rested), Err(interval));
    }

    #[test]
    fn nothing_in_a_second_means_no_limit() {
        assert_eq!(Rate::of(0, 5), None);
        assert_eq!(
            Rate::of(50, 500),
            Some(Rate::every(Duration::from_millis(20), 500))
        );
    }
}
