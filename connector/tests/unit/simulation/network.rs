//! The network between the processes. It delays, reorders, loses and holds back calls. A call that is under way arrives
//! although its sender is gone, however late.

use super::truth::Truth;
use crate::chat_client::{ChatService, TransportError};
use async_trait::async_trait;
use channel_store::memory::MemoryStore;
use channel_store::{
    CallSize, ChannelName, ChannelStore, ChannelSummary, ChannelsPage, Claim, Claimed, Declared,
    DroppedBy, Hints, HistoryPage, HistoryRange, IdempotencyKey, Incarnation, IndexEntry, Indexed,
    Join, Joined, LeaseState, Leases, Leave, LogRule, LoggedIn, Login, LoginPolicy, MembersPage,
    Place, Position, Presence, Publish, Published, Publisher, Reaped, Renewed, Restricted,
    Restriction, SessionId, Shard, StoreError, User, UserEntries, UserId, UserRegistry,
    UserRestrictions,
};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{sleep, timeout};
use tower::ServiceExt;
use tower::util::BoxCloneSyncService;

/// The longest time for one way, in milliseconds.
const LATENCY: u64 = 20;
/// The longest delay of a declaration of death, in milliseconds.
const LATE_DECLARATION: u64 = 3_000;
/// How many declarations of death in a hundred are delayed.
const LATE_DECLARATIONS: u32 = 25;
/// How long a process waits for an answer of the store. It is the same as with Redis.
const ANSWER_TIME: Duration = Duration::from_secs(1);

/// The slots of the store whose server is away. Each name is a slot of its own: a channel, a user, an incarnation, and
/// [`DIRECTORY`].
#[derive(Default)]
pub(crate) struct Slots {
    away: Mutex<BTreeSet<String>>,
    back: Notify,
}

/// The slot of the directory and of the login policy.
pub(crate) const DIRECTORY: &str = "connectors";

impl Slots {
    pub(crate) fn take(&self, slot: &str) {
        self.away.lock().insert(slot.to_owned());
    }

    pub(crate) fn restore(&self, slot: &str) {
        self.away.lock().remove(slot);
        self.back.notify_waiters();
    }

    /// Brings all servers back.
    pub(crate) fn restore_all(&self) {
        self.away.lock().clear();
        self.back.notify_waiters();
    }

    pub(crate) fn is_away(&self, slot: &str) -> bool {
        self.away.lock().contains(slot)
    }

    /// Waits until a call reaches the server of a slot. If the server is away, the call is lost (`None`), or waits in
    /// the socket until the server is back.
    async fn reach(&self, slot: &str) -> Option<()> {
        let mut is_new = true;
        loop {
            let back = self.back.notified();
            tokio::pin!(back);
            back.as_mut().enable();
            if !self.is_away(slot) {
                return Some(());
            }
            if std::mem::take(&mut is_new) && fastrand::bool() {
                return None;
            }
            back.await;
            pause(LATENCY).await;
        }
    }
}

/// The way from one process to all others.
#[derive(Default)]
pub(crate) struct Link {
    /// Calls wait until the link is repaired.
    held: AtomicBool,
    released: Notify,
    /// All calls are lost.
    cut: AtomicBool,
    /// How many calls in a thousand are lost.
    lossy: AtomicU32,
    /// What the store answers instead of publishing, by channel.
    refusals: Mutex<BTreeMap<String, StoreError>>,
    slots: Arc<Slots>,
}

/// A random time of at most this many milliseconds.
pub(super) fn random_time(milliseconds: u64) -> Duration {
    Duration::from_millis(fastrand::u64(1..=milliseconds))
}

/// A random pause of at most this many milliseconds.
pub(super) async fn pause(milliseconds: u64) {
    sleep(random_time(milliseconds)).await;
}

impl Link {
    pub(crate) fn new(lossy: u32, slots: &Arc<Slots>) -> Arc<Self> {
        let link = Self {
            slots: Arc::clone(slots),
            ..Self::default()
        };
        link.lossy.store(lossy, Ordering::Relaxed);
        Arc::new(link)
    }

    pub(super) fn hold(&self) {
        self.held.store(true, Ordering::Relaxed);
    }

    /// From now on the store refuses to publish in a channel, or does not refuse it any more.
    pub(super) fn refuse(&self, channel: &str, error: Option<StoreError>) {
        let mut refusals = self.refusals.lock();
        match error {
            Some(error) => refusals.insert(channel.to_owned(), error),
            None => refusals.remove(channel),
        };
    }

