//! The clients' port. It accepts sockets and finds out which protocol a client speaks.
//!
//! Clients of HTTP and of Pomelo's packages connect to the same port. The first byte tells which it is, as in the
//! original.

use crate::http::Http;
use crate::limits::{self, Bound, Limits};
use crate::opening::open;
use crate::transport::pass::Pass;
use runtime::listen::Listener;
use runtime::tls::ServerTls;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// How long to wait after a failed accept. Mostly there are no file descriptors left, and the next accept would fail at
/// once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long a socket without a place may take to send its first byte.
const REFUSE: Duration = Duration::from_secs(1);

/// Accepts the clients' sockets, and passes each one on to the code for its protocol.
pub(crate) struct Port {
    pub(crate) http: Arc<Http>,
    pub(crate) limits: Arc<Limits>,
    /// The certificate of the port. Without one it speaks no TLS.
    pub(crate) tls: Option<Arc<ServerTls>>,
}

impl Port {
    /// Accepts sockets, and starts a task for each. If handshakes come too fast, it waits before the next accept.
    pub(crate) async fn serve(self: Arc<Self>, listener: Listener) -> Infallible {
        loop {
            match listener.accept().await {
                Ok(stream) => {
                    let pass = match self.limits.enter() {
                        Some(place) => Pass::new(place, self.limits.begin_handshake()),
                        None => Pass::without_permit(self.limits.without_permit()),
                    };
                    Arc::clone(&self).by_first_byte(stream, pass);
                    let early = self.limits.handshake();
                    if !early.is_zero() {
                        Bound::Handshakes.reached();
                        sleep(early).await;
                    }
                }
                Err(error) => {
                    limits::accept_failed();
                    tracing::warn!(%error, "can't accept");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// The handshake of TLS and the first byte after it have one time together. A Pomelo package begins with its type, a byte below the space, and a request of HTTP begins with a letter. A
    /// socket without a place is served only if it speaks HTTP. It may bring a request of a polling client that has
    /// places of its own, and any other client is told why it is refused.
    fn by_first_byte(self: Arc<Self>, stream: TcpStream, pass: Arc<Pass>) {
        let half_open = Arc::clone(&pass);
        let has_room = pass.has_room();
        let patience = if has_room {
            self.http.clients.limits.handshake
        } else {
            REFUSE
        };
        let task = tokio::spawn(async move {
            match timeout(patience, open(stream, &pass, self.tls.as_deref())).await {
                Ok(Some((stream, first))) if first >= b' ' => {
                    Arc::clone(&self.http).serve(stream, pass).await;
                }
                _ if !has_room => Bound::Connections.reached(),
                Ok(Some((stream, _))) => {
                    let format = self.http.pomelo.on_a_stream();
                    let (socket, pass) = stream.into_parts();
                    Arc::clone(&self.http.clients).serve_socket(socket, pass, Vec::new(), format);
                }
                _ => {}
            }
        });
        let task = task.abort_handle();
        half_open.ends_by(move || task.abort());
    }
}
