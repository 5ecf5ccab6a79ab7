//! What lies between processes: it delays, overtakes, loses and holds back. Whatever is under way arrives although its
//! sender has gone, as late as it may be.

use super::truth::Truth;
use crate::chat::{ChatService, TransportError};
use async_trait::async_trait;
use channel_store::memory::MemoryStore;
use channel_store::{
    CallSize, ChannelName, ChannelStore, Claim, Claimed, Declared, DroppedBy, Hints, HistoryPage,
    HistoryRange, Incarnation, IndexEntry, Indexed, Join, Joined, LeaseState, Leases, Leave,
    LoggedIn, Login, LoginPolicy, Look, MembersPage, Place, Publish, Published, Publisher, Reaped,
    Renewed, SessionId, Shard, StoreError, User, UserId, UserLook, UserRegistry,
};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{sleep, timeout};
use tower::ServiceExt;
use tower::util::BoxCloneSyncService;

/// One way.
const LATENCY: u64 = 20;
/// How late a declaration of death may arrive, and so many in a hundred do.
const LATE_DECLARATION: u64 = 3_000;
const LATE_DECLARATIONS: u32 = 25;
/// How long a store is waited for, as Redis is.
const ANSWER_TIME: Duration = Duration::from_secs(1);

/// A process's way to all others.
#[derive(Default)]
pub(super) struct Link {
    /// Nothing arrives until it is released.
    held: AtomicBool,
    released: Notify,
    /// Nothing arrives.
    cut: AtomicBool,
    /// So many in a thousand don't arrive.
    lossy: AtomicU32,
    /// What the store refuses, by channel.
    refusals: Mutex<BTreeMap<String, StoreError>>,
}

/// A pause of so many milliseconds at most.
pub(super) async fn pause(milliseconds: u64) {
    sleep(Duration::from_millis(fastrand::u64(1..=milliseconds))).await;
}

impl Link {
    pub(super) fn new(lossy: u32) -> Arc<Self> {
        let link = Self::default();
        link.lossy.store(lossy, Ordering::Relaxed);
        Arc::new(link)
    }

    pub(super) fn hold(&self) {
        self.held.store(true, Ordering::Relaxed);
    }

    /// The store refuses to publish in a channel, or does so no more.
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

    /// Works again; what was held back arrives.
    pub(super) fn repair(&self) {
        self.cut.store(false, Ordering::Relaxed);
        self.held.store(false, Ordering::Relaxed);
        self.released.notify_waiters();
    }

    /// From now on nothing is lost either.
    pub(super) fn calm(&self) {
        self.lossy.store(0, Ordering::Relaxed);
        self.repair();
    }

    /// `None`: it got lost.
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

    /// Asks for something to be done at the other end; `None`: no answer came, whatever was done.
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

    async fn ask_store<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Result<T, StoreError> {
        let answer = timeout(ANSWER_TIME, self.ask(work)).await;
        let lost = || StoreError::Unavailable("simulated".into());
        answer.ok().flatten().unwrap_or_else(|| Err(lost()))
    }

