//! A connection's place in a channel: how it begins, and how it is brought up to date.

use super::audience::Receiver;
use super::channel::LocalChannel;
use super::channels::Channels;
use super::reader::{PAGE, Pause, Reader};
use channel_store::{LogPage, Position, StoreError};
use parking_lot::Mutex;
use std::sync::Arc;
use tokio_util::task::AbortOnDropHandle;
use wire::Moved;

/// A connection's place in a channel; dropped, it is gone.
pub struct Member {
    channels: Arc<Channels>,
    channel: Arc<LocalChannel>,
    receiver: Receiver,
    key: usize,
    /// Brings it to where the hub stands, if it could not begin there at once.
    catching_up: Mutex<Option<AbortOnDropHandle<()>>>,
}

/// How the position that a client comes back with stands towards the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resume {
    /// From where it is given what follows.
    pub start: Position,
    /// Why that is not what it said; `None`: nothing is missing in between.
    pub lost: Option<Moved>,
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

    /// Returns when the channel is followed: what is published from now on will be delivered, so the session may join.
    pub async fn followed(&self) {
        self.channel.wait_until_located().await;
    }

    /// Judges a client's position: by the hub's last deliveries, which costs nothing, or by the log. `end` is where the
    /// client's join has found the log: if that is of another epoch, the hub may not have noticed yet what is lost.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    pub async fn resume(&self, since: &Position, end: &Position) -> Result<Resume, StoreError> {
        if self.channel.knows(since, end) {
            let start = since.clone();
            return Ok(Resume { start, lost: None });
        }
        let reader = &self.channels.reader;
        let page = reader.read_for_member(&self.channel, since, 0).await?;
        let lost = Moved::of(page.continuity);
        if let Some(moved) = lost {
            self.channels.metrics.lost(moved);
        }
        Ok(Resume {
            start: page.position.clone(),
            lost,
        })
    }

    /// Tells the member that its position is another one; closes it if its format can't.
    pub fn tell(&self, position: &Position, moved: Moved) {
        self.receiver.tell(self.channel.name(), position, moved);
    }

    /// Delivers what follows a position, in order and without a gap, and goes on from there for ever: at once, or, if
    /// that must be read first, in the background. What is lost on the way the member is told.
    pub fn begin(&self, start: Position) {
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
}

impl Drop for Member {
    fn drop(&mut self) {
        self.catching_up.lock().take();
        self.channels.detach(&self.channel, self.key);
    }
}

/// One member on its way to where the hub stands.
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
        let mut pause = Pause::default();
        loop {
            // What is given is queued only as far as the client reads.
            connection.room().await;
            if connection.closing().is_some() || self.channel.start(self.key, connection, &start) {
                return;
            }
            match reader.read_for_member(&self.channel, &start, PAGE).await {
                Ok(page) => match self.give(&page) {
                    None => return,
                    Some(reached) if reached != start => {
                        start = reached;
                        pause = Pause::default();
                        continue;
                    }
                    Some(_) if self.wait(&start) => return,
                    Some(_) => {}
                },
                Err(error) => {
                    tracing::debug!(channel = self.channel.name().as_str(), %error, "can't read the log");
                }
            }
            pause.sleep().await;
        }
    }

    /// Gives the member a page, as far as there is room. The position that it has then; `None`: it is closed.
    fn give(&self, page: &LogPage) -> Option<Position> {
        let Receiver { connection, format } = &self.receiver;
        let name = self.channel.name();
        if let Some(moved) = Moved::of(page.continuity) {
            self.channels.metrics.lost(moved);
            if !self.receiver.tell(name, &page.position, moved) {
                return None;
            }
        }
        let mut frames = Vec::new();
        let mut reached = &page.position;
        let mut epoch = &reached.epoch;
        for publication in &page.entries {
            wire::run(
                *format,
                name,
                connection.user(),
                epoch,
                [publication],
                &mut frames,
            );
            reached = &publication.position;
            epoch = &reached.epoch;
            if frames.len() > connection.share() {
                break;
            }
        }
        if !frames.is_empty() {
            connection.send(&frames, &mut None);
        }
        Some(reached.clone())
    }

    /// The log ends here, and yet the hub is not here: it reads, too, and this member waits for it. `false`: the hub
    /// has gone on.
    fn wait(&self, start: &Position) -> bool {
        let connection = &self.receiver.connection;
        let waits = self.channel.wait_for(self.key, connection, start);
        if self.channel.doubt() {
            self.channels.reader.start(Arc::clone(&self.channel));
        }
        waits
    }
}