    pub(super) fn cut(&self) {
        self.cut.store(true, Ordering::Relaxed);
    }

    /// Works again. What was held back arrives.
    pub(super) fn repair(&self) {
        self.cut.store(false, Ordering::Relaxed);
        self.held.store(false, Ordering::Relaxed);
        self.released.notify_waiters();
    }

    /// Works again, and loses nothing from now on.
    pub(super) fn calm(&self) {
        self.lossy.store(0, Ordering::Relaxed);
        self.repair();
    }

    /// Carries something in one direction. `None` if it is lost.
    async fn travel(&self) -> Option<()> {
        pause(LATENCY).await;
        let is_lost = fastrand::u32(..1_000) < self.lossy.load(Ordering::Relaxed);
        if is_lost || self.cut.load(Ordering::Relaxed) {
            return None;
        }
        while self.held.load(Ordering::Relaxed) {
            self.released.notified().await;
            pause(LATENCY).await;
        }
        Some(())
    }

    /// Makes a call at the other end. `None` if no answer comes; the call may have been carried out all the same.
    async fn ask<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        let link = Arc::clone(self);
        tokio::spawn(async move {
            link.travel().await?;
            let done = work.await;
            link.travel().await?;
            answer.send(done).ok()
        });
        answered.await.ok()
    }

    /// Makes a call on the servers that have these slots.
    async fn ask_store<T: Send + 'static>(
        self: &Arc<Self>,
        of: Vec<String>,
        work: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Result<T, StoreError> {
        let slots = Arc::clone(&self.slots);
        let work = async move {
            for slot in of {
                slots.reach(&slot).await?;
            }
            Some(work.await)
        };
        let answer = timeout(ANSWER_TIME, self.ask(work)).await;
        let answer = answer.map(Option::flatten);
        let lost = || StoreError::Unavailable("simulated".into());
        answer.ok().flatten().unwrap_or_else(|| Err(lost()))
    }

    /// A connector's way to any chat.
    pub(crate) fn to_chat(
        self: &Arc<Self>,
        choose: impl Fn() -> chat::Service + Send + Sync + 'static,
    ) -> ChatService {
        let (link, choose) = (Arc::clone(self), Arc::new(choose));
        BoxCloneSyncService::new(tower::service_fn(move |request| {
            let (link, choose) = (Arc::clone(&link), Arc::clone(&choose));
            async move {
                let answer = link.ask(async move { choose().oneshot(request).await });
                let answer = answer.await.ok_or(TransportError::new("simulated"))?;
                answer.map_err(TransportError::new)
            }
        }))
    }
}

/// Each slot is on a shard of its own.
fn shard_of(slot: &str) -> Shard {
    let mut hasher = DefaultHasher::new();
    slot.hash(&mut hasher);
    Shard::new(hasher.finish())
}

/// Leases at the other end of a link.
pub(crate) struct FarLeases {
    link: Arc<Link>,
    leases: Arc<dyn Leases>,
    store: Arc<MemoryStore>,
    truth: Arc<Truth>,
}

impl FarLeases {
    pub(crate) fn of(store: &Arc<MemoryStore>, link: &Arc<Link>, truth: &Arc<Truth>) -> Arc<Self> {
        Arc::new(Self {
            link: Arc::clone(link),
            leases: store.leases(),
            store: Arc::clone(store),
            truth: Arc::clone(truth),
        })
    }
}

impl FarUsers {
    pub(crate) fn of(store: &MemoryStore, link: &Arc<Link>) -> Arc<Self> {
        Arc::new(Self {
            link: Arc::clone(link),
            users: store.registry(),
        })
    }
}

/// A store at the other end of a link.
pub(crate) struct FarStore {
    pub(crate) link: Arc<Link>,
    pub(crate) store: Arc<dyn ChannelStore>,
}

/// The entries of users at the other end of a link.
pub(crate) struct FarUsers {
    link: Arc<Link>,
    users: Arc<dyn UserRegistry>,
}

/// Hints that are sent over a link. They are received without one.
pub(super) struct FarHints {
    pub(super) link: Arc<Link>,
    pub(super) hints: Arc<dyn Hints>,
}

