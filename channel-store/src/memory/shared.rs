//! The one lock of the store, and everything under it.

use super::channel::{Channel, Context};
use super::clock::{Clock, Now};
use super::lease_table::LeaseTable;
use super::outbox::Delivery;
use super::user_table::UserTable;
use crate::inbox::Slot;
use crate::name::{ChannelName, Incarnation, UserId};
use crate::options::{LogRule, StoreOptions};
use crate::rules::RuleTable;
use crate::server::FeedConnection;
use crate::watch::BirthSlot;
use parking_lot::{Mutex, MutexGuard};
use std::collections::{BTreeSet, HashMap};
use std::mem;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

/// An operation looks after at most so many channels beside its own.
const LOOKS: usize = 2;

/// What all parts of a memory store share.
///
/// All work on the data goes through [`Shared::work_on`]. It gives the lock back before it delivers, so no lock is held while
/// a sink is called.
pub(super) struct Shared {
    state: Mutex<State>,
    /// A turn is over: see [`Outbox`](super::outbox::Outbox).
    turn_over: Notify,
    /// Always true.
    pub(super) available: watch::Sender<bool>,
}

/// Everything that the store holds.
pub(super) struct State {
    /// Its time is that of the work under way.
    pub(super) context: Context,
    pub(super) channels: HashMap<ChannelName, Channel>,
    /// The same channels, in the order of their names.
    pub(super) names: BTreeSet<ChannelName>,
    /// Each channel once, with the time at which to see whether it is idle.
    looks: BTreeSet<(Instant, ChannelName)>,
    /// The channels whose turn the present holder of the lock has taken.
    to_deliver: Vec<ChannelName>,
    /// How many channels have a turn under way. If there is none, no outbox is full.
    turns: usize,
    pub(super) leases: LeaseTable,
    pub(super) users: UserTable,
    /// The connectors that listen to hints.
    pub(super) listeners: HashMap<Incarnation, mpsc::Sender<UserId>>,
    /// Where letters are put, by the name of the receiver.
    pub(super) inboxes: HashMap<Incarnation, Slot>,
    /// Who hears of channels that begin.
    pub(super) births: Vec<BirthSlot>,
    /// The channels that have begun during the work under way.
    born: Vec<ChannelName>,
}

impl Shared {
    pub(super) fn new(options: StoreOptions) -> Self {
        let context = Context {
            now: Now::get(),
            clock: Clock::start(),
            policies: RuleTable::new(&options, |policy| policy),
            options,
            server: lifetime(1),
        };
        let state = State {
            context,
            channels: HashMap::new(),
            names: BTreeSet::new(),
            looks: BTreeSet::new(),
            to_deliver: Vec::new(),
            turns: 0,
            leases: LeaseTable::default(),
            users: UserTable::default(),
            listeners: HashMap::new(),
            inboxes: HashMap::new(),
            births: Vec::new(),
            born: Vec::new(),
        };
        Self {
            state: Mutex::new(state),
            turn_over: Notify::new(),
            available: watch::Sender::new(true),
        }
    }

    /// Works on the data. Use [`Shared::room_in`] before work that may publish.
    pub(super) fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        self.work_on(self.state.lock(), work)
    }

    /// Works on the data under this lock. Then gives it back, and delivers what the work has put into outboxes.
    pub(super) fn work_on<T>(
        &self,
        mut state: MutexGuard<'_, State>,
        work: impl FnOnce(&mut State) -> T,
    ) -> T {
        state.context.now = Now::get();
        let answer = work(&mut state);
        let channels = mem::take(&mut state.to_deliver);
        state.turns += channels.len();
        let born = mem::take(&mut state.born);
        let told = if born.is_empty() {
            Vec::new()
        } else {
            state.births.clone()
        };
        drop(state);
        for slot in told {
            born.iter().for_each(|name| slot.put(name.clone()));
        }
        for channel in &channels {
            self.deliver(channel);
        }
        answer
    }

    /// Waits until the outboxes of these channels have room, and answers with the lock. The wait is short, because the
    /// caller that delivers waits for nothing.
    pub(super) async fn room_in<'a>(
        &self,
        channels: impl Iterator<Item = &'a ChannelName> + Clone,
    ) -> MutexGuard<'_, State> {
        loop {
            // Made before the look, so that a turn that ends in between is not missed.
            let turn_over = self.turn_over.notified();
            {
                let state = self.state.lock();
                if state.have_room(channels.clone()) {
                    return state;
                }
            }
            turn_over.await;
        }
    }

    /// Delivers what is in a channel's outbox, until it is empty. The caller has the turn.
    fn deliver(&self, channel: &ChannelName) {
        let mut turn = Turn {
            shared: self,
            channel,
            is_over: false,
        };
        while let Some(delivery) = turn.next() {
            delivery.deliver(channel);
        }
    }
}

