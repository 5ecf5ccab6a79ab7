//! What operators are told of each connection: from when to when it lasted, whose it was, and why it ended.

use crate::codec::{Carrier, Protocol, WireFormat};
use crate::connection::Connection;
use crate::disconnect::Disconnect;
use crate::lines::Lines;
use metrics::{Unit, counter, describe_counter};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::time::Instant;

/// Connections that ended, by reason and protocol.
const CLOSED: &str = "connector_connections_closed_total";
/// Lines about sessions that ended, in each second.
const LINES: u32 = 100;

/// What all connections of a server share to tell of their ends.
pub(crate) struct Obituaries {
    lines: Lines,
}

impl Obituaries {
    /// Begins every series of the metric at zero, so that the first event is seen as an increase.
    pub(crate) fn new() -> Arc<Self> {
        describe_counter!(
            CLOSED,
            Unit::Count,
            "Client connections that ended, by reason and protocol"
        );
        for reason in Disconnect::ALL {
            for protocol in PROTOCOLS {
                counter!(CLOSED, "reason" => reason.label(), "protocol" => protocol).increment(0);
            }
        }
        Arc::new(Self {
            lines: Lines::new(LINES),
        })
    }

    /// Says how many lines were left out since the last one, if any were. To be called when the last session is over.
    pub(crate) fn finish(&self) {
        let suppressed = self.lines.suppressed();
        if suppressed > 0 {
            tracing::info!(suppressed, "more sessions closed than lines were written");
        }
    }
}

/// What clients speak, as a label.
const PROTOCOLS: [&str; 4] = ["pomelo", "pomelo_tcp", "socketio", "json"];

fn protocol(format: WireFormat) -> &'static str {
    match (format.protocol(), format.carrier()) {
        (Protocol::Pomelo, Carrier::Stream) => "pomelo_tcp",
        (Protocol::Pomelo, _) => "pomelo",
        (Protocol::SocketIo(_), _) => "socketio",
        (Protocol::Json, _) => "json",
    }
}

/// One connection's life. Its end is counted and logged when this is dropped, however the connection's task ends.
pub(crate) struct Life {
    connection: Arc<Connection>,
    peer: Option<SocketAddr>,
    begun: Instant,
    obituaries: Arc<Obituaries>,
}

impl Life {
    /// Begins now. `peer` is the other end of the socket, if that is known.
    pub(crate) fn begin(
        connection: Arc<Connection>,
        peer: Option<SocketAddr>,
        obituaries: Arc<Obituaries>,
    ) -> Self {
        Self {
            connection,
            peer,
            begun: Instant::now(),
            obituaries,
        }
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        let reason = self.connection.closing().unwrap_or(Disconnect::Client);
        let (reason, protocol) = (reason.label(), protocol(self.connection.format()));
        counter!(CLOSED, "reason" => reason, "protocol" => protocol).increment(1);
        let peer = self.peer.map(|peer| peer.to_string()).unwrap_or_default();
        let seconds = self.begun.elapsed().as_secs();
        let (Some(session), Some(user)) = (self.connection.session(), self.connection.user())
        else {
            tracing::debug!(peer, protocol, reason, seconds, "connection closed");
            return;
        };
        // Names are quoted: they are the clients' own.
        if let Some(suppressed) = self.obituaries.lines.next() {
            tracing::info!(
                session,
                user = ?user,
                peer,
                protocol,
                reason,
                seconds,
                suppressed,
                "session closed"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_connection_has_one_of_the_labels() {
        for (format, label) in [
            (WireFormat::POMELO, "pomelo"),
            (WireFormat::POMELO.deflated(), "pomelo"),
            (WireFormat::POMELO.on_a_stream(), "pomelo_tcp"),
            (WireFormat::JSON, "json"),
            (
                WireFormat::socket_io(crate::codec::EngineIo::V4),
                "socketio",
            ),
        ] {
            assert_eq!(protocol(format), label);
            assert!(PROTOCOLS.contains(&label));
        }
    }
}
