//! The side of a channel that follows it: connectors.

use crate::error::StoreError;
use crate::name::ChannelName;
use crate::page::{LogPage, Since};
use crate::publication::{Position, Publication};
use crate::server::{FeedConnection, ServerLifetime, Shard};
use async_trait::async_trait;
use tokio::sync::watch;

/// Where a channel's log ends, as a feed's own server says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The end of the log.
    pub position: Position,
    /// The server lifetime that answered.
    pub lifetime: ServerLifetime,
}

/// Takes what a feed brings. Called by the feed's own task: it must neither wait nor block. One call at a time for one
/// channel, in order.
pub trait FeedSink: Send + Sync + 'static {
    /// The channel is subscribed on this connection, for the first time or again: what came before is to be read.
    fn subscribed(&self, connection: &FeedConnection, channel: &ChannelName);

    /// A publication has arrived.
    fn publication(
        &self,
        connection: &FeedConnection,
        channel: &ChannelName,
        publication: Publication,
    );

    /// Several have arrived together, which follow one another.
    fn publications(
        &self,
        connection: &FeedConnection,
        channel: &ChannelName,
        run: &mut dyn Iterator<Item = Publication>,
    ) {
        for publication in run {
            self.publication(connection, channel, publication);
        }
    }
}

/// Follows channels; a connector's side.
///
/// A feed reconnects for ever by itself, with back-off and jitter, and subscribes again what it followed; it notices a
/// silent connection within seconds.
#[async_trait]
pub trait ChannelFeed: Send + Sync + 'static {
    /// Follows a channel from now on. Returns at once; [`FeedSink::subscribed`] tells when it holds, and may do so
    /// before this returns: hold no lock that the sink takes.
    fn subscribe(&self, channel: &ChannelName);

    /// Follows it no longer. What is under way may still arrive.
    fn unsubscribe(&self, channel: &ChannelName);

    /// Reads at most `limit` publications after a position, and about 128 KiB of them, but always one if there is one.
    /// `limit` 0 judges the position only. The answer names the server lifetime that it was given under: if that is not
    /// the one that the feed listens to, it is not the last word, for it comes by a connection of its own.
    ///
    /// It begins no life of a channel, but where [`Since::Head`] says so. It waits for others' reads, a few at most for
    /// each channel: bound it by whom it is for.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn read(
        &self,
        channel: &ChannelName,
        since: &Since,
        limit: usize,
    ) -> Result<LogPage, StoreError>;

    /// Where the logs of these channels end, asked together and cheaply, in their order; `None`: a channel without a
    /// life. Over the feed's own connection, on which it listens: who stands where it says has missed nothing.
    /// At most 500 channels a call: others wait meanwhile.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], also when the server's role or lifetime changed meanwhile: ask again.
    async fn heads(&self, channels: &[ChannelName]) -> Result<Vec<Option<Head>>, StoreError>;

    /// As [`ChannelFeed::heads`], and keeps the channels, their logs and their members from expiring for another life.
    /// For channels with local members, several times in the shorter of those lives.
    ///
    /// # Errors
    /// As [`ChannelFeed::heads`].
    async fn touch(&self, channels: &[ChannelName]) -> Result<Vec<Option<Head>>, StoreError>;

    /// The shard that holds a channel at present. A caller with many channels asks about those of each shard apart: then a
    /// shard that is away costs it no answers of the others. By default all channels are on one.
    fn shard(&self, _channel: &ChannelName) -> Shard {
        Shard::default()
    }

    /// True while a connection is up and delivering.
    fn available(&self) -> watch::Receiver<bool>;
}
