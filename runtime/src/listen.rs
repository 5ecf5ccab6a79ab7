//! Listening sockets.

mod unix;

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use unix::UnixSocket;

/// How many connections the kernel holds until they are accepted: after a restart all clients come back at once. The
/// kernel holds fewer if `net.core.somaxconn` says so.
const BACKLOG: u32 = 4_096;

/// A place is taken, or cannot be listened on for another reason.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {place}")]
pub struct CannotListen {
    place: String,
    source: io::Error,
}

impl CannotListen {
    fn on(place: impl fmt::Display, source: io::Error) -> Self {
        let place = place.to_string();
        Self { place, source }
    }
}

/// Listens on an address; port 0 lets the kernel choose one. Needs a tokio runtime around it.
///
/// # Errors
/// It names the address; its source is the system's reason.
pub fn bind(address: SocketAddr) -> Result<TcpListener, CannotListen> {
    let listen = || {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        }?;
        // Otherwise a restart would have to wait until the old process's connections have timed out.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    listen().map_err(|error| CannotListen::on(address, error))
}

/// Reads where to listen: `127.0.0.1:3010`, `[::1]:3010`, or a host's name such as `localhost:3010`; for clap's
/// `value_parser`. If a name has several addresses, the first IPv4 address is taken, because some clients try nothing
/// else. If it has none of IPv4, the first IPv6 address is taken.
///
/// # Errors
/// One line that says what was expected, or why the name is not known.
pub fn address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let (host, port) = text.rsplit_once(':').unwrap_or_default();
    if host.is_empty() || host.contains(['/', ':']) || port.parse::<u16>().is_err() {
        return Err("expected an address such as 127.0.0.1:3010 or localhost:3010".to_owned());
    }
    let found = text.to_socket_addrs();
    let found: Vec<_> = found
        .map_err(|error| format!("can't find {host}: {error}"))?
        .collect();
    let first = found.iter().find(|it| it.is_ipv4()).or(found.first());
    first
        .copied()
        .ok_or_else(|| format!("{host} has no address"))
}

/// Where to listen for clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddress {
    /// At a TCP address.
    Tcp(SocketAddr),
    /// At a unix socket of this absolute path.
    Unix(PathBuf),
}

impl fmt::Display for ListenAddress {
    /// Writes what [`listen_address`] reads.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(formatter, "{address}"),
            Self::Unix(path) => write!(formatter, "{UNIX}{}", path.display()),
        }
    }
}

/// The prefix of a unix socket's path.
const UNIX: &str = "unix:";

/// Reads where to listen: what [`address`] reads, or `unix:` and the absolute path of a unix socket; for clap's
/// `value_parser`.
///
/// # Errors
/// One line that says what was expected.
pub fn listen_address(text: &str) -> Result<ListenAddress, String> {
    let Some(path) = text.strip_prefix(UNIX) else {
        let read = address(text).map(ListenAddress::Tcp);
        return read.map_err(|error| format!("{error}, or {UNIX} and a path"));
    };
    if !path.starts_with('/') || path.ends_with('/') {
        return Err("expected an absolute path such as unix:/run/connector.sock".to_owned());
    }
    if path.len() > unix::LONGEST {
        let most = unix::LONGEST;
        return Err(format!(
            "a unix socket's path has {most} bytes at most, this one has {}",
            path.len()
        ));
    }
    Ok(ListenAddress::Unix(path.into()))
}

/// A listening socket: of TCP, or a unix socket.
#[derive(Debug)]
pub struct Listener(Kind);

#[derive(Debug)]
enum Kind {
    Tcp(TcpListener),
    Unix(UnixSocket),
}

impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        Self(Kind::Tcp(listener))
    }
}

impl Listener {
    /// Listens. If the file of a unix socket was left behind and nobody listens there, it is replaced. Dropping the
    /// listener removes its file. Needs a tokio runtime around it.
    ///
    /// # Errors
    /// It names the place; its source is the reason. If a file is in the way, that says what to do.
    pub fn bind(place: &ListenAddress) -> Result<Self, CannotListen> {
        match place {
            ListenAddress::Tcp(address) => bind(*address).map(Self::from),
            ListenAddress::Unix(path) => {
                let socket = UnixSocket::bind(path);
                let socket =
                    socket.map_err(|error| CannotListen::on(place, io::Error::other(error)))?;
                Ok(Self(Kind::Unix(socket)))
            }
        }
    }

