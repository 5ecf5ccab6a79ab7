//! Times of the contracts from and to the milliseconds that chat and connectors count in.

use prost_types::Timestamp;

const PER_SECOND: u64 = 1_000;
const NANOS: u64 = 1_000_000;

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
}
