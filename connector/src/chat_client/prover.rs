//! Decides which chats are used: those whose publications this connector hears, and finds in its own log.
//!
//! Each endpoint is asked again and again to publish a probe ([`channel_store::probe`]). Until a chat is seen to write
//! where this connector listens, nothing is sent to it. Otherwise it would answer ok, and nobody here would get the
//! message. If a chat's store does not answer, or slowly, nothing changes. A chat whose store refuses to publish is
//! used if no other one is better, because its refusals tell the reason. But this connector is not ready then.

use super::Chat;
use super::endpoint::{Endpoint, words};
use super::{CALL, TRY};
use channel_store::probe::{
    Finding, Findings, Met, PROBE_AGAIN, PROBE_PAUSE, ProbeFeed, ProbePoint, several,
};
use channel_store::{Epoch, Position};
use futures_util::future::join_all;
use parking_lot::Mutex;
use proto::connector::v1::probe_result::Outcome;
use proto::connector::v1::{ProbeRequest, ProbeResult, Settings};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::time::{sleep, timeout};
use tonic::Code;

/// The first pause before a chat that told nothing is asked again. It doubles up to [`PROBE_AGAIN`].
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Up to this many chats, each is asked once in a [`PROBE_PAUSE`]. With more of them each is asked less often.
const AT_ONCE: usize = 4;
/// A chat is wrong after this many findings in a row. A single one may have met a flush or a failover.
const JUDGED: u32 = 2;
/// After this many refusals in a row, a chat gives way to one whose store takes publications. By then all chats were
/// asked.
const GIVES_WAY: u32 = 4;

/// Settings of this connector that must go together with those of the chats.
#[derive(Debug, Clone)]
pub struct OwnSettings {
    /// `--lease`.
    pub lease: Duration,
    /// `--touch`.
    pub touch: Duration,
    /// `--message-limit`.
    pub message_limit: u64,
    /// `--ready-slots`.
    pub ready_slots: f64,
}

/// Proves endpoints.
pub(super) struct Prover {
    pub(super) feed: Arc<dyn ProbeFeed>,
    pub(super) own: OwnSettings,
}

/// What is known about the store of one endpoint.
#[derive(Default)]
pub(super) struct Proof {
    /// The store takes publications, for enough of its slots.
    works: AtomicBool,
    /// Why the store refuses publications, in words.
    refused: Mutex<Option<String>>,
    settings: Mutex<Option<Settings>>,
}

impl Proof {
    pub(super) fn works(&self) -> bool {
        self.works.load(Ordering::Relaxed)
    }

    pub(super) fn refused(&self) -> Option<String> {
        self.refused.lock().clone()
    }

    /// The number of replicas that the chat waits for, if it has told.
    pub(super) fn ack_replicas(&self) -> Option<u32> {
        self.settings.lock().as_ref().map(|it| it.ack_replicas)
    }

    /// Which of its settings do not go together with those of this connector, although it can be used.
    pub(super) fn notes(&self, own: &OwnSettings) -> Vec<String> {
        let settings = self.settings.lock();
        let Some(settings) = settings.as_ref() else {
            return Vec::new();
        };
        let mut notes = Vec::new();
        let life = length(settings.log_life);
        let touch = own.touch;
        if !life.is_zero() && touch.saturating_mul(3) > life {
            notes.push(format!(
                "its logs live for {life:?}, and --touch {touch:?} is more than a third of that"
            ));
        }
        if settings.message_limit > 0 && own.message_limit > settings.message_limit {
            notes.push(format!(
                "its --message-limit is {}, that of this connector {}",
                settings.message_limit, own.message_limit
            ));
        }
        notes
    }
}

/// A length of time that a chat tells. Zero if it tells none.
fn length(told: Option<prost_types::Duration>) -> Duration {
    told.and_then(|it| it.try_into().ok()).unwrap_or_default()
}

/// What one probe has shown of an endpoint.
enum Round {
    /// It has shown nothing, for this reason.
    Nothing(String),
    /// The chat writes elsewhere, or can't be used for another reason.
    Wrong(String),
    /// The chat writes where this connector listens, or would do so if its store let it.
    Same,
}

