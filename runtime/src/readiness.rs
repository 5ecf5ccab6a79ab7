//! Whether a process should get traffic. That depends on a few named conditions.

use crate::lifecycle::Shutdown;
use metrics::{describe_gauge, gauge};
use parking_lot::Mutex;
use serde::Serialize;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// Whether a condition holds, for alerts.
const CONDITION: &str = "ready_condition";

/// The conditions that must hold before a service can work, such as "redis". Clones share them.
#[derive(Clone, Default)]
pub struct Readiness {
    conditions: Arc<Mutex<Vec<Condition>>>,
    shutdown: Shutdown,
}

struct Condition {
    name: &'static str,
    state: watch::Receiver<bool>,
    words: Words,
    _log: AbortOnDropHandle<()>,
}

/// Says what is wrong, if that is known.
type Words = Arc<dyn Fn() -> Option<String> + Send + Sync>;

/// A condition as it is now. Its `Display` is the line that `/readyz` shows, such as `chat: ok`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reported {
    /// Its name.
    pub name: &'static str,
    /// Whether it holds.
    #[serde(rename = "ready")]
    pub holds: bool,
    /// What is wrong, in one line, if that is known: why it does not hold, or what is wrong although it does.
    #[serde(rename = "reason")]
    pub words: Option<String>,
}

/// Whether the process should get traffic, and why not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether it should get traffic: it does not stop, and every condition holds.
    pub ready: bool,
    /// The process stops.
    pub draining: bool,
    /// Each condition, in the order in which they were named.
    pub conditions: Vec<Reported>,
}

/// A line for each condition.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.draining {
            writeln!(f, "draining")?;
        }
        let mut conditions = self.conditions.iter();
        conditions.try_for_each(|condition| writeln!(f, "{condition}"))
    }
}

impl fmt::Display for Reported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name;
        match &self.words {
            None if self.holds => write!(f, "{name}: ok"),
            Some(words) if self.holds => write!(f, "{name}: ok, but {words}"),
            Some(words) => write!(f, "{name}: not ready: {words}"),
            None => write!(f, "{name}: not ready"),
        }
    }
}

impl Condition {
    /// A condition whose source is gone does not hold, because nobody would tell of a change.
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

    /// The same for a process that ends with this shutdown. Conditions that end after the request are no surprise, and no reason
    /// to warn.
    #[must_use]
    pub fn until(shutdown: &Shutdown) -> Self {
        Self {
            shutdown: shutdown.clone(),
            ..Self::default()
        }
    }

    /// Requires that `state` is true, and logs its changes.
    pub fn follow(&self, name: &'static str, state: watch::Receiver<bool>) {
        self.follow_with(name, state, Arc::new(|| None));
    }

    /// Like [`Readiness::follow`]. `why_not` says in one line why the condition does not hold.
    pub fn follow_because(
        &self,
        name: &'static str,
        state: watch::Receiver<bool>,
        why_not: impl Fn() -> String + Send + Sync + 'static,
    ) {
        let holds = state.clone();
        let words = move || (!*holds.borrow()).then(&why_not);
        self.follow_with(name, state, Arc::new(words));
    }

    /// Like [`Readiness::follow`]. `words` says in one line what is wrong, if anything is: why the condition does not
    /// hold, or what else an operator should know although it does.
    pub fn follow_telling(
        &self,
        name: &'static str,
        state: watch::Receiver<bool>,
        words: impl Fn() -> Option<String> + Send + Sync + 'static,
    ) {
        self.follow_with(name, state, Arc::new(words));
    }

    fn follow_with(&self, name: &'static str, state: watch::Receiver<bool>, words: Words) {
        let log = log_changes(
            name,
            state.clone(),
            Arc::clone(&words),
            self.shutdown.clone(),
        );
        self.conditions.lock().push(Condition {
            name,
            state,
            words,
            _log: AbortOnDropHandle::new(tokio::spawn(log)),
        });
    }

    /// True while every condition holds.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.conditions.lock().iter().all(Condition::holds)
    }

    /// Whether the process should get traffic, and each condition. A draining process should get none.
    #[must_use]
    pub fn describe(&self, draining: bool) -> Report {
        let conditions = self.report();
        Report {
            ready: !draining && conditions.iter().all(|condition| condition.holds),
            draining,
            conditions,
        }
    }

    /// Each condition as it is now, in the order in which they were named.
    #[must_use]
    pub fn report(&self) -> Vec<Reported> {
        let conditions = self.conditions.lock();
        let asked: Vec<_> = conditions
            .iter()
            .map(|it| (it.name, it.holds(), Arc::clone(&it.words)))
            .collect();
        drop(conditions);
        let reported = asked.into_iter().map(|(name, holds, words)| Reported {
            name,
            holds,
            words: words(),
        });
        reported.collect()
    }
}

async fn log_changes(
    name: &'static str,
    mut state: watch::Receiver<bool>,
    words: Words,
    shutdown: Shutdown,
) {
    describe_gauge!(
        CONDITION,
        "1 while a condition holds without which the process should get no traffic, and otherwise 0"
    );
    gauge!(CONDITION, "condition" => name).set(f64::from(u8::from(*state.borrow())));
    // At the start nothing is ready. That is worth a line only if it lasts.
    let first = tokio::time::timeout(Duration::from_secs(1), state.wait_for(|&up| up)).await;
    drop(first);
    loop {
        let up = *state.borrow_and_update();
        gauge!(CONDITION, "condition" => name).set(f64::from(u8::from(up)));
        if up {
            tracing::info!("{name}: ready");
        } else if shutdown.is_requested() {
            // A service that stops gives back its lease and closes its connections: the stop was logged already.
            tracing::info!(reason = words(), "{name}: not ready any more");
        } else {
            tracing::warn!(reason = words(), "{name}: not ready");
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
    async fn a_process_is_ready_if_every_condition_is_met() {
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
        assert!(
            !readiness.is_ready(),
            "nothing would report a change any more"
        );
    }

    #[tokio::test]
    async fn a_condition_that_is_met_may_have_a_message() {
        let readiness = Readiness::new();
        let (chat, state) = watch::channel(true);
        let words = Arc::new(Mutex::new(None));
        let told = Arc::clone(&words);
        readiness.follow_telling("chat", state, move || told.lock().clone());
        let described = || {
            let report = readiness.describe(false);
            (report.ready, report.to_string())
        };
        assert_eq!(described(), (true, "chat: ok\n".to_owned()));
        *words.lock() = Some("one of two is away".to_owned());
        assert_eq!(
            described(),
            (true, "chat: ok, but one of two is away\n".to_owned())
        );
        chat.send_replace(false);
        assert_eq!(
            described(),
            (false, "chat: not ready: one of two is away\n".to_owned())
        );
    }

    #[tokio::test]
    async fn a_report_is_json_for_machines() {
        let readiness = Readiness::new();
        let (_chat, state) = watch::channel(false);
        readiness.follow_because("chat", state, || "it is \"away\"".to_owned());
        let (_redis, state) = watch::channel(true);
        readiness.follow("redis", state);
        let json = serde_json::to_value(readiness.describe(true)).unwrap();
        let expected = serde_json::json!({
            "ready": false,
            "draining": true,
            "conditions": [
                {"name": "chat", "ready": false, "reason": "it is \"away\""},
                {"name": "redis", "ready": true, "reason": null},
            ],
        });
        assert_eq!(json, expected);
    }
}
