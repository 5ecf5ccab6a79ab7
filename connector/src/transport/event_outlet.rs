//! The way out to a client of Server-Sent Events: a socket, before which records become the events of this client.
//!
//! The connection writes and queues records, which all members of a channel share. Here they become events shortly before the socket
//! takes them. So what waits for a slow reader is shared, and the ids of its events are in the order in which it gets them. Until the
//! answer to the client's request has begun, there is no socket, and everything waits in the connection's queue.
//!
//! Replies are not sent on the stream. Each goes to the post that asked.

use crate::limits::QueueLimits;
use crate::transport::socket::WriteHalf;
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::io::{self, ErrorKind, IoSlice};
use std::net::Shutdown;
use std::sync::{Arc, OnceLock};
use tokio::sync::{Notify, oneshot};
use wire::sse::{EventId, EventStream};

/// The bytes of events that are made at once, at most, but for the last event.
const AT_ONCE: usize = 64 << 10;

/// The way out to one client of Server-Sent Events.
pub(crate) struct EventOutlet {
    state: Mutex<State>,
    socket: OnceLock<WriteHalf>,
    /// Notified when there is a socket, or will be none.
    begun: Notify,
    answers: Mutex<Answers>,
}

struct State {
    stream: EventStream,
    /// Events that the socket has not taken. Empty for most clients.
    rendered: Vec<u8>,
    /// How many bytes of that it has taken.
    sent: usize,
    /// How many bytes of the caller these events were made of. The caller still has them.
    under_way: usize,
    /// What comes before everything else.
    opening: Bytes,
    /// There will be no socket.
    is_over: bool,
    limits: Arc<QueueLimits>,
}

/// The posts that wait for their replies.
#[derive(Default)]
struct Answers {
    last: u64,
    waiting: HashMap<u64, oneshot::Sender<Box<[u8]>>>,
    /// Nobody is answered any more.
    is_over: bool,
}

/// A request of a post that waits for its reply.
pub(crate) struct Waiting {
    /// The id of the request.
    pub(crate) id: u64,
    outlet: Arc<EventOutlet>,
    reply: oneshot::Receiver<Box<[u8]>>,
}

impl Waiting {
    /// The body of the reply. `None`: the connection is over, and there is none.
    pub(crate) async fn reply(&mut self) -> Option<Box<[u8]>> {
        (&mut self.reply).await.ok()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let removed = self.outlet.answers.lock().waiting.remove(&self.id);
        drop(removed);
    }
}

