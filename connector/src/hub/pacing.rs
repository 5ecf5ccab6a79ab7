//! When the pending bytes of a channel are written.
//!
//! A message leaves as soon as everything that is ready with it has come. Joins and leaves are news about others, and nobody waits
//! for them. In a large room they can come faster than messages do, and each of them costs a write to every member. So where only
//! joins and leaves are pending, they leave at most once in [`NEWS_PAUSE`]; a message takes them along. When very many clients come or
//! go, that would still be most of the work, so news take a share of the time at most.
//!
//! A room of thousands takes so long to write that messages come all the time meanwhile. A write costs nearly the same for one message
//! and for thirty, so such a room rests after each flush, and more messages leave in the next one.

use std::mem;
use std::time::Duration;
use tokio::time::Instant;

/// The shortest time between two writes of joins and leaves alone in one channel.
pub(super) const NEWS_PAUSE: Duration = Duration::from_millis(100);

/// After a flush of news, others wait for so many times as long as it took: news take a tenth of the time at most …
const NEWS_REST: u32 = 9;
/// … but none of them waits for longer than this because of others.
const NEWS_LIMIT: Duration = Duration::from_secs(1);

/// After a flush with so many writes a channel rests …
pub(super) const MANY_WRITES: u64 = 1_000;
/// … if it took so long. A flush of few takes long only if this process had to wait for a core, and then a rest would make it later.
pub(super) const LONG_FLUSH: Duration = Duration::from_millis(8);
/// No rest is longer.
pub(super) const LONGEST_REST: Duration = Duration::from_millis(50);

/// How long a channel rests after a flush of so many writes that took this long. Measured in rooms of 3,000 and 10,000: half as long as the flush brings a
/// fifth more deliveries, as long as the flush brings less.
pub(super) fn rest_after(writes: u64, took: Duration) -> Option<Duration> {
    (writes >= MANY_WRITES && took >= LONG_FLUSH).then(|| (took / 2).min(LONGEST_REST))
}

/// The flush that is ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flush {
    /// As soon as everything that is ready has been appended.
    Soon,
    /// After [`NEWS_PAUSE`], or with the next message.
    Later,
}

/// What is ordered for the pending bytes of one channel.
#[derive(Debug, Default)]
pub(super) struct Pacing {
    ordered: Option<Flush>,
    has_news: bool,
    /// When joins or leaves were written last.
    news_written: Option<Instant>,
    /// A later flush is ordered and has not come. It comes even if what it was ordered for has left with a message. So a channel
    /// stands only once among those that wait.
    has_later: bool,
}

impl Pacing {
    /// Something was appended. `is_news`: it can wait. Returns the flush that has to be ordered for it, unless one is ordered that
    /// does not come later.
    pub(super) fn appended(&mut self, is_news: impl FnOnce() -> bool) -> Option<Flush> {
        if self.ordered == Some(Flush::Soon) {
            return None;
        }
        let is_news = is_news();
        self.has_news |= is_news;
        let wanted = if is_news && self.was_just_written() {
            Flush::Later
        } else {
            Flush::Soon
        };
        if self.ordered == Some(wanted) {
            return None;
        }
        self.ordered = Some(wanted);
        let is_on_its_way = wanted == Flush::Later && mem::replace(&mut self.has_later, true);
        (!is_on_its_way).then_some(wanted)
    }

    /// The later flush comes now.
    pub(super) fn later_comes(&mut self) {
        self.has_later = false;
    }

    fn was_just_written(&self) -> bool {
        let written = self.news_written;
        self.ordered == Some(Flush::Later)
            || written.is_some_and(|written| written.elapsed() < NEWS_PAUSE)
    }

    /// True if what is pending waits for longer than a moment.
    pub(super) fn is_late(&self) -> bool {
        self.ordered == Some(Flush::Later)
    }

    /// Everything that was pending is written.
    pub(super) fn written(&mut self) {
        self.ordered = None;
        if mem::take(&mut self.has_news) {
            self.news_written = Some(Instant::now());
        }
    }
}

