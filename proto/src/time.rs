//! Times and durations of the contracts, from and to those that chat and connectors count in.

use prost_types::Timestamp;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const PER_SECOND: u64 = 1_000;
const NANOS: u64 = 1_000_000;

/// The present time by the clock of this machine, in milliseconds since 1970.
#[must_use]
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |it| u64::try_from(it.as_millis()).unwrap_or(u64::MAX))
}

/// A time in milliseconds since 1970 as a `Timestamp`.
#[must_use]
pub fn timestamp(milliseconds: u64) -> Timestamp {
    let nanos = milliseconds % PER_SECOND * NANOS;
    Timestamp {
        seconds: i64::try_from(milliseconds / PER_SECOND).unwrap_or(i64::MAX),
        nanos: i32::try_from(nanos).unwrap_or_default(),
    }
}

/// A `Timestamp` in milliseconds since 1970, without what is finer. `None` if it is no valid time after 1970.
#[must_use]
pub fn milliseconds(timestamp: &Timestamp) -> Option<u64> {
    let seconds = u64::try_from(timestamp.seconds).ok()?;
    let nanos = u64::try_from(timestamp.nanos).ok()?;
    let valid = nanos < PER_SECOND * NANOS;
    seconds
        .checked_mul(PER_SECOND)?
        .checked_add(nanos / NANOS)
        .filter(|_| valid)
}

/// A `Duration` of a contract. `None` if it is negative or not valid.
#[must_use]
pub fn duration(duration: &prost_types::Duration) -> Option<Duration> {
    let seconds = u64::try_from(duration.seconds).ok()?;
    let nanos = u32::try_from(duration.nanos).ok()?;
    let valid = u64::from(nanos) < PER_SECOND * NANOS;
    valid.then(|| Duration::new(seconds, nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn milliseconds_survive_a_round_trip() {
        for time in [0, 1, 999, 1_000, 1_795_377_365_123, 253_402_300_799_999] {
            assert_eq!(milliseconds(&timestamp(time)), Some(time));
        }
    }

    #[test]
    fn a_time_before_1970_is_refused() {
        for (seconds, nanos) in [(-1, 0), (0, -1), (0, 1_000_000_000), (i64::MAX, 0)] {
            assert_eq!(milliseconds(&Timestamp { seconds, nanos }), None);
        }
    }
    #[test]
    fn a_duration_that_is_negative_or_not_valid_is_refused() {
        let read = |seconds, nanos| duration(&prost_types::Duration { seconds, nanos });
        assert_eq!(read(0, 0), Some(Duration::ZERO));
        assert_eq!(read(1, 999_999_999), Some(Duration::new(1, 999_999_999)));
        assert_eq!(
            read(i64::MAX, 0),
            Some(Duration::new(i64::MAX.unsigned_abs(), 0))
        );
        for (seconds, nanos) in [(-1, 0), (0, -1), (1, -1), (0, 1_000_000_000), (i64::MIN, 0)] {
            assert_eq!(read(seconds, nanos), None, "{seconds} {nanos}");
        }
    }
}
