//! Leaves that have not landed yet.
//!
//! A leave is never lost while the process lives: it is repeated until chat has done it, also when every chat is away
//! for a while (F2, F9). Their number is bounded by refusing logins, not by forgetting leaves.

use crate::chat::{CallError, Chat};
use crate::lease::Membership;
use parking_lot::Mutex;
use proto::v1::LeaveRequest;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::sleep;
use tokio_util::task::AbortOnDropHandle;

/// Leaves that may be outstanding before logins are refused.
const ROOM: usize = 100_000;
/// Leaves under way at once.
const AT_ONCE: usize = 64;
/// Pauses between tries.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// A leave, and whose it is: known as on its way out until it has landed.
struct Departure {
    leave: LeaveRequest,
    _membership: Arc<Membership>,
}

/// Lands leaves in the background.
pub(crate) struct Departures {
    line: Arc<Line>,
    _workers: Vec<AbortOnDropHandle<()>>,
}

#[derive(Default)]
struct Line {
    state: Mutex<State>,
    grown: Notify,
    emptied: Notify,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Departure>,
    under_way: usize,
}

impl Departures {
    /// Nothing to do yet.
    #[must_use]
    pub(crate) fn new(chat: &Arc<Chat>) -> Self {
        let line = Arc::new(Line::default());
        let work =
            || AbortOnDropHandle::new(tokio::spawn(work(Arc::clone(&line), Arc::clone(chat))));
        Self {
            _workers: (0..AT_ONCE).map(|_| work()).collect(),
            line,
        }
    }

    /// Takes charge of a membership's end.
    pub(crate) fn add(&self, membership: Arc<Membership>) {
        let departure = Departure {
            leave: membership.leave(),
            _membership: membership,
        };
        self.line.state.lock().waiting.push_back(departure);
        self.line.grown.notify_one();
    }

    /// False if so many leaves are outstanding that nobody else should come in.
    #[must_use]
    pub(crate) fn has_room(&self) -> bool {
        self.line.outstanding() < ROOM
    }

    /// Returns when every leave has landed.
    pub(crate) async fn landed(&self) {
        loop {
            let emptied = self.line.emptied.notified();
            tokio::pin!(emptied);
            emptied.as_mut().enable();
            if self.line.outstanding() == 0 {
                return;
            }
            emptied.await;
        }
    }
}

impl Line {
    fn outstanding(&self) -> usize {
        let state = self.state.lock();
        state.waiting.len() + state.under_way
    }

    async fn next(&self) -> Departure {
        loop {
            {
                let mut state = self.state.lock();
                if let Some(departure) = state.waiting.pop_front() {
                    state.under_way += 1;
                    if !state.waiting.is_empty() {
                        self.grown.notify_one();
                    }
                    return departure;
                }
            }
            self.grown.notified().await;
        }
    }
}

async fn work(line: Arc<Line>, chat: Arc<Chat>) {
    loop {
        let departure = line.next().await;
        let leave = &departure.leave;
        let mut pause = BACK_OFF.0;
        loop {
            match chat.leave(leave.clone()).await {
                Ok(()) => break,
                Err(CallError::Refused { reason }) => {
                    tracing::error!(channel = leave.channel, reason, "chat refused a leave");
                    break;
                }
                Err(CallError::Unreachable | CallError::Unknown) => {
                    sleep(pause.mul_f64(0.5 + fastrand::f64())).await;
                    pause = BACK_OFF.1.min(pause * 2);
                }
            }
        }
        line.state.lock().under_way -= 1;
        line.emptied.notify_waiters();
    }
}

#[cfg(test)]
mod tests;
