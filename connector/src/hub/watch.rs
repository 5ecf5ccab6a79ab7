//! Watches all channels: with a cheap look after each new connection of the feed, and with a touch from time to time.

use super::channel::LocalChannel;
use super::channels::Channels;
use super::reader::Reader;
use channel_store::follow::Next;
use channel_store::{ChannelFeed, Shard};
use futures_util::future::join_all;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::sleep;

/// Channels in one question. It is bounded because other commands on the same connection wait behind it.
const AT_ONCE: usize = 500;

/// Channels whose subscription was confirmed again. Most of them have missed nothing, but that is not certain.
#[derive(Default)]
pub(super) struct Unconfirmed {
    channels: Mutex<Vec<Arc<LocalChannel>>>,
    grown: Notify,
}

impl Unconfirmed {
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

/// Compares the ends of logs with the hub's positions, many at once, and starts a read where they differ. Such a look
/// is much cheaper than a read.
pub(super) async fn compare(reader: Arc<Reader>, unconfirmed: Arc<Unconfirmed>) {
    loop {
        let channels = unconfirmed.take();
        if channels.is_empty() {
            unconfirmed.grown.notified().await;
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
                // If there is no answer, the log is read, and that is repeated until it works.
                if !matches!(channel.compared(heads.next().flatten()), Next::Done) {
                    reader.start(channel);
                }
            }
        });
        join_all(looks).await;
    }
}

/// Tells the store which channels are in use, and starts a read where the hub is behind. So a quiet channel with
/// members does not expire, and whatever the feed has missed is found after one interval at the latest.
pub(super) async fn touch(channels: Arc<Channels>, interval: Duration) {
    loop {
        let all = channels.all();
        let batches = all.len().div_ceil(AT_ONCE).max(1);
        let pause = interval / u32::try_from(batches).unwrap_or(u32::MAX);
        for number in 0..batches {
            let batch = all.iter().skip(number * AT_ONCE).take(AT_ONCE);
            touch_some(&channels.reader, batch.cloned().collect()).await;
            sleep(pause.mul_f64(0.75 + fastrand::f64() / 4.0)).await;
        }
    }
}

async fn touch_some(reader: &Arc<Reader>, channels: Vec<Arc<LocalChannel>>) {
    let Some(feed) = reader.feed().filter(|_| !channels.is_empty()) else {
        return;
    };
    let touches = by_shard(Some(feed), channels).into_iter();
    let touches = touches.map(async |channels| {
        let names: Vec<_> = channels.iter().map(|it| it.name().clone()).collect();
        match feed.touch(&names).await {
            Ok(heads) => {
                for (channel, head) in channels.iter().zip(heads) {
                    if channel.touched(head.as_ref()) {
                        reader.start(Arc::clone(channel));
                    }
                }
            }
            Err(error) => tracing::debug!(%error, "can't touch channels"),
        }
    });
    join_all(touches).await;
}

/// Groups the channels by shard, and keeps their order.
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
