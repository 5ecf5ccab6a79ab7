//! A client of the simulation. Again and again it connects to any connector, logs in, joins and leaves channels, and
//! goes away. If a request fails, it repeats it on the same connection, at once or a moment later. When the faults are
//! over, it stays where it is.
//!
//! Most of the time it shows the secret of its last login. It may vanish, so that its connector holds a half-open
//! socket. It may also give up while its login is under way, and come back at once.

use super::guest::{Answer, Guest};
use super::network::{pause, random_time};
use super::process::Visit;
use super::{CHANNELS, World};
use channel_store::LoginPolicy;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::oneshot;
use tokio::time::{Duration, Instant, timeout};
use wire::Disconnect;

/// The most times that a request is sent on the same connection.
const TRIES: usize = 4;
/// How long a connector holds a half-open socket.
const HALF_OPEN: Duration = Duration::from_secs(20);
/// Longer than any run.
const FOREVER: Duration = Duration::from_secs(3_600);

/// Sessions by user, and memberships by channel and user, as the clients believe.
#[derive(Default)]
pub(super) struct Presence {
    counts: Mutex<Counts>,
}

#[derive(Clone, Default)]
pub(super) struct Counts {
    pub(super) logins: BTreeMap<&'static str, u32>,
    pub(super) members: BTreeMap<(&'static str, &'static str), u32>,
}

impl Presence {
    pub(super) fn now(&self) -> Counts {
        self.counts.lock().clone()
    }
}

/// One session's part of the presence. It ends when this is dropped, also if the connector dies.
struct Session {
    presence: Arc<Presence>,
    user: &'static str,
    channels: BTreeSet<&'static str>,
}

impl Session {
    fn begin(presence: &Arc<Presence>, user: &'static str) -> Self {
        *presence.counts.lock().logins.entry(user).or_default() += 1;
        Self {
            presence: Arc::clone(presence),
            user,
            channels: BTreeSet::new(),
        }
    }

    fn joined(&mut self, channel: &'static str) {
        if self.channels.insert(channel) {
            let mut counts = self.presence.counts.lock();
            *counts.members.entry((channel, self.user)).or_default() += 1;
        }
    }