/// Calls a method at the other end of the link, on the servers of some slots. Borrowed arguments are cloned.
macro_rules! far {
    ($slots:expr => $self:ident.$end:ident.$method:ident($(&$borrowed:ident),* $(; $copied:ident)?)) => {{
        let end = Arc::clone(&$self.$end);
        let slots = $slots.into_iter().map(|it| it.to_string()).collect();
        $(let $borrowed = $borrowed.to_owned();)*
        let work = async move { end.$method($(&$borrowed,)* $($copied)?).await };
        $self.link.ask_store(slots, work).await
    }};
}

impl FarLeases {
    async fn renew_once(
        &self,
        who: &Incarnation,
        lease: Duration,
        last: bool,
    ) -> Result<Renewed, StoreError> {
        let (end, truth) = (Arc::clone(&self.leases), Arc::clone(&self.truth));
        let who = who.clone();
        let slots = vec![who.to_string()];
        let work = async move { truth.renew(&*end, &who, lease, last).await };
        self.link.ask_store(slots, work).await
    }
}

#[async_trait]
impl Leases for FarLeases {
    async fn schedule(&self, who: &Incarnation) -> Result<(), StoreError> {
        far!([DIRECTORY] => self.leases.schedule(&who))
    }

    async fn renew(&self, who: &Incarnation, lease: Duration) -> Result<Renewed, StoreError> {
        self.renew_once(who, lease, false).await
    }

    async fn renew_last(&self, who: &Incarnation, lease: Duration) -> Result<Renewed, StoreError> {
        self.renew_once(who, lease, true).await
    }

    async fn index_add(
        &self,
        who: &Incarnation,
        entries: &[IndexEntry],
    ) -> Result<Indexed, StoreError> {
        let (end, truth) = (Arc::clone(&self.leases), Arc::clone(&self.truth));
        let (who, entries) = (who.clone(), entries.to_owned());
        let slots = vec![who.to_string()];
        let work = async move { truth.index_add(&*end, &who, &entries).await };
        self.link.ask_store(slots, work).await
    }

    async fn index_drop(
        &self,
        who: &Incarnation,
        entries: &[IndexEntry],
        by: DroppedBy,
    ) -> Result<u64, StoreError> {
        far!([who] => self.leases.index_drop(&who, &entries; by))
    }

    async fn index(&self, who: &Incarnation) -> Result<Vec<IndexEntry>, StoreError> {
        far!([who] => self.leases.index(&who))
    }

    async fn presence(
        &self,
        who: &Incarnation,
        channels: &[ChannelName],
    ) -> Result<Vec<Presence>, StoreError> {
        far!(channels => self.leases.presence(&who, &channels))
    }

    async fn list(
        &self,
        who: &Incarnation,
        channel: &ChannelName,
    ) -> Result<BTreeMap<SessionId, User>, StoreError> {
        far!([channel] => self.leases.list(&who, &channel))
    }

    async fn resign(&self, who: &Incarnation) -> Result<(), StoreError> {
        far!([who] => self.leases.resign(&who))
    }

    async fn directory(&self) -> Result<BTreeMap<Incarnation, u64>, StoreError> {
        far!([DIRECTORY] => self.leases.directory())
    }

    async fn incarnations_in(&self, channel: &ChannelName) -> Result<Vec<Incarnation>, StoreError> {
        far!([channel] => self.leases.incarnations_in(&channel))
    }

    async fn observe(&self, whom: &[Incarnation]) -> Vec<Result<Option<LeaseState>, StoreError>> {
        let (end, asked) = (Arc::clone(&self.leases), whom.to_owned());
        let (store, truth) = (Arc::clone(&self.store), Arc::clone(&self.truth));
        let slots = Arc::clone(&self.link.slots);
        let work = async move {
            let states = end.observe(&asked).await.into_iter().zip(&asked);
            let seen = |(state, who): (Result<Option<LeaseState>, _>, &Incarnation)| {
                if slots.is_away(who.as_str()) {
                    return Err(StoreError::Unavailable("away".into()));
                }
                state.map(|it| it.map(|it| truth.seen(&store, who, it)))
            };
            Ok(states.map(seen).collect())
        };
        let lost = |error: StoreError| whom.iter().map(|_| Err(error.clone())).collect();
        let asked = self.link.ask_store(Vec::new(), work).await;
        asked.unwrap_or_else(lost)
    }

