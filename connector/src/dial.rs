//! Connects to one address of a gRPC service: with TLS if the URL says `https`, and without it otherwise.

use http::Uri;
use hyper_util::rt::TokioIo;
use runtime::tls::ClientTls;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;

/// How long an attempt to connect may take.
pub(crate) const CONNECT: Duration = Duration::from_secs(1);
/// What is offered in a handshake: gRPC needs HTTP/2.
pub(crate) const ALPN: &[&[u8]] = &[b"h2"];

/// Connects to one address.
pub(crate) struct Dialer {
    address: SocketAddr,
    encryption: Encryption,
}

enum Encryption {
    None,
    /// The service has to show a certificate with this name.
    Tls(Arc<ClientTls>, ServerName<'static>),
    /// The URL asks for TLS, and it can't be had. The settings are checked for that at the start.
    Missing,
}

impl Dialer {
    /// `uri` says whether TLS is used, and which name the certificate must have.
    pub(crate) fn new(uri: &Uri, address: SocketAddr, tls: Option<&Arc<ClientTls>>) -> Self {
        let encryption = if is_encrypted(uri) {
            match (tls, server_name(uri)) {
                (Some(tls), Some(name)) => Encryption::Tls(Arc::clone(tls), name),
                _ => Encryption::Missing,
            }
        } else {
            Encryption::None
        };
        Self {
            address,
            encryption,
        }
    }

    /// Connects. The handshake of TLS has the same time as the connection before it.
    pub(crate) async fn connect(&self) -> io::Result<TokioIo<Dialed>> {
        let stream = in_time(TcpStream::connect(self.address)).await?;
        stream.set_nodelay(true)?;
        Ok(TokioIo::new(match &self.encryption {
            Encryption::None => Dialed::Plain(stream),
            Encryption::Tls(tls, name) => {
                let shaking = tls.connector().connect(name.clone(), stream);
                Dialed::Tls(Box::new(in_time(shaking).await?))
            }
            Encryption::Missing => return Err(io::Error::other("there is no TLS for this URL")),
        }))
    }
}

async fn in_time<T>(attempt: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let attempt = timeout(CONNECT, attempt).await;
    attempt.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// True if the URL asks for TLS.
pub(crate) fn is_encrypted(uri: &Uri) -> bool {
    uri.scheme_str() == Some("https")
}

/// The name that the certificate of a service must have: the host of its URL, which may be an IP address.
pub(crate) fn server_name(uri: &Uri) -> Option<ServerName<'static>> {
    let host = uri.host()?.trim_matches(['[', ']']);
    ServerName::try_from(host.to_owned()).ok()
}

/// A connection.
pub(crate) enum Dialed {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Calls the same function of the stream, whichever it is.
macro_rules! either {
    ($dialed:expr, $stream:ident => $call:expr) => {
        match $dialed.get_mut() {
            Dialed::Plain(it) => {
                let $stream = Pin::new(it);
                $call
            }
            Dialed::Tls(it) => {
                let $stream = Pin::new(it);
                $call
            }
        }
    };
}

impl AsyncRead for Dialed {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        either!(self, it => it.poll_read(context, buffer))
    }
}

impl AsyncWrite for Dialed {
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
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self, it => it.poll_write_vectored(context, slices))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(it) => it.is_write_vectored(),
            Self::Tls(it) => it.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, it => it.poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, it => it.poll_shutdown(context))
    }
}
