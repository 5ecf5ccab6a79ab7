//! The connector's metric families, all of them, so that each is there before its first event.

use crate::limits::{ACCEPT_ERRORS, Bound, REFUSED};
use metrics::counter;
use runtime::families::{Family, register};
use wire::Disconnect;

/// Clients that are connected, over any protocol.
pub(crate) const CONNECTIONS: &str = "connector_connections";
/// Frames encoded.
pub(crate) const ENCODINGS: &str = "connector_encodings_total";
/// Runs of the flusher that wrote something of a channel.
pub(crate) const CHANNEL_WRITES: &str = "connector_channel_writes_total";
/// Gaps found in what the feed brought.
pub(crate) const FEED_GAPS: &str = "connector_feed_gaps_total";
/// Publications that were read from a log to close gaps.
pub(crate) const FEED_REPAIRED: &str = "connector_feed_repaired_total";
/// Members whose position was lost.
pub(crate) const POSITIONS_LOST: &str = "connector_positions_lost_total";
/// Differences that were put right.
pub(crate) const REPAIRS: &str = "connector_repairs_total";
/// Sessions that gave way.
pub(crate) const KICKS: &str = "connector_kicks_total";
/// The age of the lease that was renewed last.
pub(crate) const LEASE_AGE: &str = "connector_lease_age_seconds";
/// Leases that can't be renewed.
pub(crate) const LEASES_AWAY: &str = "connector_leases_away";
/// Leases that were lost.
pub(crate) const LEASES_LOST: &str = "connector_leases_lost_total";
/// Deaths of this connector.
pub(crate) const DECLARED_DEAD: &str = "connector_declared_dead_total";
/// Connections that ended.
pub(crate) const CLOSED: &str = "connector_connections_closed_total";
/// Logins and joins that were told to come again.
pub(crate) const PUT_OFF: &str = "connector_entries_put_off_total";

/// What clients speak, as a label.
pub(crate) const PROTOCOLS: [&str; 4] = ["pomelo", "pomelo_tcp", "socketio", "json"];

/// The label of each kind, in the order of `ALL`.
macro_rules! labels {
    ($kind:ty) => {{
        let mut labels = [""; <$kind>::ALL.len()];
        let mut next = 0;
        while next < labels.len() {
            labels[next] = <$kind>::ALL[next].label();
            next += 1;
        }
        labels
    }};
}

const REASONS: [&str; Disconnect::ALL.len()] = labels!(Disconnect);
const BOUNDS: [&str; Bound::ALL.len()] = labels!(Bound);

const FAMILIES: &[Family] = &[
    Family::gauge(CONNECTIONS, "Clients that are connected, over any protocol"),
    Family::counter(
        CLOSED,
        "Client connections that ended, by reason and protocol",
    )
    .by(&[("reason", &REASONS), ("protocol", &PROTOCOLS)]),
    Family::counter(
        REFUSED,
        "Clients and requests that were refused or cut off because a bound was reached",
    )
    .by(&[("bound", &BOUNDS)]),
    Family::counter(
        ACCEPT_ERRORS,
        "Sockets that could not be accepted, mostly for want of file descriptors",
    ),
    Family::counter(
        PUT_OFF,
        "Logins and joins that were told to come again later",
    ),
    Family::counter(
        ENCODINGS,
        "Publications encoded, once for each wire format that has a member",
    ),
    Family::counter(
        CHANNEL_WRITES,
        "Writes to clients of what one channel had ready for them",
    ),
    Family::counter(
        FEED_GAPS,
        "Times that what a channel published did not join what was there before",
    ),
    Family::counter(
        FEED_REPAIRED,
        "Publications read from a log because the feed had not brought them",
    ),
    Family::counter(
        POSITIONS_LOST,
        "Members that could not be given all that they missed, by reason",
    )
    .by(&[("reason", &["diverged", "trimmed", "unknown"])]),
    Family::counter(
        REPAIRS,
        "Differences between the store and this connector's sessions, put right, by kind",
    )
    .by(&[("reason", &["ghost", "lost", "login-lost", "login-ghost"])]),
    Family::counter(
        KICKS,
        "Sessions that gave way to another login of their user",
    ),
    Family::gauge(
        LEASE_AGE,
        "Since a lease was renewed: of several, the one that was renewed last",
    ),
    Family::gauge(
        LEASES_AWAY,
        "Leases whose shard of the store does not answer, of those that this connector holds",
    ),
    Family::counter(LEASES_LOST, "Leases that the store had lost, taken again"),
    Family::counter(DECLARED_DEAD, "Times that this connector was declared dead"),
];

/// Something that the store had otherwise than this connector is as it should be.
pub(crate) fn count_repair(reason: &'static str) {
    counter!(REPAIRS, "reason" => reason).increment(1);
}

/// Makes all that is counted here, at 0.
pub(crate) fn describe() {
    register(FAMILIES);
}
