//! Listening sockets.

use anyhow::Context;
use std::net::SocketAddr;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_taken_port_is_named() {
        let first = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = first.local_addr().unwrap();
        let error = format!("{:#}", bind(address).unwrap_err());
        let expected = format!("cannot listen on {address}: Address already in use");
        assert!(error.starts_with(&expected), "{error}");
    }
}
