//! How often one session may do things, and what happens if it does not keep to that.

use crate::limits::{Bound, SessionRates};
use runtime::pace::{Pace, Rate};
use std::time::Duration;
use tokio::time::Instant;
use wire::{Refusal, Request};

/// Requests that are never refused. A session that leaves a channel costs less afterwards, and a ping shows that a client lives.
const FREE: [&str; 2] = ["chat.handler.leave", "connector.handler.ping"];

/// The pace at which a session may join further channels, whatever the operator allows.
///
/// A session could join and leave one new channel after another. Each of them costs the store some kilobytes for the two minutes for
/// which an empty channel is kept. In two minutes these are as many as in a burst.
const FURTHER: Rate = Rate::every(Duration::from_millis(120), 1_000);

/// How many requests a client may have refused for their bytes if their number is not limited.
const REFUSALS: Rate = Rate::every(Duration::from_millis(5), 1_000);

/// A client had too many requests refused, or went on with messages that cannot be refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct GoesOn;

/// The paces of one session.
#[derive(Debug, Default)]
pub(super) struct Paces {
    rates: SessionRates,
    requests: Pace,
    bytes: Pace,
    /// Requests that were refused. A client may have as many refused as it may make requests.
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

    /// Counts a request and the bytes of its body.
    ///
    /// # Errors
    /// Why it is refused. With [`GoesOn`] the client is to be closed.
    pub(super) fn request(
        &mut self,
        request: &Request,
        now: Instant,
    ) -> Result<(), (Refusal, Option<GoesOn>)> {
        if FREE.contains(&&*request.route) {
            return (self.heard(request.body.len(), now))
                .map_err(|it| (Refusal::rate_limited(Duration::ZERO), Some(it)));
        }
        let rates = self.rates;
        let mut counted = take(&mut self.requests, rates.requests, Bound::RequestRate, now);
        if let (Ok(()), Some(rate)) = (&counted, rates.bytes) {
            let taken = self.bytes.take_many(&rate, count(request.body.len()), now);
            counted = taken.map_err(|wait| refuse(Bound::ByteRate, wait));
        }
        counted.map_err(|refusal| {
            let most = rates.requests.unwrap_or(REFUSALS);
            let goes_on = self.refused.take(&most, now).is_err().then_some(GoesOn);
            (refusal, goes_on)
        })
    }

    /// Counts bytes that were received beside the bodies of requests, and those of requests that are never refused. They are here
    /// already. So until they are made up for, other requests are refused.
    ///
    /// # Errors
    /// The client is to be closed: it has sent twice as much as it may send at once.
    pub(super) fn heard(&mut self, bytes: usize, now: Instant) -> Result<(), GoesOn> {
        let Some(rate) = self.rates.bytes else {
            return Ok(());
        };
        if self.bytes.charge(&rate, count(bytes), now) {
            Bound::ByteRate.reached();
            return Err(GoesOn);
        }
        Ok(())
    }

    /// Counts a join.
    pub(super) fn join(&mut self, now: Instant) -> Result<(), Refusal> {
        take(&mut self.joins, self.rates.joins, Bound::JoinRate, now)?;
        take(&mut self.further, Some(FURTHER), Bound::JoinRate, now)
    }

    /// Counts a page.
    pub(super) fn read(&mut self, now: Instant) -> Result<(), Refusal> {
        take(&mut self.reads, self.rates.reads, Bound::ReadRate, now)
    }
}

fn count(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

fn take(pace: &mut Pace, rate: Option<Rate>, bound: Bound, now: Instant) -> Result<(), Refusal> {
    let taken = rate.map_or(Ok(()), |rate| pace.take(&rate, now));
    taken.map_err(|wait| refuse(bound, wait))
}

fn refuse(bound: Bound, wait: Duration) -> Refusal {
    bound.reached();
    Refusal::rate_limited(wait)
}
