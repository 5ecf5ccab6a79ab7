//! Whether the servers take publications: chat's side of probes.

use super::append::{Bounds, call_appending, now_milliseconds};
use super::keys::{ChannelKeys, Keys};
use super::net::{Address, Connection, Nodes, Pinned, number, wants_another_connection};
use super::publish::{Replicas, published};
use super::scripts::{SCRIPTS, texts};
use crate::options::StoreOptions;
use crate::probe::{
    Finding, Findings, PROBE_AGAIN, PROBE_PAUSE, Probe, ProbeOutcome, Probed, payload,
};
use futures_util::future::join_all;
use parking_lot::Mutex;
use redis::{Cmd, Pipeline, ServerError, Value};
use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::sleep;

/// How long the keys of a probe live, in seconds, as the script takes it.
const LIFE: &str = "60";
/// What a probe's log keeps, as the script takes it: one entry of any age, and few bytes.
const KEPT: &str = "1 0 65536 60";

/// Publishes probes as a store publishes messages: over the same connections, and waiting for as many replicas.
pub(super) struct Prober {
    nodes: Arc<Nodes>,
    keys: Keys,
    bounds: Bounds,
    replicas: Replicas,
    ready_slots: f64,
    turn: AtomicUsize,
}

impl Prober {
    pub(super) fn new(nodes: Arc<Nodes>, replicas: Replicas, options: &StoreOptions) -> Self {
        Self {
            nodes,
            keys: Keys::new(&options.prefix),
            bounds: Bounds {
                kept: KEPT.to_owned(),
                log_seconds: LIFE.to_owned(),
                channel_seconds: LIFE.to_owned(),
                announces_members: false,
            },
            replicas,
            ready_slots: options.ready_slots,
            turn: AtomicUsize::new(0),
        }
    }

    /// See [`ChannelStore::probe`](crate::ChannelStore::probe).
    pub(super) async fn probe(&self, probe: &Probe) -> Vec<Probed> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        match self.nodes.pinned(turn) {
            Ok(pinned) => {
                let asked = probe.sets.iter();
                join_all(asked.map(|set| self.probe_set(&pinned, *set, probe.nonce))).await
            }
            Err(error) => {
                let unanswered = || Probed {
                    outcome: ProbeOutcome::Unanswered(error.to_string()),
                    server: String::new(),
                    lifetime: "".into(),
                };
                probe.sets.iter().map(|_| unanswered()).collect()
            }
        }
    }

    async fn probe_set(&self, pinned: &Pinned, set: u64, nonce: u64) -> Probed {
        let keys = self.keys.of_probe(set);
        match pinned.owner(|| keys.topic().to_string()) {
            Ok((server, connection)) => Probed {
                outcome: self.publish(connection, &keys, nonce).await,
                server: server.to_string(),
                lifetime: connection.lifetime.clone(),
            },
            Err(error) => Probed {
                outcome: ProbeOutcome::Unanswered(error.to_string()),
                server: String::new(),
                lifetime: "".into(),
            },
        }
    }

    async fn publish(
        &self,
        connection: &Connection,
        keys: &ChannelKeys,
        nonce: u64,
    ) -> ProbeOutcome {
        let mut pipeline = Pipeline::with_capacity(3);
        pipeline.add_command(self.command(keys, nonce));
        // The script trims whole nodes of the stream only.
        pipeline.cmd("XTRIM").arg(keys.log()).arg("MAXLEN").arg(1);
        self.replicas.wait(&mut pipeline);
        let replies = match connection.request_unchecked(&pipeline).await {
            Ok(replies) => replies,
            Err(error) => return ProbeOutcome::Unanswered(error.to_string()),
        };
        let refused = replies.iter().find_map(|reply| match reply {
            Value::ServerError(error) => Some(error),
            _ => None,
        });
        if let Some(error) = refused {
            // This closes a connection that can't be used any more, or has the slots read again.
            let _ = connection.check(&replies);
            return refusal(error, self.nodes.publish_command());
        }
        let reached = replies.last().and_then(number).unwrap_or_default();
        let replicas = self.replicas.count;
        if replicas > 0 && reached < u64::from(replicas) {
            return ProbeOutcome::Refused(format!(
                "{reached} of {replicas} replicas have what is published: --ack replica cannot answer"
            ));
        }
        let first = replies.first().map(|reply| published(reply, 1, 0));
        match first {
            Some(Ok(mut outcomes)) => match outcomes.pop() {
                Some(Ok(published)) => ProbeOutcome::Written(published.position),
                Some(Err(error)) => ProbeOutcome::Refused(error.to_string()),
                None => ProbeOutcome::Unanswered("no answer".to_owned()),
            },
            Some(Err(error)) => ProbeOutcome::Refused(error.to_string()),
            None => ProbeOutcome::Unanswered("no answer".to_owned()),
        }
    }

    /// Calls the same script that publishes messages. The probe has no sender.
    fn command(&self, keys: &ChannelKeys, nonce: u64) -> Cmd {
        let mut command = Cmd::new();
        call_appending(
            &mut command,
            &SCRIPTS.publish,
            &keys.all(),
            &self.bounds,
            self.nodes.publish_command(),
            now_milliseconds(),
        );
        command.arg(LIFE).arg(payload(nonce)).arg("").arg("");
        command
    }

    /// Probes for ever, and publishes what the probes show.
    async fn watch(
        &self,
        works: &watch::Sender<bool>,
        reason: &Mutex<Option<String>>,
    ) -> Infallible {
        let mut sets: HashMap<Address, u64> = HashMap::new();
        let mut findings = Findings::default();
        loop {
            let servers = self.nodes.servers();
            sets.retain(|server, _| servers.contains_key(server));
            findings.keep(|name| servers.keys().any(|server| server.to_string() == name));
            let mut asked = Vec::new();
            for (server, slots) in &servers {
                let is_its = |set: u64| {
                    let topic = self.keys.of_probe(set).topic().to_string();
                    self.nodes.owns(server, &topic)
                };
                let known = sets.get(server).copied().filter(|set| is_its(*set));
                // There are 16,384 slots, so a random number soon gives one of the server's.
                let set = known.or_else(|| {
                    (0..1_000_000)
                        .map(|_| fastrand::u64(..))
                        .find(|set| is_its(*set))
                });
                if let Some(set) = set {
                    sets.insert(server.clone(), set);
                    asked.push((server, *slots, set));
                }
            }
            let probe = Probe {
                sets: asked.iter().map(|(.., set)| *set).collect(),
                nonce: fastrand::u64(..),
            };
            let probed = self.probe(&probe).await;
            for ((server, slots, _), probed) in asked.into_iter().zip(probed) {
                let finding = match probed.outcome {
                    ProbeOutcome::Written(_) => Finding::Good,
                    ProbeOutcome::Refused(words) => Finding::Wrong(words),
                    ProbeOutcome::Unanswered(_) => Finding::Unknown,
                };
                findings.note(&server.to_string(), slots, finding);
            }
            *reason.lock() = findings.reason();
            let now = findings.work_for(self.ready_slots);
            works.send_if_modified(|known| std::mem::replace(known, now) != now);
            let pause = if findings.are_pressing() {
                PROBE_AGAIN
            } else {
                PROBE_PAUSE
            };
            sleep(pause).await;
        }
    }
}

