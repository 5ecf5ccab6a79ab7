//! The way from a connector to the chats: several endpoints that come and go. Any of them can do any call.
//!
//! Joins and leaves are unary calls to whichever endpoint is up. Sends go through ordered streams
//! (`ordered_stream.rs`): one for each endpoint, and in a cluster one for each endpoint and shard. A call takes at most
//! a second with one endpoint, and two in all. If an endpoint does not answer, the next one gets the same call with the
//! same key, session and operation number, so nothing happens twice.

mod endpoint;
mod ordered_stream;
mod prover;
#[cfg(test)]
pub(crate) mod tests;
mod window;

pub use endpoint::{ChatService, Source, SourceError, TransportError};
pub use ordered_stream::Outcome;
pub use prover::OwnSettings;
pub use window::Flow;

use channel_store::Shard;
use channel_store::probe::{ProbeFeed, several};
use endpoint::Endpoint;
use ordered_stream::Pending;
use parking_lot::{Mutex, RwLock};
use proto::chat::v1::{HistoryRequest, HistoryResponse, ListMembersRequest, ListMembersResponse};
use proto::connector::v1::{JoinRequest, JoinResponse, LeaveRequest, SessionMessage};
use prover::Prover;
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tonic::{Code, Status};
use tonic_types::{RpcStatusExt, StatusExt, pb};

/// The longest time that a call spends with one endpoint.
pub(crate) const TRY: Duration = Duration::from_secs(1);
/// A client's request is answered within two seconds after it was received. Chat gets this much of that time, and the
/// rest is for the way back.
pub(crate) const CALL: Duration = Duration::from_millis(1_900);

/// How long calls wait for an endpoint after the last one was lost. The only chat may just be restarting.
const PATIENCE: Duration = Duration::from_secs(1);

/// Why a call brought no usable answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Chat refused the first attempt, and nothing was done.
    #[error("refused: {reason}")]
    Refused {
        /// The reason, as the contracts list it.
        reason: String,
    },
    /// The deadline of a join was over at the first attempt, and nothing was done.
    #[error("too late by the clock of the store's server")]
    Late {
        /// The time of that clock, in milliseconds since 1970.
        now: u64,
    },
    /// No endpoint was up, so nothing was sent.
    #[error("no chat endpoint is reachable")]
    Unreachable,
    /// The call was sent, and not answered in time. It may have been done, or may still be done.
    #[error("unanswered")]
    Unknown,
}

/// An answer, and whether another copy of the request may still be under way.
#[derive(Debug)]
pub struct Answered<T> {
    /// Chat's answer.
    pub answer: T,
    /// False if the first attempt was answered. Then there is no other copy.
    pub repeated: bool,
}

/// All chat endpoints.
pub struct Chat {
    endpoints: RwLock<Vec<Arc<Endpoint>>>,
    turn: AtomicUsize,
    available: watch::Sender<bool>,
    /// When the last endpoint was lost, or when this began. It only counts while no endpoint is up.
    away_since: Mutex<Instant>,
    /// Names that can't be resolved, by their places in the source, with the reasons.
    unresolved: Mutex<BTreeMap<usize, String>>,
    /// Proves endpoints before they are used; `None`: they are used without a proof.
    prover: Option<Arc<Prover>>,
    publishes: watch::Sender<bool>,
}

impl Chat {
    /// Connects to the endpoints of the source, in the background and for ever.
    #[must_use]
    pub fn new(source: Source) -> Arc<Self> {
        let chat = Self::nowhere(None);
        endpoint::follow(source, &chat);
        chat
    }

    /// Does the same as [`Chat::new`], but uses an endpoint only while it is known to write where `feed` listens.
    #[must_use]
    pub fn proven(source: Source, feed: Arc<dyn ProbeFeed>, own: OwnSettings) -> Arc<Self> {
        let chat = Self::nowhere(Some(Arc::new(Prover { feed, own })));
        endpoint::follow(source, &chat);
        chat
    }

    /// A client without any endpoint yet.
    fn nowhere(prover: Option<Arc<Prover>>) -> Arc<Self> {
        Arc::new(Self {
            prover,
            publishes: watch::Sender::new(false),
            endpoints: RwLock::default(),
            turn: AtomicUsize::new(0),
            available: watch::Sender::new(false),
            away_since: Mutex::new(Instant::now()),
            unresolved: Mutex::default(),
        })
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
                let notes = endpoint.proof.notes(&prover.own).into_iter();
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
        self.call(deadline, |endpoint| {
            let (mut client, request) = (endpoint.sessions(), request.clone());
            async move { Ok(client.join(request).await?.into_inner()) }
        })
        .await
    }

