//! Reading logs: for channels that are behind, and for members that come back.

use super::channel::LocalChannel;
use channel_store::follow::Next;
use channel_store::{ChannelFeed, LogPage, Position, Since, StoreError};
use runtime::Backoff;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// The most publications in one answer.
pub(super) const PAGE: usize = 100;
/// Pauses between tries to read a log that does not answer.
pub(super) const BACKOFF: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));

/// Reads logs through the feed. The feed bounds how many reads run at once, and their bytes.
#[derive(Default)]
pub(super) struct Reader {
    feed: OnceLock<Arc<dyn ChannelFeed>>,
}

impl Reader {
    /// Sets the feed to read from. False: it was set before.
    pub(super) fn follow(&self, feed: Arc<dyn ChannelFeed>) -> bool {
        self.feed.set(feed).is_ok()
    }

    pub(super) fn feed(&self) -> Option<&Arc<dyn ChannelFeed>> {
        self.feed.get()
    }

    /// Reads in the background until the channel is live again, or has no members any more.
    pub(super) fn start(self: &Arc<Self>, channel: Arc<LocalChannel>) {
        tokio::spawn(Arc::clone(self).repair(channel));
    }

    async fn repair(self: Arc<Self>, channel: Arc<LocalChannel>) {
        let mut backoff = BACKOFF;
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
            backoff.wait().await;
        }
    }

    /// At most `limit` publications after a position. Members that ask for the same at the same time share one answer.
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
        // The channel's data has expired or was lost while it is followed. Reading its end gives it an empty epoch, as
        // when it is first followed. Without a named epoch, a life that begins and ends unseen would not be noticed.
        feed.read(channel.name(), &Since::Head, 0).await?;
        feed.read(channel.name(), since, limit).await
    }
}