/// The turn to deliver a channel's outbox. It ends also if a sink panics: the next turn delivers the rest then.
struct Turn<'a> {
    shared: &'a Shared,
    channel: &'a ChannelName,
    is_over: bool,
}

impl Turn<'_> {
    /// What to deliver next. `None`: the outbox is empty, and the turn over.
    fn next(&mut self) -> Option<Delivery> {
        let mut state = self.shared.state.lock();
        // A channel is not forgotten while somebody has its turn.
        let next = state.channels.get_mut(self.channel)?.outbox.next();
        if next.is_none() {
            self.is_over = true;
            state.turns -= 1;
        }
        next
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            let mut state = self.shared.state.lock();
            state.turns -= 1;
            if let Some(channel) = state.channels.get_mut(self.channel) {
                channel.outbox.end_turn();
            }
        }
        self.shared.turn_over.notify_waiters();
    }
}

impl State {
    /// True if more may be published in these channels now.
    fn have_room<'a>(&self, mut channels: impl Iterator<Item = &'a ChannelName>) -> bool {
        let has_room = |name| {
            let known = self.channels.get(name);
            known.is_none_or(|channel| !channel.outbox.is_full())
        };
        self.turns == 0 || channels.all(has_room)
    }

    /// Puts other rules in force. What the store holds is trimmed by the next publication.
    pub(super) fn set_log_rules(&mut self, rules: Vec<LogRule>) {
        let context = &mut self.context;
        context.options.log_rules = rules;
        context.policies = RuleTable::new(&context.options, |policy| policy);
        for (name, channel) in &mut self.channels {
            channel.set_policy(*context.policies.of(name));
        }
    }

    /// Works on a channel that the store knows. `None`: it does not know it.
    pub(super) fn in_known<T>(
        &mut self,
        name: &ChannelName,
        work: impl FnOnce(&mut Channel, &Context) -> T,
    ) -> Option<T> {
        let channel = self.channels.get_mut(name)?;
        let answer = work(channel, &self.context);
        if channel.outbox.take_turn() {
            self.to_deliver.push(name.clone());
        }
        Some(answer)
    }

    /// Works on a channel, which the store knows from then on.
    pub(super) fn in_any<T>(
        &mut self,
        name: &ChannelName,
        work: impl FnOnce(&mut Channel, &Context) -> T,
    ) -> T {
        self.forget_idle();
        let channel = self.channels.entry(name.clone()).or_insert_with(|| {
            let channel = Channel::new(name, &self.context);
            let look = channel.first_look(&self.context);
            self.looks.insert((look, name.clone()));
            self.names.insert(name.clone());
            channel
        });
        let existed = channel.exists();
        let answer = work(channel, &self.context);
        if channel.outbox.take_turn() {
            self.to_deliver.push(name.clone());
        }
        if !existed && !self.births.is_empty() && channel.exists() {
            self.born.push(name.clone());
        }
        answer
    }

    /// Looks at a few channels whose time has come, and forgets those that are idle.
    fn forget_idle(&mut self) {
        let now = self.context.now.instant;
        for _ in 0..LOOKS {
            if self.looks.first().is_none_or(|(at, _)| *at > now) {
                return;
            }
            let Some((_, name)) = self.looks.pop_first() else {
                return;
            };
            match self.in_known(&name, Channel::next_look) {
                Some(Some(at)) => drop(self.looks.insert((at, name))),
                _ => self.forget(name),
            }
        }
    }

    /// Forgets an idle channel. If somebody watches it, the place is kept where the next life will be heard.
    fn forget(&mut self, name: ChannelName) {
        let watched = self.channels.get_mut(&name);
        if let Some(channel) = watched.filter(|it| it.outbox.followers() > 0) {
            channel.begin_again(&self.context);
            let look = channel.first_look(&self.context);
            self.looks.insert((look, name));
        } else {
            self.channels.remove(&name);
            self.names.remove(&name);
        }
    }
}

