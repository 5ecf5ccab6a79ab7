//! A queue of channels that calls hand to a task in the background.

use channel_store::ChannelName;
use parking_lot::Mutex;
use std::collections::{HashSet, VecDeque};
use tokio::sync::Notify;

/// Each channel stands in it once, in the order in which they came.
pub(crate) struct ChannelQueue {
    /// The largest number of channels in the queue.
    room: usize,
    channels: Mutex<Channels>,
    grown: Notify,
}

#[derive(Default)]
struct Channels {
    order: VecDeque<ChannelName>,
    known: HashSet<ChannelName>,
}

impl ChannelQueue {
    /// Channels that come when the queue is full are forgotten.
    pub(crate) fn new(room: usize) -> Self {
        Self {
            room,
            channels: Mutex::default(),
            grown: Notify::new(),
        }
    }

    /// Adds a channel, unless it is in the queue or there is no room.
    pub(crate) fn add(&self, channel: &ChannelName) {
        let mut channels = self.channels.lock();
        if channels.order.len() < self.room && channels.known.insert(channel.clone()) {
            channels.order.push_back(channel.clone());
            drop(channels);
            self.grown.notify_one();
        }
    }

    /// Waits until there is a channel, and takes the first so many.
    pub(crate) async fn next(&self, most: usize) -> Vec<ChannelName> {
        loop {
            let taken = self.channels.lock().take(most);
            if !taken.is_empty() {
                return taken;
            }
            self.grown.notified().await;
        }
    }
}

impl Channels {
    fn take(&mut self, most: usize) -> Vec<ChannelName> {
        let Self { order, known } = self;
        let taken: Vec<_> = order.drain(..most.min(order.len())).collect();
        for channel in &taken {
            known.remove(channel);
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(n: usize) -> ChannelName {
        ChannelName::new(format!("room-{n}")).unwrap()
    }

    #[tokio::test]
    async fn a_channel_is_in_the_queue_once_and_may_come_back_after_it_was_taken() {
        let queue = ChannelQueue::new(9);
        for n in [1, 2, 1, 3] {
            queue.add(&name(n));
        }
        assert_eq!(queue.next(2).await, [name(1), name(2)]);
        queue.add(&name(1));
        assert_eq!(queue.next(9).await, [name(3), name(1)]);
    }

    #[tokio::test]
    async fn a_queue_is_bounded() {
        let queue = ChannelQueue::new(5);
        (0..10).for_each(|n| queue.add(&name(n)));
        assert_eq!(queue.next(usize::MAX).await.len(), 5);
    }
}
