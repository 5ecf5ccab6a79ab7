//! Detached members leave when their time is over, not when somebody looks.
//!
//! Whichever chat took one remembers its channel, and runs the store's `expire` there whenever one is due, until nobody
//! is. It takes no more of them than it can remember: a join that it would forget is refused before anything is done. When
//! that chat ends first, the next script of the channel does it.

use crate::line::Line;
use channel_store::{ChannelName, ChannelStore};
use futures_util::future::join_all;
use parking_lot::Mutex;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// Channels that are remembered at most: some 80 MB if all of them have the longest names.
const ROOM: usize = 200_000;
/// Channels of joins that were under way when there was room, and no more when they were done.
const OVERHANG: usize = 10_000;
/// Channels that are seen to at once.
const AT_ONCE: usize = 16;
/// Before the second try; each further one waits twice as long, up to [`LONGEST_RETRY`].
const RETRY: Duration = Duration::from_millis(500);
const LONGEST_RETRY: Duration = Duration::from_secs(30);
/// Beside the time that the store says: its clock counts milliseconds.
const SLACK: Duration = Duration::from_millis(2);

/// Channels where somebody without a connector is a member.
pub(crate) struct Detached {
    room: usize,
    /// Where somebody has joined just now.
    joined: Line,
    /// Those that are looked after, with how many tries have failed since one did not.
    looked_after: Mutex<HashMap<ChannelName, u32>>,
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
            joined: Line::new(room + OVERHANG),
            looked_after: Mutex::default(),
        }
    }

    /// False if a member that joins there would not be looked after.
    pub(crate) fn has_room_for(&self, channel: &ChannelName) -> bool {
        let looked_after = self.looked_after.lock();
        looked_after.contains_key(channel) || looked_after.len() + self.joined.len() < self.room
    }

    /// Somebody has joined there.
    pub(crate) fn add(&self, channel: &ChannelName) {
        self.joined.add(channel);
    }
}

/// When channels are due.
struct Schedule {
    order: BTreeSet<(Instant, ChannelName)>,
    detached: Arc<Detached>,
}

/// Looks after these channels, for ever.
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
                            tracing::debug!(%error, channel = name, "detached members were not looked after");
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

    /// At once for those that are new: then the store says when somebody is due. Renewing makes nobody due earlier.
    fn begin(&mut self, channels: Vec<ChannelName>) {
        let mut looked_after = self.detached.looked_after.lock();
        for channel in channels {
            if !looked_after.contains_key(&channel) {
                looked_after.insert(channel.clone(), 0);
                self.order.insert((Instant::now(), channel));
            }
        }
    }

    /// Returns when some are due, and takes them out.
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

    /// `None`: nobody there is detached any more.
    fn go_on(&mut self, channel: ChannelName, next: Option<Duration>) {
        let mut looked_after = self.detached.looked_after.lock();
        let Some(next) = next else {
            looked_after.remove(&channel);
            return;
        };
        looked_after.insert(channel.clone(), 0);
        self.order.insert((Instant::now() + next + SLACK, channel));
    }

    /// It is tried again until the store answers: forgotten, its members would stay for as long as nobody comes there.
    fn fail(&mut self, channel: ChannelName) {
        let mut looked_after = self.detached.looked_after.lock();
        let failures = looked_after.entry(channel.clone()).or_default();
        let pause = RETRY.saturating_mul(2_u32.saturating_pow(*failures));
        let pause = pause.min(LONGEST_RETRY).mul_f64(0.5 + fastrand::f64());
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
    async fn a_channel_that_fails_is_tried_again_ever_later_until_it_does_not() {
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
        assert!(schedule.order.is_empty() && detached.looked_after.lock().is_empty());
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
        // Those that are in line count, too.
        detached.add(&name(2));
        assert!(!detached.has_room_for(&name(3)));
        assert!(detached.has_room_for(&name(0)), "it is known");
        schedule.due().await;
        schedule.go_on(name(0), None);
        assert!(detached.has_room_for(&name(3)));
    }
}
