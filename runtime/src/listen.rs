//! Listening sockets.

use anyhow::Context;
use std::net::{SocketAddr, ToSocketAddrs};
use tokio::net::{TcpListener, TcpSocket};

/// Connections that the kernel holds for us: after a restart all clients come back at once. The kernel takes less if
/// `net.core.somaxconn` says so.
const BACKLOG: u32 = 4_096;

/// Listens on an address; port 0 lets the kernel choose one. Needs a tokio runtime around it.
///
/// # Errors
/// One line that names the address: "cannot listen on 127.0.0.1:3010: Address already in use".
pub fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listen = || {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4(),
            SocketAddr::V6(_) => TcpSocket::new_v6(),
        }?;
        // A restart must not wait for the old process's connections to fade.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    listen().with_context(|| format!("cannot listen on {address}"))
}

/// Reads where to listen: `127.0.0.1:3010`, `[::1]:3010`, or a host's name such as `localhost:3010`; for clap's
/// `value_parser`. Of a name's addresses the first of IPv4 counts, because that is what clients try that know no other; only
/// if there is none, the first of IPv6.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_be_a_name() {
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

    #[tokio::test]
    async fn a_taken_port_is_named() {
        let first = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = first.local_addr().unwrap();
        let error = format!("{:#}", bind(address).unwrap_err());
        let expected = format!("cannot listen on {address}: Address already in use");
        assert!(error.starts_with(&expected), "{error}");
    }
}
