//! A client's socket while it speaks HTTP.
//!
//! hyper waits for ever for a peer that does not read its answer. This stream gives up after a while and resets the
//! socket, so that the kernel drops what it holds for the peer.

use crate::limits::Bound;
use crate::transport::Encrypted;
use crate::transport::pass::Pass;
use crate::transport::records::Records;
use crate::transport::socket::Socket;
use socket2::SockRef;
use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;

/// How long a peer may take for each [`STEP`] bytes of an answer, or for the rest of it.
const PATIENCE: Duration = Duration::from_secs(10);
const STEP: usize = 4 << 10;

/// A socket that speaks HTTP: plain, or encrypted. TLS lies above, so a peer that does not read is noticed below, where the bytes
/// leave.
pub(crate) type HttpIo = Either<HttpStream, Box<TlsStream<HttpStream>>>;

/// The socket below.
pub(crate) fn tcp(io: &HttpIo) -> &TcpStream {
    match io {
        HttpIo::Left(stream) => &stream.socket,
        HttpIo::Right(stream) => &stream.get_ref().0.socket,
    }
}

/// The socket and its pass, when HTTP is over.
pub(crate) fn into_parts(io: HttpIo) -> (Socket, Arc<Pass>) {
    match io {
        HttpIo::Left(stream) => (Socket::Plain(stream.socket), stream.pass),
        HttpIo::Right(stream) => {
            let (stream, session) = stream.into_inner();
            let records = stream.records.unwrap_or_default();
            let encrypted = Encrypted::new(stream.socket, session, records);
            (Socket::Tls(Box::new(encrypted)), stream.pass)
        }
    }
}

/// A socket below HTTP, or below TLS.
pub(crate) struct HttpStream {
    socket: TcpStream,
    pass: Arc<Pass>,
    /// The borders of the records that come, if this is below TLS.
    records: Option<Records>,
    /// Set while the peer does not take everything: the time to give up, unless it takes more before.
    blocked: Option<Pin<Box<Sleep>>>,
    /// The bytes that the peer has taken since that time was set.
    taken: usize,
}

impl HttpStream {
    pub(crate) fn new(socket: TcpStream, pass: Arc<Pass>) -> Self {
        Self {
            socket,
            pass,
            records: None,
            blocked: None,
            taken: 0,
        }
    }

    /// A socket below TLS.
    pub(crate) fn below_tls(socket: TcpStream, pass: Arc<Pass>) -> Self {
        Self {
            records: Some(Records::default()),
            ..Self::new(socket, pass)
        }
    }

    fn written(
        &mut self,
        context: &mut Context<'_>,
        tried: Poll<io::Result<usize>>,
        wanted: usize,
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(count)) = tried {
            self.taken += count;
            if count == wanted {
                self.blocked = None;
                self.taken = 0;
            }
        }
        if tried.is_ready() {
            return tried;
        }
        let blocked = self
            .blocked
            .get_or_insert_with(|| Box::pin(sleep(PATIENCE)));
        if self.taken >= STEP {
            self.taken = 0;
            blocked.as_mut().reset(Instant::now() + PATIENCE);
        }
        ready!(blocked.as_mut().poll(context));
        Bound::Write.reached();
        // The socket is reset instead of closed, so that the kernel does not keep what the peer did not take.
        drop(SockRef::from(&self.socket).set_linger(Some(Duration::ZERO)));
        Poll::Ready(Err(ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for HttpStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.socket).poll_read(context, buffer);
        if let Some(records) = &mut self.records {
            records.follow(&buffer.filled()[before..]);
        }
        read
    }
}

impl AsyncWrite for HttpStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let tried = Pin::new(&mut self.socket).poll_write(context, bytes);
        self.written(context, tried, bytes.len())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wanted = slices.iter().map(|slice| slice.len()).sum();
        let tried = Pin::new(&mut self.socket).poll_write_vectored(context, slices);
        self.written(context, tried, wanted)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}
