//! How old connections may become.
//!
//! Callers keep their connections, so chats that are added behind one address would get no calls. A connection that has become too
//! old is **retired**: its caller is told to open another one (GOAWAY), streams that could last for ever end, and calls that are
//! under way are finished. What is left after the grace is closed.

use runtime::cli::duration;
use std::ops::RangeInclusive;
use std::time::Duration;
use tokio::time::Instant;

/// The range of the age. A connection needs some time to be worth the handshake.
const RANGE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(24 * 3600);
/// The share of the age by which connections differ, so that those that began together do not end together.
const SPREAD: f64 = 0.1;

/// How old connections may become.
#[derive(Debug, Clone, clap::Args)]
pub struct AgeSettings {
    /// How old a connection may become until its caller is asked to open another one: 1s to 24h, and for each connection up to a tenth
    /// more or less. Set it if chats that are added behind one address are to get a share of the calls
    ///
    /// Without it: any age.
    #[arg(long, value_parser = age, value_name = "TIME")]
    pub max_connection_age: Option<Duration>,

    /// How long the calls of a connection that has become too old may go on before it is closed
    #[arg(long, default_value = "30s", value_parser = duration, value_name = "TIME")]
    pub max_connection_age_grace: Duration,
}

impl AgeSettings {
    /// The ids of these settings, for the headings of `--help`.
    pub(crate) const IDS: [&'static str; 2] = ["max_connection_age", "max_connection_age_grace"];

    /// What holds for all connections. `None`: they may have any age.
    #[must_use]
    pub fn age(&self) -> Option<Age> {
        let most = self.max_connection_age?;
        Some(Age {
            most,
            grace: self.max_connection_age_grace,
        })
    }
}

fn age(text: &str) -> Result<Duration, String> {
    let age = duration(text)?;
    if RANGE.contains(&age) {
        Ok(age)
    } else {
        Err("expected 1s to 24h; leave it out if connections may have any age".to_owned())
    }
}

/// How old connections may become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Age {
    /// When a connection is retired, on average.
    pub most: Duration,
    /// How long its calls may go on after that.
    pub grace: Duration,
}

impl Age {
    /// The times of a connection that begins now.
    pub(super) fn begin(self) -> Retirement {
        let spread = 1.0 - SPREAD + 2.0 * SPREAD * fastrand::f64();
        let at = Instant::now() + self.most.mul_f64(spread);
        Retirement {
            at,
            end: at + self.grace,
        }
    }
}

/// When one connection is retired, and when it is closed in any case.
#[derive(Debug, Clone, Copy)]
pub(super) struct Retirement {
    pub(super) at: Instant,
    pub(super) end: Instant,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn connections_that_begin_together_are_retired_at_different_times_around_the_age() {
        let minute = Duration::from_secs(60);
        let age = Age {
            most: minute,
            grace: minute / 2,
        };
        let now = Instant::now();
        let all: Vec<_> = (0..1_000).map(|_| age.begin()).collect();
        let after = all.iter().map(|it| it.at - now);
        let (first, last) = (after.clone().min().unwrap(), after.max().unwrap());
        assert!(first >= Duration::from_secs(54) && last <= Duration::from_secs(66));
        assert!(last - first > Duration::from_secs(10), "{first:?} {last:?}");
        assert!(all.iter().all(|it| it.end - it.at == minute / 2));
    }

    #[test]
    fn an_age_that_makes_no_sense_is_refused() {
        for (text, expected) in [
            ("1s", true),
            ("24h", true),
            ("0s", false),
            ("500ms", false),
            ("25h", false),
        ] {
            assert_eq!(age(text).is_ok(), expected, "{text}");
        }
    }
}
