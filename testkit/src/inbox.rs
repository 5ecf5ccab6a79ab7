//! A record of what a client has received, with a way to wait for something in it.

use crate::pace;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// A record that one task writes and a test reads.
pub struct Inbox<T> {
    record: Mutex<T>,
    changed: watch::Sender<()>,
}

impl<T: Default> Default for Inbox<T> {
    fn default() -> Self {
        Self {
            record: Mutex::default(),
            changed: watch::Sender::new(()),
        }
    }
}

impl<T> Inbox<T> {
    /// The present record.
    pub fn read(&self) -> MutexGuard<'_, T> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the record and wakes all waiting tasks.
    pub fn write(&self, change: impl FnOnce(&mut T)) {
        change(&mut self.read());
        self.changed.send_replace(());
    }

    /// Waits until the function finds an answer in the record; `None` if it finds none in time.
    ///
    /// # Panics
    /// Never: the sender lives as long as `self`.
    pub async fn until<A>(
        &self,
        within: Duration,
        mut ask: impl FnMut(&T) -> Option<A>,
    ) -> Option<A> {
        let mut changed = self.changed.subscribe();
        let found = async {
            loop {
                changed.mark_unchanged();
                if let Some(answer) = ask(&self.read()) {
                    return answer;
                }
                changed.changed().await.expect("the sender is alive");
            }
        };
        pace::timeout(within, found).await.ok()
    }
}
