//! Detached members leave when their time is over, not when somebody looks.
//!
//! Whichever chat took one remembers its channel, and runs the store's `expire` there whenever one is due, until nobody
//! is. When that chat ends first, the next script of the channel does it.

use crate::line::Line;
use channel_store::{ChannelName, ChannelStore};
use futures_util::future::join_all;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// Channels that are remembered at most.
const ROOM: usize = 10_000;
/// Channels that are seen to at once.
const AT_ONCE: usize = 16;
/// Tries in a row that may fail before a channel is left to whoever comes there next.
const TRIES: u32 = 6;
/// Before the second try; each further one waits twice as long.
const RETRY: Duration = Duration::from_millis(500);
/// Beside the time that the store says: its clock counts milliseconds.
const SLACK: Duration = Duration::from_millis(2);

/// When channels are due.
#[derive(Default)]
struct Schedule {
    order: BTreeSet<(Instant, ChannelName)>,
    /// Tries that have failed since one did not.
    failures: HashMap<ChannelName, u32>,
}

/// `joined`: channels where somebody without a connector has become a member.
pub(crate) async fn expire_in_time(store: Arc<dyn ChannelStore>, joined: Arc<Line>) {
    let mut schedule = Schedule::default();
    loop {
        tokio::select! {
            biased;
            channels = joined.next(ROOM), if schedule.has_room() => schedule.begin(channels),
            due = schedule.due(), if !schedule.order.is_empty() => {
                let runs = due.iter().map(|channel| store.expire(channel));
                let answers = join_all(runs).await;
                for (channel, answer) in due.into_iter().zip(answers) {
                    match answer {
                        Ok(next) => schedule.go_on(channel, next),
                        Err(error) => {
                            tracing::debug!(%error, %channel, "detached members were not looked after");
                            schedule.fail(channel);
                        }
                    }
                }
            }
        }
    }
}

impl Schedule {
    fn has_room(&self) -> bool {
        self.failures.len() < ROOM
    }

    /// At once for those that are new: then the store says when somebody is due. Renewing makes nobody due earlier.
    fn begin(&mut self, channels: Vec<ChannelName>) {
        for channel in channels {
            if !self.failures.contains_key(&channel) {
                self.failures.insert(channel.clone(), 0);
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
        let Some(next) = next else {
            self.failures.remove(&channel);
            return;
        };
        self.failures.insert(channel.clone(), 0);
        self.order.insert((Instant::now() + next + SLACK, channel));
    }

    fn fail(&mut self, channel: ChannelName) {
        let failures = self.failures.entry(channel.clone()).or_default();
        *failures += 1;
        if *failures >= TRIES {
            self.failures.remove(&channel);
            return;
        }
        let pause = RETRY * 2_u32.pow(*failures - 1);
        let pause = pause.mul_f64(0.5 + fastrand::f64());
        self.order.insert((Instant::now() + pause, channel));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_channel_that_fails_is_tried_again_ever_later_and_then_forgotten() {
        let channel = ChannelName::new("4").unwrap();
        let mut schedule = Schedule::default();
        schedule.begin(vec![channel.clone(), channel.clone()]);
        let mut waited = Vec::new();
        while !schedule.order.is_empty() {
            let before = Instant::now();
            assert_eq!(schedule.due().await, std::slice::from_ref(&channel));
            waited.push(before.elapsed());
            schedule.fail(channel.clone());
        }
        assert_eq!(waited.len(), TRIES as usize);
        assert!(waited[0].is_zero() && waited[5] > 4 * RETRY, "{waited:?}");
        assert!(schedule.failures.is_empty());
    }
}
