//! Publishing: messages on their way into a channel's log.

use crate::error::StoreError;
use crate::name::{ChannelName, IdempotencyKey, SessionId, UserId};
use crate::publication::{Payload, Position};
use async_trait::async_trait;
use std::sync::Arc;
use traces::Span;

/// One message on its way into a channel.
#[derive(Debug, Clone)]
pub struct Publish {
    /// The channel to publish to.
    pub channel: ChannelName,
    /// The sender's session, which must be a member. `None`: a back end sends.
    pub session: Option<SessionId>,
    /// True if the sender must be a member, by any session or detached.
    pub require_member: bool,
    /// The sender. Idempotency keys belong to a channel and a user.
    pub user: UserId,
    /// The message, with the sender in its body.
    pub payload: Payload,
    /// If a message with the same key is published again, it is stored once and gets the first answer.
    pub key: Option<IdempotencyKey>,
    /// Where the log must end for the message to be stored. The position ("", 0) is the end of a log in which nothing was
    /// published yet, whatever its epoch. The key comes first: a message that is stored already gets its first answer. Without
    /// a key, a sender that does not know the outcome of its first attempt can't tell its own success from another's.
    pub expected: Option<Position>,
    /// True to give the message only to those who are there now. It is not in the log, begins nothing, and is published
    /// right after what the log holds. Its key counts for nothing.
    pub ephemeral: bool,
    /// The step of a trace that publishes it, if its trace is kept. Nothing of it is in the log, so a message that is sent again is
    /// the same one, whatever trace it belongs to.
    pub span: Option<Arc<Span>>,
}

impl Publish {
    /// A message without a key, which is stored in any case.
    #[must_use]
    pub fn new(channel: ChannelName, user: UserId, payload: Payload) -> Self {
        Self {
            channel,
            session: None,
            require_member: false,
            user,
            payload,
            key: None,
            expected: None,
            ephemeral: false,
            span: None,
        }
    }
}

/// A message that is in the log, or was given to those who are there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// Its place in the log. Of an ephemeral message: where the log ended, ("", 0) if nothing was published yet.
    pub position: Position,
    /// The publication's time, ms since 1970.
    pub time: u64,
    /// How many feeds the server has sent it to. This is a hint only, and 0 for a repeated key.
    pub reached: u32,
    /// True if the key was known. Then this is the first answer again.
    pub repeated: bool,
    /// True if it is not in the log.
    pub ephemeral: bool,
}

impl Published {
    /// True if this is the first publication in this life of the channel.
    pub(crate) fn begins_a_life(&self) -> bool {
        self.position.offset == 1 && !self.repeated
    }
}

/// The most messages in one call to the store, all of one channel. Others wait during a call, and the channel's
/// followers get its messages in one piece.
const CALL_MESSAGES: usize = 64;
/// The most bytes of their payloads, if there are several messages.
const CALL_BYTES: usize = 128 << 10;

/// How full a call to the store is. A call publishes messages of one channel, in order. If the store refuses the call, it
/// publishes none of them.
#[derive(Debug, Default, Clone, Copy)]
pub struct CallSize {
    messages: usize,
    bytes: usize,
}

impl CallSize {
    /// Adds one more message and returns true, or returns false if the call is full.
    pub fn takes(&mut self, publish: &Publish) -> bool {
        let bytes = self.bytes + publish.payload.as_bytes().len();
        if self.messages == CALL_MESSAGES || (self.messages > 0 && bytes > CALL_BYTES) {
            return false;
        }
        self.messages += 1;
        self.bytes = bytes;
        true
    }
}

/// Publishes in order: batches take effect in the order in which the futures are first polled. Several batches may be in
/// flight. Once a batch has ended in [`StoreError::Unavailable`], its outcome is unknown, and so is that of all later ones.
/// Then get another publisher and repeat what is unanswered, in order, with the same keys.
///
/// A store may refuse a call for a moment and accept the next one: while its memory is full, or while a slot of a cluster
/// moves. Within a batch the publisher still keeps the order of each channel, because it makes no call for a channel while
/// another call for it is unanswered. Between batches the caller must do the same: while a message of a channel is
/// unanswered, no later batch may hold a message of that channel.
#[async_trait]
pub trait Publisher: Send + Sync {
    /// Publishes a batch and returns one answer for each message, in order. After a message that was refused with
    /// [`StoreError::Full`] or [`StoreError::Unavailable`], all messages that were not tried yet get
    /// [`StoreError::Unavailable`].
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if the outcome of the whole batch is unknown.
    async fn publish(
        &self,
        batch: Vec<Publish>,
    ) -> Result<Vec<Result<Published, StoreError>>, StoreError>;
}