/// Keeps all channels' news together to their share of the time.
#[derive(Debug)]
pub(super) struct NewsShare {
    /// From then on, news are written.
    from: Instant,
}

impl NewsShare {
    pub(super) fn new() -> Self {
        Self {
            from: Instant::now(),
        }
    }

    /// A flush of news has just ended. It has taken this long.
    pub(super) fn spent(&mut self, took: Duration) {
        self.from = Instant::now() + NEWS_REST * took;
    }

    /// The time for news that are due at this time.
    pub(super) fn time(&self, due: Instant) -> Instant {
        self.from.clamp(due, due + NEWS_LIMIT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    const NEWS: fn() -> bool = || true;
    const MESSAGE: fn() -> bool = || false;

    #[tokio::test(start_paused = true)]
    async fn news_leave_at_once_in_a_quiet_channel_and_wait_in_one_that_has_just_written_some() {
        let mut pacing = Pacing::default();
        for _ in 0..2 {
            assert_eq!(pacing.appended(NEWS), Some(Flush::Soon));
            assert_eq!(pacing.appended(NEWS), None);
            pacing.written();
            advance(NEWS_PAUSE - Duration::from_millis(1)).await;
            assert_eq!(pacing.appended(NEWS), Some(Flush::Later));
            assert!(pacing.is_late());
            assert_eq!(pacing.appended(NEWS), None);
            pacing.later_comes();
            pacing.written();
            advance(NEWS_PAUSE).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn news_of_all_channels_take_a_tenth_of_the_time_and_none_waits_for_ever() {
        let ms = Duration::from_millis;
        let mut share = NewsShare::new();
        let begin = Instant::now();
        assert_eq!(share.time(begin + ms(5)), begin + ms(5));
        share.spent(ms(10));
        assert_eq!(share.time(begin), begin + ms(90));
        assert_eq!(share.time(begin + ms(100)), begin + ms(100));
        share.spent(ms(5_000));
        assert_eq!(share.time(begin), begin + ms(1_000));
    }

    #[test]
    fn a_large_channel_rests_half_as_long_as_its_flush_took_if_that_was_long() {
        let ms = Duration::from_millis;
        assert_eq!(rest_after(1_000, ms(7)), None);
        assert_eq!(rest_after(999, ms(500)), None);
        assert_eq!(rest_after(1_000, ms(8)), Some(ms(4)));
        assert_eq!(rest_after(1_000, ms(60)), Some(ms(30)));
        assert_eq!(rest_after(1_000, ms(500)), Some(ms(50)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_leaves_at_once_and_takes_the_news_along() {
        let mut pacing = Pacing::default();
        assert_eq!(pacing.appended(NEWS), Some(Flush::Soon));
        pacing.written();
        assert_eq!(pacing.appended(NEWS), Some(Flush::Later));
        assert_eq!(pacing.appended(MESSAGE), Some(Flush::Soon));
        assert!(!pacing.is_late());
        assert_eq!(pacing.appended(NEWS), None);
        pacing.written();
        // The later flush that was ordered first is still to come.
        assert_eq!(pacing.appended(NEWS), None);
        assert!(pacing.is_late());
        assert_eq!(pacing.appended(MESSAGE), Some(Flush::Soon));
        pacing.written();
        // However late it comes, no other one is ordered.
        advance(10 * NEWS_PAUSE).await;
        assert_eq!(pacing.appended(NEWS), Some(Flush::Soon));
        pacing.written();
        assert_eq!(pacing.appended(NEWS), None);
        pacing.later_comes();
        pacing.written();
        assert_eq!(pacing.appended(NEWS), Some(Flush::Later));
        assert_eq!(pacing.appended(MESSAGE), Some(Flush::Soon));
        pacing.written();
        // Messages alone let nothing wait.
        advance(NEWS_PAUSE).await;
        assert_eq!(pacing.appended(MESSAGE), Some(Flush::Soon));
        pacing.written();
        assert_eq!(pacing.appended(NEWS), Some(Flush::Soon));
    }
}
