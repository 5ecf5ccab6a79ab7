//! Leaves that have not landed yet.
//!
//! No leave is lost while the process lives: it is repeated until chat has done it, also when every chat is away for a
//! while (F2, F9). The number of waiting leaves is bounded by refusing logins, and never by forgetting leaves.
//!
//! Each shard of the store has a queue of leaves with workers of its own, so a shard that is down delays no leave
//! elsewhere.
//!
//! With a grace, a session whose client is gone stays a member for that time. Its login entry becomes lingering, which
//! blocks no other login. If the user comes back meanwhile, the new session takes over its memberships when it joins. A
//! session that was replaced while its socket was still open, or that was told to reconnect, stays for some seconds in
//! any case, because the new session may not have joined all of its channels yet.

use super::logins::Logins;
use super::members::Membership;
use super::registration::Registration;
use crate::chat_client::{CALL, CallError, Chat};
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

/// The number of sessions with outstanding leaves at which logins and joins are refused.
const ROOM: usize = 100_000;
/// The most leaves of each shard that are under way at once.
const AT_ONCE: usize = 64;
/// The shortest time for which a session stays a member whose client has a new session, or was told to begin one.
const SUCCEEDED: Duration = Duration::from_secs(5);
/// Pauses between tries.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));

/// What must still be done for a session that is over.
#[derive(Default)]
pub(crate) struct EndedSession {
    /// The memberships that it leaves.
    pub(crate) memberships: Vec<Arc<Membership>>,
    /// The login that is closed after all leaves have landed.
    pub(crate) registration: Option<Arc<Registration>>,
    /// The same client has another session, or will have one soon, and that may take over these memberships for some
    /// time.
    pub(crate) succeeded: bool,
}

/// Lands leaves in the background.
pub(crate) struct PendingLeaves {
    shared: Arc<Shared>,
    grace: Duration,
    _graces: AbortOnDropHandle<()>,
    _workers: DropGuard,
}

struct Shared {
    chat: Arc<Chat>,
    logins: Arc<Logins>,
    shard: Box<dyn Fn(&Place) -> Shard + Send + Sync>,
    state: Mutex<State>,
    emptied: Notify,
    lingers: Notify,
    /// Ends all workers.
    end: CancellationToken,
}

#[derive(Default)]
struct State {
    /// Sessions that stay members for now, by the time at which this ends.
    lingering: BTreeMap<(Instant, u64), EndedSession>,
    /// Makes the keys of `lingering` unique.
    lingered: u64,
    shards: HashMap<Shard, Queue>,
    /// Sessions whose steps are not all done. One that lingers counts here only until its entry is marked as lingering.
    outstanding: usize,
}

/// The steps of one shard. It exists while it has a worker.
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

/// Shared by all steps of a session. When the last leave has landed, the login is closed. When that is done, too, the
/// session is no longer outstanding.
struct Rest {
    registration: Option<Arc<Registration>>,
    shared: Weak<Shared>,
}

impl PendingLeaves {
    /// Begins without any leaves. `shard` tells the shard of a channel or user.
    #[must_use]
    pub(crate) fn new(
        chat: &Arc<Chat>,
        logins: &Arc<Logins>,
        shard: impl Fn(&Place) -> Shard + Send + Sync + 'static,
        grace: Duration,
    ) -> Self {
        let end = CancellationToken::new();
        let shared = Arc::new(Shared {
            chat: Arc::clone(chat),
            logins: Arc::clone(logins),
            shard: Box::new(shard),
            state: Mutex::default(),
            emptied: Notify::new(),
            lingers: Notify::new(),
            end: end.clone(),
        });
        let graces = tokio::spawn(end_graces(Arc::clone(&shared)));
        Self {
            shared,
            grace,
            _graces: AbortOnDropHandle::new(graces),
            _workers: end.drop_guard(),
        }
    }

    /// Ends a session whose client is gone. Its leaves wait until the grace is over, and until then its login blocks no
    /// other one.
    pub(crate) fn add(&self, ended: EndedSession) {
        // The numbers of the leaves are drawn now, whenever the leaves are sent.
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
            self.shared.linger(Arc::clone(registration));
        }
        let until = Instant::now() + grace;
        let mut state = self.shared.state.lock();
        state.lingered += 1;
        let key = (until, state.lingered);
        state.lingering.insert(key, ended);
        drop(state);
        self.shared.lingers.notify_one();
    }

    /// Ends what gets no grace: a leave that a client asked for, or something that is undone.
    pub(crate) fn land(&self, ended: EndedSession) {
        self.shared.push(ended);
    }

    /// How long a session whose client is gone stays a member.
    pub(crate) fn grace(&self) -> Duration {
        self.grace
    }

    /// False if so many leaves are outstanding that nobody else may come in.
    #[must_use]
    pub(crate) fn has_room(&self) -> bool {
        let state = self.shared.state.lock();
        state.lingering.len() + state.outstanding < ROOM
    }

    /// How many sessions that are over are outstanding, and how many stay members for now.
    #[must_use]
    pub(crate) fn counts(&self) -> (usize, usize) {
        let state = self.shared.state.lock();
        (state.outstanding, state.lingering.len())
    }

    /// Returns when every leave that is due has landed.
    pub(crate) async fn landed(&self) {
        loop {
            let emptied = self.shared.emptied.notified();
            tokio::pin!(emptied);
            emptied.as_mut().enable();
            if self.shared.state.lock().outstanding == 0 {
                return;
            }
            emptied.await;
        }
    }
}

