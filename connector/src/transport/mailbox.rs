//! Holds what waits for the next poll of a client that has no socket.
//!
//! A mailbox takes whole frames, as a socket does, and gives the packets in them to polls. So the code that writes is
//! the same for all clients. When the mailbox is full, it takes nothing more, and the queue of the connection bounds
//! what a client costs that does not poll.

use crate::limits::{PollingPermit, QueueLimits};
use bytes::Bytes;
use parking_lot::Mutex;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use tokio::sync::Notify;

/// With this many bytes a mailbox is full.
const FULL: usize = 64 << 10;

/// Packets for one polling client.
#[derive(Debug)]
pub(crate) struct Mailbox {
    state: Mutex<State>,
    /// The bounds that its bytes count against.
    limits: Arc<QueueLimits>,
    /// The client's place among those that have not logged in. `None` once it has.
    place: Mutex<Option<PollingPermit>>,
    /// Notified when a waiting poll may end.
    filled: Notify,
    /// Notified when there may be room, or when no more is needed.
    emptied: Notify,
}

#[derive(Debug, Default)]
struct State {
    frames: Vec<u8>,
    /// A poll is waiting.
    polled: bool,
    /// A poll that finds nothing ends at once. The client waits for that before it switches to a socket.
    empty_polls_end: bool,
    /// Nothing more will come, because the client has a socket.
    switched: bool,
    /// Nothing more will come. A poll that finds nothing is told that the connection is over.
    finished: bool,
}

/// The result of a poll.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fetched {
    /// Packets. There are none if the poll has to end without any.
    Packets(Vec<String>),
    /// The connection is over. The poll gets no answer, as if the server were gone.
    End,
    /// Another poll is waiting already.
    Twice,
}

impl Mailbox {
    /// An empty mailbox. What comes into it counts for the whole process.
    pub(crate) fn new(limits: &Arc<QueueLimits>, place: Option<PollingPermit>) -> Self {
        Self {
            place: Mutex::new(place),
            state: Mutex::default(),
            limits: Arc::clone(limits),
            filled: Notify::new(),
            emptied: Notify::new(),
        }
    }

    /// To be called when the client has logged in, or no longer polls.
    pub(crate) fn logged_in(&self) {
        let place = self.place.lock().take();
        drop(place);
    }

    /// True if something waits to be fetched.
    pub(crate) fn holds(&self) -> bool {
        !self.state.lock().frames.is_empty()
    }

    /// Takes frames, all or none.
    pub(crate) fn try_write(&self, frames: &[u8]) -> io::Result<usize> {
        let mut state = self.state.lock();
        if state.frames.len() >= FULL {
            return Err(ErrorKind::WouldBlock.into());
        }
        state.frames.extend_from_slice(frames);
        self.limits.add(frames.len());
        self.filled.notify_one();
        Ok(frames.len())
    }

    /// Returns when there may be room.
    pub(crate) async fn room(&self) {
        loop {
            let emptied = self.emptied.notified();
            tokio::pin!(emptied);
            emptied.as_mut().enable();
            {
                let state = self.state.lock();
                if state.frames.len() < FULL || state.switched || state.finished {
                    return;
                }
            }
            emptied.await;
        }
    }

    /// Returns when everything was fetched.
    pub(crate) async fn fetched(&self) {
        loop {
            let emptied = self.emptied.notified();
            tokio::pin!(emptied);
            emptied.as_mut().enable();
            if self.state.lock().frames.is_empty() {
                return;
            }
            emptied.await;
        }
    }

    /// Waits for packets, and takes all. A close packet comes alone, because clients drop what comes together with it.
    pub(crate) async fn fetch(&self) -> Fetched {
        if std::mem::replace(&mut self.state.lock().polled, true) {
            return Fetched::Twice;
        }
        let _polling = Polling(self);
        loop {
            {
                let mut state = self.state.lock();
                if state.frames.is_empty() && state.finished {
                    return Fetched::End;
                }
                if !state.frames.is_empty() || state.empty_polls_end || state.switched {
                    let (packets, rest) = packets(&state.frames);
                    let rest = rest.to_vec();
                    self.limits.remove(state.frames.len() - rest.len());
                    state.frames = rest;
                    self.emptied.notify_waiters();
                    return Fetched::Packets(packets);
                }
            }
            self.filled.notified().await;
        }
    }

    /// Lets polls that find nothing end at once, or wait again.
    pub(crate) fn end_empty_polls(&self, empty_polls_end: bool) {
        self.state.lock().empty_polls_end = empty_polls_end;
        self.filled.notify_one();
    }

    /// Returns what was not fetched, for the socket with which the client goes on. Polls end without anything from now
    /// on.
    pub(crate) fn switch(&self) -> Bytes {
        let mut state = self.state.lock();
        state.switched = true;
        let frames = std::mem::take(&mut state.frames);
        self.limits.remove(frames.len());
        self.filled.notify_one();
        self.emptied.notify_waiters();
        frames.into()
    }

    /// To be called when nothing more will come. Polls get what is left, and are then told that the connection is over.
    pub(crate) fn finish(&self) {
        self.state.lock().finished = true;
        self.filled.notify_one();
        self.emptied.notify_waiters();
    }

    /// Like [`finish`](Self::finish), but drops what is left.
    pub(crate) fn abort(&self) {
        let frames = std::mem::take(&mut self.state.lock().frames);
        self.limits.remove(frames.len());
        self.finish();
    }
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        self.limits.remove(self.state.get_mut().frames.len());
    }
}