    async fn declare_dead(&self, who: &Incarnation, seen: u64) -> Result<Declared, StoreError> {
        let (end, truth) = (Arc::clone(&self.leases), Arc::clone(&self.truth));
        let who = who.clone();
        let slots = vec![who.to_string()];
        let work = async move {
            if fastrand::u32(..100) < LATE_DECLARATIONS {
                pause(LATE_DECLARATION).await;
            }
            truth.declare_dead(&*end, &who, seen).await
        };
        self.link.ask_store(slots, work).await
    }

    async fn restore(&self, who: &Incarnation, place: &Place) -> Result<LeaseState, StoreError> {
        far!([who] => self.leases.restore(&who, &place))
    }

    async fn unschedule(&self, who: &Incarnation, seen: u64) -> Result<(), StoreError> {
        far!([DIRECTORY] => self.leases.unschedule(&who; seen))
    }

    fn shard(&self, place: &Place) -> Shard {
        match place {
            Place::Channel(channel) => shard_of(channel.as_str()),
            Place::User(user) => shard_of(user.as_str()),
        }
    }

    fn home(&self, who: &Incarnation) -> Shard {
        shard_of(who.as_str())
    }

    fn available(&self) -> watch::Receiver<bool> {
        self.leases.available()
    }
}

#[async_trait]
impl UserRestrictions for FarStore {
    async fn restrict(&self, user: &UserId, to: &Restriction) -> Result<Restricted, StoreError> {
        far!([user] => self.store.restrict(&user, &to))
    }
}

#[async_trait]
impl ChannelStore for FarStore {
    fn publisher(&self) -> Result<Arc<dyn Publisher>, StoreError> {
        Ok(Arc::new(FarPublisher {
            link: Arc::clone(&self.link),
            publisher: self.store.publisher()?,
            turns: Arc::default(),
        }))
    }

    async fn join(&self, join: Join) -> Result<Joined, StoreError> {
        far!([join.channel.clone()] => self.store.join(; join))
    }

    async fn leave(&self, leave: Leave) -> Result<bool, StoreError> {
        far!([leave.channel.clone()] => self.store.leave(; leave))
    }

    async fn reap(&self, channel: &ChannelName, who: &Incarnation) -> Result<Reaped, StoreError> {
        far!([channel] => self.store.reap(&channel, &who))
    }

    async fn expire(&self, channel: &ChannelName) -> Result<Option<Duration>, StoreError> {
        far!([channel] => self.store.expire(&channel))
    }

    async fn members(
        &self,
        channel: &ChannelName,
        page: Option<&str>,
        limit: usize,
    ) -> Result<MembersPage, StoreError> {
        assert!(page.is_none(), "there are few members");
        let (end, channel) = (Arc::clone(&self.store), channel.clone());
        let slots = vec![channel.to_string()];
        let work = async move { end.members(&channel, None, limit).await };
        self.link.ask_store(slots, work).await
    }

    async fn history(
        &self,
        channel: &ChannelName,
        range: &HistoryRange,
        limit: usize,
    ) -> Result<HistoryPage, StoreError> {
        far!([channel] => self.store.history(&channel, &range; limit))
    }

    async fn trim(&self, _: &ChannelName, _: &Position) -> Result<Option<u64>, StoreError> {
        Err(nobody_asks())
    }

    async fn delete(
        &self,
        channel: &ChannelName,
        key: Option<&IdempotencyKey>,
    ) -> Result<Option<Position>, StoreError> {
        let (end, channel, key) = (Arc::clone(&self.store), channel.clone(), key.cloned());
        let slots = vec![channel.to_string()];
        let work = async move { end.delete(&channel, key.as_ref()).await };
        self.link.ask_store(slots, work).await
    }

    async fn summaries(
        &self,
        _: &[ChannelName],
    ) -> Result<Vec<Option<ChannelSummary>>, StoreError> {
        Err(nobody_asks())
    }

    async fn channels(
        &self,
        _: &str,
        _: Option<&str>,
        _: usize,
    ) -> Result<ChannelsPage, StoreError> {
        Err(nobody_asks())
    }

    fn detached_life(&self) -> Duration {
        self.store.detached_life()
    }

    fn log_rule(&self, _: &ChannelName) -> Option<String> {
        None
    }

    fn set_log_rules(&self, rules: Vec<LogRule>) {
        self.store.set_log_rules(rules);
    }

    fn available(&self) -> watch::Receiver<bool> {
        self.store.available()
    }
}

/// The answer to calls that only back ends make.
fn nobody_asks() -> StoreError {
    StoreError::Unavailable("no back end is simulated".into())
}

