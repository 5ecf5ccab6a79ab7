//! How a request takes the socket away from HTTP: its answer has no end that HTTP would know of.

use crate::transport::pass::Pass;
use crate::transport::socket::Socket;
use parking_lot::Mutex;
use std::future::pending;
use std::sync::Arc;
use tokio::sync::oneshot;

/// Goes on with a socket. It is given the socket, its pass, and what was read from it already.
pub(super) type Begin = Box<dyn FnOnce(Socket, Arc<Pass>, Vec<u8>) + Send>;

/// The side of the requests of one socket.
pub(super) struct Handover(Mutex<Option<oneshot::Sender<Begin>>>);

impl Handover {
    /// Both sides.
    pub(super) fn new() -> (Arc<Self>, oneshot::Receiver<Begin>) {
        let (give, taken) = oneshot::channel();
        (Arc::new(Self(Mutex::new(Some(give)))), taken)
    }

    /// Lets `begin` have the socket. HTTP writes nothing more to it, so this never returns: its future is dropped.
    pub(super) async fn give<T>(&self, begin: Begin) -> T {
        let give = self.0.lock().take();
        if let Some(give) = give {
            // If the socket is gone, dropping the closure ends what it was to begin.
            drop(give.send(begin));
        }
        pending().await
    }
}
