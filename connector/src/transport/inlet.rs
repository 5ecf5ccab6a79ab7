//! Where a connection's messages come from: a socket, the posts of a polling client until it has a socket, or the posts of a client
//! that reads a stream of events.
//!
//! Bytes are read into a buffer that all connections of a thread share, so an idle connection has no buffer.

use crate::transport::pass::Pass;
use crate::transport::socket::ReadHalf;
use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::ReadBuf;
use tokio::sync::mpsc;
use wire::websocket::{Event, Reader};
use wire::{Carrier, Packages, Protocol, WireFormat};

/// The bytes that one read takes at most.
const READ: usize = 64 << 10;
/// After this many bytes of messages the rest of a read waits. If messages are compressed, one read may hold very many.
const AT_ONCE: usize = 256 << 10;

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ].into());
}

/// Where a connection's messages come from.
pub(crate) struct Inlet {
    source: Source,
    messages: Messages,
}

enum Source {
    /// A socket. If it replaced polls, its pass is held here.
    Socket(
        ReadHalf,
        #[expect(dead_code, reason = "held until it is dropped")] Option<Arc<Pass>>,
    ),
    /// Posts, and the bytes of one message. The socket is that of a stream of events, once it has begun. Its client says nothing there,
    /// but the end of the socket is the end of the client.
    Posts(mpsc::Receiver<Posted>, usize, Option<ReadHalf>),
}

/// What a client has posted.
pub(crate) enum Posted {
    /// Messages, in order.
    Packets(Vec<String>),
    /// The client goes on with a socket.
    Switched(SocketReader, Arc<Pass>),
    /// No message, but the client has polled.
    Here,
    /// A stream of events has begun on this socket.
    Streams(ReadHalf),
}

/// A socket that something was read from.
pub(crate) struct SocketReader {
    pub(crate) socket: ReadHalf,
    pub(crate) frames: Reader,
    /// Messages that were read and not handled.
    pub(crate) messages: Vec<Vec<u8>>,
}

/// Finds messages in the bytes of a socket.
enum Messages {
    Frames(Reader),
    Packages(Packages),
}

impl Messages {
    fn feed(&mut self, bytes: &mut [u8], mut on: impl FnMut(Event<'_>)) -> Result<(), wire::Error> {
        match self {
            Self::Frames(frames) => frames.feed_some(bytes, AT_ONCE, on),
            Self::Packages(packages) => packages.feed(bytes, |it| on(Event::Message(it))),
        }
    }
}

/// The result of a read.
pub(crate) enum Read {
    /// The client has closed its side without a farewell.
    End,
    /// Something was read.
    Some {
        /// How much, in the unit of [`Inlet::arrived`].
        taken: usize,
        /// An error if it breaks the protocol.
        fed: Result<(), wire::Error>,
    },
}

impl Inlet {
    /// Reads a socket with messages in this format, of at most `limit` bytes each.
    pub(crate) fn of_socket(socket: impl Into<ReadHalf>, format: WireFormat, limit: usize) -> Self {
        // Pomelo's packages are bytes, but some clients send them in text frames, as the original allowed.
        let frames = |reader: Reader| match format.protocol() {
            Protocol::Pomelo => Messages::Frames(reader.taking_any_text()),
            Protocol::SocketIo(_) | Protocol::Json => Messages::Frames(reader),
        };
        Self {
            source: Source::Socket(socket.into(), None),
            messages: match format.carrier() {
                Carrier::WebSocket => frames(Reader::new(limit)),
                Carrier::Deflate => frames(Reader::inflating(limit)),
                Carrier::Stream => Messages::Packages(Packages::new(limit)),
                // Its requests come in posts.
                Carrier::Events => Messages::Frames(Reader::new(limit)),
            },
        }
    }

    /// Reads the posts of a client.
    pub(crate) fn of_posts(posts: mpsc::Receiver<Posted>, limit: usize) -> Self {
        Self {
            source: Source::Posts(posts, limit, None),
            messages: Messages::Frames(Reader::new(limit)),
        }
    }

