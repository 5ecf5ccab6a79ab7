//! How often somebody may do something: so many times in a second, and in a burst once in a while.
//!
//! This is the generic cell rate algorithm. Its only state is one time. What is counted may be calls or bytes.

use std::time::Duration;
use tokio::time::Instant;

/// How often something is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// The time after which one more is allowed.
    interval: Duration,
    /// How many are allowed at once after a rest.
    burst: u32,
}

impl Rate {
    /// So many in a second, and `burst` after a rest. `None`: it is not limited.
    #[must_use]
    pub fn of(each_second: u32, burst: u32) -> Option<Self> {
        let interval = Duration::from_secs(1).checked_div(each_second)?;
        let burst = burst.max(1);
        Some(Self { interval, burst })
    }

    /// One in each interval, and `burst` after a rest.
    #[must_use]
    pub const fn every(interval: Duration, burst: u32) -> Self {
        Self { interval, burst }
    }
}

/// The pace of one session, address or connection.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pace {
    /// When a whole burst is allowed again. `None`: it is allowed now.
    whole_at: Option<Instant>,
}

impl Pace {
    /// Takes one, if it is allowed at this rate.
    ///
    /// # Errors
    /// The time to wait before the next attempt.
    pub fn take(&mut self, rate: &Rate, now: Instant) -> Result<(), Duration> {
        self.take_many(rate, 1, now)
    }

    /// Takes so many at once, if they are allowed at this rate. More than a burst are allowed after a rest, because they never
    /// would be otherwise, and are made up for afterwards.
    ///
    /// # Errors
    /// The time to wait before the next attempt.
    pub fn take_many(&mut self, rate: &Rate, many: u32, now: Instant) -> Result<(), Duration> {
        let whole_at = self.whole_after(rate, many.min(rate.burst), now);
        let waits = whole_at.saturating_duration_since(now + rate.burst * rate.interval);
        if waits.is_zero() {
            self.charge(rate, many, now);
            Ok(())
        } else {
            Err(waits)
        }
    }

    /// Counts so many that were taken already, and whose number was not known before. Until they are made up for, nothing more is
    /// allowed. Returns true if a whole burst and more is to be made up for.
    pub fn charge(&mut self, rate: &Rate, many: u32, now: Instant) -> bool {
        let whole_at = self.whole_after(rate, many, now);
        self.whole_at = Some(whole_at);
        let burst = rate.burst * rate.interval;
        whole_at.saturating_duration_since(now + burst) > burst
    }

    fn whole_after(&self, rate: &Rate, many: u32, now: Instant) -> Instant {
        self.whole_at.map_or(now, |it| it.max(now)) + many * rate.interval
    }

    /// True if it is as if nothing had been taken yet.
    #[must_use]
    pub fn has_rested(&self, now: Instant) -> bool {
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
        assert!(pace.has_rested(now + 1_000 * interval));
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

    #[tokio::test(start_paused = true)]
    async fn many_are_taken_at_once_or_not_at_all() {
        let interval = Duration::from_nanos(100);
        let (rate, mut pace) = (Rate::every(interval, 1_000), Pace::default());
        let now = Instant::now();
        assert_eq!(pace.take_many(&rate, 600, now), Ok(()));
        assert_eq!(pace.take_many(&rate, 600, now), Err(200 * interval));
        assert_eq!(pace.take_many(&rate, 400, now), Ok(()));
        // More than a burst goes once, and the rate is kept all the same.
        let rested = now + 1_000 * interval;
        assert_eq!(pace.take_many(&rate, 5_000, rested), Ok(()));
        assert_eq!(pace.take(&rate, rested), Err(4_001 * interval));
        assert_eq!(pace.take(&rate, rested + 4_001 * interval), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_charged_is_made_up_for_before_more_is_allowed() {
        let interval = Duration::from_nanos(100);
        let (rate, mut pace) = (Rate::every(interval, 1_000), Pace::default());
        let now = Instant::now();
        assert!(pace.charge(&rate, 5_000, now));
        assert_eq!(pace.take(&rate, now), Err(4_001 * interval));
        assert_eq!(pace.take(&rate, now + 4_001 * interval), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn more_than_a_burst_beyond_what_is_allowed_is_noticed() {
        let (rate, mut pace) = (
            Rate::every(Duration::from_nanos(100), 1_000),
            Pace::default(),
        );
        let now = Instant::now();
        assert!(!pace.charge(&rate, 1_000, now));
        assert!(!pace.charge(&rate, 1_000, now));
        assert!(pace.charge(&rate, 1, now));
        assert!(!pace.charge(&rate, 1, now + Duration::from_nanos(200)));
    }

    #[test]
    fn a_burst_of_nothing_is_a_burst_of_one_and_not_no_limit() {
        assert_eq!(Rate::of(50, 0), Rate::of(50, 1));
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