    /// The client does nothing for a while, but sees that it is taken out of channels that are deleted.
    async fn idles(&mut self, world: &World, guest: &mut Guest, time: Duration) {
        let until = Instant::now() + time;
        while let Some(rest) = until
            .checked_duration_since(Instant::now())
            .filter(|it| !it.is_zero())
        {
            for removed in guest.idle(rest).await {
                let channel = CHANNELS.into_iter().find(|it| *it == removed);
                self.left(channel.expect("a channel of the simulation"));
                world.removed.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn left(&mut self, channel: &'static str) {
        if self.channels.remove(channel) {
            let mut counts = self.presence.counts.lock();
            *counts.members.entry((channel, self.user)).or_default() -= 1;
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let mut counts = self.presence.counts.lock();
        *counts.logins.entry(self.user).or_default() -= 1;
        for channel in &self.channels {
            *counts.members.entry((channel, self.user)).or_default() -= 1;
        }
    }
}

/// Comes and goes until the faults are over, and then stays.
pub(super) async fn visitor(world: Arc<World>, user: &'static str) {
    let secret = Arc::<Mutex<Option<String>>>::default();
    loop {
        pause(2_000).await;
        if fastrand::u8(..4) == 0 {
            secret.lock().take();
        }
        let connector = world.connector(fastrand::usize(..2));
        let (vanishes, vanished) = oneshot::channel();
        let guard = {
            let (world, secret) = (Arc::clone(&world), Arc::clone(&secret));
            move |guest: Guest| guard(world, user, guest.with(secret), vanishes)
        };
        let visit = connector.map(|it| it.visit(guard));
        let Some(visit) = visit else { continue };
        let visit = tokio::select! {
            biased;
            Ok(()) = vanished => Ok(Visit::Vanished),
            visit = visit => visit,
        };
        if let Ok(Visit::Closed(reason)) = visit {
            if !world.may_close(reason) {
                world.fail(format!("{user} was closed: {reason:?}"));
            }
            if world.is_at_rest()
                && matches!(reason, Disconnect::Kicked | Disconnect::Replaced)
                && world.faults.policy == LoginPolicy::KickOld
            {
                // A client that was kicked does not come back on its own. Otherwise two clients would kick each other
                // for ever.
                return;
            }
        }
    }
}

async fn guard(
    world: Arc<World>,
    user: &'static str,
    mut guest: Guest,
    vanishes: oneshot::Sender<()>,
) -> (Guest, Visit) {
    let connection = Arc::clone(&guest.connection);
    if !world.is_at_rest() && fastrand::u8(..8) == 0 {
        give_up(user, &mut guest, vanishes).await;
        return (guest, Visit::Vanished);
    }
    let visit = tokio::select! {
        biased;
        reason = connection.closed() => Visit::Closed(reason),
        visit = act(Arc::clone(&world), user, &mut guest) => visit,
    };
    if visit == Visit::Vanished {
        // From now on the socket is half-open, until the connector is told or misses heartbeats.
        let _ = vanishes.send(());
        if let Ok(reason) = timeout(HALF_OPEN, connection.closed()).await {
            match reason {
                Disconnect::Replaced => drop(world.replaced.fetch_add(1, Ordering::Relaxed)),
                Disconnect::Displaced | Disconnect::Moved => {}
                other if world.may_close(other) => {}
                other => world.fail(format!("{user} was closed half-open: {other:?}")),
            }
        }
    }
    (guest, visit)
}

/// Logs in and goes away before the answer. The request is carried out all the same.
async fn give_up(user: &'static str, guest: &mut Guest, vanishes: oneshot::Sender<()>) {
    let connection = Arc::clone(&guest.connection);
    let goes = async move {
        pause(1_500).await;
        connection.close(Disconnect::CLOSED);
        let _ = vanishes.send(());
    };
    let home = CHANNELS[fastrand::usize(..2)];
    tokio::join!(guest.login(user, home), goes);
}

/// What a client does while it is connected.
async fn act(world: Arc<World>, user: &'static str, guest: &mut Guest) -> Visit {
    let home = CHANNELS[fastrand::usize(..2)];
    let mut tries = Tries::default();
    while tries.goes_on(guest.login(user, home).await).await {}
    if !tries.is_done {
        return Visit::Refused;
    }
    world.visits.fetch_add(1, Ordering::Relaxed);
    let mut session = Session::begin(&world.presence, user);
    session.joined(home);
    let until = Instant::now() + Duration::from_millis(fastrand::u64(..20_000));
    while Instant::now() < until {
        session.idles(&world, guest, random_time(4_000)).await;
        let channel = CHANNELS[fastrand::usize(..2)];
        if session.channels.contains(channel) {
            // The session is no member any more, whatever the answer is, and may join again at once.
            session.left(channel);
            guest.leave(channel).await;
            if fastrand::bool() {
                continue;
            }
        }
        let mut tries = Tries::default();
        while tries.goes_on(guest.join(channel).await).await {}
        if tries.is_done {
            session.joined(channel);
        }
    }
    if world.is_at_rest() {
        loop {
            session.idles(&world, guest, FOREVER).await;
        }
    }
    if fastrand::bool() {
        return Visit::Vanished;
    }
    Visit::Left
}

/// Repeats a request until it is done or refused, or was sent often enough.
#[derive(Default)]
struct Tries {
    count: usize,
    is_done: bool,
}

impl Tries {
    /// True if the request must be sent again: at once, or after a pause.
    async fn goes_on(&mut self, answer: Answer) -> bool {
        self.count += 1;
        self.is_done = answer == Answer::Done;
        if answer != Answer::Failed || self.count == TRIES {
            return false;
        }
        if fastrand::bool() {
            pause(1_000).await;
        }
        true
    }
}
