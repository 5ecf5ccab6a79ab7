//! Leaves that have not landed yet.
//!
//! A leave is never lost while the process lives: it is repeated until chat has done it, also when every chat is away
//! for a while (F2, F9). Their number is bounded by refusing logins, not by forgetting leaves.
//!
//! Leaves wait in a queue for each shard of the store, with workers of its own: a shard that is down delays its own
//! leaves, and nobody else's.
//!
//! With a grace, a session whose client is gone stays a member for as long. Its login says so and holds nobody off, and
//! if the user comes back meanwhile, the new session takes over its memberships where it joins. The same holds for a
//! session that was replaced while its socket was still open, or told to come again: it stays for a moment, because the new
//! session may not have joined all of its channels yet.

use crate::chat_client::{CALL, CallError, Chat};
use crate::membership::Membership;
use crate::membership::logins::{Registration, Registry};
use channel_store::{Place, Shard};
use parking_lot::Mutex;
use runtime::Backoff;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::mem;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::AbortOnDropHandle;

/// Sessions whose leaves may be outstanding before logins are refused.
const ROOM: usize = 100_000;
/// Leaves under way at once in each shard.
const AT_ONCE: usize = 64;
/// How long a session stays a member at least whose client has another session, or was told to begin one.
const SUCCEEDED: Duration = Duration::from_secs(5);
/// Pauses between tries.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));

/// What is left to do for a session that is over.
#[derive(Default)]
pub(crate) struct EndedSession {
    /// It leaves all of these.
    pub(crate) memberships: Vec<Arc<Membership>>,
    /// Its login is closed after all leaves have landed.
    pub(crate) registration: Option<Arc<Registration>>,
    /// The same client has another session, or is about to have one, which may take over these memberships for some time
    /// to come.
    pub(crate) succeeded: bool,
}

/// Lands leaves in the background.
pub(crate) struct PendingLeaves {
    line: Arc<Line>,
    grace: Duration,
    _graces: AbortOnDropHandle<()>,
    _workers: DropGuard,
}

struct Line {
    chat: Arc<Chat>,
    registry: Arc<Registry>,
    shard: Box<dyn Fn(&Place) -> Shard + Send + Sync>,
    state: Mutex<State>,
    emptied: Notify,
    lingers: Notify,
    /// Ends all workers.
    end: CancellationToken,
}

#[derive(Default)]
struct State {
    /// Members for the time being, by when that is over.
    lingering: BTreeMap<(Instant, u64), EndedSession>,
    /// Told apart those that end at one moment.
    lingered: u64,
    shards: HashMap<Shard, Queue>,
    /// Sessions of which not everything has landed, without those that linger.
    outstanding: usize,
}

/// What is to be done in one shard. It exists while a worker does.
#[derive(Default)]
struct Queue {
    waiting: VecDeque<Step>,
    workers: usize,
}

enum Step {
    Leave(Arc<Membership>, Arc<Rest>),
    Linger(Arc<Registration>, Arc<Rest>),
    Close(Arc<Registration>, Arc<Rest>),
}

/// Shared by all steps of a session. When the last leave has landed the login is closed, and when everything has, the
/// session is no longer outstanding.
struct Rest {
    registration: Option<Arc<Registration>>,
    line: Weak<Line>,
}

impl PendingLeaves {
    /// Nothing to do yet. `shard` tells where in the store a channel or user is.
    #[must_use]
    pub(crate) fn new(
        chat: &Arc<Chat>,
        registry: &Arc<Registry>,
        shard: impl Fn(&Place) -> Shard + Send + Sync + 'static,
        grace: Duration,
    ) -> Self {
        let end = CancellationToken::new();
        let line = Arc::new(Line {
            chat: Arc::clone(chat),
            registry: Arc::clone(registry),
            shard: Box::new(shard),
            state: Mutex::default(),
            emptied: Notify::new(),
            lingers: Notify::new(),
            end: end.clone(),
        });
        let graces = tokio::spawn(end_graces(Arc::clone(&line)));
        Self {
            line,
            grace,
            _graces: AbortOnDropHandle::new(graces),
            _workers: end.drop_guard(),
        }
    }

