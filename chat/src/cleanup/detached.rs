//! Ends the memberships of detached members when their time is over.
//!
//! The chat that answers the join of a detached member remembers the channel. It runs the store's `expire` there whenever a
//! membership is due, until the channel has no detached member. It takes no more channels than it can remember: a join that it
//! would forget is refused before anything is done. If that chat ends first, the next script that runs on the channel ends the
//! membership.

use channel_store::{ChannelName, ChannelStore};
use futures_util::future::join_all;
use parking_lot::Mutex;
use runtime::backoff::jittered;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

/// The largest number of channels that are remembered: some 80 MB if all of them have the longest names. Joins that begin while
/// there is room, and end when there is none, come on top: they are as many as calls may be under way.
const ROOM: usize = 200_000;
/// How many channels are handled at once.
const AT_ONCE: usize = 16;
/// The pause before the second try. Each further pause is twice as long, up to [`LONGEST_RETRY`].
const RETRY: Duration = Duration::from_millis(500);
const LONGEST_RETRY: Duration = Duration::from_secs(30);
/// Added to the time that the store names, because its clock counts whole milliseconds.
const SLACK: Duration = Duration::from_millis(2);

/// Channels that have detached members, and when to look after them.
pub(crate) struct Detached {
    room: usize,
    schedule: Mutex<Schedule>,
    /// A channel is due earlier than all others.
    moved: Notify,
}

#[derive(Default)]
struct Schedule {
    order: BTreeSet<(Instant, ChannelName)>,
    channels: HashMap<ChannelName, Entry>,
}

/// What is remembered of a channel.
#[derive(Default)]
struct Entry {
    /// When the channel is due. While the store is asked, the channel is not in the order, and this is when a member is due that
    /// has joined meanwhile.
    due: Option<Instant>,
    is_asked: bool,
    /// How many tries have failed since the last one that did not.
    failures: u32,
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
            schedule: Mutex::default(),
            moved: Notify::new(),
        }
    }

    /// False if this process could not remember the channel.
    pub(crate) fn has_room_for(&self, channel: &ChannelName) -> bool {
        let Schedule { channels, .. } = &*self.schedule.lock();
        channels.contains_key(channel) || channels.len() < self.room
    }

    /// A detached member has joined the channel for so long. A new channel is due at once: the store then says when the next of
    /// its members is due, which may be one that has joined by another chat.
    pub(crate) fn add(&self, channel: &ChannelName, stay: Duration) {
        let now = Instant::now();
        let is_first = {
            let mut schedule = self.schedule.lock();
            let is_new = !schedule.channels.contains_key(channel);
            schedule.bring_forward(channel, if is_new { now } else { now + stay + SLACK });
            schedule.order.first().is_some_and(|(_, it)| it == channel)
        };
        if is_first {
            self.moved.notify_one();
        }
    }

    /// Waits until channels are due, and takes them out of the order.
    async fn due(&self) -> Vec<ChannelName> {
        loop {
            let first = {
                let mut schedule = self.schedule.lock();
                let due = schedule.take(Instant::now());
                if !due.is_empty() {
                    return due;
                }
                schedule.order.first().map(|(at, _)| *at)
            };
            let moved = self.moved.notified();
            match first {
                // Whether the time is over or a channel is due earlier, the next look tells.
                Some(at) => drop(timeout_at(at, moved).await),
                None => moved.await,
            }
        }
    }

    /// The store was asked. `None`: the channel has no detached member any more.
    fn go_on(&self, channel: &ChannelName, next: Option<Duration>) {
        let next = next.map(|next| Instant::now() + next + SLACK);
        let mut schedule = self.schedule.lock();
        let joined = schedule.channels.remove(channel).and_then(|it| it.due);
        if let Some(due) = [next, joined].into_iter().flatten().min() {
            schedule.bring_forward(channel, due);
        }
    }

    /// Tries again until the store answers. If the channel was forgotten, its detached members would stay until somebody uses the
    /// channel.
    fn fail(&self, channel: &ChannelName) {
        let mut schedule = self.schedule.lock();
        let failures = (schedule.channels.remove(channel)).map_or(0, |it| it.failures);
        let pause = RETRY.saturating_mul(2_u32.saturating_pow(failures));
        let pause = jittered(pause.min(LONGEST_RETRY));
        let entry = Entry {
            failures: failures.saturating_add(1),
            ..Entry::default()
        };
        schedule.channels.insert(channel.clone(), entry);
        schedule.bring_forward(channel, Instant::now() + pause);
    }
}