impl EventOutlet {
    /// The client comes back with this id. There is no socket yet.
    pub(crate) fn new(id: &EventId, pause: u32, limits: &Arc<QueueLimits>) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                stream: EventStream::new(id, pause),
                rendered: Vec::new(),
                sent: 0,
                under_way: 0,
                opening: Bytes::new(),
                is_over: false,
                limits: Arc::clone(limits),
            }),
            socket: OnceLock::new(),
            begun: Notify::new(),
            answers: Mutex::default(),
        })
    }

    /// Lets the stream of the client be looked at or changed. To be called before there is a socket.
    pub(crate) fn stream<T>(&self, look: impl FnOnce(&mut EventStream) -> T) -> T {
        look(&mut self.state.lock().stream)
    }

    /// Sets what comes first, as records. The session is in all its channels. To be called before there is a socket.
    pub(crate) fn opens_with(&self, records: Bytes) {
        self.state.lock().opening = records;
    }

    /// Begins to write to a socket. Returns what the caller has to send first.
    pub(crate) fn begin(&self, socket: WriteHalf) -> Bytes {
        let opening = std::mem::take(&mut self.state.lock().opening);
        let _ = self.socket.set(socket);
        self.begun.notify_waiters();
        opening
    }

    /// A new id for a request, whose reply will be given to the result.
    pub(crate) fn ask(self: &Arc<Self>) -> Waiting {
        let (answer, reply) = oneshot::channel();
        let mut answers = self.answers.lock();
        answers.last += 1;
        let id = answers.last;
        if !answers.is_over {
            answers.waiting.insert(id, answer);
        }
        Waiting {
            id,
            outlet: Arc::clone(self),
            reply,
        }
    }

    /// Gives the reply to a request to the post that waits for it, if it still does.
    pub(crate) fn answer(&self, id: u64, body: &[u8]) {
        let waiting = self.answers.lock().waiting.remove(&id);
        if let Some(waiting) = waiting {
            let _ = waiting.send(body.into());
        }
    }

    /// Writes as much as the socket takes at once. Records count as written once all their events are. See
    /// [`WriteHalf::try_write`] for what the next write must begin with.
    pub(crate) fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut state = self.state.lock();
        let Some(socket) = self.socket.get() else {
            return Err(match state.is_over {
                true => ErrorKind::BrokenPipe.into(),
                false => ErrorKind::WouldBlock.into(),
            });
        };
        let mut taken = 0;
        for slice in slices {
            let mut rest: &[u8] = slice;
            while !rest.is_empty() {
                match state.write(socket, rest) {
                    Ok(written) => {
                        taken += written;
                        rest = &rest[written..];
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock && taken > 0 => {
                        return Ok(taken);
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(taken)
    }

    /// Returns when something may be written.
    pub(crate) async fn writable(&self) -> io::Result<()> {
        loop {
            let begun = self.begun.notified();
            tokio::pin!(begun);
            begun.as_mut().enable();
            if let Some(socket) = self.socket.get() {
                return socket.writable().await;
            }
            if self.state.lock().is_over {
                return Ok(());
            }
            begun.await;
        }
    }

    /// How many of the bytes that were not written can't be taken back, because a part of their events is.
    pub(crate) fn under_way(&self) -> usize {
        self.state.lock().under_way
    }

    /// Ends one direction or both. Nobody is answered any more.
    pub(crate) fn shut(&self, how: Shutdown) {
        let waiting = {
            let mut answers = self.answers.lock();
            answers.is_over = true;
            std::mem::take(&mut answers.waiting)
        };
        drop(waiting);
        self.state.lock().is_over = true;
        if let Some(socket) = self.socket.get() {
            socket.shut(how);
        }
        self.begun.notify_waiters();
    }
}

impl State {
    /// Makes events of some of these records and writes them. The records begin with those that are under way. Returns how many bytes of
    /// records are done: not none.
    fn write(&mut self, socket: &WriteHalf, records: &[u8]) -> io::Result<usize> {
        if self.under_way == 0 {
            let mut rendered = Vec::with_capacity(records.len().min(AT_ONCE) + 256);
            self.under_way = self.stream.render(records, AT_ONCE, &mut rendered);
            if self.under_way == 0 {
                // The caller has cut a record into pieces, so the stream is broken.
                return Err(ErrorKind::InvalidInput.into());
            }
            let written = match rendered.is_empty() {
                true => 0,
                false => match socket.try_write(&rendered) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
                    written => written?,
                },
            };
            if written < rendered.len() {
                self.limits.add(rendered.len());
                self.rendered = rendered;
                self.sent = written;
            }
        }
        while self.sent < self.rendered.len() {
            self.sent += socket.try_write(&self.rendered[self.sent..])?;
        }
        self.forget_rendered();
        let done = std::mem::take(&mut self.under_way);
        if done > records.len() {
            // The caller has dropped records of which the client has got something by now.
            return Err(ErrorKind::InvalidInput.into());
        }
        Ok(done)
    }

    fn forget_rendered(&mut self) {
        self.limits.remove(self.rendered.len());
        self.rendered = Vec::new();
        self.sent = 0;
    }
}

impl Drop for State {
    fn drop(&mut self) {
        self.forget_rendered();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::socket::Socket;
    use tokio::io::AsyncReadExt;
    use tokio::net::{TcpListener, TcpStream};
    use wire::WireFormat;

    fn outlet(limits: &Arc<QueueLimits>) -> Arc<EventOutlet> {
        let id = EventId {
            secret: "8Qp1v0Zc2mXyT7aBd3fGhA".to_owned(),
            positions: Vec::new(),
            is_last: false,
        };
        EventOutlet::new(&id, 1_000, limits)
    }

    fn records(count: u64) -> Vec<u8> {
        let mut records = Vec::new();
        for offset in 0..count {
            let body = format!(r#"{{"n":{offset}}}"#);
            wire::direct(WireFormat::SSE, "r", body.as_bytes(), &mut records);
        }
        records
    }

    fn write(outlet: &EventOutlet, records: &[u8]) -> io::Result<usize> {
        outlet.try_write(&[IoSlice::new(records)])
    }

    async fn socket() -> (WriteHalf, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let (_, writer) = Socket::from(accepted.unwrap().0).into_split();
        (writer, client.unwrap())
    }

    #[tokio::test]
    async fn everything_waits_until_there_is_a_socket() {
        let outlet = outlet(&QueueLimits::new(1 << 20, 1 << 20));
        let refused = write(&outlet, &records(1)).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::WouldBlock);
        outlet.opens_with(Bytes::from_static(b"first"));
        let (writer, _client) = socket().await;
        let (writable, opening) = tokio::join!(outlet.writable(), async { outlet.begin(writer) });
        writable.unwrap();
        assert_eq!(opening, "first");
        assert_eq!(write(&outlet, &records(1)).unwrap(), records(1).len());
    }

    #[tokio::test]
    async fn a_socket_that_takes_a_part_gets_each_event_once_and_what_waits_is_counted() {
        let limits = QueueLimits::new(1 << 30, 1 << 30);
        let outlet = outlet(&limits);
        let (writer, mut client) = socket().await;
        outlet.begin(writer);
        let all = records(200_000);
        let mut rest = &all[..];
        let mut heard = Vec::new();
        let mut was_full = false;
        while !rest.is_empty() {
            match write(&outlet, rest) {
                Ok(taken) => rest = &rest[taken..],
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::WouldBlock);
                    assert!(outlet.under_way() > 0);
                    assert!((1..=2 * AT_ONCE).contains(&limits.queued()));
                    was_full = true;
                    // The socket may have room already, and then nothing more may come.
                    tokio::select! {
                        read = client.read_buf(&mut heard) => drop(read.unwrap()),
                        writable = outlet.writable() => writable.unwrap(),
                    }
                }
            }
        }
        assert!(was_full);
        assert_eq!(limits.queued(), 0);
        outlet.shut(Shutdown::Write);
        client.read_to_end(&mut heard).await.unwrap();
        let heard = String::from_utf8(heard).unwrap();
        let data = heard.lines().filter(|it| it.starts_with("data: "));
        let mut count = 0;
        for (number, line) in data.enumerate() {
            assert!(
                line.ends_with(&format!(r#""body":{{"n":{number}}}}}"#)),
                "{line}"
            );
            count += 1;
        }
        assert_eq!(count, 200_000);
    }

    #[tokio::test]
    async fn a_post_that_waits_for_a_reply_learns_when_there_will_be_none() {
        let outlet = outlet(&QueueLimits::new(1 << 20, 1 << 20));
        let (mut one, mut two) = (outlet.ask(), outlet.ask());
        outlet.answer(two.id, b"{}");
        assert_eq!(two.reply().await.as_deref(), Some(&b"{}"[..]));
        outlet.shut(Shutdown::Both);
        assert_eq!(one.reply().await, None);
        assert_eq!(outlet.ask().reply().await, None, "it is over");
        assert!(outlet.answers.lock().waiting.is_empty());
        outlet.writable().await.unwrap();
        let error = write(&outlet, &records(1)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    }
}
