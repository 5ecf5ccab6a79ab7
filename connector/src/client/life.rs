//! Logs and counts the end of each connection: how long it lasted, whose it was, and why it ended.

use crate::metering::CLOSED;
use crate::transport::Connection;
use crate::transport::peer::Peer;
use metrics::counter;
use std::sync::Arc;
use tokio::time::Instant;
use wire::{Carrier, Disconnect, Protocol, WireFormat};

fn protocol(format: WireFormat) -> &'static str {
    match (format.protocol(), format.carrier()) {
        (Protocol::Pomelo, Carrier::Stream) => "pomelo_tcp",
        (Protocol::Pomelo, _) => "pomelo",
        (Protocol::SocketIo(_), _) => "socketio",
        (Protocol::Json, _) => "json",
    }
}

/// The life of one connection. When this is dropped, the end is counted and logged, however the connection's task
/// ended.
pub(crate) struct Life {
    connection: Arc<Connection>,
    peer: Option<Peer>,
    begun: Instant,
}

impl Life {
    /// Begins now. `peer` is where the client is, if that is known.
    pub(crate) fn begin(connection: Arc<Connection>, peer: Option<Peer>) -> Self {
        Self {
            connection,
            peer,
            begun: Instant::now(),
        }
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        let reason = self.connection.closing().unwrap_or(Disconnect::CLOSED);
        let (reason, protocol) = (reason.label(), protocol(self.connection.format()));
        counter!(CLOSED, "reason" => reason, "protocol" => protocol).increment(1);
        let peer = self.peer.map(|peer| peer.to_string()).unwrap_or_default();
        let seconds = self.begun.elapsed().as_secs();
        let (Some(session), Some(user)) = (self.connection.session(), self.connection.user())
        else {
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
            (WireFormat::socket_io(wire::EngineIo::V4), "socketio"),
        ] {
            assert_eq!(protocol(format), label);
            assert!(PROTOCOLS.contains(&label));
        }
    }
}
