//! How long requests of clients take, by what they ask for and by what became of them, and where a login spends its time.
//!
//! Clients choose their routes, so routes are no labels: every route that is not one of our own counts as `handler`.

use metrics::{Histogram, histogram};
use runtime::families::Family;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use wire::{Reason, Refusal};

pub(crate) const REQUESTS: &str = "connector_request_duration_seconds";
const LOGIN_STEPS: &str = "connector_login_step_duration_seconds";

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    Login,
    Refresh,
    Ping,
    Send,
    Publish,
    Join,
    Leave,
    Members,
    History,
    Handler,
}

impl Asked {
    /// The values of the label, in the order of the variants.
    const LABELS: [&'static str; 10] = [
        "login", "refresh", "ping", "send", "publish", "join", "leave", "members", "history",
        "handler",
    ];

    /// The routes that we answer ourselves, the most frequent ones first.
    const ROUTES: [(&'static str, Self); 9] = [
        ("chat.handler.send", Self::Send),
        ("chat.handler.publish", Self::Publish),
        ("chat.handler.join", Self::Join),
        ("chat.handler.leave", Self::Leave),
        ("chat.handler.members", Self::Members),
        ("chat.handler.history", Self::History),
        ("connector.handler.login", Self::Login),
        ("connector.handler.refresh", Self::Refresh),
        ("connector.handler.ping", Self::Ping),
    ];

    /// By the route of the request.
    pub(crate) fn of(route: &str) -> Self {
        let mut routes = Self::ROUTES.into_iter();
        let found = routes.find(|(known, _)| *known == route);
        found.map_or(Self::Handler, |(_, asked)| asked)
    }

    /// Its route, as a trace names the request. Any other route has the name `handler`, because clients choose those.
    pub(crate) fn route(self) -> &'static str {
        let mut routes = Self::ROUTES.into_iter();
        let found = routes.find(|(_, asked)| *asked == self);
        found.map_or("handler", |(route, _)| route)
    }
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// It was carried out.
    Done,
    /// The client asked for what it must not, or not now.
    Refused,
    /// The system could not do it.
    Failed,
    /// The connection ended first.
    Cancelled,
}

impl Outcome {
    /// The values of the label, in the order of the variants.
    const LABELS: [&'static str; 4] = ["done", "refused", "failed", "cancelled"];

    fn of(reason: Reason) -> Self {
        match reason {
            Reason::NotMember
            | Reason::LeavePending
            | Reason::StoreFull
            | Reason::TryLater
            | Reason::Unavailable
            | Reason::UnknownOutcome
            | Reason::HandlerFailed => Self::Failed,
            _ => Self::Refused,
        }
    }
}

/// A part of a login.
#[derive(Debug, Clone, Copy)]
pub(crate) enum LoginStep {
    /// Its parameters are read, its token is checked, and the operator's hook is asked.
    Identify,
    /// It waits for its turn.
    Admit,
    /// It is written to the store.
    Register,
    /// The session joins the channel of the login. This begins together with the step before.
    Enter,
    /// Other sessions of the user give way.
    Claim,
}

impl LoginStep {
    /// The values of the label, in the order of the variants.
    const LABELS: [&'static str; 5] = ["identify", "admit", "register", "enter", "claim"];
}

pub(super) const FAMILIES: &[Family] = &[
    Family::histogram(
        REQUESTS,
        "The time from receiving a request of a client to its answer, by what it asks for and what became of it",
    )
    .by(&[("request", &Asked::LABELS), ("outcome", &Outcome::LABELS)]),
    Family::histogram(LOGIN_STEPS, "The time of each step of a login")
        .by(&[("step", &LoginStep::LABELS)]),
];

/// The histograms, so that none has to be looked up for a request.
pub(crate) struct Requests {
    taken: [[Histogram; Outcome::LABELS.len()]; Asked::LABELS.len()],
    steps: [Histogram; LoginStep::LABELS.len()],
}

impl Requests {
    pub(crate) fn new() -> Arc<Self> {
        let taken = Asked::LABELS.map(|asked| {
            Outcome::LABELS
                .map(|outcome| histogram!(REQUESTS, "request" => asked, "outcome" => outcome))
        });
        let steps = LoginStep::LABELS.map(|step| histogram!(LOGIN_STEPS, "step" => step));
        Arc::new(Self { taken, steps })
    }

    /// A request that was received at this moment is being carried out.
    pub(crate) fn begin(self: &Arc<Self>, asked: Asked, received: Instant) -> RequestUnderWay {
        RequestUnderWay {
            requests: Arc::clone(self),
            asked,
            received,
            outcome: Outcome::Cancelled,
        }
    }

    /// Carries out a step of a login, and measures it.
    pub(crate) async fn step<F: Future>(&self, step: LoginStep, doing: F) -> F::Output {
        let begun = Instant::now();
        let done = doing.await;
        self.steps[step as usize].record(begun.elapsed());
        done
    }
}

/// A request that is being carried out. It counts when this is dropped: as cancelled, unless it was answered.
pub(crate) struct RequestUnderWay {
    requests: Arc<Requests>,
    asked: Asked,
    received: Instant,
    outcome: Outcome,
}

impl RequestUnderWay {
    /// This is its answer.
    pub(crate) fn answered<T>(&mut self, answer: &Result<T, Refusal>) {
        self.outcome = match answer {
            Ok(_) => Outcome::Done,
            Err(refusal) => Outcome::of(refusal.reason()),
        };
    }

    /// It was carried out, and has been answered.
    pub(crate) fn done(&mut self) {
        self.outcome = Outcome::Done;
    }
}

impl Drop for RequestUnderWay {
    fn drop(&mut self) {
        let taken: Duration = self.received.elapsed();
        self.requests.taken[self.asked as usize][self.outcome as usize].record(taken);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::counters::Counters;

    #[test]
    fn labels_stand_in_the_order_of_what_they_name() {
        for (route, asked) in Asked::ROUTES {
            let label = Asked::LABELS[asked as usize];
            assert!(route.ends_with(&format!(".handler.{label}")), "{route}");
            assert_eq!((Asked::of(route), asked.route()), (asked, route));
        }
        let own = Asked::of("game.handler.move");
        assert_eq!(
            (Asked::LABELS[own as usize], own.route()),
            ("handler", "handler")
        );
        assert_eq!(Outcome::LABELS[Outcome::Failed as usize], "failed");
        assert_eq!(Outcome::LABELS[Outcome::Cancelled as usize], "cancelled");
        assert_eq!(LoginStep::LABELS[LoginStep::Claim as usize], "claim");
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_counts_once_by_what_became_of_it() {
        let counters = Counters::default();
        let requests = metrics::with_local_recorder(&counters, Requests::new);
        let begin = |asked| requests.begin(asked, Instant::now());
        begin(Asked::Send).answered(&Ok(()));
        begin(Asked::Send).answered::<()>(&Err(Reason::NotJoined.into()));
        begin(Asked::Send).answered::<()>(&Err(Reason::Unavailable.into()));
        drop(begin(Asked::History));
        begin(Asked::Login).done();
        let series = counters.series(REQUESTS);
        let expected = [
            ["history", "cancelled"],
            ["login", "done"],
            ["send", "done"],
            ["send", "failed"],
            ["send", "refused"],
        ];
        let expected = expected.map(|labels| (labels.map(str::to_owned).to_vec(), 1));
        assert_eq!(series, expected.into());
    }
}
