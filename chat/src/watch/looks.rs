//! Looks at watched channels, many at once: after each new connection of the feed, and from time to time.

use super::channel::WatchedChannel;
use super::channels::{BACKOFF, Channels};
use channel_store::Shard;
use channel_store::follow::Next;
use futures_util::future::join_all;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

/// Channels in one question. It is bounded because other commands on the same connection wait behind it.
const AT_ONCE: usize = 500;
/// How long an answer may take.
const LOOK_TIME: Duration = Duration::from_secs(10);

/// Channels whose subscription was confirmed, for the first time or again.
#[derive(Default)]
pub(super) struct Unconfirmed {
    channels: Mutex<Vec<Arc<WatchedChannel>>>,
    grown: Notify,
}

impl Unconfirmed {
    pub(super) fn add(&self, channel: Arc<WatchedChannel>) {
        self.channels.lock().push(channel);
        self.grown.notify_one();
    }

    fn take(&self) -> Vec<Arc<WatchedChannel>> {
        let mut channels = self.channels.lock();
        let rest = channels.len().saturating_sub(AT_ONCE);
        channels.split_off(rest)
    }
}

/// Finds out where these channels end. Those that can't be asked are asked again, after a pause.
pub(super) async fn settle(channels: Arc<Channels>, unconfirmed: Arc<Unconfirmed>) {
    let mut backoff = BACKOFF;
    loop {
        let some = unconfirmed.take();
        if some.is_empty() {
            unconfirmed.grown.notified().await;
            continue;
        }
        let failed = look_at(&channels, some, true).await;
        if failed.is_empty() {
            backoff.reset();
            continue;
        }
        backoff.wait().await;
        for channel in failed {
            // A channel that nobody watches any more needs no look.
            if channel.since().is_some() {
                unconfirmed.add(channel);
            }
        }
    }
}

/// Looks at all channels in turn. So whatever the feed has missed is found after one interval, and so is each channel that has
/// expired.
pub(super) async fn look(channels: Arc<Channels>, interval: Duration) {
    loop {
        let all = channels.all();
        let batches = all.len().div_ceil(AT_ONCE).max(1);
        let pause = interval / u32::try_from(batches).unwrap_or(u32::MAX);
        for number in 0..batches {
            sleep(pause.mul_f64(0.75 + fastrand::f64() / 4.0)).await;
            let batch = all.iter().skip(number * AT_ONCE).take(AT_ONCE);
            look_at(&channels, batch.cloned().collect(), false).await;
        }
    }
}

/// Looks at channels, and begins to read where something is missing. Returns those that could not be asked. `settles`: see
/// [`WatchedChannel::looked`].
async fn look_at(
    channels: &Arc<Channels>,
    some: Vec<Arc<WatchedChannel>>,
    settles: bool,
) -> Vec<Arc<WatchedChannel>> {
    let Ok(feed) = channels.feed() else {
        return some;
    };
    let mut by_shard: BTreeMap<Shard, Vec<_>> = BTreeMap::new();
    for channel in some {
        let shard = feed.shard(channel.name());
        by_shard.entry(shard).or_default().push(channel);
    }
    let looks = by_shard.into_values().map(async |some| {
        let names: Vec<_> = some.iter().map(|it| it.name().clone()).collect();
        let Ok(Ok(looks)) = timeout(LOOK_TIME, feed.look(&names)).await else {
            return some;
        };
        for (channel, look) in some.into_iter().zip(looks) {
            if channel.looked(look, settles) != Next::Done {
                channels.repair(channel);
            }
        }
        Vec::new()
    });
    join_all(looks).await.concat()
}
