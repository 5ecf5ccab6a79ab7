//! The stream of a connection at chat's port: plain, or behind TLS.
//!
//! The handshake of TLS is a part of the first read or write, so it needs no task of its own, and the time for a greeting bounds
//! it, too.

use runtime::tls::ServerTls;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::Accept;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::server::TlsStream;

/// The stream of a connection.
pub(super) enum Stream {
    Plain(TcpStream),
    /// The handshake is not over.
    Opening(Box<Accept<TcpStream>>),
    Tls(Box<TlsStream<TcpStream>>),
    /// The handshake failed, which was told already.
    Failed,
}

impl Stream {
    /// A stream that was accepted. With `tls` it begins with a handshake.
    pub(super) fn new(stream: TcpStream, tls: Option<&ServerTls>) -> Self {
        match tls {
            None => Self::Plain(stream),
            Some(tls) => Self::Opening(Box::new(tls.acceptor().accept(stream))),
        }
    }

    /// Goes on with the handshake until it is over. True: it is over just now.
    pub(super) fn poll_open(&mut self, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let Self::Opening(accept) = self else {
            return Poll::Ready(Ok(false));
        };
        match ready!(Pin::new(&mut **accept).poll(context)) {
            Ok(stream) => {
                *self = Self::Tls(Box::new(stream));
                Poll::Ready(Ok(true))
            }
            Err(error) => {
                *self = Self::Failed;
                Poll::Ready(Err(error))
            }
        }
    }

    /// The certificates that the caller has shown, its own first.
    pub(super) fn certificates(&self) -> Option<&[CertificateDer<'static>]> {
        match self {
            Self::Tls(stream) => stream.get_ref().1.peer_certificates(),
            Self::Plain(_) | Self::Opening(_) | Self::Failed => None,
        }
    }
}

/// Calls the same function of the stream, whichever it is.
macro_rules! either {
    ($stream:expr, $it:ident => $call:expr) => {
        match $stream.get_mut() {
            Stream::Plain(it) => {
                let $it = Pin::new(it);
                $call
            }
            Stream::Tls(it) => {
                let $it = Pin::new(it);
                $call
            }
            Stream::Opening(_) | Stream::Failed => {
                Poll::Ready(Err(io::ErrorKind::NotConnected.into()))
            }
        }
    };
}

/// To be used once the handshake [is over](Stream::poll_open).
impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        either!(self, it => it.poll_read(context, buffer))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        either!(self, it => it.poll_write(context, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self, it => it.poll_write_vectored(context, slices))
    }

    fn is_write_vectored(&self) -> bool {
        // Both kinds do, and nothing is written before it is known which one it is.
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, it => it.poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, it => it.poll_shutdown(context))
    }
}

#[cfg(test)]
mod tests;
