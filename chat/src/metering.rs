//! What is counted about channels; [`crate::measure`] counts the calls themselves.

use crate::callers::Over;
use crate::error::Error;
use channel_store::Published;
use metrics::{counter, gauge, histogram};
use runtime::families::{Family, register};

const PUBLICATIONS: &str = "chat_publications_total";
const DUPLICATES: &str = "chat_duplicates_total";
const REFUSALS: &str = "chat_refusals_total";
const BATCH_SIZE: &str = "chat_batch_size";

pub(crate) const DEATHS: &str = "chat_connectors_dead_total";
pub(crate) const HANDOVERS: &str = "chat_connectors_handed_over_total";
pub(crate) const REAPED: &str = "chat_members_reaped_total";
pub(crate) const VOUCHED: &str = "chat_vouched_total";
const CONNECTIONS: &str = "chat_connections";
const CONNECTIONS_ENDED: &str = "chat_connections_ended_total";
const CONNECTIONS_REFUSED: &str = "chat_connections_refused_total";
const STREAMS_ENDED: &str = "chat_streams_ended_total";

/// Of every chat: what it does for channels.
const OF_CHANNELS: &[Family] = &[
    Family::counter(PUBLICATIONS, "Messages appended to a channel"),
    Family::counter(
        DUPLICATES,
        "Sends with a known idempotency key, answered as before",
    ),
    Family::counter(REFUSALS, "Calls and streamed sends that failed, by reason")
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
        VOUCHED,
        "Connectors met in a channel that the directory did not know to be well",
    ),
    Family::counter(
        STREAMS_ENDED,
        "Idle send streams ended because another one needed the place",
    ),
];

/// Of chat's port.
const OF_CONNECTIONS: &[Family] = &[
    Family::gauge(CONNECTIONS, "Connections at the gRPC port"),
    Family::counter(
        CONNECTIONS_ENDED,
        "Connections at the gRPC port that chat ended, by reason",
    )
    .by(&[("reason", &Over::LABELS)]),
    Family::counter(
        CONNECTIONS_REFUSED,
        "Connections at the gRPC port that found no place",
    ),
];

/// Makes all that is counted here, at 0.
pub(crate) fn describe() {
    register(OF_CHANNELS);
    register(OF_CONNECTIONS);
}

pub(crate) fn connections(change: f64) {
    gauge!(CONNECTIONS).increment(change);
}

pub(crate) fn connection_ended(over: Over) {
    counter!(CONNECTIONS_ENDED, "reason" => over.label()).increment(1);
}

pub(crate) fn connection_refused() {
    counter!(CONNECTIONS_REFUSED).increment(1);
}

pub(crate) fn stream_ended() {
    counter!(STREAMS_ENDED).increment(1);
}

pub(crate) fn sent(published: &Published) {
    if published.repeated {
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
