//! Letters from one process to another, by name.
//!
//! A process opens an inbox under its name. Chats send commands to the inbox of each incarnation of a connector, and
//! connectors send the answers to the inbox of the chat. Nothing is kept for a process that does not listen, and a letter may
//! be lost on the way. So a sender that needs an answer repeats the letter.

use crate::error::StoreError;
use crate::name::Incarnation;
use async_trait::async_trait;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::mpsc;

/// The most letters that wait in an inbox.
const LETTERS: usize = 1_024;
/// The most bytes of letters that wait in an inbox.
pub const INBOX_BYTES: usize = 16 << 20;

/// A letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// When the store passed it on, by the clock of the server that holds the receiver's lease: milliseconds since 1970. So a
    /// process that was frozen knows how old it is.
    pub sent: u64,
    /// The content.
    pub content: Vec<u8>,
}

/// Letters to processes.
#[async_trait]
pub trait Inboxes: Send + Sync + 'static {
    /// Sends a letter. Returns false if nobody listens under this name, as far as the server knows that holds it.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: the letter may have been sent or not.
    async fn post(&self, to: &Incarnation, content: &[u8]) -> Result<bool, StoreError>;

    /// Receives the letters to a name, until the inbox is dropped. Letters beyond [`INBOX_BYTES`] are lost. An inbox that was
    /// opened under the same name before ends.
    fn open(&self, name: &Incarnation) -> Inbox;
}

/// The letters to one process.
#[derive(Debug)]
pub struct Inbox {
    letters: mpsc::Receiver<Letter>,
    held: Arc<AtomicUsize>,
}

/// Puts letters into an inbox.
#[derive(Debug, Clone)]
pub(crate) struct Slot {
    letters: mpsc::Sender<Letter>,
    held: Arc<AtomicUsize>,
}

impl Inbox {
    /// An empty inbox, and the slot through which letters come.
    pub(crate) fn new() -> (Slot, Self) {
        let (sender, letters) = mpsc::channel(LETTERS);
        let held = Arc::<AtomicUsize>::default();
        let slot = Slot {
            letters: sender,
            held: Arc::clone(&held),
        };
        (slot, Self { letters, held })
    }

    /// The next letter. `None`: somebody else has opened an inbox under this name.
    pub async fn next(&mut self) -> Option<Letter> {
        let letter = self.letters.recv().await?;
        self.held.fetch_sub(letter.content.len(), Ordering::Relaxed);
        Some(letter)
    }
}

impl Slot {
    /// Puts a letter into the inbox, unless the inbox is full or gone. Then the letter is lost.
    pub(crate) fn put(&self, letter: Letter) {
        let size = letter.content.len();
        let held = self.held.fetch_add(size, Ordering::Relaxed);
        if held + size > INBOX_BYTES || self.letters.try_send(letter).is_err() {
            self.held.fetch_sub(size, Ordering::Relaxed);
        }
    }

    /// True if nobody takes letters any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.letters.is_closed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(size: usize) -> Letter {
        Letter {
            sent: 0,
            content: vec![0; size],
        }
    }

    #[tokio::test]
    async fn an_inbox_holds_a_bounded_number_of_bytes_and_takes_more_when_some_were_taken() {
        let (slot, mut inbox) = Inbox::new();
        let half = INBOX_BYTES / 2;
        for _ in 0..3 {
            slot.put(letter(half));
        }
        assert_eq!(inbox.letters.len(), 2, "the third was lost");
        assert!(inbox.next().await.is_some());
        slot.put(letter(half));
        assert_eq!(inbox.letters.len(), 2);
    }

    #[tokio::test]
    async fn letters_beyond_the_number_are_lost_and_give_their_bytes_back() {
        let (slot, mut inbox) = Inbox::new();
        for _ in 0..LETTERS + 10 {
            slot.put(letter(1));
        }
        for _ in 0..LETTERS {
            assert!(inbox.next().await.is_some());
        }
        assert_eq!(slot.held.load(Ordering::Relaxed), 0);
    }
}
