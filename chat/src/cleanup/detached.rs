//! Ends the memberships of detached members when their time is over.
//!
//! The chat that answers the join of a detached member remembers the channel. It runs the store's `expire` there whenever a
//! membership is due, until the channel has no detached member. It takes no more channels than it can remember: a join that it
//! would forget is refused before anything is done. If that chat ends first, the next script that runs on the channel ends the
//! membership.

use super::queue::ChannelQueue;
use channel_store::{ChannelName, ChannelStore};
use futures_util::future::join_all;
use parking_lot::Mutex;
use runtime::backoff::jittered;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// The largest number of channels that are remembered: some 80 MB if all of them have the longest names.
const ROOM: usize = 200_000;
/// Room for channels whose joins began while there was room, and ended when there was none.
const OVERHANG: usize = 10_000;
/// How many channels are handled at once.
const AT_ONCE: usize = 16;
/// The pause before the second try. Each further pause is twice as long, up to [`LONGEST_RETRY`].
const RETRY: Duration = Duration::from_millis(500);
const LONGEST_RETRY: Duration = Duration::from_secs(30);
/// Added to the time that the store names, because its clock counts whole milliseconds.
const SLACK: Duration = Duration::from_millis(2);

/// Channels that have detached members.
pub(crate) struct Detached {
    room: usize,
    /// Channels that a detached member has joined just now.
    joined: ChannelQueue,
    /// Channels in the schedule, with how many tries have failed since the last one that did not.
    scheduled: Mutex<HashMap<ChannelName, u32>>,
}

impl Default for Detached {
    fn default() -> Self {
        Self::with_room(ROOM)
    }
}

impl Detached {
    fn with_room(room: usize) -> Self {
        Self {
            room,
            joined: ChannelQueue::new(room + OVERHANG),
            scheduled: Mutex::default(),
        }
    }

    /// False if this process could not remember the channel.
    pub(crate) fn has_room_for(&self, channel: &ChannelName) -> bool {
        let scheduled = self.scheduled.lock();
        scheduled.contains_key(channel) || scheduled.len() + self.joined.len() < self.room
    }

    /// A detached member has joined the channel.
    pub(crate) fn add(&self, channel: &ChannelName) {
        self.joined.add(channel);
    }
}

/// Which channel is due when.
struct Schedule {
    order: BTreeSet<(Instant, ChannelName)>,
    detached: Arc<Detached>,
}

/// Expires detached members of these channels, for ever.
pub(crate) async fn expire_in_time(store: Arc<dyn ChannelStore>, detached: Arc<Detached>) {
    let mut schedule = Schedule::new(Arc::clone(&detached));
    loop {
        tokio::select! {
            biased;
            channels = detached.joined.next(AT_ONCE) => schedule.begin(channels),
            due = schedule.due(), if !schedule.order.is_empty() => {
                let runs = due.iter().map(|channel| store.expire(channel));
                let answers = join_all(runs).await;
                for (channel, answer) in due.into_iter().zip(answers) {
                    match answer {
                        Ok(next) => schedule.go_on(channel, next),
                        Err(error) => {
                            let name = channel.as_str();
                            tracing::debug!(%error, channel = name, "could not expire detached members");
                            schedule.fail(channel);
                        }
                    }
                }
            }
        }
    }
}

impl Schedule {
    fn new(detached: Arc<Detached>) -> Self {
        Self {
            order: BTreeSet::new(),
            detached,
        }
    }

    /// A new channel is due at once, and then the store says when the next membership is due. A membership that is renewed is never
    /// due earlier.
    fn begin(&mut self, channels: Vec<ChannelName>) {
        let mut scheduled = self.detached.scheduled.lock();
        for channel in channels {
            if !scheduled.contains_key(&channel) {
                scheduled.insert(channel.clone(), 0);
                self.order.insert((Instant::now(), channel));
            }
        }
    }

    /// Waits until channels are due, and takes them out.
    async fn due(&mut self) -> Vec<ChannelName> {
        let Some((first, _)) = self.order.first() else {
            return Vec::new();
        };
        sleep_until(*first).await;
        let now = Instant::now();
        let mut due = Vec::new();
        while due.len() < AT_ONCE && self.order.first().is_some_and(|(at, _)| *at <= now) {
            due.extend(self.order.pop_first().map(|(_, channel)| channel));
        }
        due
    }

    /// `None`: the channel has no detached member any more.
    fn go_on(&mut self, channel: ChannelName, next: Option<Duration>) {
        let mut scheduled = self.detached.scheduled.lock();
        let Some(next) = next else {
            scheduled.remove(&channel);
            return;
        };
        scheduled.insert(channel.clone(), 0);
        self.order.insert((Instant::now() + next + SLACK, channel));
    }

    /// Tries again until the store answers. If the channel was forgotten, its detached members would stay until somebody uses the
    /// channel.
    fn fail(&mut self, channel: ChannelName) {
        let mut scheduled = self.detached.scheduled.lock();
        let failures = scheduled.entry(channel.clone()).or_default();
        let pause = RETRY.saturating_mul(2_u32.saturating_pow(*failures));
        let pause = jittered(pause.min(LONGEST_RETRY));
        *failures = failures.saturating_add(1);
        self.order.insert((Instant::now() + pause, channel));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(n: usize) -> ChannelName {
        ChannelName::new(format!("room-{n}")).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_channel_that_fails_is_retried_with_growing_pauses_until_it_succeeds() {
        let channel = name(4);
        let detached = Arc::<Detached>::default();
        let mut schedule = Schedule::new(Arc::clone(&detached));
        schedule.begin(vec![channel.clone(), channel.clone()]);
        let mut waited = Vec::new();
        for _ in 0..40 {
            let before = Instant::now();
            assert_eq!(schedule.due().await, std::slice::from_ref(&channel));
            waited.push(before.elapsed());
            schedule.fail(channel.clone());
        }
        assert!(waited[0].is_zero() && waited[5] > 4 * RETRY, "{waited:?}");
        let longest = LONGEST_RETRY * 3 / 2 + SLACK;
        assert!(waited.iter().all(|it| *it <= longest), "{waited:?}");
        schedule.due().await;
        schedule.go_on(channel, None);
        assert!(schedule.order.is_empty() && detached.scheduled.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_channels_are_taken_than_can_be_remembered() {
        let detached = Arc::new(Detached::with_room(3));
        let mut schedule = Schedule::new(Arc::clone(&detached));
        for n in 0..2 {
            assert!(detached.has_room_for(&name(n)));
            detached.add(&name(n));
        }
        schedule.begin(detached.joined.next(9).await);
        // Channels in the queue count, too.
        detached.add(&name(2));
        assert!(!detached.has_room_for(&name(3)));
        assert!(
            detached.has_room_for(&name(0)),
            "a known channel needs no room"
        );
        schedule.due().await;
        schedule.go_on(name(0), None);
        assert!(detached.has_room_for(&name(3)));
    }
}
