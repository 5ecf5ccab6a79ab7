//! What is counted about channels; [`crate::measure`] counts the calls themselves.

use crate::error::Error;
use channel_store::Published;
use metrics::{counter, describe_counter, describe_histogram, histogram};

const PUBLICATIONS: &str = "chat_publications_total";
const DUPLICATES: &str = "chat_duplicates_total";
const REFUSALS: &str = "chat_refusals_total";
const BATCH_SIZE: &str = "chat_batch_size";

/// Says what each metric means.
pub(crate) fn describe() {
    describe_counter!(PUBLICATIONS, "Messages appended to a channel");
    describe_counter!(
        DUPLICATES,
        "Sends with a known idempotency key, answered as before"
    );
    describe_counter!(REFUSALS, "Calls and streamed sends that failed, by reason");
    describe_histogram!(BATCH_SIZE, "Messages of a send stream published at once");
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
