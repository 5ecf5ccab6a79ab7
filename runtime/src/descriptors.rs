//! File descriptors: how many this process may have open, and how many of them are for connections of clients.
//!
//! Each socket takes one. When none is left, a process can neither answer its probes nor reach Redis again. So the
//! limit is raised at the start, and services take fewer connections than it allows.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The limit to try if the hard limit is "unlimited": Linux's own `fs.nr_open`.
const MOST: u64 = 1 << 20;
/// At least this many are kept for the admin port, Redis, chat, and what the process itself has open.
const KEPT: usize = 64;

/// Raises the soft limit to the hard one, and returns how many descriptors this process may have open now.
///
/// A second call changes nothing. [`crate::lifecycle::run`] calls this at the start. If the system refuses, the limit
/// stays as it was.
pub fn raise() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(MOST);
    if limit.current.is_some_and(|current| current < most) {
        let raised = Rlimit {
            current: Some(most),
            ..limit
        };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::warn!(%error, "the limit of file descriptors could not be raised");
        }
    }
    limit_now()
}

/// How many descriptors this process may have open.
#[must_use]
pub fn limit_now() -> usize {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(MOST);
    usize::try_from(limit).unwrap_or(usize::MAX)
}

/// How many descriptors this process has open. 0 if the system does not tell.
#[must_use]
pub fn open_now() -> usize {
    const LIST: &str = "/proc/self/fd";
    // Linux tells their number as the size of the list, since 6.2. Counting a hundred thousand of them takes many milliseconds.
    let told = std::fs::metadata(LIST).map_or(0, |list| list.len());
    match usize::try_from(told) {
        Ok(told @ 1..) => told,
        // The list itself is open while it is read.
        _ => std::fs::read_dir(LIST).map_or(0, |list| list.count().saturating_sub(1)),
    }
}

/// How many of `limit` descriptors may be connections of clients: nine in ten, and at least 64 fewer than the limit,
/// but at least one.
#[must_use]
pub fn for_connections(limit: usize) -> usize {
    (limit - limit / 10).min(limit.saturating_sub(KEPT)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_is_raised_to_the_hard_one() {
        let hard = getrlimit(Resource::Nofile).maximum;
        let lower = hard.unwrap_or(MOST) - 1;
        let lowered = Rlimit {
            current: Some(lower),
            maximum: hard,
        };
        setrlimit(Resource::Nofile, lowered).unwrap();
        assert!(raise() as u64 > lower);
        assert_eq!(limit_now(), raise());
    }

    #[test]
    fn some_descriptors_are_reserved_for_other_uses() {
        assert_eq!(for_connections(1_024), 922);
        assert_eq!(for_connections(1_000_000), 900_000);
        assert_eq!(for_connections(256), 192);
        assert_eq!(for_connections(10), 1);
    }
}