/// Proves an endpoint again and again, until it is retired.
pub(super) async fn keep_proving(endpoint: Arc<Endpoint>, prover: Arc<Prover>, chat: Weak<Chat>) {
    let mut findings = Findings::default();
    let (mut wrong, mut refused, mut pause) = (0_u32, 0_u32, FIRST_PAUSE);
    let mut told: Option<String> = None;
    while !endpoint.lane.is_retired() {
        let round = prover.ask(&endpoint, &mut findings).await;
        let Some(chat) = chat.upgrade() else { return };
        let works = findings.work_for(prover.own.ready_slots);
        let reason = findings.reason();
        endpoint.proof.works.store(works, Ordering::Relaxed);
        *endpoint.proof.refused.lock() = reason.clone();
        refused = if works || reason.is_none() {
            0
        } else {
            refused.saturating_add(1)
        };
        match round {
            Round::Nothing(trouble) => {
                if !endpoint.lane.is_trusted() && wrong < JUDGED {
                    endpoint.note_trouble(Some(trouble));
                }
            }
            Round::Wrong(reason) => {
                wrong = wrong.saturating_add(1);
                if wrong >= JUDGED {
                    if told.replace(reason.clone()).as_ref() != Some(&reason) {
                        tracing::warn!(endpoint = endpoint.name, reason, "this chat is not used");
                    }
                    endpoint.note_trouble(Some(reason));
                    endpoint.distrust();
                }
            }
            Round::Same if refused >= GIVES_WAY && chat.works_without(&endpoint) => {
                wrong = 0;
                endpoint.note_trouble(reason);
                endpoint.distrust();
            }
            Round::Same => {
                wrong = 0;
                if told.take().is_some() {
                    tracing::info!(endpoint = endpoint.name, "this chat is used again");
                }
                endpoint.lane.trust();
            }
        }
        chat.note_availability();
        let chats = chat.endpoints.read().len();
        drop(chat);
        let is_well = wrong == 0 && endpoint.lane.is_trusted() && !findings.are_pressing();
        let wait = if is_well {
            pause = FIRST_PAUSE;
            let turns = u32::try_from(chats.div_ceil(AT_ONCE)).unwrap_or(u32::MAX);
            PROBE_PAUSE.saturating_mul(turns.max(1))
        } else {
            let wait = pause;
            pause = PROBE_AGAIN.min(pause * 2);
            if endpoint.lane.is_trusted() {
                PROBE_AGAIN
            } else {
                wait
            }
        };
        // Random, so that connectors do not ask at the same moment.
        tokio::select! {
            () = sleep(wait.mul_f64(0.9 + fastrand::f64() / 10.0)) => {}
            () = endpoint.lane.doubted() => {}
        }
    }
}

impl Prover {
    async fn ask(&self, endpoint: &Endpoint, findings: &mut Findings) -> Round {
        let points = self.feed.points();
        let nonce = fastrand::u64(..);
        let request = ProbeRequest {
            sets: points.iter().map(|point| point.set).collect(),
            nonce,
        };
        let answer = timeout(TRY, endpoint.sessions().probe(request)).await;
        let response = match answer {
            Err(_) => return Round::Nothing(format!("no answer within {} s", TRY.as_secs())),
            Ok(Err(status)) if status.code() == Code::Unimplemented => {
                let reason =
                    "it is older than this connector, and can't be asked to publish a probe";
                return Round::Wrong(reason.to_owned());
            }
            Ok(Err(status)) => return Round::Nothing(words(&status)),
            Ok(Ok(response)) => response.into_inner(),
        };
        let settings = response.settings.unwrap_or_default();
        *endpoint.proof.settings.lock() = Some(settings.clone());
        let lease = length(settings.lease);
        let own = self.own.lease;
        if own > lease && !lease.is_zero() {
            return Round::Wrong(format!(
                "its --lease is {lease:?}, shorter than that of this connector, {own:?}"
            ));
        }
        findings.keep(|name| points.iter().any(|point| point.server == name));
        if points.is_empty() {
            return Round::Nothing("this connector can hear no Redis".to_owned());
        }
        let asked = points.iter().zip(&response.results);
        let met = join_all(
            asked
                .clone()
                .map(|(point, probed)| self.meet(point, probed, nonce)),
        );
        let mut round = Round::Nothing("its Redis does not answer".to_owned());
        for ((point, probed), met) in asked.zip(met.await) {
            let is_same = match &met {
                Found::Refused(_) => self.difference(point, probed, &settings).is_none(),
                Found::Good => true,
                Found::Unknown => continue,
                Found::Missed { .. } => false,
            };
            let finding = match &met {
                Found::Refused(words) if is_same => Finding::Wrong(words.clone()),
                Found::Good => Finding::Good,
                _ => Finding::Unknown,
            };
            findings.note(&point.server, point.slots, finding);
            if !is_same {
                let reason = self.difference(point, probed, &settings);
                return Round::Wrong(reason.unwrap_or_else(|| met.words()));
            }
            round = Round::Same;
        }
        round
    }