    /// Where it listens.
    ///
    /// # Errors
    /// An error of the system.
    pub fn local_address(&self) -> io::Result<ListenAddress> {
        match &self.0 {
            Kind::Tcp(listener) => listener.local_addr().map(ListenAddress::Tcp),
            Kind::Unix(socket) => Ok(ListenAddress::Unix(socket.path().to_owned())),
        }
    }

    /// True if other machines can connect, which they can't on loopback or over a unix socket.
    #[must_use]
    pub fn is_open_to_others(&self) -> bool {
        match &self.0 {
            Kind::Tcp(listener) => listener.local_addr().is_ok_and(|it| !it.ip().is_loopback()),
            Kind::Unix(_) => false,
        }
    }

    /// Accepts the next connection. What is written to it goes out at once (`TCP_NODELAY`), because answers are written
    /// as a whole, and waiting for more would only delay them.
    ///
    /// A connection over a unix socket has the same type as one over TCP, because reading, writing and closing are the
    /// same system calls for both. So nothing else in the code differs. Only `peer_addr` fails, because such a
    /// connection has no addresses.
    ///
    /// # Errors
    /// An error of the system, mostly a lack of file descriptors.
    pub async fn accept(&self) -> io::Result<TcpStream> {
        match &self.0 {
            Kind::Tcp(listener) => loop {
                let (stream, _) = listener.accept().await?;
                // This fails only if the client is gone again.
                if stream.set_nodelay(true).is_ok() {
                    return Ok(stream);
                }
            },
            Kind::Unix(socket) => socket.accept().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_have_a_host_name() {
        assert_eq!(address("127.0.0.1:3010"), Ok(([127, 0, 0, 1], 3010).into()));
        assert_eq!(address("[::1]:0").unwrap().to_string(), "[::1]:0");
        assert_eq!(address("localhost:3010"), Ok(([127, 0, 0, 1], 3010).into()));
        for wrong in [
            "",
            "3010",
            ":3010",
            "localhost",
            "localhost:",
            "localhost:70000",
            "localhost:+1x",
            "http://localhost:3010",
            "::1:3010",
        ] {
            let error = address(wrong).unwrap_err();
            assert!(error.contains("such as 127.0.0.1:3010"), "{wrong}: {error}");
        }
    }

    #[test]
    fn the_address_for_clients_may_be_a_unix_socket() {
        let path = ListenAddress::Unix("/run/connector.sock".into());
        assert_eq!(listen_address("unix:/run/connector.sock"), Ok(path.clone()));
        assert_eq!(path.to_string(), "unix:/run/connector.sock");
        let tcp = ListenAddress::Tcp(([127, 0, 0, 1], 3010).into());
        assert_eq!(listen_address("127.0.0.1:3010"), Ok(tcp.clone()));
        assert_eq!(tcp.to_string(), "127.0.0.1:3010");
        let long = format!("unix:/{}", "x".repeat(107));
        for (wrong, expected) in [
            ("unix:", "unix:/run/connector.sock"),
            ("unix:run/connector.sock", "an absolute path"),
            ("unix:/run/", "unix:/run/connector.sock"),
            ("unix", "or unix: and a path"),
            (&*long, "107 bytes at most, this one has 108"),
        ] {
            let error = listen_address(wrong).unwrap_err();
            assert!(error.contains(expected), "{wrong}: {error}");
        }
        assert!(listen_address(&long[..long.len() - 1]).is_ok());
    }

    #[tokio::test]
    async fn the_error_for_a_port_in_use_names_it() {
        let first = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = first.local_addr().unwrap();
        let error = bind(address).unwrap_err();
        assert_eq!(error.to_string(), format!("cannot listen on {address}"));
        assert_eq!(error.source.kind(), io::ErrorKind::AddrInUse);
    }
}
