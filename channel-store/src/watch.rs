//! Watching channels without being a member: chat does this for back ends that follow channels.
//!
//! Watching only looks. It keeps no channel from expiring, and begins none.

use crate::error::StoreError;
use crate::feed::{ChannelFeed, Head};
use crate::name::ChannelName;
use async_trait::async_trait;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc};

/// The most births that wait to be taken. A name has 256 bytes at most.
const BIRTHS: usize = 4_096;

/// A channel as it is at present.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// The end of its log. A channel that does not exist ends at ("", 0).
    pub head: Head,
    /// When the channel expires if nothing more happens. `None`: it does not exist.
    pub life: Option<Duration>,
}

/// Some channels of one part of the directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotedPage {
    /// Each of them once. Some may have expired.
    pub channels: Vec<ChannelName>,
    /// Where the next page of this part begins. `None`: nothing follows in this part.
    pub next: Option<String>,
}

/// Watches channels.
#[async_trait]
pub trait WatchFeed: ChannelFeed {
    /// What these channels are at present, in their order. It is asked over the connection that the feed listens to, as
    /// [`ChannelFeed::heads`] is, and touches nothing. At most 500 channels in a call, because others wait meanwhile.
    ///
    /// # Errors
    /// As [`ChannelFeed::heads`].
    async fn look(&self, channels: &[ChannelName]) -> Result<Vec<Look>, StoreError>;

    /// Hears of all channels that begin from now on, until the answer is dropped. One process hears once: a later call ends
    /// the earlier one.
    fn births(&self) -> Births;

    /// Some channels of one part of the directory, of [`DIRECTORY_PARTS`](crate::DIRECTORY_PARTS), whose names begin with a
    /// prefix, after the name in `after`. The directory is a hint: a channel may have expired.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`].
    async fn noted(
        &self,
        part: usize,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<NotedPage, StoreError>;
}

/// What is heard of channels that begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Birth {
    /// This channel begins. Its first publication or join is there already, or comes within moments. It may be told twice.
    Of(ChannelName),
    /// Births before this may have been missed, and later ones are told. So read the directory now. This is the first that is
    /// told, as soon as all births are heard.
    Missed,
}

/// The births of channels. A channel that begins again is told only if it was taken out of the directory meanwhile.
#[derive(Debug)]
pub struct Births {
    names: mpsc::Receiver<ChannelName>,
    missed: Arc<Notify>,
}

/// Puts births where they are heard.
#[derive(Debug, Clone)]
pub(crate) struct BirthSlot {
    names: mpsc::Sender<ChannelName>,
    missed: Arc<Notify>,
}

impl Births {
    pub(crate) fn new() -> (BirthSlot, Self) {
        let (sender, names) = mpsc::channel(BIRTHS);
        let missed = Arc::<Notify>::default();
        let slot = BirthSlot {
            names: sender,
            missed: Arc::clone(&missed),
        };
        (slot, Self { names, missed })
    }

    /// The next birth. It may be cancelled.
    pub async fn next(&mut self) -> Birth {
        tokio::select! {
            biased;
            () = self.missed.notified() => Birth::Missed,
            Some(name) = self.names.recv() => Birth::Of(name),
        }
    }
}

impl BirthSlot {
    /// Tells a birth. If too many wait, it is missed.
    pub(crate) fn put(&self, name: ChannelName) {
        if self.names.try_send(name).is_err() {
            self.missed();
        }
    }

    /// Tells that births may have been missed.
    pub(crate) fn missed(&self) {
        self.missed.notify_one();
    }

    /// True if nobody hears births any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.names.is_closed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn births_beyond_the_bound_are_told_as_missed_and_later_ones_are_heard() {
        let (slot, mut births) = Births::new();
        let name = |n: usize| ChannelName::new(n.to_string()).unwrap();
        for n in 0..=BIRTHS {
            slot.put(name(n));
        }
        assert_eq!(births.next().await, Birth::Missed);
        for n in 0..BIRTHS {
            assert_eq!(births.next().await, Birth::Of(name(n)));
        }
        slot.put(name(1));
        assert_eq!(births.next().await, Birth::Of(name(1)));
        drop(births);
        assert!(slot.is_closed());
    }
}
