//! A client's socket behind TLS, once its handshake is over.
//!
//! It keeps the two habits of a plain socket. Writing never waits, and what the socket does not take stays in the queue of
//! the connection, where it is counted. And reading uses buffers that all connections of a thread share, so an idle
//! connection has none but the small one of rustls.

use super::records::Records;
use parking_lot::Mutex;
use socket2::SockRef;
use std::cell::RefCell;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::Shutdown;
use std::task::{Context, Poll, ready};
use tokio::io::ReadBuf;
use tokio::net::TcpStream;
use tokio_rustls::rustls::ServerConnection;

/// The bytes that are encrypted at once, at most: one record of TLS. It is also what rustls holds, at most, of what the
/// socket did not take.
const RECORD: usize = 16 << 10;
/// The bytes that one read takes from the socket at most.
const READ: usize = 16 << 10;
/// rustls keeps a buffer of this size, and one that was larger until it reads again.
const KEPT: usize = 4 << 10;

thread_local! {
    /// What is read from sockets before it is decrypted.
    static CIPHER: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ].into());
}

/// A socket and its TLS session.
pub(crate) struct Encrypted {
    socket: TcpStream,
    state: Mutex<State>,
}

struct State {
    session: ServerConnection,
    /// How many bytes of the caller are encrypted, while their record is not fully written. The caller still has them.
    under_way: usize,
    /// The bytes that are decrypted and were not read.
    unread: usize,
    /// The client has said that it sends no more.
    is_ended: bool,
    /// The borders of the records that come.
    records: Records,
}

impl Encrypted {
    /// Takes over a session whose handshake is over. `records` has followed what the socket has brought so far.
    pub(crate) fn new(socket: TcpStream, mut session: ServerConnection, records: Records) -> Self {
        session.set_buffer_limit(Some(RECORD));
        // Nothing new is processed here, and an error would come back at the next read.
        let state = session.process_new_packets().ok();
        Self {
            socket,
            state: Mutex::new(State {
                under_way: 0,
                unread: state.as_ref().map_or(0, |it| it.plaintext_bytes_to_read()),
                is_ended: state.is_some_and(|it| it.peer_has_closed()),
                session,
                records,
            }),
        }
    }

    /// The socket below TLS.
    pub(crate) fn tcp(&self) -> &TcpStream {
        &self.socket
    }

