//! A client's socket, encrypted or not.
//!
//! These are enums, not trait objects: a plain socket is read and written with the same system calls and no more
//! instructions than if there were no TLS.

use super::Encrypted;
use socket2::SockRef;
use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// A client's socket. If it is encrypted, its TLS handshake is over.
pub(crate) enum Socket {
    Plain(TcpStream),
    Tls(Box<Encrypted>),
}

impl From<TcpStream> for Socket {
    fn from(stream: TcpStream) -> Self {
        Self::Plain(stream)
    }
}

impl Socket {
    /// The socket below TLS.
    pub(crate) fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(encrypted) => encrypted.tcp(),
        }
    }

    /// The two directions.
    pub(crate) fn into_split(self) -> (ReadHalf, WriteHalf) {
        match self {
            Self::Plain(stream) => {
                let (reader, writer) = stream.into_split();
                (ReadHalf::Plain(reader), WriteHalf::Plain(writer))
            }
            Self::Tls(encrypted) => {
                let encrypted: Arc<Encrypted> = encrypted.into();
                let reader = ReadHalf::Tls(Arc::clone(&encrypted));
                (reader, WriteHalf::Tls(encrypted))
            }
        }
    }
}

/// What a client sends.
pub(crate) enum ReadHalf {
    Plain(OwnedReadHalf),
    Tls(Arc<Encrypted>),
}

impl From<OwnedReadHalf> for ReadHalf {
    fn from(socket: OwnedReadHalf) -> Self {
        Self::Plain(socket)
    }
}

impl ReadHalf {
    /// Reads into `bytes`, and returns how many bytes were taken from the socket: those of TLS, if it is encrypted. So it
    /// may take something and bring nothing yet. Zero is the end.
    pub(crate) fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        bytes: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(socket) => {
                let before = bytes.filled().len();
                ready!(Pin::new(socket).poll_read(context, bytes))?;
                Poll::Ready(Ok(bytes.filled().len() - before))
            }
            Self::Tls(encrypted) => encrypted.poll_read(context, bytes),
        }
    }

    /// Reads and drops what has arrived. Returns false at the end.
    pub(crate) fn poll_drop(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<bool>> {
        match self {
            Self::Plain(socket) => {
                let mut bytes = ReadBuf::new(buffer);
                ready!(Pin::new(socket).poll_read(context, &mut bytes))?;
                Poll::Ready(Ok(!bytes.filled().is_empty()))
            }
            Self::Tls(encrypted) => encrypted.poll_drop(context, buffer),
        }
    }

    /// How many bytes have arrived and were not read, in the unit of [`poll_read`](Self::poll_read).
    pub(crate) fn arrived(&self) -> usize {
        let (arrived, unread) = match self {
            Self::Plain(socket) => (rustix::io::ioctl_fionread(socket.as_ref()), 0),
            Self::Tls(encrypted) => (
                rustix::io::ioctl_fionread(encrypted.tcp()),
                encrypted.unread(),
            ),
        };
        let arrived = usize::try_from(arrived.unwrap_or(0)).unwrap_or(usize::MAX);
        arrived.saturating_add(unread)
    }

    /// The bytes that are held outside of the caller's buffer between two reads: those of an unfinished record of TLS.
    pub(crate) fn held(&self) -> usize {
        match self {
            Self::Plain(_) => 0,
            Self::Tls(encrypted) => encrypted.held(),
        }
    }
}

/// What a client is sent. Writing never waits.
pub(crate) enum WriteHalf {
    Plain(OwnedWriteHalf),
    Tls(Arc<Encrypted>),
}

impl From<OwnedWriteHalf> for WriteHalf {
    fn from(socket: OwnedWriteHalf) -> Self {
        Self::Plain(socket)
    }
}

impl WriteHalf {
    /// Writes as much as the socket takes at once.
    ///
    /// If not everything was written, the next write must begin with the bytes that were not. With TLS they may be
    /// encrypted already, and then they are [under way](Self::under_way).
    pub(crate) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.try_write(bytes),
            Self::Tls(encrypted) => encrypted.try_write(&[IoSlice::new(bytes)]),
        }
    }

    /// Like [`try_write`](Self::try_write), for several slices.
    pub(crate) fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.try_write_vectored(slices),
            Self::Tls(encrypted) => encrypted.try_write(slices),
        }
    }

    /// How many of the bytes that were not written can't be taken back, because they are in an encrypted record.
    pub(crate) fn under_way(&self) -> usize {
        match self {
            Self::Plain(_) => 0,
            Self::Tls(encrypted) => encrypted.under_way(),
        }
    }

    /// Returns when the socket may take something again.
    pub(crate) async fn writable(&self) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.writable().await,
            Self::Tls(encrypted) => encrypted.tcp().writable().await,
        }
    }

    /// Ends one direction or both. A client with TLS is told before the sending direction ends.
    pub(crate) fn shut(&self, how: Shutdown) {
        match self {
            // This fails only if the peer has closed before.
            Self::Plain(socket) => drop(SockRef::from(socket.as_ref()).shutdown(how)),
            Self::Tls(encrypted) => encrypted.shut(how),
        }
    }
}
