//! The flag `--redis-timeout`, which is the same for all services that use Redis.

use crate::cli::duration;
use std::time::Duration;

/// The default.
pub const DEFAULT: Duration = Duration::from_secs(1);

/// Reads the flag. The shortest time leaves room for a pause of the server. The longest is a third of the longest lease.
///
/// # Errors
/// What was expected.
pub fn parse(text: &str) -> Result<Duration, String> {
    let allowed = Duration::from_millis(200)..=Duration::from_secs(10);
    let time = duration(text).ok().filter(|time| allowed.contains(time));
    time.ok_or_else(|| "expected 200ms to 10s".to_owned())
}

/// Checks the time-out against the lease. A renewal that is not answered has to be repeated before the lease is over.
///
/// # Errors
/// One line that names the flag.
pub fn check(set: Option<Duration>, lease: Duration) -> Result<(), String> {
    match set.filter(|time| *time * 3 > lease) {
        Some(time) => Err(format!(
            "--redis-timeout: {time:?} is more than a third of --lease, {lease:?}"
        )),
        None => Ok(()),
    }
}
