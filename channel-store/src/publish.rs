//! Publishing: messages on their way into a channel's log.

use crate::error::StoreError;
use crate::name::{ChannelName, IdempotencyKey, SessionId, UserId};
use crate::publication::{Payload, Position};
use async_trait::async_trait;

/// One message on its way into a channel.
#[derive(Debug, Clone)]
pub struct Publish {
    /// Where to.
    pub channel: ChannelName,
    /// Must be a member, if given. `None`: a back end speaks.
    pub session: Option<SessionId>,
    /// Who speaks; idempotency keys are per channel and user.
    pub user: UserId,
    /// What is said, stamped.
    pub payload: Payload,
    /// Repeated within its life it gets the first answer.
    pub key: Option<IdempotencyKey>,
}

/// A message that is in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// Where it stands.
    pub position: Position,
    /// The publication's time, ms since 1970.
    pub time: u64,
    /// Feeds that the publishing node saw subscribed: advisory. 0 for a repeated key.
    pub reached: u32,
    /// True if the key was known: this is the first answer again.
    pub repeated: bool,
}

/// Messages that one call to the store takes at most, all of one channel: others wait meanwhile, and who follows the
/// channel gets them in one piece.
const CALL_MESSAGES: usize = 64;
/// The bytes of their payloads, if it is more than one message.
const CALL_BYTES: usize = 128 << 10;

/// How full a call to the store is. A call publishes messages of one channel, in order: all of them, or, if the store
/// refuses the call, none.
#[derive(Debug, Default, Clone, Copy)]
pub struct CallSize {
    messages: usize,
    bytes: usize,
}

impl CallSize {
    /// Counts one more message in, unless the call is full: then it is not counted, and false.
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

/// Publishes in order: batches take effect in the order in which the futures are first polled. Several may be in
/// flight. Once one has ended in [`StoreError::Unavailable`] its outcome is unknown, and so is that of all later ones:
/// get another publisher and repeat what is unanswered, in order, with the same keys.
///
/// A store may refuse a call for a moment and take the next one: out of memory, or while a slot of a cluster moves.
/// Within a batch the publisher keeps the order of each channel all the same, because it makes no call for a channel
/// while another one for it is unanswered. Between batches the caller has to: while a message of a channel is
/// unanswered, no later batch may hold one of the same channel.
#[async_trait]
pub trait Publisher: Send + Sync {
    /// One answer for each message, in order. After a message that was refused with [`StoreError::Full`] or
    /// [`StoreError::Unavailable`], those that were not yet tried are answered with [`StoreError::Unavailable`].
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: the outcome of the whole batch is unknown.
    async fn publish(
        &self,
        batch: Vec<Publish>,
    ) -> Result<Vec<Result<Published, StoreError>>, StoreError>;
}