    /// Takes charge of the end of a session whose client is gone. Its leaves wait until the grace is over; until then its
    /// login holds nobody off.
    pub(crate) fn add(&self, ended: EndedSession) {
        // Now it ends, whenever the leaves are sent.
        for membership in &ended.memberships {
            membership.end();
        }
        let grace = if ended.succeeded {
            self.grace.max(SUCCEEDED)
        } else {
            self.grace
        };
        if grace.is_zero() || ended.memberships.is_empty() {
            return self.land(ended);
        }
        if let Some(registration) = &ended.registration {
            registration.begin_lingering();
            self.line.linger(Arc::clone(registration));
        }
        let until = Instant::now() + grace;
        let mut state = self.line.state.lock();
        state.lingered += 1;
        let key = (until, state.lingered);
        state.lingering.insert(key, ended);
        drop(state);
        self.line.lingers.notify_one();
    }

    /// Takes charge of what waits for no grace: a leave that was asked for, or something that is undone.
    pub(crate) fn land(&self, ended: EndedSession) {
        self.line.push(ended);
    }

    /// How long a session whose client is gone stays a member.
    pub(crate) fn grace(&self) -> Duration {
        self.grace
    }

    /// False if so many leaves are outstanding that nobody else should come in.
    #[must_use]
    pub(crate) fn has_room(&self) -> bool {
        let state = self.line.state.lock();
        state.lingering.len() + state.outstanding < ROOM
    }

    /// Returns when every leave has landed whose time has come.
    pub(crate) async fn landed(&self) {
        loop {
            let emptied = self.line.emptied.notified();
            tokio::pin!(emptied);
            emptied.as_mut().enable();
            if self.line.state.lock().outstanding == 0 {
                return;
            }
            emptied.await;
        }
    }
}

/// What a login or join has begun, and what must end again unless all of it goes well: dropped, that is under way. So
/// it does not matter where a request fails, or is given up.
pub(crate) struct Undo<'a> {
    leaves: &'a PendingLeaves,
    pub(crate) ended: EndedSession,
}

impl<'a> Undo<'a> {
    /// Nothing is begun yet.
    pub(crate) fn new(leaves: &'a PendingLeaves) -> Self {
        Self {
            leaves,
            ended: EndedSession::default(),
        }
    }

    /// A membership that is to end, whatever becomes of the leave that is tried first.
    pub(crate) fn of(leaves: &'a PendingLeaves, membership: Arc<Membership>) -> Self {
        let mut undo = Self::new(leaves);
        undo.ended.memberships.push(membership);
        undo
    }

    /// All went well: nothing ends.
    pub(crate) fn keep(mut self) -> EndedSession {
        mem::take(&mut self.ended)
    }
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        let mut ended = mem::take(&mut self.ended);
        if let Some(registration) = &ended.registration {
            registration.undo();
        }
        ended.registration = (ended.registration).filter(|it| !it.is_nowhere());
        if ended.registration.is_some() || !ended.memberships.is_empty() {
            // A client that was told of a failure has no grace.
            self.leaves.land(ended);
        }
    }
}

impl Line {
    fn push(self: &Arc<Self>, ended: EndedSession) {
        let EndedSession {
            memberships,
            registration,
            succeeded: _,
        } = ended;
        let rest = self.rest(registration);
        for membership in memberships {
            membership.begin_leaving();
            let place = Place::Channel(membership.channel().clone());
            self.enqueue(&place, Step::Leave(membership, Arc::clone(&rest)));
        }
        // If there was nothing to leave, this was the last reference.
        drop(rest);
    }

    /// Something begins that is outstanding until all of its steps are done.
    fn rest(self: &Arc<Self>, registration: Option<Arc<Registration>>) -> Arc<Rest> {
        self.state.lock().outstanding += 1;
        Arc::new(Rest {
            registration,
            line: Arc::downgrade(self),
        })
    }

