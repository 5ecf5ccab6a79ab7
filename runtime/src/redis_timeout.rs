//! The flag `--redis-timeout`, which is the same for all services that use Redis.

use std::time::Duration;

/// The default.
pub const DEFAULT: Duration = Duration::from_secs(1);

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