    /// Looks for what a chat has published.
    async fn meet(&self, point: &ProbePoint, probed: &ProbeResult, nonce: u64) -> Found {
        let written = match &probed.outcome {
            Some(Outcome::Written(position)) => Position {
                epoch: Epoch::new(&position.epoch),
                offset: position.offset,
            },
            Some(Outcome::Refused(words)) => return Found::Refused(words.clone()),
            Some(Outcome::Unanswered(_)) | None => return Found::Unknown,
        };
        let met = self.feed.meets(point.set, nonce, &written);
        match timeout(CALL, met).await {
            Ok(Met::Yes) => Found::Good,
            Ok(Met::No { heard }) => Found::Missed { heard },
            Ok(Met::Refused(words)) => {
                Found::Refused(format!("this connector may not read its log ({words})"))
            }
            Ok(Met::Unknown) | Err(_) => Found::Unknown,
        }
    }

    /// How the place where a chat writes differs from the one where this connector listens, if their names show it.
    fn difference(
        &self,
        point: &ProbePoint,
        probed: &ProbeResult,
        settings: &Settings,
    ) -> Option<String> {
        let mut differences = Vec::new();
        if *probed.lifetime != *point.lifetime {
            differences.push(format!(
                "another Redis ({}; this connector: {})",
                probed.server, point.server
            ));
        }
        if settings.database != self.feed.database() {
            differences.push(format!(
                "database {} (this connector: {})",
                settings.database,
                self.feed.database()
            ));
        }
        if settings.prefix != self.feed.prefix() {
            differences.push(format!(
                "the prefix {:?} (this connector: {:?})",
                settings.prefix,
                self.feed.prefix()
            ));
        }
        (!differences.is_empty()).then(|| format!("it uses {}", differences.join(" and ")))
    }
}

/// What has become of a probe at one server.
enum Found {
    Good,
    Missed { heard: bool },
    Refused(String),
    Unknown,
}

impl Found {
    fn words(&self) -> String {
        match self {
            Self::Missed { heard: true } => {
                "what it publishes is heard here, and does not stand in the log".to_owned()
            }
            Self::Missed { heard: false } => "what it publishes is not heard here".to_owned(),
            Self::Refused(words) => words.clone(),
            Self::Good | Self::Unknown => String::new(),
        }
    }
}

impl Chat {
    /// True if another endpoint is up whose store takes publications.
    fn works_without(&self, endpoint: &Arc<Endpoint>) -> bool {
        let endpoints = self.endpoints.read();
        let others = endpoints.iter().filter(|it| !Arc::ptr_eq(it, endpoint));
        others
            .into_iter()
            .any(|other| other.lane.is_open() && other.proof.works())
    }

    /// Why chats can't publish, in words: each chat whose store refuses, with the reason. `None`: no store refuses.
    #[must_use]
    pub fn refusals(&self) -> Option<String> {
        let endpoints = self.endpoints.read().clone();
        let refusals = endpoints.iter().filter_map(|endpoint| {
            let words = endpoint.proof.refused()?;
            Some(format!("{}: {words}", endpoint.name))
        });
        several(refusals)
    }
}
