//! What waits for a client's next poll, in place of a socket.
//!
//! It takes whole frames, as a socket does, and gives packets: so everything before it is the same for clients that poll and
//! for those that don't, and the connection's own queue bounds what a client costs that does not come.

use crate::limits::{PollingPlace, QueueLimits};
use bytes::Bytes;
use parking_lot::Mutex;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use tokio::sync::Notify;

/// Bytes from which on nothing more is taken.
const FULL: usize = 64 << 10;

/// Packets for one client that polls.
#[derive(Debug)]
pub(crate) struct Mailbox {
    state: Mutex<State>,
    /// What is in it counts there.
    limits: Arc<QueueLimits>,
    /// Until its client has logged in.
    place: Mutex<Option<PollingPlace>>,
    /// Told when there is something to fetch.
    filled: Notify,
    /// Told when there is room, or no need of any.
    emptied: Notify,
}

#[derive(Debug, Default)]
struct State {
    frames: Vec<u8>,
    /// A poll is waiting.
    polled: bool,
    /// A poll that finds nothing is to end: the client waits for that before it goes over to a socket.
    hurried: bool,
    /// Nothing more will come here: the client has a socket.
    switched: bool,
    /// Nothing more will come: who has fetched everything finds the end.
    finished: bool,
}

/// What a poll brings.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fetched {
    /// Packets; none if the poll is to end without any.
    Packets(Vec<String>),
    /// The connection is over: the poll ends without an answer, as one does whose server is gone.
    End,
    /// Another poll is waiting already.
    Twice,
}

impl Mailbox {
    /// Nothing in it yet; what will be counts for the whole process.
    pub(crate) fn new(limits: &Arc<QueueLimits>, place: Option<PollingPlace>) -> Self {
        Self {
            place: Mutex::new(place),
            state: Mutex::default(),
            limits: Arc::clone(limits),
            filled: Notify::new(),
            emptied: Notify::new(),
        }
    }

    /// Its client has logged in, or polls no longer.
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

    /// Waits for packets, and takes all. The end comes by itself: clients forget what came with it.
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
                if !state.frames.is_empty() || state.hurried || state.switched {
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

    /// Polls wait for nothing, or wait again.
    pub(crate) fn hurry(&self, hurried: bool) {
        self.state.lock().hurried = hurried;
        self.filled.notify_one();
    }

    /// The client goes on with a socket: what is in here goes there, and polls end without anything.
    pub(crate) fn switch(&self) -> Bytes {
        let mut state = self.state.lock();
        state.switched = true;
        let frames = std::mem::take(&mut state.frames);
        self.limits.remove(frames.len());
        self.filled.notify_one();
        self.emptied.notify_waiters();
        frames.into()
    }

    /// Nothing more will come: polls bring what is in here, and then find the end.
    pub(crate) fn finish(&self) {
        self.state.lock().finished = true;
        self.filled.notify_one();
        self.emptied.notify_waiters();
    }

    /// As [`finish`](Self::finish), and what is in here is dropped.
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

/// A poll that its client may give up.
struct Polling<'a>(&'a Mailbox);

impl Drop for Polling<'_> {
    fn drop(&mut self) {
        self.0.state.lock().polled = false;
    }
}

/// The packets in frames that we have written: texts up to the close frame, or that alone, and what is left.
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
    async fn a_poll_waits_and_brings_everything() {
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
            panic!("fetched twice");
        };
        assert_eq!(packets, ["40", &"y".repeat(200), &long]);
        let end = Fetched::Packets(vec!["1".to_owned()]);
        assert_eq!(mailbox.fetch().await, end);
        mailbox.finish();
        assert_eq!(mailbox.fetch().await, Fetched::End);
    }

    #[tokio::test]
    async fn a_poll_that_waits_ends_with_the_connection_and_what_was_said_comes_first() {
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
    async fn who_does_not_poll_is_given_no_more_than_fits() {
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
    async fn a_poll_that_is_given_up_leaves_what_comes_for_the_next() {
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
    async fn who_goes_over_to_a_socket_takes_along_what_was_not_fetched() {
        let mailbox = empty();
        mailbox.hurry(true);
        assert_eq!(mailbox.fetch().await, Fetched::Packets(vec![]));
        mailbox.try_write(&frames(&["40"])).unwrap();
        assert_eq!(mailbox.switch(), frames(&["40"]));
        assert_eq!(mailbox.fetch().await, Fetched::Packets(vec![]));
    }
}
