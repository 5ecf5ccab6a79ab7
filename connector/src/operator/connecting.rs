//! Connects to one address, however many calls wait for that, not more often than pauses allow.
//!
//! tonic connects when a call needs it, and again for the next call if that failed. So each call to a service that is down
//! would be an attempt to connect. Here two attempts are at least a pause apart, and the pauses grow while attempts follow
//! each other closely. In between, calls are refused at once.

use crate::dial::{Dialed, Dialer};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use runtime::Backoff;
use std::io;
use std::time::Duration;
use tokio::time::Instant;

/// The first and the longest mean pause between two attempts.
const SHORTEST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(1);

/// The way to one address.
pub(super) struct Pacing {
    /// For the log: its name, and what an outage means.
    name: String,
    outage: &'static str,
    dialer: Dialer,
    state: Mutex<State>,
}

struct State {
    backoff: Backoff,
    /// When the last attempt began, and when the next may begin.
    last: Option<(Instant, Instant)>,
    /// Why the last attempt has failed that is over. `None`: it has not.
    failure: Option<String>,
}

impl Pacing {
    pub(super) fn new(name: String, outage: &'static str, dialer: Dialer) -> Self {
        Self {
            name,
            outage,
            dialer,
            state: Mutex::new(State {
                backoff: Backoff::new(SHORTEST, LONGEST),
                last: None,
                failure: None,
            }),
        }
    }

    /// True if the last attempt has failed, so that other addresses are tried first.
    pub(super) fn is_failing(&self) -> bool {
        self.state.lock().failure.is_some()
    }

    /// Connects, or fails at once if the last attempt was a moment ago.
    pub(super) async fn connect(&self) -> io::Result<TokioIo<Dialed>> {
        self.begin(Instant::now())?;
        let connected = self.dialer.connect().await;
        self.note(connected.as_ref().err());
        connected
    }

    fn begin(&self, now: Instant) -> io::Result<()> {
        let mut state = self.state.lock();
        if let Some((last, next)) = state.last {
            if now < next {
                let why = state
                    .failure
                    .as_deref()
                    .unwrap_or("the connection has ended");
                return Err(io::Error::other(format!(
                    "{why}; {} is tried again in {} ms",
                    self.name,
                    (next - now).as_millis()
                )));
            }
            // The connection has lasted longer than any pause, so the service does not end each connection at once.
            if state.failure.is_none() && now - last > 2 * LONGEST {
                state.backoff.reset();
            }
        }
        let pause = state.backoff.next_pause();
        state.last = Some((now, now + pause));
        Ok(())
    }

    fn note(&self, error: Option<&io::Error>) {
        let was_failing = {
            let mut state = self.state.lock();
            let failure = error.map(ToString::to_string);
            std::mem::replace(&mut state.failure, failure).is_some()
        };
        let Self { name, outage, .. } = self;
        match error {
            // One line for each outage. Calls that are refused meanwhile are counted.
            Some(error) if !was_failing => tracing::warn!(
                service = name,
                %error,
                "this service of the operator cannot be reached; {outage}"
            ),
            Some(error) => tracing::debug!(service = name, %error, "still not reachable"),
            None if was_failing => {
                tracing::info!(service = name, "this service is reachable again");
            }
            None => tracing::debug!(service = name, "connected"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Uri;
    use std::net::SocketAddr;

    fn pacing() -> Pacing {
        let address = SocketAddr::from(([127, 0, 0, 1], 9));
        let dialer = Dialer::new(&Uri::from_static("http://games"), address, None);
        Pacing::new("games".into(), "", dialer)
    }

    /// How many attempts there are in this time if one is wanted every ten milliseconds.
    fn attempts(pacing: &Pacing, from: Instant, time: Duration) -> usize {
        let step = Duration::from_millis(10);
        let steps = u32::try_from(time.as_millis() / step.as_millis()).unwrap();
        let times = (0..steps).map(|it| from + step * it);
        times.filter(|now| pacing.begin(*now).is_ok()).count()
    }

    #[tokio::test]
    async fn attempts_to_connect_become_rare_however_many_calls_want_one() {
        for failure in [Some("refused".to_owned()), None] {
            let pacing = pacing();
            pacing.state.lock().failure = failure;
            let now = Instant::now();
            let first = attempts(&pacing, now, Duration::from_secs(10));
            assert!((2..=25).contains(&first), "{first} attempts in ten seconds");
        }
    }

    #[tokio::test]
    async fn after_a_connection_that_has_lasted_the_next_attempt_is_allowed_at_once() {
        let pacing = pacing();
        let now = Instant::now();
        attempts(&pacing, now, Duration::from_secs(10));
        let later = now + Duration::from_secs(20);
        pacing.begin(later).unwrap();
        // And the pause after it is the shortest again.
        assert!(pacing.begin(later + SHORTEST * 2).is_ok());
    }

    #[tokio::test]
    async fn what_is_not_tried_yet_says_why_the_last_attempt_has_failed() {
        let pacing = pacing();
        let now = Instant::now();
        pacing.begin(now).unwrap();
        pacing.note(Some(&io::Error::other("nobody listens there")));
        let refused = pacing.begin(now).unwrap_err().to_string();
        assert!(refused.contains("nobody listens there"), "{refused}");
    }
}