/// One connection to the store. It makes calls one after the other, also after one was refused, and also if nobody
/// waits for the answers any more.
struct FarPublisher {
    link: Arc<Link>,
    publisher: Arc<dyn Publisher>,
    turns: Arc<tokio::sync::Mutex<()>>,
}

#[async_trait]
impl Publisher for FarPublisher {
    async fn publish(
        &self,
        batch: Vec<Publish>,
    ) -> Result<Vec<Result<Published, StoreError>>, StoreError> {
        let (link, publisher) = (Arc::clone(&self.link), Arc::clone(&self.publisher));
        let turns = Arc::clone(&self.turns);
        let work = tokio::spawn(async move {
            let turn = turns.lock().await;
            let mut outcomes = Vec::new();
            outcomes.resize_with(batch.len(), || Err(StoreError::Full));
            let mut refused = None;
            for call in calls(&batch) {
                pause(5).await;
                let channel = &batch[call[0]].channel;
                let mut refusal = link.refusals.lock().get(channel.as_str()).cloned();
                if link.slots.is_away(channel.as_str()) {
                    refusal = Some(StoreError::Unavailable("away".into()));
                }
                match refusal {
                    Some(StoreError::Full) => {}
                    Some(other) => refused = Some(other),
                    None => {
                        let messages = call.iter().map(|&place| batch[place].clone());
                        let published = publisher.publish(messages.collect()).await?;
                        for (place, outcome) in call.into_iter().zip(published) {
                            outcomes[place] = outcome;
                        }
                    }
                }
            }
            drop(turn);
            pause(LATENCY).await;
            refused.map_or(Ok(outcomes), Err)
        });
        let lost = |_| Err(StoreError::Unavailable("simulated".into()));
        work.await.unwrap_or_else(lost)
    }
}

/// The calls of a batch, as for Redis: each has messages of one channel, in order.
fn calls(batch: &[Publish]) -> Vec<Vec<usize>> {
    let mut calls: Vec<Vec<usize>> = Vec::new();
    let mut open: BTreeMap<&str, (usize, CallSize)> = BTreeMap::new();
    for (place, publish) in batch.iter().enumerate() {
        let present = open.get_mut(publish.channel.as_str());
        let has_room = present.and_then(|(call, size)| size.takes(publish).then_some(*call));
        if let Some(call) = has_room {
            calls[call].push(place);
        } else {
            let mut size = CallSize::default();
            size.takes(publish);
            open.insert(publish.channel.as_str(), (calls.len(), size));
            calls.push(vec![place]);
        }
    }
    calls
}

#[async_trait]
impl UserRegistry for FarUsers {
    async fn login(&self, login: &Login, dead: &[Incarnation]) -> Result<LoggedIn, StoreError> {
        far!([&login.user] => self.users.login(&login, &dead))
    }

    async fn claim(
        &self,
        claims: &[Claim],
    ) -> Result<Vec<Result<Claimed, StoreError>>, StoreError> {
        far!(claims.iter().map(|it| it.login.user.clone()) => self.users.claim(&claims))
    }

    async fn linger(&self, user: &UserId, of: &SessionId) -> Result<(), StoreError> {
        far!([user] => self.users.linger(&user, &of))
    }

    async fn close(&self, user: &UserId, of: &SessionId, fence: bool) -> Result<(), StoreError> {
        far!([user] => self.users.close(&user, &of; fence))
    }

    async fn reap(&self, user: &UserId, who: &Incarnation) -> Result<u64, StoreError> {
        far!([user] => self.users.reap(&user, &who))
    }

    async fn entries(
        &self,
        who: &Incarnation,
        users: &[UserId],
    ) -> Result<Vec<UserEntries>, StoreError> {
        far!(users => self.users.entries(&who, &users))
    }

    async fn propose_policy(
        &self,
        policy: LoginPolicy,
        lasts: Duration,
    ) -> Result<LoginPolicy, StoreError> {
        let end = Arc::clone(&self.users);
        let work = async move { end.propose_policy(policy, lasts).await };
        self.link.ask_store(vec![DIRECTORY.to_owned()], work).await
    }
}

#[async_trait]
impl Hints for FarHints {
    async fn hint(&self, who: &Incarnation, user: &UserId) -> Result<(), StoreError> {
        far!([who] => self.hints.hint(&who, &user))
    }

    fn listen(&self, who: &Incarnation) -> mpsc::Receiver<UserId> {
        self.hints.listen(who)
    }
}
