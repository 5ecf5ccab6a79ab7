//! The side of a channel that writes and reads it: chat.
//!
//! Both implementations, Redis and memory, pass the one suite in `tests/conformance.rs`.

use crate::error::StoreError;
use crate::membership::{Join, Joined, Leave, MembersPage, Reaped};
use crate::name::{ChannelName, Incarnation};
use crate::page::{HistoryPage, HistoryRange};
use crate::probe::{Probe, ProbeOutcome, Probed, StoreSettings};
use crate::publication::{Epoch, Position};
use crate::publish::{Publish, Published, Publisher};
use async_trait::async_trait;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Writes and reads channels; chat's side.
#[async_trait]
pub trait ChannelStore: Send + Sync + 'static {
    /// An ordered way in, bound to the store's present connection.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] while there is no connection.
    fn publisher(&self) -> Result<Arc<dyn Publisher>, StoreError>;

    /// Publishes one message on its own.
    ///
    /// # Errors
    /// As [`Publisher::publish`], and what it says of the one message.
    async fn publish(&self, publish: Publish) -> Result<Published, StoreError> {
        let mut outcomes = self.publisher()?.publish(vec![publish]).await?;
        outcomes
            .pop()
            .unwrap_or_else(|| Err(StoreError::Unavailable("no answer".into())))
    }

    /// Makes a session a member; publishes onJoin for the user's first session, where members are
    /// announced. Idempotent.
    ///
    /// # Errors
    /// [`StoreError::StaleOperation`] if the session has left with a higher operation, or was replaced;
    /// [`StoreError::ConnectorDead`], [`StoreError::Late`], [`StoreError::Full`], [`StoreError::Unavailable`].
    async fn join(&self, join: Join) -> Result<Joined, StoreError>;

    /// Ends a membership that is older than this operation; publishes onLeave for the user's last session, where
    /// members are announced.
    /// Answers false if there was none. Idempotent.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn leave(&self, leave: Leave) -> Result<bool, StoreError>;

    /// Ends some memberships of an incarnation that was declared dead, as leaves do, and refuses its joins from now on.
    /// Idempotent: repeat it while any remain.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn reap(
        &self,
        channel: &ChannelName,
        incarnation: &Incarnation,
    ) -> Result<Reaped, StoreError>;

    /// Ends some detached memberships whose time is over, as leaves do; answers how long until the next one's is, zero if
    /// that is now, and `None` if nobody is detached. Idempotent.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn expire(&self, channel: &ChannelName) -> Result<Option<Duration>, StoreError>;

    /// About `limit` users from a page token on: a store may answer in its own chunks, and give some more or some less.
    /// Whoever is a member from the first page to the last appears at least once. Leaves nothing behind in a channel
    /// that is not known.
    ///
    /// # Errors
    /// [`StoreError::BadPageToken`], [`StoreError::Unavailable`].
    async fn members(
        &self,
        channel: &ChannelName,
        page: Option<&str>,
        limit: usize,
    ) -> Result<MembersPage, StoreError>;

    /// At most `limit` publications of a range of the log, and about 128 KiB of them, but always one if there is one.
    /// Leaves nothing behind: a channel that is not known ends at the position ("", 0).
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn history(
        &self,
        channel: &ChannelName,
        range: &HistoryRange,
        limit: usize,
    ) -> Result<HistoryPage, StoreError>;

    /// Publishes a probe in each of its sets, as a message would be; answers in their order. A store that lives in this
    /// process always takes it, and keeps nothing of it.
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

    /// What others have to agree with.
    fn settings(&self) -> StoreSettings {
        StoreSettings::default()
    }

    /// True while the store answers, for enough of its slots ([`StoreOptions::ready_slots`]).
    fn available(&self) -> watch::Receiver<bool>;
}