/// What a login or join has begun. If this is dropped, all of that is ended again, so it does not matter where a
/// request fails or is given up.
pub(crate) struct Rollback<'a> {
    leaves: &'a PendingLeaves,
    pub(crate) ended: EndedSession,
}

impl<'a> Rollback<'a> {
    /// Nothing has begun yet.
    pub(crate) fn new(leaves: &'a PendingLeaves) -> Self {
        Self {
            leaves,
            ended: EndedSession::default(),
        }
    }

    /// Ends this membership, also if the leave that is tried first fails or is given up.
    pub(crate) fn of(leaves: &'a PendingLeaves, membership: Arc<Membership>) -> Self {
        let mut rollback = Self::new(leaves);
        rollback.ended.memberships.push(membership);
        rollback
    }

    /// The request succeeded, so nothing is ended.
    pub(crate) fn keep(mut self) -> EndedSession {
        mem::take(&mut self.ended)
    }
}

impl Drop for Rollback<'_> {
    fn drop(&mut self) {
        let mut ended = mem::take(&mut self.ended);
        if let Some(registration) = &ended.registration {
            registration.undo();
        }
        ended.registration = (ended.registration).filter(|it| !it.is_nowhere());
        if ended.registration.is_some() || !ended.memberships.is_empty() {
            // No grace, because the client was told of a failure.
            self.leaves.land(ended);
        }
    }
}

impl Shared {
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
        // If there was nothing to leave, this drops the last reference, and the login is closed.
        drop(rest);
    }

    /// Counts something as outstanding until all of its steps are done.
    fn rest(self: &Arc<Self>, registration: Option<Arc<Registration>>) -> Arc<Rest> {
        self.state.lock().outstanding += 1;
        Arc::new(Rest {
            registration,
            shared: Arc::downgrade(self),
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

    /// A worker. It ends when nothing waits in its shard.
    async fn work(self: Arc<Self>, shard: Shard) {
        let end = self.end.clone();
        let working = async {
            while let Some(step) = self.next(shard) {
                match step {
                    Step::Leave(membership, rest) => {
                        leave(&self.chat, &membership).await;
                        // Forget the membership now, even if the login is still to be closed. As long as it is known,
                        // the reconciler believes that it is leaving, and would not remove it again after a failover
                        // that lost the leave.
                        drop(membership);
                        drop(rest);
                    }
                    Step::Linger(registration, rest) => {
                        linger(&self.logins, &registration).await;
                        drop(rest);
                    }
                    Step::Close(registration, rest) => {
                        close(&self.logins, &registration).await;
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
        let Some(shared) = self.shared.upgrade().filter(|it| !it.end.is_cancelled()) else {
            return;
        };
        let Some(registration) = self.registration.take() else {
            shared.state.lock().outstanding -= 1;
            shared.emptied.notify_waiters();
            return;
        };
        let place = Place::User(registration.user().clone());
        let rest = Arc::new(Self {
            registration: None,
            shared: mem::take(&mut self.shared),
        });
        shared.enqueue(&place, Step::Close(registration, rest));
    }
}

async fn end_graces(shared: Arc<Shared>) {
    loop {
        let first = {
            let state = shared.state.lock();
            state.lingering.keys().next().map(|(until, _)| *until)
        };
        match first {
            None => shared.lingers.notified().await,
            Some(until) if until > Instant::now() => {
                // A session that is added meanwhile may end earlier.
                let _ = timeout_at(until, shared.lingers.notified()).await;
            }
            Some(_) => {
                let over = shared.state.lock().lingering.pop_first();
                over.into_iter().for_each(|(_, ended)| shared.push(ended));
            }
        }
    }
}

async fn leave(chat: &Chat, membership: &Membership) {
    let mut backoff = BACKOFF;
    loop {
        let leave = membership.leave();
        let channel = leave.channel.clone();
        let session = leave.session.as_ref().map(|it| it.id.clone());
        match chat.leave(leave, Instant::now() + CALL).await {
            Ok(()) => return,
            Err(CallError::Refused { reason }) => {
                return tracing::error!(session, channel, reason, "chat refused a leave");
            }
            Err(CallError::Late { .. } | CallError::Unreachable | CallError::Unknown) => {
                backoff.wait().await;
            }
        }
    }
}

async fn linger(logins: &Logins, registration: &Registration) {
    let mut backoff = BACKOFF;
    while let Err(error) = logins.linger(registration).await {
        let session = registration.session.as_str();
        tracing::debug!(session, %error, "not said that it lingers");
        backoff.wait().await;
    }
}

async fn close(logins: &Logins, registration: &Registration) {
    let mut backoff = BACKOFF;
    while let Err(error) = logins.close(registration).await {
        let session = registration.session.as_str();
        tracing::debug!(session, %error, "not closed");
        backoff.wait().await;
    }
}

#[cfg(test)]
mod tests;