    /// See [`ReadHalf::poll_read`](super::socket::ReadHalf::poll_read).
    pub(crate) fn poll_read(
        &self,
        context: &mut Context<'_>,
        bytes: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<usize>> {
        {
            let mut state = self.state.lock();
            if state.unread > 0 {
                return Poll::Ready(state.decrypted(bytes));
            }
            if state.is_ended {
                return Poll::Ready(Ok(0));
            }
        }
        CIPHER.with_borrow_mut(|cipher| {
            let length = READ.min(bytes.remaining());
            let taken = ready!(self.poll_take(context, &mut cipher[..length]))?;
            if taken > 0 {
                self.state
                    .lock()
                    .decrypt(&cipher[..taken], bytes, &self.socket)?;
            }
            Poll::Ready(Ok(taken))
        })
    }

    /// See [`ReadHalf::poll_drop`](super::socket::ReadHalf::poll_drop). Nothing is decrypted for that.
    pub(crate) fn poll_drop(
        &self,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<bool>> {
        self.poll_take(context, buffer).map_ok(|taken| taken > 0)
    }

    /// Reads from the socket.
    fn poll_take(&self, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.socket.poll_read_ready(context))?;
            match self.socket.try_read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                read => return Poll::Ready(read),
            }
        }
    }

    /// The bytes that are decrypted and were not read.
    pub(crate) fn unread(&self) -> usize {
        self.state.lock().unread
    }

    /// The bytes of a record that has not come as a whole.
    pub(crate) fn held(&self) -> usize {
        self.state.lock().records.unfinished()
    }

    /// Encrypts and writes as much as the socket takes at once. Bytes count as written once their whole record is. See
    /// [`WriteHalf::try_write`](super::socket::WriteHalf::try_write) for what the next write must begin with.
    pub(crate) fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut state = self.state.lock();
        let mut rest = slices.to_vec();
        let mut rest = &mut rest[..];
        let mut written = 0;
        loop {
            match state.flush(&self.socket) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock && written > 0 => {
                    return Ok(written);
                }
                Err(error) => return Err(error),
            }
            let done = std::mem::take(&mut state.under_way);
            if rest.iter().map(|slice| slice.len()).sum::<usize>() < done {
                // The caller has dropped bytes that the client has got by now, so the stream is broken.
                return Err(ErrorKind::InvalidInput.into());
            }
            written += done;
            IoSlice::advance_slices(&mut rest, done);
            if rest.is_empty() {
                return Ok(written);
            }
            state.under_way = state.session.writer().write_vectored(rest)?;
            if state.under_way == 0 {
                // rustls takes nothing after the end was announced.
                return Err(ErrorKind::BrokenPipe.into());
            }
        }
    }

    /// The bytes of the caller that are encrypted and not fully written.
    pub(crate) fn under_way(&self) -> usize {
        self.state.lock().under_way
    }

    /// Ends one direction or both. Before the sending direction ends, the client is told that nothing was cut off
    /// (`close_notify`), if the socket takes that at once.
    pub(crate) fn shut(&self, how: Shutdown) {
        if how == Shutdown::Write {
            let mut state = self.state.lock();
            state.session.send_close_notify();
            // If the socket is full, the end of the socket has to do.
            let _ = state.flush(&self.socket);
        }
        // This fails only if the peer has closed before.
        drop(SockRef::from(&self.socket).shutdown(how));
    }
}

impl State {
    /// Writes what rustls holds. `WouldBlock` means that the socket has not taken all of it.
    fn flush(&mut self, socket: &TcpStream) -> io::Result<()> {
        while self.session.wants_write() {
            if self.session.write_tls(&mut Writing(socket))? == 0 {
                return Err(ErrorKind::WriteZero.into());
            }
        }
        Ok(())
    }

    /// Moves decrypted bytes, and returns how many.
    fn decrypted(&mut self, bytes: &mut ReadBuf<'_>) -> io::Result<usize> {
        let wanted = self.unread.min(bytes.remaining());
        let read = self
            .session
            .reader()
            .read(bytes.initialize_unfilled_to(wanted))?;
        bytes.advance(read);
        self.unread -= read;
        Ok(read)
    }

    /// Decrypts what the socket has brought. What does not fit into `bytes` remains unread.
    fn decrypt(
        &mut self,
        mut cipher: &[u8],
        bytes: &mut ReadBuf<'_>,
        socket: &TcpStream,
    ) -> io::Result<()> {
        self.records.follow(cipher);
        let length = cipher.len();
        while !cipher.is_empty() && self.session.read_tls(&mut cipher)? > 0 {
            let processed = self.session.process_new_packets().map_err(|error| {
                // The client is told why, in an alert, if the socket takes that at once.
                let _ = self.flush(socket);
                io::Error::new(ErrorKind::InvalidData, error)
            })?;
            self.unread = processed.plaintext_bytes_to_read();
            self.is_ended = processed.peer_has_closed();
            while self.unread > 0 && bytes.remaining() > 0 {
                self.decrypted(bytes)?;
            }
        }
        if length > KEPT && self.records.unfinished() == 0 {
            // This reads nothing, but lets rustls give its large buffer back.
            let _ = self.session.read_tls(&mut Nothing);
        }
        Ok(())
    }
}

/// Writes to a socket without waiting.
struct Writing<'a>(&'a TcpStream);

impl Write for Writing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Brings nothing, and does not end.
struct Nothing;

impl Read for Nothing {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(ErrorKind::WouldBlock.into())
    }
}

#[cfg(test)]
mod tests;
