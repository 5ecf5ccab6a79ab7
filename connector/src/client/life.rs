//! Logs and counts the end of each connection: how long it lasted, whose it was, and why it ended.

use crate::metering::CLOSED;
use crate::transport::Connection;
use crate::transport::peer::Peer;
use metrics::counter;
use tokio::time::Instant;
use wire::{Carrier, Disconnect, Protocol, WireFormat};

fn protocol(format: WireFormat) -> &'static str {
    match (format.protocol(), format.carrier()) {
        (Protocol::Pomelo, Carrier::Stream) => "pomelo_tcp",
        (Protocol::Pomelo, _) => "pomelo",
        (Protocol::SocketIo(_), _) => "socketio",
        (Protocol::Json, Carrier::Events) => "sse",
        (Protocol::Json, _) => "json",
    }
}

/// The life of one connection, from its begin on.
pub(crate) struct Life {
    /// The port of the client, if it is known. The connection knows its address.
    port: Option<u16>,
    begun: Instant,
}

impl Life {
    /// Begins now. `peer` is where the client is, if that is known.
    pub(crate) fn begin(peer: Option<Peer>) -> Self {
        Self {
            port: peer.and_then(|it| it.port),
            begun: Instant::now(),
        }
    }

    /// Counts and logs the end. To be called once, however the connection's task ended.
    pub(crate) fn end(&self, connection: &Connection) {
        let reason = connection.closing().unwrap_or(Disconnect::CLOSED);
        let (reason, protocol) = (reason.label(), protocol(connection.format()));
        counter!(CLOSED, "reason" => reason, "protocol" => protocol).increment(1);
        let port = self.port;
        let peer = connection.peer().map(|address| Peer { address, port });
        let peer = peer.map(|peer| peer.to_string()).unwrap_or_default();
        let seconds = self.begun.elapsed().as_secs();
        let (Some(session), Some(user)) = (connection.session(), connection.user()) else {
            tracing::debug!(peer, protocol, reason, seconds, "connection closed");
            return;
        };
        // Quoted, because clients choose their names.
        tracing::info!(
            session,
            user = ?user,
            peer,
            protocol,
            reason,
            seconds,
            "session closed"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metering::PROTOCOLS;

    #[test]
    fn every_kind_of_connection_has_a_label() {
        for (format, label) in [
            (WireFormat::POMELO, "pomelo"),
            (WireFormat::POMELO.deflated(), "pomelo"),
            (WireFormat::POMELO.on_a_stream(), "pomelo_tcp"),
            (WireFormat::JSON, "json"),
            (WireFormat::SSE, "sse"),
            (WireFormat::socket_io(wire::EngineIo::V4), "socketio"),
        ] {
            assert_eq!(protocol(format), label);
            assert!(PROTOCOLS.contains(&label));
        }
    }
}