impl Schedule {
    /// The channel is due at this time, unless it is due earlier.
    fn bring_forward(&mut self, channel: &ChannelName, due: Instant) {
        let entry = self.channels.entry(channel.clone()).or_default();
        if entry.due.is_some_and(|known| known <= due) {
            return;
        }
        let later = entry.due.replace(due);
        if entry.is_asked {
            return;
        }
        if let Some(later) = later {
            self.order.remove(&(later, channel.clone()));
        }
        self.order.insert((due, channel.clone()));
    }

    /// Some channels that are due. The store is asked about them.
    fn take(&mut self, now: Instant) -> Vec<ChannelName> {
        let mut due = Vec::new();
        while due.len() < AT_ONCE && self.order.first().is_some_and(|(at, _)| *at <= now) {
            let Some((_, channel)) = self.order.pop_first() else {
                break;
            };
            if let Some(entry) = self.channels.get_mut(&channel) {
                entry.due = None;
                entry.is_asked = true;
            }
            due.push(channel);
        }
        due
    }
}

/// Expires detached members of these channels, for ever.
pub(crate) async fn expire_in_time(store: Arc<dyn ChannelStore>, detached: Arc<Detached>) {
    loop {
        let due = detached.due().await;
        let runs = due.iter().map(|channel| store.expire(channel));
        for (channel, answer) in due.iter().zip(join_all(runs).await) {
            match answer {
                Ok(next) => detached.go_on(channel, next),
                Err(error) => {
                    let name = channel.as_str();
                    tracing::debug!(%error, channel = name, "could not expire detached members");
                    detached.fail(channel);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAY: Duration = Duration::from_secs(60);

    fn name(n: usize) -> ChannelName {
        ChannelName::new(format!("room-{n}")).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_channel_that_fails_is_retried_with_growing_pauses_until_it_succeeds() {
        let channel = name(4);
        let detached = Detached::default();
        detached.add(&channel, STAY);
        detached.add(&channel, STAY);
        let mut waited = Vec::new();
        for _ in 0..40 {
            let before = Instant::now();
            assert_eq!(detached.due().await, std::slice::from_ref(&channel));
            waited.push(before.elapsed());
            detached.fail(&channel);
        }
        assert!(waited[0].is_zero() && waited[5] > 4 * RETRY, "{waited:?}");
        let longest = LONGEST_RETRY * 3 / 2 + SLACK;
        assert!(waited.iter().all(|it| *it <= longest), "{waited:?}");
        detached.due().await;
        detached.go_on(&channel, None);
        let schedule = detached.schedule.lock();
        assert!(schedule.order.is_empty() && schedule.channels.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_member_that_joins_for_a_shorter_time_is_due_earlier() {
        let channel = name(4);
        let detached = Arc::new(Detached::default());
        detached.add(&channel, STAY);
        detached.due().await;
        // This one joins while the store is asked, and that one while the schedule waits.
        detached.add(&channel, STAY / 2);
        detached.go_on(&channel, Some(STAY));
        let waiting = tokio::spawn({
            let detached = Arc::clone(&detached);
            async move { detached.due().await }
        });
        tokio::task::yield_now().await;
        detached.add(&channel, STAY / 3);
        detached.add(&channel, STAY);
        let begun = Instant::now();
        waiting.await.unwrap();
        assert_eq!(begun.elapsed(), STAY / 3 + SLACK);
        detached.go_on(&channel, None);
        assert!(detached.schedule.lock().channels.is_empty());

        detached.add(&channel, STAY);
        detached.due().await;
        detached.add(&channel, STAY / 2);
        detached.go_on(&channel, Some(STAY));
        let begun = Instant::now();
        detached.due().await;
        assert_eq!(begun.elapsed(), STAY / 2 + SLACK);
    }

    #[tokio::test(start_paused = true)]
    async fn a_member_that_joins_while_the_last_one_expires_is_not_forgotten() {
        let channel = name(4);
        let detached = Detached::default();
        detached.add(&channel, STAY);
        detached.due().await;
        detached.add(&channel, STAY);
        detached.go_on(&channel, None);
        let begun = Instant::now();
        detached.due().await;
        assert_eq!(begun.elapsed(), STAY + SLACK);
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_channels_are_taken_than_can_be_remembered() {
        let detached = Detached::with_room(3);
        for n in 0..3 {
            assert!(detached.has_room_for(&name(n)));
            detached.add(&name(n), STAY);
        }
        assert!(!detached.has_room_for(&name(3)));
        assert!(
            detached.has_room_for(&name(0)),
            "a known channel needs no room"
        );
        detached.due().await;
        assert!(!detached.has_room_for(&name(3)), "the store is asked");
        detached.go_on(&name(0), None);
        assert!(detached.has_room_for(&name(3)));
    }
}
