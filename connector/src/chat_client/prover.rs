//! Decides which chats are used: those whose publications this connector hears, and finds in its own log.
//!
//! Each endpoint is asked again and again to publish a probe ([`channel_store::probe`]). Until a chat is seen to write
//! where this connector listens, nothing is sent to it. Otherwise it would answer ok, and nobody here would get the
//! message. If a chat's store does not answer, or slowly, nothing changes. A chat whose store refuses to publish is
//! used if no other one is better, because its refusals tell the reason. But this connector is not ready then.

use super::call::{CALL, TRY, trouble};
use super::chat::Chat;
use super::endpoint::Endpoint;
use super::proof::{OtherRules, Prover, length};
use crate::metering::{PROBE, attempt, probe_came_back};
use channel_rules::RulesHash;
use channel_store::probe::{Finding, Findings, PROBE_AGAIN, PROBE_PAUSE, ProbeFound, ProbePoint};
use channel_store::{Epoch, Position};
use futures_util::future::join_all;
use proto::connector::v1::probe_result::Outcome;
use proto::connector::v1::{ProbeRequest, ProbeResult, Settings};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use tonic::Code;

/// The first pause before a chat that told nothing is asked again. It doubles up to [`PROBE_AGAIN`].
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Up to this many chats, each is asked once in a [`PROBE_PAUSE`]. With more of them each is asked less often.
const AT_ONCE: usize = 4;
/// A chat is wrong after this many findings in a row. A single one may have met a flush or a failover.
const WRONG_AFTER: u32 = 2;
/// After this many refusals in a row, a chat gives way to one whose store takes publications. By then all chats were
/// asked.
const GIVES_WAY_AFTER: u32 = 4;

/// What one probe has shown of an endpoint.
enum Verdict {
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
    let mut other_rules: Option<OtherRules> = None;
    while !endpoint.line.is_retired() {
        let verdict = prover.ask(&endpoint, &mut findings).await;
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
        match verdict {
            Verdict::Nothing(trouble) => {
                if !endpoint.line.is_trusted() && wrong < WRONG_AFTER {
                    endpoint.note_trouble(Some(trouble));
                }
            }
            Verdict::Wrong(reason) => {
                wrong = wrong.saturating_add(1);
                if wrong >= WRONG_AFTER {
                    if told.replace(reason.clone()).as_ref() != Some(&reason) {
                        tracing::warn!(endpoint = endpoint.name, reason, "this chat is not used");
                    }
                    endpoint.note_trouble(Some(reason));
                    endpoint.distrust();
                }
            }
            Verdict::Same if refused >= GIVES_WAY_AFTER && chat.works_without(&endpoint) => {
                wrong = 0;
                endpoint.note_trouble(reason);
                endpoint.distrust();
            }
            Verdict::Same => {
                wrong = 0;
                if told.take().is_some() {
                    tracing::info!(endpoint = endpoint.name, "this chat is used again");
                }
                endpoint.line.trust();
            }
        }
        tell_other_rules(&endpoint, chat.rules(), &mut other_rules);
        chat.note_availability();
        let chats = chat.endpoints.read().len();
        drop(chat);
        let is_well = wrong == 0 && endpoint.line.is_trusted() && !findings.are_pressing();
        let wait = if is_well {
            pause = FIRST_PAUSE;
            let turns = u32::try_from(chats.div_ceil(AT_ONCE)).unwrap_or(u32::MAX);
            PROBE_PAUSE.saturating_mul(turns.max(1))
        } else {
            let wait = pause;
            pause = PROBE_AGAIN.min(pause * 2);
            if endpoint.line.is_trusted() {
                PROBE_AGAIN
            } else {
                wait
            }
        };
        // Random, so that connectors do not ask at the same moment.
        tokio::select! {
            () = sleep(wait.mul_f64(0.9 + fastrand::f64() / 10.0)) => {}
            () = endpoint.line.doubted() => {}
        }
    }
}