    /// See `SessionService.Leave`.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn leave(&self, request: LeaveRequest, deadline: Instant) -> Result<(), CallError> {
        let answered = self.call(deadline, |endpoint| {
            let (mut client, request) = (endpoint.sessions(), request.clone());
            async move { client.leave(request).await }
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
        let answered = self.call(deadline, |endpoint| {
            let (mut client, request) = (endpoint.client(), request.clone());
            async move { Ok(client.list_members(request).await?.into_inner()) }
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
        let answered = self.call(deadline, |endpoint| {
            let (mut client, request) = (endpoint.client(), request.clone());
            async move { Ok(client.history(request).await?.into_inner()) }
        });
        answered.await.map(|answered| answered.answer)
    }

    /// Publishes. The sends of one window keep their order. The outcome comes by the deadline or within a tenth of a
    /// second after it, whatever happens.
    pub fn send(
        &self,
        flow: &Arc<Flow>,
        request: SessionMessage,
        deadline: Instant,
        answer: impl FnOnce(Outcome) + Send + 'static,
    ) {
        let pending = Pending::new(request, Arc::clone(flow), deadline, Box::new(answer));
        let lane = flow.enter(pending.bytes, || {
            let home = self.home(pending.channel())?;
            let prover = self.prover.as_ref();
            let shard = prover.map_or_else(Shard::default, |it| it.feed.shard(pending.channel()));
            Some(home.lane_of(shard))
        });
        match lane {
            Some(lane) => lane.push(pending),
            None => pending.settle(Outcome::Unsent),
        }
    }

    async fn call<T, F>(
        &self,
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
            let Some(endpoint) = endpoint.filter(|endpoint| endpoint.lane.is_open()) else {
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
            match timeout_at(until, ask(&endpoint)).await {
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
            .max_by_key(|endpoint| (endpoint.lane.is_open(), endpoint.weight(channel)));
        best.cloned()
    }

    /// The next endpoint that is up, another one than `last` if possible.
    fn next_but(&self, last: Option<&Arc<Endpoint>>) -> Option<Arc<Endpoint>> {
        let endpoints = self.endpoints.read();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let in_turn = (0..endpoints.len()).map(|i| &endpoints[(turn + i) % endpoints.len()]);
        let best = in_turn.max_by_key(|endpoint| {
            let other = last.is_none_or(|last| !Arc::ptr_eq(last, endpoint));
            (endpoint.lane.is_open(), other)
        });
        best.cloned()
    }

    /// Another endpoint that is up.
    fn other_open(&self, home: &Arc<Endpoint>) -> Option<Arc<Endpoint>> {
        let other = self.next_but(Some(home))?;
        (other.lane.is_open() && !Arc::ptr_eq(&other, home)).then_some(other)
    }

    fn note_availability(&self) {
        let up = self
            .endpoints
            .read()
            .iter()
            .any(|endpoint| endpoint.lane.is_open());
        self.available.send_if_modified(|available| {
            let was_up = std::mem::replace(available, up);
            if was_up && !up {
                *self.away_since.lock() = Instant::now();
            }
            was_up != up
        });
        let publishes = {
            let endpoints = self.endpoints.read();
            let mut open = endpoints.iter().filter(|it| it.lane.is_open());
            open.any(|endpoint| endpoint.proof.works())
        };
        self.publishes
            .send_if_modified(|known| std::mem::replace(known, publishes) != publishes);
    }
}

/// True if nothing was done, and repeating the call elsewhere can't help.
fn is_final(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::InvalidArgument
            | Code::FailedPrecondition
            | Code::AlreadyExists
            | Code::Unimplemented
    ) || is_full(status)
}

/// True if the store refused to write because it is out of memory.
fn is_full(status: &Status) -> bool {
    status.code() == Code::ResourceExhausted && reason(status) == "STORE_FULL"
}

/// The error for a final refusal of the first attempt.
fn refusal(status: &Status) -> CallError {
    let info = status.get_details_error_info();
    let late = info.filter(|info| info.reason == "LATE");
    let now = late.and_then(|info| info.metadata.get("now")?.parse().ok());
    match now {
        Some(now) => CallError::Late { now },
        None => CallError::Refused {
            reason: reason(status),
        },
    }
}

/// The reason of a refusal inside a stream.
fn reason_of(status: &pb::Status) -> String {
    let info = status.get_details_error_info();
    info.map_or_else(
        || format!("{:?}", Code::from(status.code)),
        |info| info.reason,
    )
}

fn reason(status: &Status) -> String {
    status
        .get_details_error_info()
        .map_or_else(|| format!("{:?}", status.code()), |info| info.reason)
}
