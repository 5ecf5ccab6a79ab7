//! Where a connection's bytes go: to a socket, into a mailbox for polls, or into a stream of events.

use crate::transport::event_outlet::EventOutlet;
use crate::transport::mailbox::Mailbox;
use crate::transport::socket::WriteHalf;
use bytes::Bytes;
use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::sync::{Arc, OnceLock};
use tokio::net::tcp::OwnedWriteHalf;

/// Takes a connection's bytes. Writing never waits.
pub struct Outlet(Kind);

enum Kind {
    Socket(WriteHalf),
    /// The mailbox of a polling client, and the socket that replaces it.
    Mailbox(Arc<Mailbox>, OnceLock<WriteHalf>),
    /// A stream of events, which is given records.
    Events(Arc<EventOutlet>),
    /// Keeps what is written, at once and without limit.
    #[cfg(test)]
    Record(std::sync::Arc<parking_lot::Mutex<Vec<u8>>>),
}

impl From<Arc<Mailbox>> for Outlet {
    fn from(mailbox: Arc<Mailbox>) -> Self {
        Self(Kind::Mailbox(mailbox, OnceLock::new()))
    }
}

impl From<Arc<EventOutlet>> for Outlet {
    fn from(events: Arc<EventOutlet>) -> Self {
        Self(Kind::Events(events))
    }
}

impl From<OwnedWriteHalf> for Outlet {
    fn from(socket: OwnedWriteHalf) -> Self {
        Self(Kind::Socket(socket.into()))
    }
}

impl From<WriteHalf> for Outlet {
    fn from(socket: WriteHalf) -> Self {
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
    /// Writes as much as can be taken at once. If not everything was, the next write must begin with the rest.
    pub(crate) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match &self.0 {
            Kind::Socket(socket) => socket.try_write(bytes),
            Kind::Mailbox(mailbox, socket) => match socket.get() {
                Some(socket) => socket.try_write(bytes),
                None => mailbox.try_write(bytes),
            },
            Kind::Events(events) => events.try_write(&[IoSlice::new(bytes)]),
            #[cfg(test)]
            Kind::Record(record) => {
                record.lock().extend_from_slice(bytes);
                Ok(bytes.len())
            }
        }
    }

    /// Like [`try_write`](Self::try_write), for several slices.
    pub(crate) fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match &self.0 {
            Kind::Socket(socket) => socket.try_write_vectored(slices),
            Kind::Mailbox(mailbox, socket) => match socket.get() {
                Some(socket) => socket.try_write_vectored(slices),
                None => try_each(slices, |slice| mailbox.try_write(slice)),
            },
            Kind::Events(events) => events.try_write(slices),
            #[cfg(test)]
            Kind::Record(_) => slices.iter().map(|slice| self.try_write(slice)).sum(),
        }
    }

    /// Returns when something may be taken again.
    pub(crate) async fn writable(&self) -> io::Result<()> {
        match &self.0 {
            Kind::Socket(socket) => socket.writable().await,
            Kind::Mailbox(mailbox, socket) => {
                if socket.get().is_none() {
                    mailbox.room().await;
                }
                match socket.get() {
                    Some(socket) => socket.writable().await,
                    None => Ok(()),
                }
            }
            Kind::Events(events) => events.writable().await,
            #[cfg(test)]
            Kind::Record(_) => Ok(()),
        }
    }

    /// Switches from the mailbox to a socket, or lets a stream of events begin on one. Returns what was not fetched from the mailbox, or
    /// what the stream begins with. The caller has to send it first.
    pub(crate) fn switch(&self, to: WriteHalf) -> Bytes {
        match &self.0 {
            Kind::Events(events) => events.begin(to),
            Kind::Mailbox(mailbox, socket) if socket.set(to).is_ok() => mailbox.switch(),
            _ => Bytes::new(),
        }
    }

    /// Gives a reply to the post that asked. False: there are no posts, and the reply goes out like everything else.
    pub(crate) fn answer(&self, id: u64, body: &[u8]) -> bool {
        let Kind::Events(events) = &self.0 else {
            return false;
        };
        events.answer(id, body);
        true
    }

    /// True if the client's requests come over other sockets than its messages.
    pub(crate) fn is_apart(&self) -> bool {
        matches!(&self.0, Kind::Events(_)) || self.polls()
    }

    /// True while the client polls.
    pub(crate) fn polls(&self) -> bool {
        matches!(&self.0, Kind::Mailbox(_, socket) if socket.get().is_none())
    }

    /// Returns when a polling client has fetched everything. For other clients it returns at once.
    pub(crate) async fn fetched(&self) {
        if let Kind::Mailbox(mailbox, _) = &self.0 {
            mailbox.fetched().await;
        }
    }

    /// To be called when the client has logged in.
    pub(crate) fn logged_in(&self) {
        if let Kind::Mailbox(mailbox, _) = &self.0 {
            mailbox.logged_in();
        }
    }

    /// True if there is a mailbox with something that the client has not fetched.
    pub(crate) fn holds(&self) -> bool {
        match &self.0 {
            Kind::Mailbox(mailbox, _) => mailbox.holds(),
            Kind::Socket(_) | Kind::Events(_) => false,
            #[cfg(test)]
            Kind::Record(_) => false,
        }
    }

    /// How many of the bytes that were not written can't be taken back, because they are encrypted already, or because they became events
    /// of which a part was written.
    pub(crate) fn under_way(&self) -> usize {
        match &self.0 {
            Kind::Socket(socket) => socket.under_way(),
            Kind::Mailbox(_, socket) => socket.get().map_or(0, WriteHalf::under_way),
            Kind::Events(events) => events.under_way(),
            #[cfg(test)]
            Kind::Record(_) => 0,
        }
    }

    /// Ends the outlet. With `Shutdown::Write`, a polling client may still fetch what waits for it.
    pub(crate) fn shut(&self, how: Shutdown) {
        match &self.0 {
            Kind::Socket(socket) => socket.shut(how),
            Kind::Mailbox(mailbox, socket) => match (socket.get(), how) {
                (Some(socket), how) => socket.shut(how),
                // The client may still fetch what is in the mailbox.
                (None, Shutdown::Write) => mailbox.finish(),
                (None, Shutdown::Both | Shutdown::Read) => mailbox.abort(),
            },
            Kind::Events(events) => events.shut(how),
            #[cfg(test)]
            Kind::Record(_) => {}
        }
    }
}

/// Writes slice after slice, until one is not taken.
fn try_each(
    slices: &[IoSlice<'_>],
    write: impl Fn(&[u8]) -> io::Result<usize>,
) -> io::Result<usize> {
    let mut written = 0;
    for slice in slices {
        match write(slice) {
            Ok(count) => written += count,
            Err(error) if written == 0 => return Err(error),
            Err(_) => break,
        }
    }
    Ok(written)
}