    /// The way of a connector to whichever chat is chosen.
    pub(super) fn to_chat(
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

/// Leases behind a link.
pub(super) struct FarLeases {
    link: Arc<Link>,
    leases: Arc<dyn Leases>,
    store: Arc<MemoryStore>,
    truth: Arc<Truth>,
}

impl FarLeases {
    pub(super) fn of(store: &Arc<MemoryStore>, link: &Arc<Link>, truth: &Arc<Truth>) -> Arc<Self> {
        Arc::new(Self {
            link: Arc::clone(link),
            leases: store.leases(),
            store: Arc::clone(store),
            truth: Arc::clone(truth),
        })
    }
}

impl FarUsers {
    pub(super) fn of(store: &MemoryStore, link: &Arc<Link>) -> Arc<Self> {
        Arc::new(Self {
            link: Arc::clone(link),
            users: store.registry(),
        })
    }
}

/// A store behind a link.
pub(super) struct FarStore {
    pub(super) link: Arc<Link>,
    pub(super) store: Arc<dyn ChannelStore>,
}

/// A registry of users behind a link.
pub(super) struct FarUsers {
    link: Arc<Link>,
    users: Arc<dyn UserRegistry>,
}

/// Hints, said behind a link; what is heard is heard.
pub(super) struct FarHints {
    pub(super) link: Arc<Link>,
    pub(super) hints: Arc<dyn Hints>,
}

/// Calls a method at the other end of the link; what it borrows travels along.
macro_rules! far {
    ($self:ident.$end:ident.$method:ident($(&$borrowed:ident),* $(; $copied:ident)?)) => {{
        let end = Arc::clone(&$self.$end);
        $(let $borrowed = $borrowed.to_owned();)*
        let work = async move { end.$method($(&$borrowed,)* $($copied)?).await };
        $self.link.ask_store(work).await
    }};
}

#[async_trait]
impl Leases for FarLeases {
    async fn note(&self, who: &Incarnation) -> Result<(), StoreError> {
        far!(self.leases.note(&who))
    }

    async fn renew(&self, who: &Incarnation, lease: Duration) -> Result<Renewed, StoreError> {
        let (end, truth) = (Arc::clone(&self.leases), Arc::clone(&self.truth));
        let who = who.clone();
        let work = async move { truth.renew(&*end, &who, lease).await };
        self.link.ask_store(work).await
    }

    async fn index_add(
        &self,
        who: &Incarnation,
        entries: &[IndexEntry],
    ) -> Result<Indexed, StoreError> {
        far!(self.leases.index_add(&who, &entries))
    }

    async fn index_drop(
        &self,
        who: &Incarnation,
        entries: &[IndexEntry],
        by: DroppedBy,
    ) -> Result<u64, StoreError> {
        far!(self.leases.index_drop(&who, &entries; by))
    }

    async fn index(&self, who: &Incarnation) -> Result<Vec<IndexEntry>, StoreError> {
        far!(self.leases.index(&who))
    }

    async fn look(
        &self,
        who: &Incarnation,
        channels: &[ChannelName],
    ) -> Result<Vec<Look>, StoreError> {
        far!(self.leases.look(&who, &channels))
    }

    async fn list(
        &self,
        who: &Incarnation,
        channel: &ChannelName,
    ) -> Result<BTreeMap<SessionId, User>, StoreError> {
        far!(self.leases.list(&who, &channel))
    }

    async fn resign(&self, who: &Incarnation) -> Result<(), StoreError> {
        far!(self.leases.resign(&who))
    }

    async fn directory(&self) -> Result<BTreeMap<Incarnation, u64>, StoreError> {
        far!(self.leases.directory())
    }

    async fn present(&self, channel: &ChannelName) -> Result<Vec<Incarnation>, StoreError> {
        far!(self.leases.present(&channel))
    }

    async fn observe(&self, whom: &[Incarnation]) -> Vec<Result<Option<LeaseState>, StoreError>> {
        let (end, asked) = (Arc::clone(&self.leases), whom.to_owned());
        let (store, truth) = (Arc::clone(&self.store), Arc::clone(&self.truth));
        let work = async move {
            let states = end.observe(&asked).await.into_iter().zip(&asked);
            let seen = |(state, who): (Result<Option<LeaseState>, _>, &Incarnation)| {
                state.map(|it| it.map(|it| truth.seen(&store, who, it)))
            };
            Ok(states.map(seen).collect())
        };
        let lost = |error: StoreError| whom.iter().map(|_| Err(error.clone())).collect();
        self.link.ask_store(work).await.unwrap_or_else(lost)
    }

    async fn declare_dead(&self, who: &Incarnation, seen: u64) -> Result<Declared, StoreError> {
        let (end, truth) = (Arc::clone(&self.leases), Arc::clone(&self.truth));
        let who = who.clone();
        let work = async move {
            if fastrand::u32(..100) < LATE_DECLARATIONS {
                pause(LATE_DECLARATION).await;
            }
            truth.declare_dead(&*end, &who, seen).await
        };
        self.link.ask_store(work).await
    }

    async fn vouch(&self, who: &Incarnation, place: &Place) -> Result<LeaseState, StoreError> {
        far!(self.leases.vouch(&who, &place))
    }

    async fn strike(&self, who: &Incarnation, seen: u64) -> Result<(), StoreError> {
        far!(self.leases.strike(&who; seen))
    }

    fn shard(&self, place: &Place) -> Shard {
        self.leases.shard(place)
    }

    fn available(&self) -> watch::Receiver<bool> {
        self.leases.available()
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
        far!(self.store.join(; join))
    }

    async fn leave(&self, leave: Leave) -> Result<bool, StoreError> {
        far!(self.store.leave(; leave))
    }

    async fn reap(&self, channel: &ChannelName, who: &Incarnation) -> Result<Reaped, StoreError> {
        far!(self.store.reap(&channel, &who))
    }

    async fn expire(&self, channel: &ChannelName) -> Result<Option<Duration>, StoreError> {
        far!(self.store.expire(&channel))
    }

    async fn members(
        &self,
        channel: &ChannelName,
        page: Option<&str>,
        limit: usize,
    ) -> Result<MembersPage, StoreError> {
        assert!(page.is_none(), "there are few members");
        let (end, channel) = (Arc::clone(&self.store), channel.clone());
        let work = async move { end.members(&channel, None, limit).await };
        self.link.ask_store(work).await
    }

    async fn history(
        &self,
        channel: &ChannelName,
        range: &HistoryRange,
        limit: usize,
    ) -> Result<HistoryPage, StoreError> {
        far!(self.store.history(&channel, &range; limit))
    }

    fn available(&self) -> watch::Receiver<bool> {
        self.store.available()
    }
}

/// One connection to the store: calls are made one after the other, also those that come after one that was refused, and
/// also when nobody waits for the answers any more.
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
                let refusal = link.refusals.lock().get(channel.as_str()).cloned();
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

/// As Redis is called: each with messages of one channel, in order.
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
        far!(self.users.login(&login, &dead))
    }

    async fn claim(
        &self,
        claims: &[Claim],
    ) -> Result<Vec<Result<Claimed, StoreError>>, StoreError> {
        far!(self.users.claim(&claims))
    }

    async fn linger(&self, user: &UserId, of: &SessionId) -> Result<(), StoreError> {
        far!(self.users.linger(&user, &of))
    }

    async fn close(&self, user: &UserId, of: &SessionId, fence: bool) -> Result<(), StoreError> {
        far!(self.users.close(&user, &of; fence))
    }

    async fn reap(&self, user: &UserId, who: &Incarnation) -> Result<u64, StoreError> {
        far!(self.users.reap(&user, &who))
    }

    async fn look(&self, who: &Incarnation, users: &[UserId]) -> Result<Vec<UserLook>, StoreError> {
        far!(self.users.look(&who, &users))
    }

    async fn agree(&self, policy: LoginPolicy, lasts: Duration) -> Result<LoginPolicy, StoreError> {
        let end = Arc::clone(&self.users);
        let work = async move { end.agree(policy, lasts).await };
        self.link.ask_store(work).await
    }
}

#[async_trait]
impl Hints for FarHints {
    async fn hint(&self, who: &Incarnation, user: &UserId) -> Result<(), StoreError> {
        far!(self.hints.hint(&who, &user))
    }

    fn listen(&self, who: &Incarnation) -> mpsc::Receiver<UserId> {
        self.hints.listen(who)
    }
}
