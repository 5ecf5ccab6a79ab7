//! TLS at chat's port: its settings, and the port itself.

use runtime::tls::{ServerTls, TlsError, TlsSettings};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::net::TcpListener;

/// What callers may name in a handshake: gRPC needs HTTP/2, and calls over plain HTTP may use HTTP/1.1.
const ALPN: &[&[u8]] = &[b"h2", b"http/1.1"];

/// The certificate of chat's port, and whose certificates callers need.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct PortSettings {
    /// The certificate of the port.
    #[command(flatten)]
    pub port: TlsSettings,

    /// PEM file with certificate authorities. Callers then need a certificate of one of them
    #[arg(id = "tls.client_ca", long = "tls-client-ca", value_name = "FILE")]
    pub client_ca: Option<PathBuf>,
}

impl PortSettings {
    /// The ids of these settings, for the headings of `--help`.
    pub(crate) const IDS: [&'static str; 3] = ["tls.certificate", "tls.key", "tls.client_ca"];

    /// Checks that the files can be used now.
    ///
    /// # Errors
    /// [`TlsError`] says in one line what is wrong.
    pub fn check(&self) -> Result<(), TlsError> {
        let files = self.port.files(self.client_ca.clone())?;
        files.map_or(Ok(()), |files| files.check())
    }

    /// The port on this socket. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`TlsError`] if a file can't be used.
    pub fn port(&self, listener: TcpListener) -> Result<Port, TlsError> {
        let files = self.port.files(self.client_ca.clone())?;
        let tls = files
            .map(|files| ServerTls::begin("certificate of the gRPC port", files, ALPN))
            .transpose()?;
        Ok(Port { listener, tls })
    }
}

/// A socket that listens for callers. With a certificate it speaks TLS alone.
pub struct Port {
    pub(crate) listener: TcpListener,
    pub(crate) tls: Option<Arc<ServerTls>>,
}

impl Port {
    /// Where it listens.
    ///
    /// # Errors
    /// An error of the system.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl From<TcpListener> for Port {
    /// A port without TLS.
    fn from(listener: TcpListener) -> Self {
        Self {
            listener,
            tls: None,
        }
    }
}