/// A server lifetime. Redis begins one when it restarts, or when a replica takes over.
pub(super) fn lifetime(number: u64) -> FeedConnection {
    FeedConnection {
        number,
        lifetime: format!("memory:{:016x}", fastrand::u64(..)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::outbox::Follower;
    use super::super::store::MemoryStore;
    use super::*;
    use crate::feed::FeedSink;
    use crate::name::{Route, User};
    use crate::publication::{Payload, Publication};
    use crate::publish::{Publish, Published};
    use crate::store::ChannelStore;
    use std::sync::Arc;
    use std::time::Duration;

    struct Nobody;

    impl FeedSink for Nobody {
        fn subscribed(&self, _: &FeedConnection, _: &ChannelName) {}
        fn publications(
            &self,
            _: &FeedConnection,
            _: &ChannelName,
            _: &mut dyn Iterator<Item = Publication>,
        ) {
        }
    }

    fn name(channel: &str) -> ChannelName {
        ChannelName::new(channel).unwrap()
    }

    async fn publish(store: &MemoryStore, channel: &str) -> Published {
        let user = User {
            id: UserId::new("u").unwrap(),
            is_number: false,
        };
        let payload = Payload::new(&Route::new("onMessage").unwrap(), &user, b"{}");
        let publish = Publish::new(name(channel), user.id, payload);
        store.publish(publish).await.unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn idle_channels_expire_while_others_are_used() {
        let store = MemoryStore::new(StoreOptions {
            log_life: Duration::from_secs(10),
            channel_life: Duration::from_secs(10),
            ..StoreOptions::default()
        });
        for n in 0..100 {
            publish(&store, &format!("idle-{n}")).await;
        }
        let first = publish(&store, "used").await;
        for _ in 0..60 {
            tokio::time::advance(Duration::from_secs(1)).await;
            let next = publish(&store, "used").await;
            assert_eq!(next.position.epoch, first.position.epoch);
        }
        assert_eq!(store.shared.with(|state| state.channels.len()), 1);
        let reborn = publish(&store, "idle-0").await;
        assert_eq!(reborn.position.offset, 1);
        assert_ne!(reborn.position.epoch, first.position.epoch);
    }

    #[tokio::test(start_paused = true)]
    async fn a_channel_with_a_delivery_under_way_is_not_forgotten() {
        let shared = Shared::new(StoreOptions::default());
        let mut state = shared.state.lock();
        let follower = Follower {
            feed: 0,
            sink: Arc::new(Nobody),
            only_looks: false,
        };
        let follow = |channel: &mut Channel, at: &Context| {
            channel.outbox.follow(&follower, &at.server);
        };
        state.in_any(&name("4"), follow);
        // The turn is taken, and nobody follows any more.
        state.in_known(&name("4"), |it, _| it.outbox.unfollow(0));
        let mut is_known_later = |hours: u64| {
            state.context.now.instant += Duration::from_secs(hours * 3600);
            state.in_any(&name("5"), |_, _| ());
            state.in_known(&name("4"), |it, _| it.outbox.end_turn())
        };
        assert_eq!(is_known_later(48), Some(()));
        assert_eq!(is_known_later(48), None);
    }
}
