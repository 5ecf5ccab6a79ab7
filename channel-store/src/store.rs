//! The side that writes and reads channels: chat.
//!
//! Both implementations, Redis and memory, pass the one suite in `tests/conformance.rs`.

use crate::directory::{ChannelSummary, ChannelsPage};
use crate::error::StoreError;
use crate::membership::{Join, Joined, Leave, MembersPage, Reaped};
use crate::name::{ChannelName, IdempotencyKey, Incarnation};
use crate::options::LogRule;
use crate::page::{HistoryPage, HistoryRange};
use crate::probe::{Probe, ProbeOutcome, Probed, StoreSettings};
use crate::publication::{Epoch, Position};
use crate::publish::{Publish, Published, Publisher};
use crate::restrictions::UserRestrictions;
use async_trait::async_trait;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Writes and reads channels, and what is forbidden to users. This is the side of chat.
#[async_trait]
pub trait ChannelStore: UserRestrictions + Send + Sync + 'static {
    /// A publisher, which keeps the order. It uses the present connections only.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] while there is no connection.
    fn publisher(&self) -> Result<Arc<dyn Publisher>, StoreError>;

    /// Publishes one message on its own.
    ///
    /// # Errors
    /// Those of [`Publisher::publish`], for the whole and for the message.
    async fn publish(&self, publish: Publish) -> Result<Published, StoreError> {
        let mut outcomes = self.publisher()?.publish(vec![publish]).await?;
        outcomes
            .pop()
            .unwrap_or_else(|| Err(StoreError::Unavailable("no answer".into())))
    }

    /// Makes a session a member. It publishes onJoin for the user's first session, where joins are published. It may be
    /// repeated.
    ///
    /// # Errors
    /// [`StoreError::StaleOperation`] if the session has left with a higher operation, or was replaced;
    /// [`StoreError::ChannelDeleted`] if it repairs a membership that began before the channel was deleted;
    /// [`StoreError::ConnectorDead`], [`StoreError::Late`], [`StoreError::Full`], [`StoreError::Unavailable`].
    async fn join(&self, join: Join) -> Result<Joined, StoreError>;

    /// Ends a membership that is older than this operation. It publishes onLeave for the user's last session, where leaves
    /// are published. Returns false if there was no such membership. It may be repeated.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn leave(&self, leave: Leave) -> Result<bool, StoreError>;

    /// Ends some memberships of an incarnation that was declared dead, as leaves do, and refuses its joins from now on.
    /// Repeat it while any remain.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn reap(
        &self,
        channel: &ChannelName,
        incarnation: &Incarnation,
    ) -> Result<Reaped, StoreError>;

    /// Ends some detached memberships whose time is over, as leaves do. Returns how long until the time of the next one is
    /// over: zero if it is over already, and `None` if there are no detached members. It may be repeated.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn expire(&self, channel: &ChannelName) -> Result<Option<Duration>, StoreError>;

    /// Returns about `limit` users, from a page token on. A store may return a few more or fewer. A user who is a member from
    /// the first page to the last appears at least once. A channel that does not exist is not created.
    ///
    /// # Errors
    /// [`StoreError::BadPageToken`], [`StoreError::Unavailable`].
    async fn members(
        &self,
        channel: &ChannelName,
        page: Option<&str>,
        limit: usize,
    ) -> Result<MembersPage, StoreError>;

    /// Returns at most `limit` publications of a range of the log, and about 128 KiB of them, but always one if there is one.
    /// A channel that does not exist is not created: it ends at the position ("", 0).
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn history(
        &self,
        channel: &ChannelName,
        range: &HistoryRange,
        limit: usize,
    ) -> Result<HistoryPage, StoreError>;

    /// Removes the publications up to a position from a log, and that at the position, too. Returns how many the log still
    /// holds. Offsets go on, and idempotency keys are still known. If they were removed already, nothing happens. `None`:
    /// nothing was published in the channel, and it has no member. It may be repeated.
    ///
    /// # Errors
    /// [`StoreError::PositionMismatch`] if the log does not have this position and did not have it before;
    /// [`StoreError::Unavailable`].
    async fn trim(&self, channel: &ChannelName, upto: &Position)
    -> Result<Option<u64>, StoreError>;

    /// Deletes a channel: ends all memberships without onLeave, removes the log, and publishes onDeleted, which is all that the
    /// log holds then. Returns the position of that. Offsets go on, in a new epoch. Sessions may join again at once. If the key
    /// was used before, nothing happens, and the answer is the first one. `None`: there is nothing to delete.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], also while connectors join the channel faster than it can be deleted.
    async fn delete(
        &self,
        channel: &ChannelName,
        key: Option<&IdempotencyKey>,
    ) -> Result<Option<Position>, StoreError>;

    /// What is known of each of these channels, in their order. `None`: nothing was published in it, or nothing
    /// since it was deleted, and it has no member. A
    /// channel that does not exist is not created, and none is kept longer. Detached memberships whose time is over don't
    /// count.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if one of them can't be reached.
    async fn summaries(
        &self,
        channels: &[ChannelName],
    ) -> Result<Vec<Option<ChannelSummary>>, StoreError>;

    /// Returns at most `limit` channels whose names begin with a prefix, from a page token on. A page may have fewer, although
    /// more follow. A channel that exists from the first page to the last appears exactly once, unless the store has lost
    /// data: then a channel may be missing until something is published in it, or until a connector touches it.
    ///
    /// # Errors
    /// [`StoreError::BadPageToken`], [`StoreError::Unavailable`].
    async fn channels(
        &self,
        prefix: &str,
        page: Option<&str>,
        limit: usize,
    ) -> Result<ChannelsPage, StoreError>;

    /// Looks at some channels in one part of the directory of which nothing was heard for long, and takes those out that have
    /// ended. Returns how many these were. Call it for one part of [`DIRECTORY_PARTS`](crate::DIRECTORY_PARTS) after the other. A store that keeps no
    /// directory beside its channels has nothing to do.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn sweep_directory(&self, _part: usize) -> Result<u64, StoreError> {
        Ok(0)
    }

    /// How long a detached member stays whose join does not say ([`StoreOptions::detached_life`](crate::StoreOptions::detached_life)).
    fn detached_life(&self) -> Duration;

    /// The pattern of the rule that holds for a channel. `None`: what holds for all channels.
    fn log_rule(&self, channel: &ChannelName) -> Option<String>;

    /// Puts other rules for logs in force, in place of [`StoreOptions::log_rules`](crate::StoreOptions::log_rules). They hold
    /// for calls that begin after this. A log that exists is bounded by them from the next publication in it on, and lives as they
    /// say from then on. Until then nothing is removed from it.
    fn set_log_rules(&self, rules: Vec<LogRule>);

    /// Publishes a probe in each of its sets, as a message would be published. The answers are in their order. A store in this
    /// process always accepts a probe, and keeps nothing of it.
    async fn probe(&self, probe: &Probe) -> Vec<Probed> {
        let written = |_: &u64| Probed {
            outcome: ProbeOutcome::Written(Position {
                epoch: Epoch::new(""),
                offset: 0,
            }),
            server: "memory".to_owned(),
            lifetime: "".into(),
        };
        probe.sets.iter().map(written).collect()
    }

    /// The settings that must be the same everywhere.
    fn settings(&self) -> StoreSettings {
        StoreSettings::default()
    }

    /// True while the store answers for enough of its slots ([`StoreOptions::ready_slots`](crate::StoreOptions::ready_slots)).
    fn available(&self) -> watch::Receiver<bool>;
}
