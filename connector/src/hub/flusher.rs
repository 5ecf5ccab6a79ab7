//! Writes the pending bytes of channels, one channel after the other.
//!
//! The first publication since the last flush wakes the flusher. Before it writes, it yields to all other tasks that
//! are ready, and again as long as that brings more publications. So they leave in one write, which costs the same
//! whatever its size. Channels whose news can wait come later, and so do large rooms that were written just now.

use super::pacing::{NEWS_PAUSE, NewsShare, rest_after};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until};

/// The longest time for which the first pending publication waits for more.
const PATIENCE: Duration = Duration::from_millis(1);
/// After this many writes the flusher yields, so that other tasks do not wait for all channels.
const WRITES_AT_ONCE: u64 = 64;
/// The age of one flush in so many is measured.
const MEASURED: u64 = 8;

/// A holder of bytes that wait for sockets.
pub(super) trait Pending: Send + Sync {
    /// Hands the bytes to the sockets. Returns to how many.
    fn flush(&self) -> u64;

    /// Does the same, as the flush that was ordered with [`Flusher::add_later`]. Before it, no other one must be ordered.
    fn flush_news(&self);
}

/// Channels whose last flush took long. None of them is flushed until its rest is over.
#[derive(Default)]
struct Rests(Vec<Rest>);

struct Rest {
    channel: Arc<dyn Pending>,
    end: Instant,
    /// A flush was ordered meanwhile.
    is_ordered: bool,
}

impl Rests {
    fn begin(&mut self, channel: Arc<dyn Pending>, rest: Duration) {
        self.0.push(Rest {
            channel,
            end: Instant::now() + rest,
            is_ordered: false,
        });
    }

    /// If the channel rests, its flush is put off until that is over.
    fn puts_off(&mut self, channel: &Arc<dyn Pending>) -> bool {
        let rest = self
            .0
            .iter_mut()
            .find(|it| Arc::ptr_eq(&it.channel, channel));
        rest.map(|it| it.is_ordered = true).is_some()
    }

    /// When the next rest is over.
    fn next_end(&self) -> Option<Instant> {
        self.0.iter().map(|it| it.end).min()
    }

    /// Ends the rests that are over. Returns the channels that are to be flushed now.
    fn take_over(&mut self) -> Vec<Arc<dyn Pending>> {
        let now = Instant::now();
        let over = self.0.extract_if(.., |it| it.end <= now);
        let ordered = over.filter(|it| it.is_ordered);
        ordered.map(|it| it.channel).collect()
    }
}

#[derive(Default)]
pub(super) struct Flusher {
    dirty: Mutex<Vec<Arc<dyn Pending>>>,
    /// Channels with news, and the earliest time for their flush, in this order.
    later: Mutex<VecDeque<(Instant, Arc<dyn Pending>)>>,
    wake: Notify,
    /// The number of publications that were appended, in all channels.
    arrivals: AtomicU64,
    /// The number of flushes that were ordered.
    ordered: AtomicU64,
}

impl Flusher {
    /// Orders a flush. Returns whether the age of what is flushed should be measured. That costs as much as some members do, so
    /// it is done for one flush in [`MEASURED`].
    pub(super) fn add(&self, channel: Arc<dyn Pending>) -> bool {
        let mut dirty = self.dirty.lock();
        dirty.push(channel);
        if dirty.len() == 1 {
            self.wake.notify_one();
        }
        drop(dirty);
        let number = self.ordered.fetch_add(1, Ordering::Relaxed);
        number.is_multiple_of(MEASURED)
    }

    /// Orders a flush after [`NEWS_PAUSE`], or later if there is much news. Each channel may stand here once.
    pub(super) fn add_later(&self, channel: Arc<dyn Pending>) {
        let mut later = self.later.lock();
        later.push_back((Instant::now() + NEWS_PAUSE, channel));
        if later.len() == 1 {
            // So that it sets its clock.
            self.wake.notify_one();
        }
    }

    /// A publication was appended in some channel.
    pub(super) fn note_arrival(&self) {
        self.arrivals.fetch_add(1, Ordering::Relaxed);
    }

    /// Flushes in turn everything that is ready, and one channel whose news have waited long enough. So neither keeps the other back.
    pub(super) async fn run(self: Arc<Self>) {
        let mut share = NewsShare::new();
        let mut rests = Rests::default();
        loop {
            self.until_due(&share, &rests).await;
            self.let_more_arrive().await;
            self.flush_ready(&mut rests).await;
            if let Some(channel) = self.take_news(&share) {
                let begun = Instant::now();
                channel.flush_news();
                share.spent(begun.elapsed());
            }
        }
    }

    /// Returns when there is something to flush.
    async fn until_due(&self, share: &NewsShare, rests: &Rests) {
        loop {
            if !self.dirty.lock().is_empty() {
                return;
            }
            let times = [self.news_time(share), rests.next_end()];
            match times.into_iter().flatten().min() {
                Some(time) if time <= Instant::now() => return,
                Some(time) => tokio::select! {
                    () = self.wake.notified() => {}
                    () = sleep_until(time) => {}
                },
                None => self.wake.notified().await,
            }
        }
    }

    /// When the next channel with news may be flushed. `None`: there is none.
    fn news_time(&self, share: &NewsShare) -> Option<Instant> {
        let later = self.later.lock();
        later.front().map(|(due, _)| share.time(*due))
    }

    /// The next channel with news, if its time has come.
    fn take_news(&self, share: &NewsShare) -> Option<Arc<dyn Pending>> {
        let time = self.news_time(share)?;
        if time > Instant::now() {
            return None;
        }
        let (_, channel) = self.later.lock().pop_front()?;
        Some(channel)
    }

