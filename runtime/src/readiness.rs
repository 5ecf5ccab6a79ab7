//! Whether a process should get traffic: a few named conditions, each followed from its source.

use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// What a service needs before it can work, such as "redis". Clones share the conditions.
#[derive(Clone, Default)]
pub struct Readiness {
    conditions: Arc<Mutex<Vec<Condition>>>,
}

struct Condition {
    name: &'static str,
    state: watch::Receiver<bool>,
    _log: AbortOnDropHandle<()>,
}

impl Condition {
    /// A source that is gone can't be relied on.
    fn holds(&self) -> bool {
        self.state.has_changed().is_ok() && *self.state.borrow()
    }
}

impl Readiness {
    /// Nothing is required yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Requires that `state` is true, and logs its changes.
    pub fn follow(&self, name: &'static str, state: watch::Receiver<bool>) {
        let log = AbortOnDropHandle::new(tokio::spawn(log_changes(name, state.clone())));
        self.conditions.lock().push(Condition {
            name,
            state,
            _log: log,
        });
    }

    /// True while every condition holds.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.conditions.lock().iter().all(Condition::holds)
    }

    /// Each condition, and whether it holds, in the order in which they were named.
    #[must_use]
    pub fn report(&self) -> Vec<(&'static str, bool)> {
        self.conditions
            .lock()
            .iter()
            .map(|condition| (condition.name, condition.holds()))
            .collect()
    }
}

async fn log_changes(name: &'static str, mut state: watch::Receiver<bool>) {
    // Everything starts unreachable: that is worth a line only when it lasts.
    let first = tokio::time::timeout(Duration::from_secs(1), state.wait_for(|&up| up)).await;
    drop(first);
    loop {
        let up = *state.borrow_and_update();
        if up {
            tracing::info!("{name}: reachable");
        } else {
            tracing::warn!("{name}: unreachable");
        }
        if state.wait_for(|&now| now != up).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_is_ready_when_every_condition_holds() {
        let readiness = Readiness::new();
        let (redis, state) = watch::channel(false);
        readiness.follow("redis", state);
        let (chat, state) = watch::channel(true);
        readiness.follow("chat", state);
        assert!(!readiness.is_ready());
        assert_eq!(readiness.report(), [("redis", false), ("chat", true)]);

        redis.send_replace(true);
        assert!(readiness.is_ready());

        drop(chat);
        assert!(!readiness.is_ready(), "nobody vouches for chat any more");
    }
}