    /// Finds messages in bytes that were read before.
    pub(crate) fn feed(
        &mut self,
        bytes: &mut [u8],
        on: impl FnMut(Event<'_>),
    ) -> Result<(), wire::Error> {
        self.messages.feed(bytes, on)
    }

    /// Reads what has arrived, and calls `on` for each message that is complete.
    ///
    /// # Errors
    /// An error of the socket.
    pub(crate) fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        mut on: impl FnMut(Event<'_>),
    ) -> Poll<io::Result<Read>> {
        if let Messages::Frames(frames) = &mut self.messages
            && frames.unread() > 0
        {
            let taken = frames.unread();
            let fed = frames.resume(AT_ONCE, on);
            let taken = taken - frames.unread();
            return Poll::Ready(Ok(Read::Some { taken, fed }));
        }
        match &mut self.source {
            Source::Socket(socket, _) => BUFFER.with_borrow_mut(|buffer| {
                let mut bytes = ReadBuf::new(buffer);
                let taken = ready!(socket.poll_read(context, &mut bytes))?;
                Poll::Ready(Ok(if taken == 0 {
                    Read::End
                } else {
                    let fed = self.messages.feed(bytes.filled_mut(), on);
                    Read::Some { taken, fed }
                }))
            }),
            Source::Posts(posts, limit, streams) => {
                if let Some(socket) = streams
                    && let Poll::Ready(read) = poll_silent(socket, context)
                {
                    return Poll::Ready(read);
                }
                Poll::Ready(Ok(match ready!(posts.poll_recv(context)) {
                    None => Read::End,
                    Some(Posted::Packets(packets)) => {
                        let is_too_big = |packet: &String| packet.len() > *limit;
                        let fitting = packets.iter().take_while(|packet| !is_too_big(packet));
                        fitting.for_each(|packet| on(Event::Message(packet.as_bytes())));
                        let fed = match packets.iter().any(is_too_big) {
                            true => Err(wire::Error::too_big(*limit)),
                            false => Ok(()),
                        };
                        Read::Some { taken: 1, fed }
                    }
                    Some(Posted::Here) => {
                        let fed = Ok(());
                        Read::Some { taken: 1, fed }
                    }
                    Some(Posted::Streams(socket)) => {
                        *streams = Some(socket);
                        // It is polled before the next post, so it wakes this task from then on.
                        context.waker().wake_by_ref();
                        let fed = Ok(());
                        Read::Some { taken: 1, fed }
                    }
                    Some(Posted::Switched(reader, pass)) => {
                        self.source = Source::Socket(reader.socket, Some(pass));
                        self.messages = Messages::Frames(reader.frames);
                        for message in reader.messages {
                            on(Event::Message(&message));
                        }
                        let fed = Ok(());
                        Read::Some { taken: 1, fed }
                    }
                }))
            }
        }
    }

    /// True while posts are read.
    pub(crate) fn is_polled(&self) -> bool {
        matches!(self.source, Source::Posts(..))
    }

    /// How much has arrived and was not read: bytes of a socket, or posts of a polling client.
    pub(crate) fn arrived(&self) -> usize {
        match &self.source {
            Source::Socket(socket, _) => {
                let arrived = socket.arrived();
                match &self.messages {
                    Messages::Frames(frames) => arrived.saturating_add(frames.unread()),
                    Messages::Packages(_) => arrived,
                }
            }
            Source::Posts(posts, ..) => posts.len(),
        }
    }

    /// The bytes that are kept between two reads.
    pub(crate) fn held(&self) -> usize {
        let in_socket = match &self.source {
            Source::Socket(socket, _) => socket.held(),
            Source::Posts(..) => 0,
        };
        in_socket
            + match &self.messages {
                Messages::Frames(frames) => frames.held(),
                Messages::Packages(packages) => packages.held(),
            }
    }

    /// Reads and drops everything until the client has closed its side. Returns at once if the client polls.
    pub(crate) async fn drain(&mut self) {
        let (Source::Socket(socket, _) | Source::Posts(_, _, Some(socket))) = &mut self.source
        else {
            return;
        };
        let mut read = |context: &mut Context<'_>| {
            BUFFER.with_borrow_mut(|buffer| socket.poll_drop(context, buffer))
        };
        while poll_fn(&mut read).await.unwrap_or(false) {}
    }
}

/// Reads a socket on which a client has nothing to say.
fn poll_silent(socket: &mut ReadHalf, context: &mut Context<'_>) -> Poll<io::Result<Read>> {
    BUFFER.with_borrow_mut(|buffer| {
        let mut bytes = ReadBuf::new(buffer);
        loop {
            let taken = ready!(socket.poll_read(context, &mut bytes))?;
            if taken == 0 {
                return Poll::Ready(Ok(Read::End));
            }
            // What belongs to TLS alone brings no bytes.
            if !bytes.filled().is_empty() {
                let fed = Err(wire::Error::Malformed);
                return Poll::Ready(Ok(Read::Some { taken, fed }));
            }
        }
    })
}