/// A poll that waits. Dropping this, also when the client gives up, lets another poll wait.
struct Polling<'a>(&'a Mailbox);

impl Drop for Polling<'_> {
    fn drop(&mut self) {
        self.0.state.lock().polled = false;
    }
}

/// The packets in frames that the connector has written, and the frames that are left. The packets are the texts up to
/// a close frame, or that frame alone.
fn packets(mut frames: &[u8]) -> (Vec<String>, &[u8]) {
    let mut packets = Vec::new();
    while let Some((opcode, payload, rest)) = split_frame(frames) {
        match opcode {
            TEXT => packets.push(String::from_utf8_lossy(payload).into_owned()),
            CLOSE if packets.is_empty() => packets.push("1".to_owned()),
            CLOSE => break,
            _ => {}
        }
        frames = rest;
    }
    (packets, frames)
}

const TEXT: u8 = 1;
const CLOSE: u8 = 8;

fn split_frame(frames: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[first, short], rest) = frames.split_first_chunk()?;
    let (length, rest) = match short {
        126 => {
            let (length, rest) = rest.split_first_chunk()?;
            (u16::from_be_bytes(*length).into(), rest)
        }
        127 => {
            let (length, rest) = rest.split_first_chunk()?;
            (usize::try_from(u64::from_be_bytes(*length)).ok()?, rest)
        }
        length => (length.into(), rest),
    };
    let (payload, rest) = rest.split_at_checked(length)?;
    Some((first & 0x0f, payload, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::let_run;
    use wire::websocket::{self, Opcode};

    fn empty() -> Mailbox {
        Mailbox::new(&QueueLimits::new(1 << 20, 1 << 20), None)
    }

    fn frames(packets: &[&str]) -> Vec<u8> {
        let mut frames = Vec::new();
        for packet in packets {
            websocket::frame(&mut frames, Opcode::Text, packet.as_bytes());
        }
        frames
    }

    #[tokio::test]
    async fn a_poll_waits_and_returns_everything() {
        let mailbox = Arc::new(empty());
        let poll = tokio::spawn({
            let mailbox = Arc::clone(&mailbox);
            async move { mailbox.fetch().await }
        });
        let_run().await;
        assert_eq!(mailbox.fetch().await, Fetched::Twice);
        let long = "x".repeat(70_000);
        let mut all = frames(&["40", &"y".repeat(200), &long]);
        websocket::close(&mut all, 1000, "");
        mailbox.try_write(&all).unwrap();
        let Fetched::Packets(packets) = poll.await.unwrap() else {
            panic!("something was fetched twice");
        };
        assert_eq!(packets, ["40", &"y".repeat(200), &long]);
        let end = Fetched::Packets(vec!["1".to_owned()]);
        assert_eq!(mailbox.fetch().await, end);
        mailbox.finish();
        assert_eq!(mailbox.fetch().await, Fetched::End);
    }

    #[tokio::test]
    async fn a_waiting_poll_ends_with_the_connection_after_everything_that_was_sent() {
        let mailbox = Arc::new(empty());
        let poll = tokio::spawn({
            let mailbox = Arc::clone(&mailbox);
            async move { mailbox.fetch().await }
        });
        let_run().await;
        mailbox.finish();
        assert_eq!(poll.await.unwrap(), Fetched::End);

        let mailbox = empty();
        mailbox.try_write(&frames(&["40"])).unwrap();
        mailbox.finish();
        let fetched = Fetched::Packets(vec!["40".to_owned()]);
        assert_eq!(mailbox.fetch().await, fetched);
        assert_eq!(mailbox.fetch().await, Fetched::End);
    }

    #[tokio::test]
    async fn for_a_client_that_does_not_poll_only_a_bounded_amount_waits() {
        let mailbox = empty();
        let frame = frames(&[&"x".repeat(40_000)]);
        assert_eq!(mailbox.try_write(&frame).unwrap(), frame.len());
        assert_eq!(mailbox.try_write(&frame).unwrap(), frame.len());
        let refused = mailbox.try_write(&frame).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::WouldBlock);
        let ((), fetched) = tokio::join!(mailbox.room(), mailbox.fetch());
        assert!(matches!(fetched, Fetched::Packets(packets) if packets.len() == 2));
        mailbox.try_write(&frame).unwrap();
    }

    #[tokio::test]
    async fn after_a_poll_is_given_up_the_next_one_gets_what_comes() {
        let mailbox = Arc::new(empty());
        let poll = tokio::spawn({
            let mailbox = Arc::clone(&mailbox);
            async move { mailbox.fetch().await }
        });
        let_run().await;
        poll.abort();
        let_run().await;
        mailbox.try_write(&frames(&["40"])).unwrap();
        let fetched = Fetched::Packets(vec!["40".to_owned()]);
        assert_eq!(mailbox.fetch().await, fetched);
    }

    #[tokio::test]
    async fn a_client_that_switches_to_a_socket_gets_what_was_not_fetched() {
        let mailbox = empty();
        mailbox.end_empty_polls(true);
        assert_eq!(mailbox.fetch().await, Fetched::Packets(vec![]));
        mailbox.try_write(&frames(&["40"])).unwrap();
        assert_eq!(mailbox.switch(), frames(&["40"]));
        assert_eq!(mailbox.fetch().await, Fetched::Packets(vec![]));
    }
}