/// What it means that a server refuses a probe.
fn refusal(error: &ServerError, publish_command: &str) -> ProbeOutcome {
    if let Some(command) = denied(&error.to_string(), publish_command) {
        return ProbeOutcome::Refused(format!("{command} is denied ({error})"));
    }
    match error.code() {
        "OOM" => ProbeOutcome::Refused(format!("its memory is full ({error})")),
        // The server is slow, or its connection is about to be replaced.
        "BUSY" => ProbeOutcome::Unanswered(error.to_string()),
        code if !is_of_slots(code) && wants_another_connection(error) => {
            ProbeOutcome::Unanswered(error.to_string())
        }
        _ => ProbeOutcome::Refused(error.to_string()),
    }
}

/// The command in the script that the Redis user may not run. Redis 7.0 tells only the number of its line.
fn denied(words: &str, publish_command: &str) -> Option<String> {
    if !words.contains("can't run this command") {
        return None;
    }
    let (_, place) = words.rsplit_once("@user_script:")?;
    let digits = place.trim_end_matches(|it: char| !it.is_ascii_digit());
    let line = texts::publish
        .lines()
        .nth(digits.parse::<usize>().ok()?.checked_sub(1)?)?;
    let (_, call) = line.rsplit_once("call(")?;
    let command = match call.strip_prefix('\'') {
        Some(rest) => rest.split_once('\'')?.0,
        None => publish_command,
    };
    Some(command.to_lowercase())
}

/// True if a refusal is about slots. A slot that is being moved is served again soon. One without an owner may stay so for
/// long.
fn is_of_slots(code: &str) -> bool {
    matches!(code, "MOVED" | "ASK" | "TRYAGAIN" | "CLUSTERDOWN")
}

/// Tries again and again whether a store accepts publications, until it is dropped.
pub struct WriteWatch {
    works: watch::Receiver<bool>,
    reason: Arc<Mutex<Option<String>>>,
    task: AbortHandle,
}

impl WriteWatch {
    /// Begins to probe.
    pub(super) fn begin(prober: Arc<Prober>) -> Self {
        let (works, watch_works) = watch::channel(false);
        let reason = Arc::<Mutex<Option<String>>>::default();
        let told = reason.clone();
        let task = tokio::spawn(async move { prober.watch(&works, &told).await });
        Self {
            works: watch_works,
            reason,
            task: task.abort_handle(),
        }
    }

    /// True while the servers of enough slots accept publications
    /// ([`StoreOptions::ready_slots`](crate::StoreOptions::ready_slots)). If a server does not answer, its last result
    /// stays: [`ChannelStore::available`](crate::ChannelStore::available) tells that.
    #[must_use]
    pub fn works(&self) -> watch::Receiver<bool> {
        self.works.clone()
    }

    /// A function that says what is wrong, in the servers' own words, also where enough other servers work. It answers `None`
    /// if no fault is known.
    pub fn reason(&self) -> impl Fn() -> Option<String> + Send + Sync + use<> {
        let reason = self.reason.clone();
        move || reason.lock().clone()
    }
}

impl Drop for WriteWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_is_denied_in_the_script_is_found_by_its_line() {
        assert_eq!(
            redis::Script::new(texts::publish).get_hash(),
            SCRIPTS.publish.get_hash()
        );
        let line = |text: &str| {
            texts::publish
                .lines()
                .position(|it| it.contains(text))
                .unwrap()
                + 1
        };
        let words = |line: usize| {
            format!(
                "The user executing the script can't run this command or subcommand script: 6f, on @user_script:{line}."
            )
        };
        let denied = |text: &str| denied(&words(line(text)), "PUBLISH");
        assert_eq!(denied("call('XADD'").as_deref(), Some("xadd"));
        assert_eq!(
            denied("return call(ARGV[4], KEYS[5]").as_deref(),
            Some("publish")
        );
        assert_eq!(super::denied("OOM", "PUBLISH"), None);
        assert_eq!(super::denied(&words(9_999), "PUBLISH"), None);
    }
}
