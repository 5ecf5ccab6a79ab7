//! Whether a process should get traffic. That depends on a few named conditions.

use parking_lot::Mutex;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// The conditions that must hold before a service can work, such as "redis". Clones share them.
#[derive(Clone, Default)]
pub struct Readiness {
    conditions: Arc<Mutex<Vec<Condition>>>,
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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reported {
    /// Its name.
    pub name: &'static str,
    /// Whether it holds.
    pub holds: bool,
    /// What is wrong, in one line, if that is known: why it does not hold, or what is wrong although it does.
    pub words: Option<String>,
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
        let log = log_changes(name, state.clone(), Arc::clone(&words));
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

    /// Whether the process should get traffic, and a line for each condition. A draining process should get none.
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

async fn log_changes(name: &'static str, mut state: watch::Receiver<bool>, words: Words) {
    // At the start nothing is ready. That is worth a line only if it lasts.
    let first = tokio::time::timeout(Duration::from_secs(1), state.wait_for(|&up| up)).await;
    drop(first);
    loop {
        let up = *state.borrow_and_update();
        if up {
            tracing::info!("{name}: ready");
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
        let (ready, line) = readiness.describe(false);
        assert!(ready);
        assert_eq!(line, "chat: ok\n");
        *words.lock() = Some("one of two is away".to_owned());
        assert_eq!(
            readiness.describe(false),
            (true, "chat: ok, but one of two is away\n".to_owned())
        );
        chat.send_replace(false);
        assert_eq!(
            readiness.describe(false),
            (false, "chat: not ready: one of two is away\n".to_owned())
        );
    }
}
