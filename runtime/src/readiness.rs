//! Whether a process should get traffic: a few named conditions, each followed from its source.

use parking_lot::Mutex;
use std::fmt;
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
    why_not: WhyNot,
    _log: AbortOnDropHandle<()>,
}

/// Says why a condition does not hold, if that is known.
type WhyNot = Arc<dyn Fn() -> Option<String> + Send + Sync>;

/// A condition as it is now. Its `Display` is the line that `/readyz` shows, such as `chat: ok`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reported {
    /// Its name.
    pub name: &'static str,
    /// Whether it holds.
    pub holds: bool,
    /// Why it does not, in one line, if that is known.
    pub why_not: Option<String>,
}

impl fmt::Display for Reported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name;
        match &self.why_not {
            _ if self.holds => write!(f, "{name}: ok"),
            Some(why_not) => write!(f, "{name}: not ready: {why_not}"),
            None => write!(f, "{name}: not ready"),
        }
    }
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
        self.follow_with(name, state, Arc::new(|| None));
    }

    /// As [`Readiness::follow`]; `why_not` says in one line why it does not hold, whenever `/readyz` or the log has to.
    pub fn follow_because(
        &self,
        name: &'static str,
        state: watch::Receiver<bool>,
        why_not: impl Fn() -> String + Send + Sync + 'static,
    ) {
        self.follow_with(name, state, Arc::new(move || Some(why_not())));
    }

    fn follow_with(&self, name: &'static str, state: watch::Receiver<bool>, why_not: WhyNot) {
        let log = log_changes(name, state.clone(), Arc::clone(&why_not));
        self.conditions.lock().push(Condition {
            name,
            state,
            why_not,
            _log: AbortOnDropHandle::new(tokio::spawn(log)),
        });
    }

    /// True while every condition holds.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.conditions.lock().iter().all(Condition::holds)
    }

    /// Whether the process should get traffic, and a line for each condition. A process that drains should not.
    #[must_use]
    pub fn describe(&self, draining: bool) -> (bool, String) {
        let report = self.report();
        let is_ready = !draining && report.iter().all(|condition| condition.holds);
        let mut text = String::new();
        if draining {
            text.push_str("draining\n");
        }
        for condition in report {
            text.push_str(&condition.to_string());
            text.push('\n');
        }
        (is_ready, text)
    }

    /// Each condition as it is now, in the order in which they were named.
    #[must_use]
    pub fn report(&self) -> Vec<Reported> {
        let conditions = self.conditions.lock();
        let asked: Vec<_> = conditions
            .iter()
            .map(|it| (it.name, it.holds(), Arc::clone(&it.why_not)))
            .collect();
        drop(conditions);
        let reported = asked.into_iter().map(|(name, holds, why_not)| Reported {
            name,
            holds,
            why_not: if holds { None } else { why_not() },
        });
        reported.collect()
    }
}

async fn log_changes(name: &'static str, mut state: watch::Receiver<bool>, why_not: WhyNot) {
    // Everything starts unreachable: that is worth a line only when it lasts.
    let first = tokio::time::timeout(Duration::from_secs(1), state.wait_for(|&up| up)).await;
    drop(first);
    loop {
        let up = *state.borrow_and_update();
        if up {
            tracing::info!("{name}: reachable");
        } else {
            tracing::warn!(reason = why_not(), "{name}: unreachable");
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
        let lines: Vec<_> = readiness.report().iter().map(ToString::to_string).collect();
        assert_eq!(lines, ["redis: not ready", "chat: ok"]);

        redis.send_replace(true);
        assert!(readiness.is_ready());

        drop(chat);
        assert!(!readiness.is_ready(), "nobody vouches for chat any more");
    }
}
