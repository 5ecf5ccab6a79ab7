//! Pauses between tries.
//!
//! Every pause is random, around its mean. Otherwise many processes that lost the same server at the same moment would
//! all come back at the same moment, again and again.

use std::time::Duration;
use tokio::time::sleep;

/// A random time between half of the mean and one and a half of it.
#[must_use]
pub fn jittered(mean: Duration) -> Duration {
    mean.mul_f64(0.5 + fastrand::f64())
}

/// Waits for a [`jittered`] time.
pub async fn pause(mean: Duration) {
    sleep(jittered(mean)).await;
}

/// Pauses that become longer: each mean is twice the one before, up to the longest.
#[derive(Debug, Clone)]
pub struct Backoff {
    shortest: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    /// Begins with the shortest pause.
    #[must_use]
    pub const fn new(shortest: Duration, longest: Duration) -> Self {
        Self {
            shortest,
            longest,
            next: shortest,
        }
    }

    /// The next pause, for a caller that has more to wait for than the time.
    #[must_use]
    pub fn next_pause(&mut self) -> Duration {
        let mean = self.next;
        self.next = self.longest.min(mean * 2);
        jittered(mean)
    }

    /// Waits for the next pause. If this is cancelled, the pause counts as over.
    pub async fn wait(&mut self) {
        sleep(self.next_pause()).await;
    }

    /// To be called when something went well. The next pause is the shortest again.
    pub fn reset(&mut self) {
        self.next = self.shortest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Instant;

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_up_to_the_longest_and_start_again_after_a_reset() {
        let second = Duration::from_secs(1);
        let mut backoff = Backoff::new(second, 8 * second);
        for mean in [1, 2, 4, 8, 8].map(|times| times * second) {
            let begun = Instant::now();
            backoff.wait().await;
            // Tokio's timer counts in milliseconds, and rounds up.
            let most = mean.mul_f64(1.5) + Duration::from_millis(1);
            assert!((mean / 2..=most).contains(&begun.elapsed()));
        }
        backoff.reset();
        let begun = Instant::now();
        backoff.wait().await;
        assert!(
            begun.elapsed() < 2 * second,
            "the pause is short again after the reset"
        );
    }
}
