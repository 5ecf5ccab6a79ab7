//! Publications by which a connector sees whether this chat uses its store.

use crate::calls::{Calls, shown};
use crate::error::Error;
use channel_store::probe::{MOST_SETS, Probe, ProbeOutcome, Probed};
use proto::connector::v1::probe_result::Outcome;
use proto::connector::v1::{ProbeRequest, ProbeResponse, ProbeResult, Settings};
use std::time::Duration;

pub(super) async fn probe(calls: &Calls, request: ProbeRequest) -> Result<ProbeResponse, Error> {
    if request.sets.len() > MOST_SETS {
        let description = format!("must be at most {MOST_SETS}");
        return Err(Error::invalid("sets", description));
    }
    let probe = Probe {
        sets: request.sets,
        nonce: request.nonce,
    };
    let (results, settings) = calls.probe(&probe).await;
    Ok(ProbeResponse {
        results: results.into_iter().map(result).collect(),
        settings: Some(Settings {
            prefix: settings.prefix,
            database: settings.database,
            lease: duration(settings.lease),
            ack_replicas: settings.ack_replicas,
            log_life: duration(settings.log_life),
            message_limit: calls.message_limit() as u64,
            rules_hash: calls.rules_hash(),
        }),
    })
}

fn result(probed: Probed) -> ProbeResult {
    let outcome = match probed.outcome {
        ProbeOutcome::Written(at) => Outcome::Written(shown(&at)),
        ProbeOutcome::Refused(words) => Outcome::Refused(words),
        ProbeOutcome::Unanswered(words) => Outcome::Unanswered(words),
    };
    ProbeResult {
        outcome: Some(outcome),
        server: probed.server,
        lifetime: probed.lifetime.to_string(),
    }
}

/// `None` if it is longer than a `Duration` of protobuf can be, which says the same as no setting at all.
fn duration(duration: Duration) -> Option<prost_types::Duration> {
    duration.try_into().ok()
}
