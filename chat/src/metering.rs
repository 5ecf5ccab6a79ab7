//! Counters of channels, cleaning up, connections and streams. `port::measure` counts the calls.

use crate::error::Error;
use channel_store::Published;
use metrics::{counter, gauge, histogram};
use runtime::families::{Family, register};

const PUBLICATIONS: &str = "chat_publications_total";
const EPHEMERALS: &str = "chat_ephemerals_total";
const DUPLICATES: &str = "chat_duplicates_total";
const REFUSALS: &str = "chat_refusals_total";
const BATCH_SIZE: &str = "chat_batch_size";

pub(crate) const DEATHS: &str = "chat_connectors_dead_total";
pub(crate) const HANDOVERS: &str = "chat_connectors_handed_over_total";
pub(crate) const REAPED: &str = "chat_members_reaped_total";
pub(crate) const RESTORED: &str = "chat_leases_restored_total";
const CONNECTIONS: &str = "chat_connections";
const CONNECTIONS_ENDED: &str = "chat_connections_ended_total";
const CONNECTIONS_RETIRED: &str = "chat_connections_retired_total";
const CONNECTIONS_REFUSED: &str = "chat_connections_refused_total";
const STREAMS_ENDED: &str = "chat_streams_ended_total";
const WATCHERS: &str = "chat_watchers";
const WATCHED_CHANNELS: &str = "chat_watched_channels";

/// Why chat ends connections.
pub(crate) const CONNECTION_ENDS: [&str; 6] = [
    "silent",
    "long_head",
    "idle",
    "unread",
    "no_room",
    "too_old",
];

/// What every chat does for channels.
const OF_CHANNELS: &[Family] = &[
    Family::counter(PUBLICATIONS, "Messages appended to a channel"),
    Family::counter(
        EPHEMERALS,
        "Messages given to those who were there, without a place in a log",
    ),
    Family::counter(
        DUPLICATES,
        "Sends with a known idempotency key, answered as before",
    ),
    Family::counter(
        REFUSALS,
        "Calls, and sends of streams and batches, that failed, by reason",
    )
    .by(&[("reason", Error::REASONS)]),
    Family::histogram(BATCH_SIZE, "Messages of a send stream published at once"),
    Family::counter(
        DEATHS,
        "Connectors that this chat declared dead because their lease ran out",
    ),
    Family::counter(
        HANDOVERS,
        "Connectors that had ended before this chat looked: resigned, or dead for long",
    ),
    Family::counter(REAPED, "Members of dead connectors taken out"),
    Family::counter(
        RESTORED,
        "Leases restored, of connectors that had members in a channel and that the store had forgotten",
    ),
    Family::gauge(WATCHERS, "Watches of back ends under way"),
    Family::gauge(
        WATCHED_CHANNELS,
        "Channels that this chat follows for watches, each of them once",
    ),
    Family::counter(
        STREAMS_ENDED,
        "Idle send streams ended because another one needed the place",
    ),
];

/// Connections at chat's port.
const OF_CONNECTIONS: &[Family] = &[
    Family::gauge(CONNECTIONS, "Connections at the gRPC port"),
    Family::counter(
        CONNECTIONS_ENDED,
        "Connections at the gRPC port that chat ended, by reason",
    )
    .by(&[("reason", &CONNECTION_ENDS)]),
    Family::counter(
        CONNECTIONS_RETIRED,
        "Connections at the gRPC port whose callers were asked to open another one, because of --max-connection-age",
    ),
    Family::counter(
        CONNECTIONS_REFUSED,
        "Connections at the gRPC port that found no place",
    ),
];

/// Creates all of these counters, at 0.
pub(crate) fn register_all() {
    register(OF_CHANNELS);
    register(OF_CONNECTIONS);
}

pub(crate) fn connections(change: f64) {
    gauge!(CONNECTIONS).increment(change);
}

/// `reason`: one of [`CONNECTION_ENDS`].
pub(crate) fn connection_ended(reason: &'static str) {
    counter!(CONNECTIONS_ENDED, "reason" => reason).increment(1);
}

pub(crate) fn connection_retired() {
    counter!(CONNECTIONS_RETIRED).increment(1);
}

pub(crate) fn connection_refused() {
    counter!(CONNECTIONS_REFUSED).increment(1);
}

pub(crate) fn stream_ended() {
    counter!(STREAMS_ENDED).increment(1);
}

pub(crate) fn watchers(change: f64) {
    gauge!(WATCHERS).increment(change);
}

pub(crate) fn watched_channels(change: f64) {
    gauge!(WATCHED_CHANNELS).increment(change);
}

pub(crate) fn sent(published: &Published) {
    if published.ephemeral {
        counter!(EPHEMERALS).increment(1);
    } else if published.repeated {
        counter!(DUPLICATES).increment(1);
    } else {
        counter!(PUBLICATIONS).increment(1);
    }
}

pub(crate) fn refused(error: &Error) {
    let (_, reason) = error.code_and_reason();
    counter!(REFUSALS, "reason" => reason).increment(1);
}

pub(crate) fn batch(size: usize) {
    #[expect(clippy::cast_precision_loss, reason = "a batch is small")]
    histogram!(BATCH_SIZE).record(size as f64);
}
