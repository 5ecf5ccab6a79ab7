//! `--redis-timeout`, the same for all services that use Redis.

use std::time::Duration;

/// What holds if the operator says nothing.
pub const DEFAULT: Duration = Duration::from_secs(1);

/// Compares what the operator has set with the lease: a renewal without an answer has to be repeated in time.
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
