//! How often one session may do things, and what happens if it does not keep to that.

use crate::limits::pace::{Pace, Rate};
use crate::limits::{Bound, SessionRates};
use std::time::Duration;
use tokio::time::Instant;
use wire::Refusal;

/// Requests that are never refused. A session that leaves a channel costs less afterwards, and a ping shows that a client lives.
const FREE: [&str; 2] = ["chat.handler.leave", "connector.handler.ping"];

/// The pace at which a session may join further channels, whatever the operator allows.
///
/// A session could join and leave one new channel after another. Each of them costs the store some kilobytes for the two minutes for
/// which an empty channel is kept. In two minutes these are as many as in a burst.
const FURTHER: Rate = Rate::every(Duration::from_millis(120), 1_000);

/// A client had too many requests refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct GoesOn;

/// The paces of one session.
#[derive(Debug, Default)]
pub(super) struct Paces {
    rates: SessionRates,
    requests: Pace,
    /// Requests that were refused. A client may have as many refused as it may make.
    refused: Pace,
    joins: Pace,
    further: Pace,
    reads: Pace,
}

impl Paces {
    pub(super) fn new(rates: SessionRates) -> Self {
        Self {
            rates,
            ..Self::default()
        }
    }

    /// Counts a request.
    ///
    /// # Errors
    /// Why it is refused. With [`GoesOn`] the client is to be closed.
    pub(super) fn request(
        &mut self,
        route: &str,
        now: Instant,
    ) -> Result<(), (Refusal, Option<GoesOn>)> {
        if FREE.contains(&route) {
            return Ok(());
        }
        let Some(rate) = &self.rates.requests else {
            return Ok(());
        };
        self.requests.take(rate, now).map_err(|wait| {
            Bound::RequestRate.reached();
            let goes_on = self.refused.take(rate, now).is_err().then_some(GoesOn);
            (Refusal::rate_limited(wait), goes_on)
        })
    }

    /// Counts a join.
    pub(super) fn join(&mut self, now: Instant) -> Result<(), Refusal> {
        let rate = self.rates.joins.as_ref();
        take(&mut self.joins, rate, Bound::JoinRate, now)?;
        take(&mut self.further, Some(&FURTHER), Bound::JoinRate, now)
    }

    /// Counts a page.
    pub(super) fn read(&mut self, now: Instant) -> Result<(), Refusal> {
        take(
            &mut self.reads,
            self.rates.reads.as_ref(),
            Bound::ReadRate,
            now,
        )
    }
}

fn take(pace: &mut Pace, rate: Option<&Rate>, bound: Bound, now: Instant) -> Result<(), Refusal> {
    let taken: Result<(), Duration> = rate.map_or(Ok(()), |rate| pace.take(rate, now));
    taken.map_err(|wait| {
        bound.reached();
        Refusal::rate_limited(wait)
    })
}
