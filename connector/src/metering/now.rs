//! What there is now: gauges that are set when somebody asks for the metrics, so that nobody has to keep them up to date.

use metrics::gauge;
use runtime::families::Family;

const SESSIONS: &str = "connector_sessions";
const CHANNELS: &str = "connector_followed_channels";
const QUEUED: &str = "connector_queued_bytes";
const QUEUE_LIMIT: &str = "connector_queued_bytes_limit";
const CONNECTION_LIMIT: &str = "connector_connections_limit";
const PENDING_LEAVES: &str = "connector_pending_leaves";
const LINGERING: &str = "connector_lingering_sessions";

pub(super) const FAMILIES: &[Family] = &[
    Family::gauge(SESSIONS, "Sessions that are logged in"),
    Family::gauge(
        CHANNELS,
        "Channels with a member here, which this connector follows",
    ),
    Family::gauge(
        QUEUED,
        "Bytes that are held for all clients: unsent, unfetched and unfinished messages, and requests that wait",
    ),
    Family::gauge(
        QUEUE_LIMIT,
        "The most bytes that may be held for all clients",
    ),
    Family::gauge(
        CONNECTION_LIMIT,
        "The most sockets of clients that may be open",
    ),
    Family::gauge(
        PENDING_LEAVES,
        "Sessions that are over, and whose leaves or logins have not all been written",
    ),
    Family::gauge(
        LINGERING,
        "Sessions whose clients are gone, and which stay members for a while",
    ),
];

/// What there is at one moment.
pub(crate) struct Now {
    pub(crate) sessions: u64,
    pub(crate) channels: usize,
    pub(crate) queued: usize,
    pub(crate) queue_limit: usize,
    pub(crate) connection_limit: usize,
    pub(crate) pending_leaves: usize,
    pub(crate) lingering: usize,
}

impl Now {
    /// Sets the gauges.
    pub(crate) fn tell(&self) {
        gauge!(SESSIONS).set(self.sessions as f64);
        gauge!(CHANNELS).set(self.channels as f64);
        gauge!(QUEUED).set(self.queued as f64);
        gauge!(QUEUE_LIMIT).set(self.queue_limit as f64);
        gauge!(CONNECTION_LIMIT).set(self.connection_limit as f64);
        gauge!(PENDING_LEAVES).set(self.pending_leaves as f64);
        gauge!(LINGERING).set(self.lingering as f64);
    }
}
