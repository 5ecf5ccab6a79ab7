//! Leaves that have not landed yet.
//!
//! A leave is never lost while the process lives: it is repeated until chat has done it, also when every chat is away
//! for a while (F2, F9). Their number is bounded by refusing logins, not by forgetting leaves.
//!
//! With a grace, whoever is gone stays a member for as long: who comes back meanwhile has two sessions, and the end of one
//! of them is no leave.

use crate::chat::{CALL, CallError, Chat};
use crate::lease::Membership;
use crate::registry::{Registration, Registry};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::task::AbortOnDropHandle;

/// Leaves that may be outstanding before logins are refused.
const ROOM: usize = 100_000;
/// Leaves under way at once.
const AT_ONCE: usize = 64;
/// Pauses between tries.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// What is left to do for a session: it is known as on its way out until that has landed.
#[derive(Default)]
pub(crate) struct Departure {
    /// It leaves first, from everywhere.
    pub(crate) memberships: Vec<Arc<Membership>>,
    /// Then its user may log in again.
    pub(crate) registration: Option<Arc<Registration>>,
}

/// Lands leaves in the background.
pub(crate) struct Departures {
    line: Arc<Line>,
    grace: Duration,
    _workers: Vec<AbortOnDropHandle<()>>,
}

#[derive(Default)]
struct Line {
    state: Mutex<State>,
    grown: Notify,
    emptied: Notify,
    lingers: Notify,
}

#[derive(Default)]
struct State {
    /// Members for the time being, by when that is over.
    lingering: VecDeque<(Instant, Departure)>,
    waiting: VecDeque<Departure>,
    under_way: usize,
}

impl Departures {
    /// Nothing to do yet.
    #[must_use]
    pub(crate) fn new(chat: &Arc<Chat>, registry: &Arc<Registry>, grace: Duration) -> Self {
        let line = Arc::new(Line::default());
        let work = || {
            let work = work(Arc::clone(&line), Arc::clone(chat), Arc::clone(registry));
            AbortOnDropHandle::new(tokio::spawn(work))
        };
        let mut workers: Vec<_> = (0..AT_ONCE).map(|_| work()).collect();
        workers.push(AbortOnDropHandle::new(tokio::spawn(end_graces(
            line.clone(),
        ))));
        Self {
            line,
            grace,
            _workers: workers,
        }
    }

    /// Takes charge of a session's end. The leave waits until the grace is over, the user doesn't.
    pub(crate) fn add(&self, mut departure: Departure) {
        if self.grace.is_zero() || departure.memberships.is_empty() {
            return self.land(departure);
        }
        let registration = departure.registration.take();
        if registration.is_some() {
            self.land(Departure {
                registration,
                ..Departure::default()
            });
        }
        let until = Instant::now() + self.grace;
        let mut state = self.line.state.lock();
        state.lingering.push_back((until, departure));
        drop(state);
        self.line.lingers.notify_one();
    }

    /// Takes charge of what waits for no grace.
    pub(crate) fn land(&self, departure: Departure) {
        self.line.push(departure);
    }

    /// How long whoever is gone stays a member.
    pub(crate) fn grace(&self) -> Duration {
        self.grace
    }

    /// False if so many leaves are outstanding that nobody else should come in.
    #[must_use]
    pub(crate) fn has_room(&self) -> bool {
        let state = self.line.state.lock();
        state.lingering.len() + state.outstanding() < ROOM
    }

    /// Returns when every leave has landed whose time has come.
    pub(crate) async fn landed(&self) {
        loop {
            let emptied = self.line.emptied.notified();
            tokio::pin!(emptied);
            emptied.as_mut().enable();
            if self.line.state.lock().outstanding() == 0 {
                return;
            }
            emptied.await;
        }
    }
}

impl State {
    fn outstanding(&self) -> usize {
        self.waiting.len() + self.under_way
    }
}

impl Line {
    fn push(&self, departure: Departure) {
        for membership in &departure.memberships {
            membership.ends();
        }
        self.state.lock().waiting.push_back(departure);
        self.grown.notify_one();
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

async fn end_graces(line: Arc<Line>) {
    loop {
        let first = line.state.lock().lingering.front().map(|(until, _)| *until);
        match first {
            None => line.lingers.notified().await,
            Some(until) if until > Instant::now() => sleep_until(until).await,
            Some(_) => {
                let over = line.state.lock().lingering.pop_front();
                over.into_iter()
                    .for_each(|(_, departure)| line.push(departure));
            }
        }
    }
}

async fn work(line: Arc<Line>, chat: Arc<Chat>, registry: Arc<Registry>) {
    loop {
        let Departure {
            memberships,
            registration,
        } = line.next().await;
        for membership in memberships {
            leave(&chat, &membership).await;
            // Here it ends, whatever still waits: while it is known, a store that falls back to before its leave is not
            // put right.
            drop(membership);
        }
        if let Some(registration) = &registration {
            close(&registry, registration).await;
        }
        line.state.lock().under_way -= 1;
        line.emptied.notify_waiters();
    }
}

async fn leave(chat: &Chat, membership: &Membership) {
    let leave = membership.leave();
    let mut pause = BACK_OFF.0;
    loop {
        match chat.leave(leave.clone(), Instant::now() + CALL).await {
            Ok(()) => return,
            Err(CallError::Refused { reason }) => {
                return tracing::error!(channel = leave.channel, reason, "chat refused a leave");
            }
            Err(CallError::Unreachable | CallError::Unknown) => back_off(&mut pause).await,
        }
    }
}

async fn close(registry: &Registry, registration: &Registration) {
    let mut pause = BACK_OFF.0;
    while let Err(error) = registry.close(registration).await {
        tracing::debug!(%error, "not closed");
        back_off(&mut pause).await;
    }
}

async fn back_off(pause: &mut Duration) {
    sleep(pause.mul_f64(0.5 + fastrand::f64())).await;
    *pause = BACK_OFF.1.min(*pause * 2);
}

#[cfg(test)]
mod tests;