    fn linger(self: &Arc<Self>, registration: Arc<Registration>) {
        let place = Place::User(registration.user().clone());
        let rest = self.rest(None);
        self.enqueue(&place, Step::Linger(registration, rest));
    }

    fn enqueue(self: &Arc<Self>, place: &Place, step: Step) {
        let shard = (self.shard)(place);
        let mut state = self.state.lock();
        let queue = state.shards.entry(shard).or_default();
        queue.waiting.push_back(step);
        if queue.workers < AT_ONCE {
            queue.workers += 1;
            drop(state);
            tokio::spawn(Arc::clone(self).work(shard));
        }
    }

    /// Lives as long as something waits in its shard.
    async fn work(self: Arc<Self>, shard: Shard) {
        let end = self.end.clone();
        let working = async {
            while let Some(step) = self.next(shard) {
                match step {
                    Step::Leave(membership, rest) => {
                        leave(&self.chat, &membership).await;
                        // Forget the membership now, even if the login is still to be closed. As long as it is known,
                        // the reconciliation believes that it is leaving, and would not remove it again after a
                        // failover that lost the leave.
                        drop(membership);
                        drop(rest);
                    }
                    Step::Linger(registration, rest) => {
                        linger(&self.registry, &registration).await;
                        drop(rest);
                    }
                    Step::Close(registration, rest) => {
                        close(&self.registry, &registration).await;
                        drop(rest);
                    }
                }
            }
        };
        tokio::select! {
            biased;
            () = end.cancelled() => {}
            () = working => {}
        }
    }

    /// The next step; `None` ends the worker.
    fn next(&self, shard: Shard) -> Option<Step> {
        let mut state = self.state.lock();
        let queue = state.shards.get_mut(&shard)?;
        let step = queue.waiting.pop_front();
        if step.is_none() {
            queue.workers -= 1;
            if queue.workers == 0 {
                state.shards.remove(&shard);
            }
        }
        step
    }
}

impl Drop for Rest {
    fn drop(&mut self) {
        let Some(line) = self.line.upgrade().filter(|it| !it.end.is_cancelled()) else {
            return;
        };
        let Some(registration) = self.registration.take() else {
            line.state.lock().outstanding -= 1;
            line.emptied.notify_waiters();
            return;
        };
        let place = Place::User(registration.user().clone());
        let rest = Arc::new(Self {
            registration: None,
            line: mem::take(&mut self.line),
        });
        line.enqueue(&place, Step::Close(registration, rest));
    }
}

async fn end_graces(line: Arc<Line>) {
    loop {
        let first = {
            let state = line.state.lock();
            state.lingering.keys().next().map(|(until, _)| *until)
        };
        match first {
            None => line.lingers.notified().await,
            Some(until) if until > Instant::now() => {
                // One that is added meanwhile may end earlier.
                let _ = timeout_at(until, line.lingers.notified()).await;
            }
            Some(_) => {
                let over = line.state.lock().lingering.pop_first();
                over.into_iter().for_each(|(_, ended)| line.push(ended));
            }
        }
    }
}

async fn leave(chat: &Chat, membership: &Membership) {
    let mut backoff = BACKOFF;
    loop {
        let leave = membership.leave();
        let channel = leave.channel.clone();
        match chat.leave(leave, Instant::now() + CALL).await {
            Ok(()) => return,
            Err(CallError::Refused { reason }) => {
                return tracing::error!(?channel, reason, "chat refused a leave");
            }
            Err(CallError::Late { .. } | CallError::Unreachable | CallError::Unknown) => {
                backoff.wait().await;
            }
        }
    }
}

async fn linger(registry: &Registry, registration: &Registration) {
    let mut backoff = BACKOFF;
    while let Err(error) = registry.linger(registration).await {
        tracing::debug!(%error, "not said that it lingers");
        backoff.wait().await;
    }
}

async fn close(registry: &Registry, registration: &Registration) {
    let mut backoff = BACKOFF;
    while let Err(error) = registry.close(registration).await {
        tracing::debug!(%error, "not closed");
        backoff.wait().await;
    }
}

#[cfg(test)]
mod tests;
