//! One connection in one channel: how it begins, and how it is brought up to date.

use super::audience::Receiver;
use super::channel::LocalChannel;
use super::channels::Channels;
use super::reader::{BACKOFF, PAGE, Reader};
use channel_store::{ChannelName, LogPage, Position, StoreError};
use parking_lot::Mutex;
use std::sync::Arc;
use tokio_util::task::AbortOnDropHandle;
use wire::{PositionReason, WireFormat};

/// One connection in one channel. Dropping it takes the connection out of the channel.
pub struct Member {
    pub(super) channels: Arc<Channels>,
    pub(super) channel: Arc<LocalChannel>,
    pub(super) receiver: Receiver,
    key: usize,
    /// The task that brings the member to the hub's position, if it could not begin there at once.
    catching_up: Mutex<Option<AbortOnDropHandle<()>>>,
}

/// The answer to the position with which a client comes back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resume {
    /// What follows this position is given to the member.
    pub start: Position,
    /// Why `start` is not the position that the client told. `None`: it is the same, and nothing is missing.
    pub lost: Option<PositionReason>,
}

impl Member {
    pub(super) fn new(
        channels: Arc<Channels>,
        channel: Arc<LocalChannel>,
        receiver: Receiver,
        key: usize,
    ) -> Self {
        Self {
            channels,
            channel,
            receiver,
            key,
            catching_up: Mutex::default(),
        }
    }

    /// Returns when the channel is followed. Everything that is published from now on will be delivered, so the session
    /// may join.
    pub async fn followed(&self) {
        self.channel.wait_until_located().await;
    }

    /// To be called before [`Member::begin`], with the end of the log right after the join. Ephemeral messages from before it are
    /// not for this member, and a deletion of the channel after it ends the membership.
    pub fn has_joined_at(&self, end: &Position) {
        self.channel.has_joined(self.key, Some(end.offset));
    }

    /// True if the channel was deleted after the session had joined. Then the member gets nothing any more, and its connection has
    /// noted that.
    pub fn is_out(&self) -> bool {
        self.channel.is_out(self.key)
    }

    /// Finds out whether the log goes on at a client's position: from the ring, which costs nothing, or else from the
    /// log. `end` is the end of the log that the client's join found. If it is of another epoch than the hub, the hub
    /// has not noticed the change yet, so the ring proves nothing. Up to `trimmed` the log was removed, and the ring may
    /// still have it.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn resume(
        &self,
        since: &Position,
        end: &Position,
        trimmed: u64,
    ) -> Result<Resume, StoreError> {
        if since.offset >= trimmed && self.channel.knows(since, end) {
            let start = since.clone();
            return Ok(Resume { start, lost: None });
        }
        let reader = &self.channels.reader;
        let page = reader.read_for_member(&self.channel, since, 0).await?;
        let lost = PositionReason::of(page.continuity);
        if let Some(moved) = lost {
            self.channels.metrics.lost(moved);
        }
        Ok(Resume {
            start: page.position.clone(),
            lost,
        })
    }

    /// Where the hub is in the channel. Everything that follows is given to this member, unless it is closed. `None`: the
    /// channel is not followed yet.
    pub fn position(&self) -> Option<Position> {
        self.channel.position()
    }

    /// Tells the member its new position. Closes it if its format does not tell positions.
    pub fn tell(&self, position: &Position, moved: PositionReason) {
        self.receiver.tell(self.channel.name(), position, moved);
    }

    /// From now on delivers everything that follows a position, in order and without a gap. If this must first be read
    /// from the log, a task does so in the background. If something is lost on the way, the member is told.
    pub fn begin(&self, start: Position) {
        self.note(|format, channel, frames| wire::begins(format, channel, &start, frames));
        let connection = &self.receiver.connection;
        if self.channel.start(self.key, connection, &start) {
            return;
        }
        let catch_up = CatchUp {
            channels: Arc::clone(&self.channels),
            channel: Arc::clone(&self.channel),
            receiver: self.receiver.clone(),
            key: self.key,
        };
        let task = AbortOnDropHandle::new(tokio::spawn(catch_up.run(start)));
        *self.catching_up.lock() = Some(task);
    }

    /// Sends what `write` appends, which is nothing in most formats.
    fn note(&self, write: impl FnOnce(WireFormat, &ChannelName, &mut Vec<u8>)) {
        let mut frames = Vec::new();
        write(self.receiver.format, self.channel.name(), &mut frames);
        if !frames.is_empty() {
            self.receiver.connection.send(&frames, &mut None);
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.catching_up.lock().take();
        self.channels.detach(&self.channel, self.key);
        self.note(wire::leaves);
    }
}

/// Brings one member to the hub's position.
struct CatchUp {
    channels: Arc<Channels>,
    channel: Arc<LocalChannel>,
    receiver: Receiver,
    key: usize,
}

impl CatchUp {
    async fn run(self, mut start: Position) {
        let connection = &self.receiver.connection;
        let reader: &Reader = &self.channels.reader;
        let mut backoff = BACKOFF;
        loop {
            // Waits for room, so that a client which does not read is not queued more pages.
            connection.room().await;
            if connection.closing().is_some() || self.channel.start(self.key, connection, &start) {
                return;
            }
            match reader.read_for_member(&self.channel, &start, PAGE).await {
                Ok(page) => match self.give(&page) {
                    None => return,
                    Some(reached) if reached != start => {
                        start = reached;
                        backoff.reset();
                        continue;
                    }
                    Some(_) if self.wait(&start) => return,
                    Some(_) => {}
                },
                Err(error) => {
                    tracing::debug!(channel = self.channel.name().as_str(), %error, "can't read the log");
                }
            }
            backoff.wait().await;
        }
    }

    /// Gives the member as much of a page as fits. Returns the position that the member has then; `None`: it was closed, or
    /// is out of the channel.
    fn give(&self, page: &LogPage) -> Option<Position> {
        let Receiver {
            connection, format, ..
        } = &self.receiver;
        let name = self.channel.name();
        if let Some(moved) = PositionReason::of(page.continuity) {
            self.channels.metrics.lost(moved);
            if !self.receiver.tell(name, &page.position, moved) {
                return None;
            }
            if moved == PositionReason::Unknown {
                // The offset of its own join means nothing in this log.
                self.channel.has_joined(self.key, None);
            }
        }
        let mut frames = Vec::new();
        let mut reached = &page.position;
        let mut epoch = &reached.epoch;
        let mut is_out = false;
        for publication in &page.entries {
            wire::publications(
                *format,
                name,
                connection.user(),
                epoch,
                [publication],
                &mut frames,
            );
            reached = &publication.position;
            epoch = &reached.epoch;
            is_out = publication.payload.is_deletion()
                && self.channel.ends_with(self.key, reached.offset);
            if is_out || frames.len() > connection.share() {
                break;
            }
        }
        if !frames.is_empty() {
            connection.send(&frames, &mut None);
        }
        (!is_out).then(|| reached.clone())
    }

    /// The member is at the end of the log, and the hub is elsewhere, so one of them is behind. The hub reads the log,
    /// too, and the member waits for it. `false`: the hub has passed the member meanwhile.
    fn wait(&self, start: &Position) -> bool {
        let connection = &self.receiver.connection;
        let waits = self.channel.wait_for(self.key, connection, start);
        if self.channel.doubt() {
            self.channels.reader.start(Arc::clone(&self.channel));
        }
        waits
    }
}
