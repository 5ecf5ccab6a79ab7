//! Asks connectors to do something, and hears their answers (`proto/connector/v1/commands.proto`).
//!
//! A chat knows no connector. It finds incarnations in what the store knows of users, channels and leases, and sends a letter
//! to the inbox of each. Letters may be lost, so it sends the same one again until the answer is there. If nobody listens, or
//! nobody answers in time, it reads the lease: a dead incarnation has no sessions any more.

use crate::error::Error;
use channel_store::memory::MemoryStore;
use channel_store::{
    ChannelName, Inbox, Inboxes, Incarnation, Leases, Restrictions, StoreError, StoreOptions,
    UserEntry, UserId, UserRegistry,
};
use futures_util::StreamExt;
use futures_util::stream;
use parking_lot::Mutex;
use prost::Message;
use proto::connector::v1::command::Action;
use proto::connector::v1::command_answer::Outcome;
use proto::connector::v1::{Command, CommandAnswer};
use runtime::backoff::pause;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_util::task::AbortOnDropHandle;

/// How long a connector may take to answer.
const ANSWER: Duration = Duration::from_secs(1);
/// The time after which a letter is sent again.
const AGAIN: Duration = Duration::from_millis(300);
/// How long the lease of a connector that does not answer may take to be read.
const LEASE: Duration = Duration::from_millis(500);
/// The most bytes of letters that this chat has under way, in KiB. Further commands wait.
const UNDER_WAY: u32 = 32 << 10;
/// The most commands of one call that are under way at once.
const AT_ONCE: usize = 64;
/// How long a look is repeated while the store does not answer. A connection to Redis that was lost is back by then, as a
/// rule.
const LOOK: Duration = Duration::from_millis(500);
/// The pause before the next attempt.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Users whose entries are read at once. It bounds the answer of the store.
const LOOKED_AT_ONCE: usize = 100;

type Id = [u8; 16];
type Waiting = Mutex<HashMap<Id, oneshot::Sender<Option<Outcome>>>>;

/// Asks connectors. The default knows none.
pub struct Connectors {
    /// The name of this chat's inbox.
    name: Incarnation,
    registry: Arc<dyn UserRegistry>,
    leases: Arc<dyn Leases>,
    inboxes: Arc<dyn Inboxes>,
    /// Who waits for which answer.
    waiting: Arc<Waiting>,
    room: Semaphore,
    _hearing: Option<AbortOnDropHandle<()>>,
}

/// What became of a command.
#[derive(Debug)]
pub(super) enum Asked {
    /// The connector has done it.
    Answered(Outcome),
    /// The incarnation is dead, so it has no sessions.
    Gone,
    /// It is not known whether the connector has done it.
    Unanswered,
}

impl Connectors {
    /// Hears answers until this is dropped. The three parts must use other connections than the store that chat publishes
    /// with, so that large commands delay no publication.
    #[must_use]
    pub fn begin(
        registry: Arc<dyn UserRegistry>,
        leases: Arc<dyn Leases>,
        inboxes: Arc<dyn Inboxes>,
    ) -> Arc<Self> {
        let mut connectors = Self::new(registry, leases, inboxes);
        let inbox = connectors.inboxes.open(&connectors.name);
        let hearing = hear(inbox, Arc::clone(&connectors.waiting));
        connectors._hearing = Some(AbortOnDropHandle::new(tokio::spawn(hearing)));
        Arc::new(connectors)
    }

    fn new(
        registry: Arc<dyn UserRegistry>,
        leases: Arc<dyn Leases>,
        inboxes: Arc<dyn Inboxes>,
    ) -> Self {
        Self {
            name: random_name(),
            registry,
            leases,
            inboxes,
            waiting: Arc::default(),
            room: Semaphore::new(UNDER_WAY as usize),
            _hearing: None,
        }
    }

    /// The entries of users, in their order.
    pub(super) async fn look(&self, users: &[UserId]) -> Result<Vec<Vec<UserEntry>>, Error> {
        let mut found = Vec::with_capacity(users.len());
        for some in users.chunks(LOOKED_AT_ONCE) {
            let looks = read(|| self.registry.entries(&self.name, some)).await?;
            found.extend(looks.into_iter().map(|look| look.entries));
        }
        Ok(found)
    }

    /// What is forbidden to a user.
    pub(super) async fn restrictions(&self, user: &UserId) -> Result<Restrictions, Error> {
        let user = std::slice::from_ref(user);
        let looks = read(|| self.registry.entries(&self.name, user)).await?;
        let look = looks.into_iter().next();
        Ok(look.map(|look| look.restrictions).unwrap_or_default())
    }

    /// The incarnations that have members in a channel.
    pub(super) async fn in_channel(
        &self,
        channel: &ChannelName,
    ) -> Result<Vec<Incarnation>, Error> {
        Ok(read(|| self.leases.incarnations_in(channel)).await?)
    }

    /// All incarnations that chats look after.
    pub(super) async fn all(&self) -> Result<Vec<Incarnation>, Error> {
        let all = read(|| self.leases.directory()).await?;
        Ok(all.into_keys().collect())
    }

    /// Those that are known to be dead.
    pub(super) async fn dead_among(&self, incarnations: &[Incarnation]) -> BTreeSet<Incarnation> {
        let observed = timeout(LEASE, self.leases.observe(incarnations)).await;
        let found = incarnations.iter().zip(observed.unwrap_or_default());
        let dead = found.filter(|(_, it)| matches!(it, Ok(Some(lease)) if lease.dead));
        dead.map(|(incarnation, _)| incarnation.clone()).collect()
    }

