//! Looking after all channels: cheaply after each new connection of the feed, and from time to time in any case.

use super::Hub;
use super::channel::{LocalChannel, Next};
use super::reader::Reader;
use channel_store::{ChannelFeed, Shard};
use futures_util::future::join_all;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::sleep;

/// Channels in one question: what else wants the connection waits for it.
const AT_ONCE: usize = 500;

/// Channels whose subscription was confirmed again: most likely, but not certainly, they missed nothing.
#[derive(Default)]
pub(super) struct Doubtful {
    channels: Mutex<Vec<Arc<LocalChannel>>>,
    grown: Notify,
}

impl Doubtful {
    pub(super) fn add(&self, channel: Arc<LocalChannel>) {
        self.channels.lock().push(channel);
        self.grown.notify_one();
    }

    fn take(&self) -> Vec<Arc<LocalChannel>> {
        let mut channels = self.channels.lock();
        let rest = channels.len().saturating_sub(AT_ONCE);
        channels.split_off(rest)
    }
}

/// Compares the ends of logs with where the hub stands, many at once, and reads only where they differ: a look costs a
/// thirtieth of a read (RECOVERY.md, section 4).
pub(super) async fn look(reader: Arc<Reader>, doubtful: Arc<Doubtful>) {
    loop {
        let channels = doubtful.take();
        if channels.is_empty() {
            doubtful.grown.notified().await;
            continue;
        }
        let looks = by_shard(reader.feed(), channels).into_iter();
        let looks = looks.map(async |channels| {
            let names: Vec<_> = channels.iter().map(|it| it.name().clone()).collect();
            let heads = match reader.feed() {
                Some(feed) => feed.heads(&names).await.unwrap_or_default(),
                None => Vec::new(),
            };
            let mut heads = heads.into_iter();
            for channel in channels {
                // Without an answer it is read, and that is tried until it works.
                if !matches!(channel.looked(heads.next().flatten()), Next::Done) {
                    tokio::spawn(Arc::clone(&reader).repair(channel));
                }
            }
        });
        join_all(looks).await;
    }
}

/// Tells the store which channels are in use, and reads where the answer is not where the hub stands. So a quiet
/// channel with members lives on, and no silence hides anything for longer than the interval (RECOVERY.md, section 2).
pub(super) async fn touch(hub: Weak<Hub>, interval: Duration) {
    loop {
        let Some(channels) = hub.upgrade().map(|hub| hub.all()) else {
            return;
        };
        let batches = channels.len().div_ceil(AT_ONCE).max(1);
        let pause = interval / u32::try_from(batches).unwrap_or(u32::MAX);
        for number in 0..batches {
            let batch = channels.iter().skip(number * AT_ONCE).take(AT_ONCE);
            let Some(hub) = hub.upgrade() else {
                return;
            };
            hub.touch(&batch.cloned().collect::<Vec<_>>()).await;
            drop(hub);
            sleep(pause.mul_f64(0.75 + fastrand::f64() / 4.0)).await;
        }
    }
}

/// Those of each shard apart, in the order in which they came.
fn by_shard(
    feed: Option<&Arc<dyn ChannelFeed>>,
    channels: Vec<Arc<LocalChannel>>,
) -> Vec<Vec<Arc<LocalChannel>>> {
    let mut by_shard: BTreeMap<Shard, Vec<_>> = BTreeMap::new();
    for channel in channels {
        let shard = feed.map_or_else(Shard::default, |feed| feed.shard(channel.name()));
        by_shard.entry(shard).or_default().push(channel);
    }
    by_shard.into_values().collect()
}

impl Hub {
    /// By name: so each has about the same time from one touch to the next.
    fn all(&self) -> Vec<Arc<LocalChannel>> {
        let mut channels: Vec<_> = self.channels.read().values().cloned().collect();
        channels.sort_unstable_by(|one, other| one.name().cmp(other.name()));
        channels
    }

    async fn touch(&self, channels: &[Arc<LocalChannel>]) {
        let Some(feed) = self.reader.feed().filter(|_| !channels.is_empty()) else {
            return;
        };
        let touches = by_shard(Some(feed), channels.to_vec()).into_iter();
        let touches = touches.map(async |channels| {
            let names: Vec<_> = channels.iter().map(|it| it.name().clone()).collect();
            match feed.touch(&names).await {
                Ok(heads) => {
                    for (channel, head) in channels.iter().zip(heads) {
                        if channel.touched(head.as_ref()) {
                            self.start_reading(Arc::clone(channel));
                        }
                    }
                }
                Err(error) => tracing::debug!(%error, "can't touch channels"),
            }
        });
        join_all(touches).await;
    }
}
