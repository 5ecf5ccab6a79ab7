//! The stream of a connection at chat's port: plain, or behind TLS.
//!
//! The first byte shows whether a caller speaks TLS, where it has to. One that speaks HTTP is told so.
//! The handshake of TLS is a part of the first read or write, so it needs no task of its own, and the time for a greeting bounds
//! it, too.

use runtime::tls::{HANDSHAKE, ServerTls, may_be_http, refuse_http};
use std::io;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::server::TlsStream;
use tokio_rustls::{Accept, TlsAcceptor};

/// What a caller should use that speaks HTTP where TLS is expected.
const ADVICE: &str = "use https://, and not http://";

/// How HTTP/2 begins, and no request in HTTP/1.1.
const HTTP2: &[u8] = b"PRI";

/// The stream of a connection.
pub(super) enum Stream {
    Plain(TcpStream),
    /// Nothing has come yet.
    Waiting(TcpStream, TlsAcceptor),
    /// The caller does not speak TLS, and is told so.
    Refusing(Pin<Box<dyn Future<Output = ()> + Send>>),
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
            Some(tls) => Self::Waiting(stream, tls.acceptor()),
        }
    }

    /// Goes on with the handshake until it is over. True: it is over just now.
    pub(super) fn poll_open(&mut self, context: &mut Context<'_>) -> Poll<io::Result<bool>> {
        loop {
            match self {
                Self::Plain(_) | Self::Tls(_) | Self::Failed => return Poll::Ready(Ok(false)),
                Self::Waiting(stream, _) => {
                    let mut first = [0; HTTP2.len()];
                    let mut first = ReadBuf::new(&mut first);
                    let peeked = ready!(stream.poll_peek(context, &mut first));
                    // Clients of gRPC try again and again after an answer in HTTP/1.1, and give up at once after one in TLS.
                    let is_http2 = first.filled() == HTTP2;
                    let first = first.filled().first().copied();
                    let Self::Waiting(stream, acceptor) = mem::replace(self, Self::Failed) else {
                        continue;
                    };
                    match (peeked, first) {
                        (Err(error), _) => return Poll::Ready(Err(error)),
                        (Ok(_), Some(first))
                            if first != HANDSHAKE && may_be_http(first) && !is_http2 =>
                        {
                            *self = Self::Refusing(Box::pin(refuse_http(stream, ADVICE)));
                        }
                        _ => *self = Self::Opening(Box::new(acceptor.accept(stream))),
                    }
                }
                Self::Refusing(refusing) => {
                    ready!(refusing.as_mut().poll(context));
                    *self = Self::Failed;
                    let error = "the caller speaks HTTP without TLS";
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
                }
                Self::Opening(accept) => {
                    let accepted = ready!(Pin::new(&mut **accept).poll(context));
                    *self = Self::Failed;
                    *self = Self::Tls(Box::new(accepted?));
                    return Poll::Ready(Ok(true));
                }
            }
        }
    }

    /// The certificates that the caller has shown, its own first.
    pub(super) fn certificates(&self) -> Option<&[CertificateDer<'static>]> {
        match self {
            Self::Tls(stream) => stream.get_ref().1.peer_certificates(),
            Self::Plain(_)
            | Self::Waiting(..)
            | Self::Refusing(_)
            | Self::Opening(_)
            | Self::Failed => None,
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
            Stream::Waiting(..) | Stream::Refusing(_) | Stream::Opening(_) | Stream::Failed => {
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
