//! The side that follows channels: connectors.

use crate::error::StoreError;
use crate::name::ChannelName;
use crate::page::{LogPage, Since};
use crate::publication::{Ephemeral, Position, Publication};
use crate::server::{FeedConnection, ServerLifetime, Shard};
use crate::traced::Traced;
use async_trait::async_trait;
use tokio::sync::watch;

/// Where a channel's log ends, by the server that a feed listens to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The end of the log.
    pub position: Position,
    /// The server lifetime that answered.
    pub lifetime: ServerLifetime,
}

/// Takes what a feed brings. It is called by the feed's own task, so it must neither wait nor block. There is one call at a
/// time for one channel, in order.
pub trait FeedSink: Send + Sync + 'static {
    /// The channel is subscribed on this connection, for the first time or again. What was published before must be read.
    fn subscribed(&self, connection: &FeedConnection, channel: &ChannelName);

    /// One publication has arrived, or several together. They follow one another without a gap.
    fn publications(
        &self,
        connection: &FeedConnection,
        channel: &ChannelName,
        run: &mut dyn Iterator<Item = Publication>,
    );

    /// Some of what arrives next belongs to traces that are kept. By default nobody wants to know.
    fn traced(&self, _: &ChannelName, _: Vec<Traced>) {}

    /// Something has arrived that is not in the log. By default it is passed over.
    fn ephemeral(&self, _: &FeedConnection, _: &ChannelName, _: Ephemeral) {}
}

/// Follows channels. This is the side of connectors.
///
/// A feed reconnects by itself for ever, with back-off and jitter, and subscribes again to what it followed. It notices a
/// silent connection within seconds.
#[async_trait]
pub trait ChannelFeed: Send + Sync + 'static {
    /// Follows a channel from now on, and returns at once. [`FeedSink::subscribed`] tells when the subscription holds, and
    /// may be called before this returns. So the caller must hold no lock that the sink takes.
    fn subscribe(&self, channel: &ChannelName);

    /// Stops following a channel. What is under way may still arrive.
    fn unsubscribe(&self, channel: &ChannelName);

    /// Reads at most `limit` publications after a position, and about 128 KiB of them, but always one if there is one. With
    /// a `limit` of 0 it only finds the continuity of the position. It uses another connection than the one that the feed
    /// listens to, so the answer names the server lifetime under which it was given. If that is not the feed's, read again.
    ///
    /// A channel that does not exist stays so, except with [`Since::Head`]. The call may wait for other reads and has no
    /// time-out of its own: the caller sets one.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn read(
        &self,
        channel: &ChannelName,
        since: &Since,
        limit: usize,
    ) -> Result<LogPage, StoreError>;

    /// Reads at most `limit` publications at a position and before it, newest first, and about 128 KiB of them, but always one if
    /// there is one. Nothing if the log does not have this position. As [`ChannelFeed::read`], it may wait for other reads.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn read_back(
        &self,
        channel: &ChannelName,
        upto: &Position,
        limit: usize,
    ) -> Result<Vec<Publication>, StoreError>;

    /// Where the logs of these channels end, in their order. `None`: the channel does not exist. It is asked over the
    /// connection that the feed listens to, so a reader that has got as far as the answer says has missed nothing.
    /// At most 500 channels in a call, because others wait meanwhile.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], also when the server's role or lifetime has changed meanwhile. Then ask again.
    async fn heads(&self, channels: &[ChannelName]) -> Result<Vec<Option<Head>>, StoreError>;

    /// Does the same as [`ChannelFeed::heads`], and also keeps the channels, their logs and their members from expiring.
    /// Call it for channels with local members, several times in the shortest of their lives.
    ///
    /// # Errors
    /// As [`ChannelFeed::heads`].
    async fn touch(&self, channels: &[ChannelName]) -> Result<Vec<Option<Head>>, StoreError>;

    /// The shard that holds a channel at present. A caller with many channels asks about those of each shard separately, so
    /// that a shard which is away does not hide the answers of the others. By default all channels are on one.
    fn shard(&self, _channel: &ChannelName) -> Shard {
        Shard::default()
    }

    /// True while a connection is up and delivers.
    fn available(&self) -> watch::Receiver<bool>;
}