    /// Sends commands, each to one incarnation.
    pub(super) async fn ask_all(
        &self,
        commands: impl IntoIterator<Item = (Incarnation, Action)>,
    ) -> Vec<(Incarnation, Asked)> {
        let asked = stream::iter(commands).map(async |(incarnation, action)| {
            let asked = self.ask(&incarnation, action).await;
            (incarnation, asked)
        });
        asked.buffer_unordered(AT_ONCE).collect().await
    }

    async fn ask(&self, to: &Incarnation, action: Action) -> Asked {
        let id: Id = fastrand::u128(..).to_be_bytes();
        let command = Command {
            id: id.to_vec().into(),
            answer_to: self.name.to_string(),
            action: Some(action),
        };
        let letter = command.encode_to_vec();
        let size = u32::try_from(letter.len() / 1_024 + 1).unwrap_or(UNDER_WAY);
        // The semaphore is never closed.
        let Ok(_room) = self.room.acquire_many(size.min(UNDER_WAY)).await else {
            return Asked::Unanswered;
        };
        let until = Instant::now() + ANSWER;
        let (_waits, answer) = Waits::begin(&self.waiting, id);
        let answered = timeout_at(until, answer);
        tokio::select! {
            biased;
            answered = answered => match answered {
                Ok(Ok(Some(outcome))) => return Asked::Answered(outcome),
                Ok(_) => return Asked::Unanswered,
                Err(_) => {}
            },
            () = self.send_again_and_again(to, &letter) => {}
        }
        // A frozen process is still subscribed when it was declared dead.
        if self.is_dead(to).await {
            Asked::Gone
        } else {
            Asked::Unanswered
        }
    }

    /// Returns when the incarnation is found dead.
    async fn send_again_and_again(&self, to: &Incarnation, letter: &[u8]) {
        let mut next = Instant::now();
        loop {
            next += AGAIN;
            match timeout_at(next, self.inboxes.post(to, letter)).await {
                Ok(Ok(false)) if self.is_dead(to).await => return,
                Ok(Err(error)) => tracing::debug!(%error, incarnation = %to, "command not sent"),
                _ => {}
            }
            sleep_until(next).await;
        }
    }

    async fn is_dead(&self, incarnation: &Incarnation) -> bool {
        let dead = self.dead_among(std::slice::from_ref(incarnation)).await;
        !dead.is_empty()
    }
}

impl Default for Connectors {
    fn default() -> Self {
        let store = MemoryStore::new(StoreOptions::default());
        Self::new(store.registry(), store.leases(), store.inboxes())
    }
}

/// Reads something from the store. Repeats this for a moment while the store does not answer.
async fn read<T, F>(call: impl Fn() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let until = Instant::now() + LOOK;
    loop {
        match call().await {
            Err(StoreError::Unavailable(reason)) if Instant::now() < until => {
                tracing::debug!(reason, "not read");
                pause(LOOK_AGAIN).await;
            }
            read => return read,
        }
    }
}

/// Waits for an answer. Dropping it ends that.
struct Waits<'a> {
    waiting: &'a Waiting,
    id: Id,
}

impl<'a> Waits<'a> {
    fn begin(waiting: &'a Waiting, id: Id) -> (Self, oneshot::Receiver<Option<Outcome>>) {
        let (sender, receiver) = oneshot::channel();
        waiting.lock().insert(id, sender);
        (Self { waiting, id }, receiver)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        let sender = self.waiting.lock().remove(&self.id);
        drop(sender);
    }
}

/// Gives each answer to the one who waits for it.
async fn hear(mut inbox: Inbox, waiting: Arc<Waiting>) {
    while let Some(letter) = inbox.next().await {
        let Ok(CommandAnswer { id, outcome }) = CommandAnswer::decode(&*letter.content) else {
            tracing::debug!("a letter is no answer");
            continue;
        };
        let waits = Id::try_from(&*id).ok();
        let waits = waits.and_then(|id| waiting.lock().remove(&id));
        // A copy of an answer that was there already.
        let Some(waits) = waits else {
            continue;
        };
        let _ = waits.send(outcome);
    }
}

/// A name that no connector and no other chat has.
fn random_name() -> Incarnation {
    loop {
        if let Ok(name) = Incarnation::new(format!("chat:{:032x}", fastrand::u128(..))) {
            return name;
        }
    }
}

/// The operator's name of a connector: its incarnation has a random id behind it.
pub(super) fn name_of(incarnation: &Incarnation) -> &str {
    let name = incarnation.as_str().rsplit_once(':');
    name.map_or(incarnation.as_str(), |(name, _)| name)
}

/// The names of connectors, each of them once.
pub(super) fn names(incarnations: &BTreeSet<Incarnation>) -> Vec<String> {
    let names: BTreeSet<_> = incarnations.iter().map(name_of).collect();
    names.into_iter().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[tokio::test(start_paused = true)]
    async fn the_store_is_asked_again_for_half_a_second_while_it_does_not_answer() {
        let (asked, answers_from) = (Cell::new(0), Cell::new(5));
        let call = async || {
            asked.set(asked.get() + 1);
            if asked.get() < answers_from.get() {
                return Err(StoreError::Unavailable("no connection".into()));
            }
            Ok(asked.get())
        };
        assert_eq!(read(call).await, Ok(5));
        answers_from.set(u32::MAX);
        let begun = Instant::now();
        assert!(read(call).await.is_err());
        let took = begun.elapsed();
        assert!(LOOK <= took && took < 2 * LOOK, "{took:?}");
        // What is refused for another reason is not asked again.
        asked.set(0);
        let full = async || {
            asked.set(asked.get() + 1);
            Err::<(), _>(StoreError::Full)
        };
        assert_eq!(read(full).await, Err(StoreError::Full));
        assert_eq!(asked.get(), 1);
    }
}
