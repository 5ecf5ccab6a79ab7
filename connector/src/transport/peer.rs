//! The other end of a client's connection.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use tokio::net::TcpStream;

/// Where a client is: the other end of its socket, or what a trusted proxy says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Peer {
    pub(crate) address: IpAddr,
    /// `None`: the proxy did not say.
    pub(crate) port: Option<u16>,
}

impl Peer {
    /// The other end of a socket. `None`: it is a unix socket, or the client is gone already.
    pub(crate) fn of(stream: &TcpStream) -> Option<Self> {
        stream.peer_addr().ok().map(Self::from)
    }
}

impl From<SocketAddr> for Peer {
    fn from(address: SocketAddr) -> Self {
        Self {
            address: address.ip(),
            port: Some(address.port()),
        }
    }
}

impl From<IpAddr> for Peer {
    fn from(address: IpAddr) -> Self {
        Self {
            address,
            port: None,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => SocketAddr::new(self.address, port).fmt(formatter),
            None => self.address.fmt(formatter),
        }
    }
}