/// Logs each change of whether the rules of channels are the same. They may differ while an operator changes them everywhere, so
/// such a chat is used all the same.
fn tell_other_rules(endpoint: &Endpoint, own: &RulesHash, told: &mut Option<OtherRules>) {
    let now = endpoint.proof.other_rules(own);
    if now == *told {
        return;
    }
    let endpoint = &endpoint.name;
    match &now {
        Some(OtherRules { theirs, own }) => tracing::warn!(
            endpoint,
            theirs,
            own,
            "this chat has other rules of channels than this connector: give both the same [[channel]] tables"
        ),
        None => tracing::info!(endpoint, "this chat has the same rules of channels again"),
    }
    *told = now;
}

impl Prover {
    async fn ask(&self, endpoint: &Endpoint, findings: &mut Findings) -> Verdict {
        let points = self.feed.points();
        let nonce = fastrand::u64(..);
        let request = ProbeRequest {
            sets: points.iter().map(|point| point.set).collect(),
            nonce,
        };
        let begun = Instant::now();
        let mut sessions = endpoint.sessions();
        let asked = timeout(TRY, sessions.probe(request));
        let response = match attempt(PROBE, asked).await {
            Err(_) => return Verdict::Nothing(format!("no answer within {} s", TRY.as_secs())),
            Ok(Err(status)) if status.code() == Code::Unimplemented => {
                let reason =
                    "it is older than this connector, and can't be asked to publish a probe";
                return Verdict::Wrong(reason.to_owned());
            }
            Ok(Err(status)) => return Verdict::Nothing(trouble(&status)),
            Ok(Ok(response)) => response.into_inner(),
        };
        let settings = response.settings.unwrap_or_default();
        *endpoint.proof.settings.lock() = Some(settings.clone());
        let lease = length(settings.lease);
        let own = self.own.lease;
        if own > lease && !lease.is_zero() {
            return Verdict::Wrong(format!(
                "its --lease is {lease:?}, shorter than that of this connector, {own:?}"
            ));
        }
        findings.keep(|name| points.iter().any(|point| point.server == name));
        if points.is_empty() {
            return Verdict::Nothing("this connector can hear no Redis".to_owned());
        }
        let asked = points.iter().zip(&response.results);
        let found = join_all(
            asked
                .clone()
                .map(|(point, probed)| self.find(point, probed, nonce)),
        );
        let mut verdict = Verdict::Nothing("its Redis does not answer".to_owned());
        for ((point, probed), found) in asked.zip(found.await) {
            let is_same = match &found {
                AtServer::Refused(_) => self.difference(point, probed, &settings).is_none(),
                AtServer::Good => true,
                AtServer::Unknown => continue,
                AtServer::Missed { .. } => false,
            };
            let finding = match &found {
                AtServer::Refused(words) if is_same => Finding::Wrong(words.clone()),
                AtServer::Good => {
                    probe_came_back(begun);
                    Finding::Good
                }
                _ => Finding::Unknown,
            };
            findings.note(&point.server, point.slots, finding);
            if !is_same {
                let reason = self.difference(point, probed, &settings);
                return Verdict::Wrong(reason.unwrap_or_else(|| found.words()));
            }
            verdict = Verdict::Same;
        }
        verdict
    }

    /// Looks for what a chat has published.
    async fn find(&self, point: &ProbePoint, probed: &ProbeResult, nonce: u64) -> AtServer {
        let written = match &probed.outcome {
            Some(Outcome::Written(position)) => Position {
                epoch: Epoch::new(&position.epoch),
                offset: position.offset,
            },
            Some(Outcome::Refused(words)) => return AtServer::Refused(words.clone()),
            Some(Outcome::Unanswered(_)) | None => return AtServer::Unknown,
        };
        let found = self.feed.find_probe(point.set, nonce, &written);
        match timeout(CALL, found).await {
            Ok(ProbeFound::Yes) => AtServer::Good,
            Ok(ProbeFound::No { heard }) => AtServer::Missed { heard },
            Ok(ProbeFound::Refused(words)) => {
                AtServer::Refused(format!("this connector may not read its log ({words})"))
            }
            Ok(ProbeFound::Unknown) | Err(_) => AtServer::Unknown,
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
enum AtServer {
    Good,
    Missed { heard: bool },
    Refused(String),
    Unknown,
}

impl AtServer {
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