    async fn flush_ready(&self, rests: &mut Rests) {
        let rested = rests.take_over();
        let dirty = std::mem::take(&mut *self.dirty.lock());
        let mut writes = 0;
        for channel in rested.into_iter().chain(dirty) {
            if rests.puts_off(&channel) {
                continue;
            }
            if writes >= WRITES_AT_ONCE {
                writes = 0;
                yield_now().await;
            }
            // Not the clock of tokio, which stands still in tests.
            let begun = std::time::Instant::now();
            let written = channel.flush();
            writes += written;
            if let Some(rest) = rest_after(written, begun.elapsed()) {
                rests.begin(channel, rest);
            }
        }
    }

    /// Yields to the other tasks, again and again, until a round brings no more publications.
    async fn let_more_arrive(&self) {
        let end = Instant::now() + PATIENCE;
        loop {
            let before = self.arrivals.load(Ordering::Relaxed);
            yield_now().await;
            if self.arrivals.load(Ordering::Relaxed) == before || Instant::now() > end {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::pacing::{LONG_FLUSH, LONGEST_REST, MANY_WRITES};
    use super::*;
    use crate::testing::let_run;
    use std::sync::Weak;
    use tokio::time::advance;
    use tokio_util::task::AbortOnDropHandle;

    /// Counts its flushes. A restless one has something new each time.
    struct Channel {
        restless: Option<(Arc<Flusher>, Weak<Self>)>,
        flushes: AtomicU64,
    }

    impl Channel {
        fn quiet() -> Arc<Self> {
            Arc::new(Self {
                restless: None,
                flushes: AtomicU64::new(0),
            })
        }

        fn restless(flusher: &Arc<Flusher>) -> Arc<Self> {
            Arc::new_cyclic(|own| Self {
                restless: Some((Arc::clone(flusher), own.clone())),
                flushes: AtomicU64::new(0),
            })
        }

        fn flushes(&self) -> u64 {
            self.flushes.load(Ordering::Relaxed)
        }
    }

    impl Pending for Channel {
        fn flush(&self) -> u64 {
            if let Some((flusher, own)) = &self.restless
                && let Some(own) = own.upgrade()
            {
                flusher.add(own);
            }
            self.flushes.fetch_add(1, Ordering::Relaxed);
            1
        }

        fn flush_news(&self) {
            self.flush();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn neither_messages_nor_news_keep_the_other_back() {
        let flusher = Arc::<Flusher>::default();
        let _running = AbortOnDropHandle::new(tokio::spawn(Arc::clone(&flusher).run()));
        let messages = Channel::restless(&flusher);
        flusher.add(messages.clone());
        let news: Vec<_> = (0..20).map(|_| Channel::quiet()).collect();
        for channel in &news {
            flusher.add_later(channel.clone());
        }
        let_run().await;
        assert!(news.iter().all(|it| it.flushes() == 0));
        advance(NEWS_PAUSE).await;
        let before = messages.flushes();
        for _ in 0..10 {
            let_run().await;
        }
        assert!(news.iter().all(|it| it.flushes() == 1));
        assert!(messages.flushes() >= before + 20);
    }

    #[tokio::test(start_paused = true)]
    async fn a_channel_that_takes_long_rests_and_keeps_no_other_back() {
        /// Takes as long as a room of thousands.
        #[derive(Default)]
        struct Large(AtomicU64);
        impl Pending for Large {
            fn flush(&self) -> u64 {
                let begun = std::time::Instant::now();
                while begun.elapsed() < LONG_FLUSH {
                    std::hint::spin_loop();
                }
                self.0.fetch_add(1, Ordering::Relaxed);
                MANY_WRITES
            }

            fn flush_news(&self) {
                self.flush();
            }
        }
        let flusher = Arc::<Flusher>::default();
        let _running = AbortOnDropHandle::new(tokio::spawn(Arc::clone(&flusher).run()));
        let (large, small) = (Arc::<Large>::default(), Channel::quiet());
        for round in 1..=3 {
            flusher.add(large.clone());
            let_run().await;
            assert_eq!(large.0.load(Ordering::Relaxed), round, "it rests no more");
            flusher.add(large.clone());
            flusher.add(small.clone());
            let_run().await;
            assert_eq!(large.0.load(Ordering::Relaxed), round, "it rests");
            assert_eq!(small.flushes(), round);
            advance(LONG_FLUSH / 4).await;
            let_run().await;
            assert_eq!(large.0.load(Ordering::Relaxed), round, "it still rests");
            // The rest was no longer than this, and nothing is flushed that nobody has ordered.
            advance(LONGEST_REST).await;
            let_run().await;
            assert_eq!(large.0.load(Ordering::Relaxed), round + 1);
            advance(LONGEST_REST).await;
            let_run().await;
            assert_eq!(large.0.load(Ordering::Relaxed), round + 1);
            large.0.fetch_sub(1, Ordering::Relaxed);
        }
        assert_eq!(
            Arc::strong_count(&large),
            1,
            "nobody holds it after its rest"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn other_tasks_run_between_the_writes_of_many_channels() {
        struct Large(AtomicU64);
        impl Pending for Large {
            fn flush(&self) -> u64 {
                self.0.fetch_add(1, Ordering::Relaxed);
                WRITES_AT_ONCE
            }

            fn flush_news(&self) {
                self.flush();
            }
        }
        let flusher = Arc::<Flusher>::default();
        let large = Arc::new(Large(AtomicU64::new(0)));
        for _ in 0..100 {
            flusher.add(large.clone());
        }
        let _running = AbortOnDropHandle::new(tokio::spawn(Arc::clone(&flusher).run()));
        let_run().await;
        assert!((1..100).contains(&large.0.load(Ordering::Relaxed)));
    }
}
