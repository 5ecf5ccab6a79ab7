//! Reading logs: for channels that are behind, and for members that come back.

use super::channel::{LocalChannel, Next};
use channel_store::{ChannelFeed, LogPage, Position, Since, StoreError};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;
use tokio::sync::OnceCell;
use tokio::time::sleep;

/// Publications in one answer.
pub(super) const PAGE: usize = 100;
/// Pauses between tries to read a log that does not answer.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// Reads logs by the feed, which bounds how many reads are under way, and their bytes.
#[derive(Default)]
pub(super) struct Reader {
    feed: OnceLock<Arc<dyn ChannelFeed>>,
}

impl Reader {
    /// Where to read; false if that was said before.
    pub(super) fn follow(&self, feed: Arc<dyn ChannelFeed>) -> bool {
        self.feed.set(feed).is_ok()
    }

    pub(super) fn feed(&self) -> Option<&Arc<dyn ChannelFeed>> {
        self.feed.get()
    }

    /// Reads until the channel is live again, or nobody is there any more.
    pub(super) async fn repair(self: Arc<Self>, channel: Arc<LocalChannel>) {
        let mut pause = Pause::default();
        while let Some(since) = channel.since() {
            let limit = if since == Since::Head { 0 } else { PAGE };
            let page = self.read(&channel, &since, limit).await;
            match page.map(|page| channel.read(page)) {
                Ok(Next::Done) => return,
                Ok(Next::Read) => continue,
                Ok(Next::ReadLater) => {}
                Err(error) => {
                    tracing::debug!(channel = channel.name().as_str(), %error, "can't read the log");
                }
            }
            pause.sleep().await;
        }
    }

    /// At most `limit` publications after a position, in one answer for all members that ask for it now.
    pub(super) async fn read_for_member(
        &self,
        channel: &LocalChannel,
        since: &Position,
        limit: usize,
    ) -> Result<Arc<LogPage>, StoreError> {
        let read = async {
            let since = Since::Position(since.clone());
            self.read(channel, &since, limit).await.map(Arc::new)
        };
        channel.reads.share((since.clone(), limit), read).await
    }

    async fn read(
        &self,
        channel: &LocalChannel,
        since: &Since,
        limit: usize,
    ) -> Result<LogPage, StoreError> {
        let none = || StoreError::Unavailable("no feed".into());
        let feed = self.feed.get().ok_or_else(none)?;
        let page = feed.read(channel.name(), since, limit).await?;
        if !page.position.epoch.as_str().is_empty() {
            return Ok(page);
        }
        // The channel has lost its life while it is followed. It gets one now, as it does when it is followed first: the
        // position that members are told must have a name, or a life that comes and goes unseen would not be noticed.
        feed.read(channel.name(), &Since::Head, 0).await?;
        feed.read(channel.name(), since, limit).await
    }
}

/// Between tries: longer each time, and never the same for all.
pub(super) struct Pause(Duration);

impl Default for Pause {
    fn default() -> Self {
        Self(BACK_OFF.0)
    }
}

impl Pause {
    pub(super) async fn sleep(&mut self) {
        sleep(self.0.mul_f64(0.5 + fastrand::f64())).await;
        self.0 = BACK_OFF.1.min(self.0 * 2);
    }
}

type Answer = Result<Arc<LogPage>, StoreError>;
/// A position, and how many publications after it.
type Question = (Position, usize);

/// What members of one channel ask of its log, each question once at a time.
#[derive(Default)]
pub(super) struct SharedReads {
    under_way: Mutex<HashMap<Question, Weak<OnceCell<Answer>>>>,
}

impl SharedReads {
    /// Asks, or waits for the answer to the same question, which lives as long as somebody waits for it.
    async fn share(&self, question: Question, ask: impl Future<Output = Answer>) -> Answer {
        let cell = self.join(&question);
        cell.get_or_init(|| ask).await.clone()
    }

    fn join(&self, question: &Question) -> Arc<OnceCell<Answer>> {
        let mut under_way = self.under_way.lock();
        if let Some(cell) = under_way.get(question).and_then(Weak::upgrade) {
            return cell;
        }
        // Nobody waits for those any more.
        under_way.retain(|_, cell| cell.strong_count() > 0);
        let cell = Arc::default();
        under_way.insert(question.clone(), Arc::downgrade(&cell));
        cell
    }
}
