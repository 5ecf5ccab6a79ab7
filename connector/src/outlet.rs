//! Where a connection's bytes go: what it needs of a socket, and nothing else.

use socket2::SockRef;
use std::io::{self, IoSlice};
use std::net::Shutdown;
use tokio::net::tcp::OwnedWriteHalf;

/// A way out for bytes, which never waits.
pub struct Outlet(Kind);

enum Kind {
    Socket(OwnedWriteHalf),
    /// Keeps what is written, at once and without limit.
    #[cfg(test)]
    Record(std::sync::Arc<parking_lot::Mutex<Vec<u8>>>),
}

impl From<OwnedWriteHalf> for Outlet {
    fn from(socket: OwnedWriteHalf) -> Self {
        Self(Kind::Socket(socket))
    }
}

#[cfg(test)]
impl From<std::sync::Arc<parking_lot::Mutex<Vec<u8>>>> for Outlet {
    fn from(record: std::sync::Arc<parking_lot::Mutex<Vec<u8>>>) -> Self {
        Self(Kind::Record(record))
    }
}

impl Outlet {
    /// Writes as much as is taken now.
    pub(crate) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match &self.0 {
            Kind::Socket(socket) => socket.try_write(bytes),
            #[cfg(test)]
            Kind::Record(record) => {
                record.lock().extend_from_slice(bytes);
                Ok(bytes.len())
            }
        }
    }

    /// As [`try_write`](Self::try_write), of several slices in one call.
    pub(crate) fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match &self.0 {
            Kind::Socket(socket) => socket.try_write_vectored(slices),
            #[cfg(test)]
            Kind::Record(_) => slices.iter().map(|slice| self.try_write(slice)).sum(),
        }
    }

    /// Returns when something may be taken.
    pub(crate) async fn writable(&self) -> io::Result<()> {
        match &self.0 {
            Kind::Socket(socket) => socket.writable().await,
            #[cfg(test)]
            Kind::Record(_) => Ok(()),
        }
    }

    /// Ends it.
    pub(crate) fn shut(&self, how: Shutdown) {
        match &self.0 {
            // Fails only if the peer was faster.
            Kind::Socket(socket) => drop(SockRef::from(socket.as_ref()).shutdown(how)),
            #[cfg(test)]
            Kind::Record(_) => {}
        }
    }
}
