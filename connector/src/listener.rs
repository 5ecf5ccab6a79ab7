//! The clients' port. It accepts sockets and finds out which protocol a client speaks.
//!
//! Clients of HTTP and of Pomelo's packages connect to the same port. The first byte tells which it is, as in the
//! original.

use crate::http::{Http, HttpIo, into_parts};
use crate::limits::addresses::AddressPermit;
use crate::limits::{self, Bound, Limits};
use crate::opening::open;
use crate::transport::pass::Pass;
use crate::transport::peer::Peer;
use crate::transport::proxies::read_header;
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
                    let peer = Peer::of(&stream);
                    let pass = self.admit(peer);
                    Arc::clone(&self).serve_socket(stream, pass, peer);
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

    /// Gives a socket its place. The clients behind a trusted proxy are counted by their own addresses, once these are known.
    fn admit(&self, peer: Option<Peer>) -> Arc<Pass> {
        let address = match peer {
            Some(peer) if !self.http.proxies.trusts(Some(peer.address)) => {
                self.http.addresses.enter(peer.address).map(Some)
            }
            _ => Ok(None),
        };
        let admitted = address.and_then(|address| {
            let place = self.limits.enter().ok_or(Bound::Connections)?;
            Ok((place, address))
        });
        match admitted {
            Ok((place, address)) => {
                let pass = Pass::new(place, self.limits.begin_handshake());
                if let Some(address) = address {
                    pass.counts_for(address);
                }
                pass
            }
            Err(bound) => Pass::without_permit(bound, self.limits.without_permit()),
        }
    }

    /// The handshake of TLS and the first byte after it have one time together. A Pomelo package begins with its type, a byte below the space, and a request of HTTP begins with a letter. A
    /// socket without a place is served only if it speaks HTTP. It may bring a request of a polling client that has
    /// places of its own, and any other client is told why it is refused.
    fn serve_socket(self: Arc<Self>, stream: TcpStream, pass: Arc<Pass>, peer: Option<Peer>) {
        let half_open = Arc::clone(&pass);
        let refused = pass.refused_by();
        let patience = if refused.is_none() {
            self.http.clients.limits.handshake
        } else {
            REFUSE
        };
        let task = tokio::spawn(async move {
            let begun = self.begin(stream, &pass, peer);
            let Ok(Some((stream, peer, first))) = timeout(patience, begun).await else {
                if let Some(bound) = refused {
                    bound.reached();
                }
                return;
            };
            if first >= b' ' {
                return Arc::clone(&self.http).serve(stream, pass, peer).await;
            }
            if let Some(bound) = pass.refused_by() {
                return bound.reached();
            }
            let format = self.http.pomelo.on_a_stream();
            let clients = Arc::clone(&self.http.clients);
            let (socket, pass) = into_parts(stream);
            clients.serve_socket(socket, pass, peer, Vec::new(), format, None);
        });
        let task = task.abort_handle();
        half_open.ends_by(move || task.abort());
    }

    /// Reads what a proxy says about the client, lets the client begin TLS, and looks at its first byte. `None`: the socket is over, or a
    /// proxy does not speak the PROXY protocol.
    async fn begin(
        &self,
        mut stream: TcpStream,
        pass: &Arc<Pass>,
        mut peer: Option<Peer>,
    ) -> Option<(HttpIo, Option<Peer>, u8)> {
        let proxy = peer.map(|it| it.address);
        if self.http.proxies.sends_header(proxy) {
            match read_header(&mut stream).await {
                Ok(Some(client)) => {
                    pass.counts_for(self.address(client)?);
                    peer = Some(client);
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(?proxy, %error, "a proxy sent no header of the PROXY protocol, which proxy_protocol demands");
                    return None;
                }
            }
        }
        let (stream, first) = open(stream, pass, self.tls.as_deref()).await?;
        Some((stream, peer, first))
    }

    /// Counts a connection of this client. `None`: its address has too many, and the connection is closed without words, because a
    /// header of the PROXY protocol says nothing about who waits behind it.
    fn address(&self, client: Peer) -> Option<AddressPermit> {
        let entered = self.http.addresses.enter(client.address);
        entered.map_err(Bound::reached).ok()
    }
}
