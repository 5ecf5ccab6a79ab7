//! All chats, and calls to whichever is up.

use super::call::{Answered, CallError, TRY, is_final, reason, refusal};
use super::endpoint::Endpoint;
use super::line::{Outcome, Pending};
use super::proof::Prover;
use super::window::Window;
use crate::grpc::traced;
use crate::metering::{HISTORY, JOIN, LEAVE, LIST_MEMBERS, SEND_STREAM, attempt, note_other_rules};
use channel_rules::RulesHash;
use channel_store::Shard;
use channel_store::probe::several;
use parking_lot::{Mutex, RwLock};
use proto::chat::v1::{HistoryRequest, HistoryResponse, ListMembersRequest, ListMembersResponse};
use proto::connector::v1::{JoinRequest, JoinResponse, LeaveRequest, SessionMessage};
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout_at};
use tonic::Status;
use traces::{Kind, Span, within};

/// How long calls wait for an endpoint after the last one was lost. The only chat may just be restarting.
const PATIENCE: Duration = Duration::from_secs(1);

/// A step of a trace that calls chat, if a trace is kept of what the task does.
fn step(method: &'static str) -> Option<Arc<Span>> {
    Span::child(Some(traces::current()?.context()), method, Kind::Client)
}

/// Makes an attempt to call chat, as a step of the trace that is kept of what the task does, if there is one.
async fn in_step<T>(
    method: &'static str,
    call: impl Future<Output = Result<Result<T, Status>, Elapsed>>,
) -> Result<Result<T, Status>, Elapsed> {
    let Some(step) = step(method) else {
        return call.await;
    };
    let answer = within(Arc::clone(&step), call).await;
    match &answer {
        Ok(Ok(_)) => {}
        Ok(Err(status)) => step.fail(&reason(status)),
        Err(_) => step.fail("no answer in time"),
    }
    answer
}

/// All chat endpoints.
pub struct Chat {
    pub(super) endpoints: RwLock<Vec<Arc<Endpoint>>>,
    turn: AtomicUsize,
    available: watch::Sender<bool>,
    /// When the last endpoint was lost, or when this began. It only counts while no endpoint is up.
    away_since: Mutex<Instant>,
    /// Names that can't be resolved, by their places in the source, with the reasons.
    pub(super) unresolved: Mutex<BTreeMap<usize, String>>,
    /// Proves endpoints before they are used; `None`: they are used without a proof.
    pub(super) prover: Option<Arc<Prover>>,
    publishes: watch::Sender<bool>,
    /// The rules of channels of this connector, which the chats should have, too.
    rules: RulesHash,
}

impl Chat {
    /// A client without any endpoint yet.
    pub(super) fn nowhere(prover: Option<Arc<Prover>>) -> Arc<Self> {
        Arc::new(Self {
            prover,
            rules: RulesHash::default(),
            publishes: watch::Sender::new(false),
            endpoints: RwLock::default(),
            turn: AtomicUsize::new(0),
            available: watch::Sender::new(false),
            away_since: Mutex::new(Instant::now()),
            unresolved: Mutex::default(),
        })
    }

    /// The hash of this connector's rules of channels. Chats whose rules differ are used all the same: while rules are changed, they
    /// differ for a while. The log says it, [`troubles`](Self::troubles) and a metric.
    #[must_use]
    pub fn rules(&self) -> &RulesHash {
        &self.rules
    }

    /// Whether endpoints are used only after a proof ([`Chat::proven`]).
    #[must_use]
    pub fn is_proven(&self) -> bool {
        self.prover.is_some()
    }

    /// True while at least one endpoint is up.
    #[must_use]
    pub fn available(&self) -> watch::Receiver<bool> {
        self.available.subscribe()
    }

    /// True while at least one endpoint that is up was seen to publish. Only for [`Chat::proven`].
    #[must_use]
    pub fn publishes(&self) -> watch::Receiver<bool> {
        self.publishes.subscribe()
    }

    /// What is wrong with the chats, in words for an operator: each chat that is not used, with its address and the
    /// reason, and settings that do not go together. `None`: nothing is wrong.
    #[must_use]
    pub fn troubles(&self) -> Option<String> {
        let mut troubles: Vec<String> = self.unresolved.lock().values().cloned().collect();
        let endpoints = self.endpoints.read().clone();
        if endpoints.is_empty() && troubles.is_empty() {
            return Some("no address is known yet".to_owned());
        }
        troubles.extend(endpoints.iter().filter_map(|endpoint| endpoint.trouble()));
        if let Some(prover) = &self.prover {
            for endpoint in &endpoints {
                let other_rules = endpoint.proof.other_rules(&self.rules);
                let notes = endpoint.proof.notes(&prover.own).into_iter();
                let notes = notes.chain(other_rules.map(|it| it.to_string()));
                troubles.extend(notes.map(|note| format!("{}: {note}", endpoint.name)));
            }
            let waits = endpoints.iter().filter_map(|it| {
                let replicas = it.proof.ack_replicas()?;
                Some((replicas, &it.name))
            });
            let waits: BTreeMap<u32, &String> = waits.collect();
            if let (Some(least), Some(most)) = (waits.first_key_value(), waits.last_key_value())
                && least.0 != most.0
            {
                troubles.push(format!(
                    "chats differ in --ack: {} waits for {} replicas, {} for {}",
                    most.1, most.0, least.1, least.0
                ));
            }
        }
        several(troubles.into_iter())
    }

