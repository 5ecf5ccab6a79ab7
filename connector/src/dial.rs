//! Connects to one address of a gRPC service: with TLS if the URL says `https`, and without it otherwise.

use http::Uri;
use hyper_util::rt::TokioIo;
use runtime::tls::ClientTls;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_util::either::Either;

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
            Encryption::None => Dialed::Left(stream),
            Encryption::Tls(tls, name) => {
                let shaking = tls.connector().connect(name.clone(), stream);
                Dialed::Right(Box::new(in_time(shaking).await?))
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

/// A connection: plain, or with TLS.
pub(crate) type Dialed = Either<TcpStream, Box<TlsStream<TcpStream>>>;