    /// See `SessionService.Join`.
    ///
    /// # Errors
    /// [`CallError`]; after `Unknown` the session may be a member, or become one.
    pub async fn join(
        &self,
        request: JoinRequest,
        deadline: Instant,
    ) -> Result<Answered<JoinResponse>, CallError> {
        self.call(JOIN, deadline, |endpoint| {
            let (mut client, request) = (endpoint.sessions(), request.clone());
            async move { Ok(client.join(traced(request)).await?.into_inner()) }
        })
        .await
    }

    /// See `SessionService.Leave`.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn leave(&self, request: LeaveRequest, deadline: Instant) -> Result<(), CallError> {
        let answered = self.call(LEAVE, deadline, |endpoint| {
            let (mut client, request) = (endpoint.sessions(), request.clone());
            async move { client.leave(traced(request)).await }
        });
        answered.await.map(drop)
    }

    /// See `ChatService.ListMembers`.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn members(
        &self,
        request: ListMembersRequest,
        deadline: Instant,
    ) -> Result<ListMembersResponse, CallError> {
        let answered = self.call(LIST_MEMBERS, deadline, |endpoint| {
            let (mut client, request) = (endpoint.client(), request.clone());
            async move { Ok(client.list_members(traced(request)).await?.into_inner()) }
        });
        answered.await.map(|answered| answered.answer)
    }

    /// See `ChatService.History`.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn history(
        &self,
        request: HistoryRequest,
        deadline: Instant,
    ) -> Result<HistoryResponse, CallError> {
        let answered = self.call(HISTORY, deadline, |endpoint| {
            let (mut client, request) = (endpoint.client(), request.clone());
            async move { Ok(client.history(traced(request)).await?.into_inner()) }
        });
        answered.await.map(|answered| answered.answer)
    }

    /// Publishes. The sends of one window keep their order. The outcome comes by the deadline or within a tenth of a
    /// second after it, whatever happens.
    pub fn send(
        &self,
        window: &Arc<Window>,
        mut request: SessionMessage,
        deadline: Instant,
        answer: impl FnOnce(Outcome) + Send + 'static,
    ) {
        let answer: Box<dyn FnOnce(Outcome) + Send> = match step(SEND_STREAM) {
            None => Box::new(answer),
            Some(step) => {
                request.traceparent = step.context().traceparent();
                Box::new(move |outcome| {
                    outcome.note_in(&step);
                    drop(step);
                    answer(outcome);
                })
            }
        };
        let pending = Pending::new(request, Arc::clone(window), deadline, answer);
        let line = window.enter(pending.bytes, || {
            let home = self.home(pending.channel())?;
            let prover = self.prover.as_ref();
            let shard = prover.map_or_else(Shard::default, |it| it.feed.shard(pending.channel()));
            Some(home.line_of(shard))
        });
        match line {
            Some(line) => line.push(pending),
            None => pending.settle(Outcome::Unsent),
        }
    }

    async fn call<T, F>(
        &self,
        method: &'static str,
        deadline: Instant,
        ask: impl Fn(&Endpoint) -> F,
    ) -> Result<Answered<T>, CallError>
    where
        F: Future<Output = Result<T, Status>>,
    {
        // The time was over before the call's turn came.
        if Instant::now() >= deadline {
            return Err(CallError::Unreachable);
        }
        let mut sent = false;
        let mut last: Option<Arc<Endpoint>> = None;
        loop {
            let endpoint = self.next_but(last.as_ref());
            let Some(endpoint) = endpoint.filter(|endpoint| endpoint.line.is_open()) else {
                if self.comes_back(deadline).await {
                    continue;
                }
                return Err(if sent {
                    CallError::Unknown
                } else {
                    CallError::Unreachable
                });
            };
            let until = deadline.min(Instant::now() + TRY);
            let repeated = std::mem::replace(&mut sent, true);
            // Boxed, because it is large, and each of the futures around it would keep room for it twice.
            let asked = in_step(method, Box::pin(timeout_at(until, ask(&endpoint))));
            match attempt(method, asked).await {
                Ok(Ok(answer)) => return Ok(Answered { answer, repeated }),
                // An earlier attempt may have been done, or may still be done, although this one is refused.
                Ok(Err(status)) if is_final(&status) && repeated => return Err(CallError::Unknown),
                Ok(Err(status)) if is_final(&status) => return Err(refusal(&status)),
                Ok(Err(status)) => {
                    tracing::debug!(endpoint = endpoint.name, code = ?status.code(), "call failed");
                }
                Err(_) => tracing::debug!(endpoint = endpoint.name, "call timed out"),
            }
            let pause = Instant::now() + Duration::from_millis(5 + fastrand::u64(..45));
            if pause >= deadline {
                return Err(CallError::Unknown);
            }
            tokio::time::sleep_until(pause).await;
            last = Some(endpoint);
        }
    }

    /// Waits for an endpoint while none is up. False: there is none in time.
    ///
    /// All callers share one time limit, which begins when the last endpoint is lost. So during a longer outage a call
    /// fails at once, and does not wait after those before it.
    async fn comes_back(&self, deadline: Instant) -> bool {
        let until = deadline.min(*self.away_since.lock() + PATIENCE);
        let mut available = self.available.subscribe();
        let up = timeout_at(until, available.wait_for(|up| *up)).await;
        let is_up = matches!(up, Ok(Ok(_)));
        drop(up);
        if !is_up {
            return false;
        }
        // That endpoint may be lost again already. Without the pause the caller would ask for it in a tight loop.
        let pause = Instant::now() + Duration::from_millis(fastrand::u64(1..20));
        tokio::time::sleep_until(pause).await;
        pause < deadline
    }

    /// The endpoint for a channel, if possible one that is up. All connectors choose the same, so messages of one
    /// moment are published in one run.
    fn home(&self, channel: &str) -> Option<Arc<Endpoint>> {
        let endpoints = self.endpoints.read();
        let best = endpoints
            .iter()
            .max_by_key(|endpoint| (endpoint.line.is_open(), endpoint.weight(channel)));
        best.cloned()
    }

    /// The next endpoint that is up, another one than `last` if possible.
    fn next_but(&self, last: Option<&Arc<Endpoint>>) -> Option<Arc<Endpoint>> {
        let endpoints = self.endpoints.read();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let in_turn = (0..endpoints.len()).map(|i| &endpoints[(turn + i) % endpoints.len()]);
        let best = in_turn.max_by_key(|endpoint| {
            let other = last.is_none_or(|last| !Arc::ptr_eq(last, endpoint));
            (endpoint.line.is_open(), other)
        });
        best.cloned()
    }

    /// Another endpoint that is up.
    pub(super) fn other_open(&self, home: &Arc<Endpoint>) -> Option<Arc<Endpoint>> {
        let other = self.next_but(Some(home))?;
        (other.line.is_open() && !Arc::ptr_eq(&other, home)).then_some(other)
    }

    pub(super) fn note_availability(&self) {
        let (up, with_other_rules) = {
            let endpoints = self.endpoints.read();
            let differs = |it: &&Arc<Endpoint>| it.proof.other_rules(&self.rules).is_some();
            let up = endpoints.iter().any(|endpoint| endpoint.line.is_open());
            (up, endpoints.iter().filter(differs).count())
        };
        note_other_rules(with_other_rules);
        self.available.send_if_modified(|available| {
            let was_up = std::mem::replace(available, up);
            if was_up && !up {
                *self.away_since.lock() = Instant::now();
            }
            was_up != up
        });
        let publishes = {
            let endpoints = self.endpoints.read();
            let mut open = endpoints.iter().filter(|it| it.line.is_open());
            open.any(|endpoint| endpoint.proof.works())
        };
        self.publishes
            .send_if_modified(|known| std::mem::replace(known, publishes) != publishes);
    }

    /// True if another endpoint is up whose store takes publications.
    pub(super) fn works_without(&self, endpoint: &Arc<Endpoint>) -> bool {
        let endpoints = self.endpoints.read();
        let others = endpoints.iter().filter(|it| !Arc::ptr_eq(it, endpoint));
        others
            .into_iter()
            .any(|other| other.line.is_open() && other.proof.works())
    }

    /// Why chats can't publish, in words: each chat whose store refuses, with the reason, or else that none was heard. `None`: they can.
    #[must_use]
    pub fn refusals(&self) -> Option<String> {
        let endpoints = self.endpoints.read().clone();
        let refusals = endpoints.iter().filter_map(|endpoint| {
            let words = endpoint.proof.refused()?;
            Some(format!("{}: {words}", endpoint.name))
        });
        let unheard = || "nothing that a chat published was heard here lately".to_owned();
        several(refusals).or_else(|| (!*self.publishes.borrow()).then(unheard))
    }
}
