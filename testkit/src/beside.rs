//! Quiet clients beside an attack: what others notice of it, measured so that the comparison is fair.
//!
//! An attacker on loopback takes processor time from the services by being there at all, and the machine has few cores. So
//! each round of the attack is followed by a **control**: harmless clients, which do nothing but chat in rooms of their
//! own, from a thread like the attacker's. They are steered along the curve of processor time that the attack's round
//! drew (its thread and all services together, every 10 ms), so that they take as much, as fast. What the attack does to
//! others beyond taking processor time shows as the difference between the two.
//!
//! Compared is the 99th percentile of the quiet clients' latency: from the moment when a message was *due* (a client that
//! is held up is late for all that follows) to its arrival in the room, over four clients that send every 20 ms each. A
//! fifth looks at a room's history now and then; it must be answered, and half of its looks are compared, too. Each round
//! has its own percentiles, and the medians of the rounds are compared, so that a moment in which the machine did
//! something else spoils one round and not the result. Three pairs of rounds decide; if the messages say no, and not by
//! far, four more are asked for, as all seven can't be unlucky.
//!
//! Meanwhile bystanders over each protocol just stay, newcomers log in, a back end calls, and `/livez` and `/readyz` are
//! asked; memory is watched. Everything that is wrong is collected, so that a failed test shows all of it.

pub mod bystanders;
pub mod load;
pub mod probes;
pub mod quiet;
pub mod usage;

use crate::process::Memory;
use crate::redis::Redis;
use crate::system::{Plan, Services};
use crate::turn::Turn;
use crate::{ANSWERED, SOON, wait};
use bystanders::Bystanders;
use load::{Attack, Tally, Target};
use probes::{Asked, Ports, Probes};
use quiet::{Met, Quiet};
use std::fmt::Write;
use std::time::Duration;
use tokio::time::Instant;
use usage::{Curve, Meter};

/// How long a round is.
const ROUND: Duration = Duration::from_millis(1_500);
/// Pairs of rounds that decide, and with those that are asked for when the first say no.
const PAIRS: [usize; 2] = [3, 7];
/// So many times the latency of the control: no.
const TWICE: f64 = 2.0;
/// The same for half of the looks at a room's history, of which a round has few: a queue of all who read would be ten times
/// as long.
const LOOKS: f64 = 4.0;
/// Beyond this more rounds would not help.
const BY_FAR: f64 = 8.0;
/// What a scheduler with two cores gives or takes: a latency below that counts as that.
const RESOLUTION: Duration = Duration::from_millis(4);
/// When the attackers are gone, services come to rest within this.
const REST: Duration = Duration::from_secs(5);
/// At rest services take less than this share of a processor.
const RESTING: f64 = 0.25;
/// How much more memory than before is given back late or never: allocators keep some.
pub const GIVEN_BACK: u64 = 64 * MEBIBYTE;
/// 1 MiB.
pub const MEBIBYTE: u64 = 1 << 20;
/// More lines of warning from one service than this are a flood.
const WARNINGS: usize = 100;

/// What an attack may do to others.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// By how much the memory of connector and chat may grow at its peak, each, bytes.
    pub peak: u64,
    /// Redis gives its memory back, too.
    pub redis_returns: bool,
    /// The store is full during the attack: what it refuses is refused in words and in time.
    pub full: bool,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            peak: 128 * MEBIBYTE,
            redis_returns: true,
            full: false,
        }
    }
}

/// Before and after what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// The attack is about to begin.
    Before,
    /// It has ended.
    After,
}

/// One round of either load.
#[derive(Debug, Clone)]
struct Round {
    met: Met,
    curve: Curve,
}

/// A connector, a chat and a Redis with everybody who is there beside the attack.
pub struct Scene {
    /// The connector and the chat.
    pub services: Services,
    /// Their Redis.
    pub redis: Redis,
    /// What the attacks count.
    pub tally: Tally,
    bounds: Bounds,
    quiet: Quiet,
    bystanders: Bystanders,
    probes: Probes,
    meter: Meter,
    before: [Memory; 3],
    rounds: usize,
    attacks: Vec<(Instant, Instant)>,
    report: String,
    findings: Vec<String>,
    _turn: Turn,
}

impl Scene {
    /// Starts everything, with one connector and one chat, and Redis without a file: no disk is measured.
    ///
    /// # Panics
    /// When something doesn't come up.
    pub async fn set(plan: Plan, bounds: Bounds) -> Self {
        raise_descriptors();
        let plan = plan.alone();
        let turn = plan.turn().await;
        let redis = Redis::forgetful().await;
        let services = plan.services(&redis.url(), &redis.url()).await;
        let (connector, chat) = (&services.connectors[0], &services.chats[0]);
        let bystanders = Bystanders::gather(connector.address()).await;
        let quiet = Quiet::start(connector.address()).await;
        let ports = Ports {
            connector: connector.address(),
            connector_admin: connector.admin(),
            chat: chat.address(),
            chat_admin: chat.admin(),
        };
        let probes = Probes::start(ports);
        let meter = Meter::of(&[connector.id(), chat.id(), redis.id()]);
        let mut scene = Self {
            services,
            redis,
            tally: Tally::default(),
            bounds,
            quiet,
            bystanders,
            probes,
            meter,
            before: [Memory::default(); 3],
            rounds: 0,
            attacks: Vec::new(),
            report: String::new(),
            findings: Vec::new(),
            _turn: turn,
        };
        // Once without a comparison: allocators, connections and caches are then as they are in use.
        let mut warm = Curve::default();
        warm.add(ROUND, ROUND / 2);
        scene.control(warm).await;
        scene.rest().await;
        scene.before = scene.memory();
        scene
    }

    /// Rounds of the attack and of the control in turns, and the comparison.
    pub async fn compare(&mut self, attack: impl Attack) {
        self.compare_with(attack, async |_, _| {}).await;
    }

    /// As [`compare`](Self::compare), with something to do before and after each round of the attack.
    pub async fn compare_with(
        &mut self,
        attack: impl Attack,
        mut beside: impl AsyncFnMut(&mut Self, Moment),
    ) {
        let mut pairs: Vec<(Round, Round)> = Vec::new();
        for least in PAIRS {
            while pairs.len() < least {
                beside(self, Moment::Before).await;
                let attacked = self.attacked(attack.clone()).await;
                beside(self, Moment::After).await;
                self.rest().await;
                let harmless = self.control(attacked.curve.clone()).await;
                self.rest().await;
                self.note_pair(&attacked, &harmless);
                pairs.push((attacked, harmless));
            }
            let ratio = self.ratio(&pairs);
            if ratio <= TWICE || ratio > BY_FAR {
                break;
            }
        }
        let ratio = self.ratio(&pairs);
        let _ = writeln!(self.report, "{ratio:.2} times the latency of the control");
        if ratio > TWICE {
            let finding = format!(
                "quiet clients waited {ratio:.2} times as long as beside harmless requests"
            );
            self.findings.push(finding);
        }
        let ratio = looks_ratio(&pairs);
        if ratio > LOOKS {
            self.find(format!(
                "quiet clients waited {ratio:.2} times as long for a room's history as beside harmless requests"
            ));
        }
        let refused: usize = pairs.iter().map(|(attacked, _)| attacked.met.refused).sum();
        let lost: usize = pairs.iter().map(|(attacked, _)| attacked.met.lost).sum();
        if lost > 0 {
            self.find(format!(
                "{lost} messages or looks of quiet clients were not answered"
            ));
        }
        if refused > 0 && !self.bounds.full {
            self.find(format!(
                "{refused} messages or looks of quiet clients were refused, such as with {:?}",
                self.quiet.refusal()
            ));
        }
        for (_, harmless) in &pairs {
            let Met { refused, lost, .. } = harmless.met;
            if refused + lost > 0 {
                self.find(format!(
                    "after the attack, beside the control, {refused} were refused and {lost} lost"
                ));
            }
        }
    }

    /// Lets the attack go on, with all that it holds, until the condition holds; finds fault when it doesn't in time.
    pub async fn hold(
        &mut self,
        attack: impl Attack,
        what: &str,
        within: Duration,
        condition: impl AsyncFnMut(&Services) -> bool,
    ) {
        let begin = Instant::now();
        let target = self.target();
        let mut condition = condition;
        let held = {
            let services = &self.services;
            let until = wait::within(within, async || condition(services).await.then_some(()));
            tokio::pin!(until);
            // It ends when it is dropped. On a busy machine the wait is longer than `within`, and it must not end before.
            let attacking = load::attack(attack, target, &self.meter, 20 * within);
            tokio::select! {
                held = &mut until => held,
                _ = attacking => until.await,
            }
        };
        let _ = writeln!(
            self.report,
            "{what}: {held:?} after {:.1?}",
            begin.elapsed()
        );
        self.attacks.push((begin, Instant::now()));
        if held.is_none() {
            self.find(format!("not within {within:?} of the attack: {what}"));
        }
    }

    /// Lets the attack go on for some time without a comparison: quiet clients are neither refused nor forgotten.
    pub async fn endure(&mut self, attack: impl Attack, during: Duration) {
        let target = self.target();
        let begin = Instant::now();
        load::attack(attack, target, &self.meter, during).await;
        let end = Instant::now();
        self.attacks.push((begin, end));
        let met = self.quiet.met(begin, end, SOON).await;
        let [half, most] = [50, 99].map(|part| percentile(&met.heard, part));
        let Met { refused, lost, .. } = met;
        let _ = writeln!(
            self.report,
            "endured: 50 % {half:.1?}, 99 % {most:.1?}; refused {refused}, lost {lost}"
        );
        if refused + lost > 0 {
            self.find(format!(
                "of quiet clients' messages and looks {refused} were refused, such as with {:?}, and {lost} lost",
                self.quiet.refusal()
            ));
        }
    }

    /// Adds to what is wrong.
    pub fn find(&mut self, finding: String) {
        self.findings.push(finding);
    }

    /// Adds to what is wrong, unless it is right.
    pub fn check(&mut self, is_right: bool, finding: &str) {
        if !is_right {
            self.find(finding.to_owned());
        }
    }

    /// The attack is over: looks whether all is as before, and tells everything that was found.
    ///
    /// # Panics
    /// When anything is wrong.
    pub async fn finish(mut self) {
        self.rest().await;
        self.probes_are_answered().await;
        self.memory_is_given_back().await;
        self.all_are_there().await;
        let connector = self.services.connectors[0].warnings();
        let chat = self.services.chats[0].warnings();
        for (name, lines) in [("connector", connector), ("chat", chat)] {
            if lines.len() > WARNINGS {
                let last = lines.last().map_or("", |line| line);
                self.find(format!(
                    "{name} wrote {} warnings, such as {last}",
                    lines.len()
                ));
            }
        }
        let _ = writeln!(self.report, "{:?}", self.tally.all());
        let metrics = crate::http::get(self.services.chats[0].admin(), "/metrics").await;
        let metrics = metrics.map_or_else(String::new, |answer| answer.body);
        let refusals = (metrics.lines())
            .filter(|line| line.starts_with("chat_refusals_total") && !line.ends_with(" 0"));
        for line in refusals {
            let _ = writeln!(self.report, "{line}");
        }
        println!("{}", self.report);
        assert!(
            self.findings.is_empty(),
            "\n{}\n- {}\n",
            self.report,
            self.findings.join("\n- ")
        );
    }

    fn target(&mut self) -> Target {
        self.rounds += 1;
        Target {
            connector: self.services.connectors[0].address(),
            chat: self.services.chats[0].address(),
            round: self.rounds,
            tally: self.tally.clone(),
        }
    }

    async fn attacked(&mut self, attack: impl Attack) -> Round {
        let target = self.target();
        let begin = Instant::now();
        let curve = load::attack(attack, target, &self.meter, ROUND).await;
        self.attacks.push((begin, begin + ROUND));
        let met = self.quiet.met(begin, begin + ROUND, SOON).await;
        Round { met, curve }
    }

    async fn control(&mut self, curve: Curve) -> Round {
        let target = self.target();
        let begin = Instant::now();
        let curve = load::harmless(target, &self.meter, curve, ROUND).await;
        let met = self.quiet.met(begin, begin + ROUND, SOON).await;
        Round { met, curve }
    }

    /// Waits until the services have carried out what they were asked for.
    async fn rest(&mut self) {
        const LOOK: Duration = Duration::from_millis(100);
        let meter = self.meter.clone();
        let rests = wait::within(REST, async || {
            let before = meter.used();
            tokio::time::sleep(LOOK).await;
            let used = meter.used().saturating_sub(before);
            (used < LOOK.mul_f64(RESTING)).then_some(())
        });
        if rests.await.is_none() {
            self.find(format!(
                "services were still busy {REST:?} after the load had gone"
            ));
        }
    }

    fn ratio(&self, pairs: &[(Round, Round)]) -> f64 {
        let attacked = pairs.iter().map(|(attacked, _)| self.latency(attacked));
        let harmless = pairs.iter().map(|(_, harmless)| self.latency(harmless));
        let attacked = median(attacked).max(RESOLUTION);
        attacked.as_secs_f64() / median(harmless).max(RESOLUTION).as_secs_f64()
    }

    /// In a full store what is refused arrives nowhere: the answer is what one waits for.
    fn latency(&self, round: &Round) -> Duration {
        let Met {
            answered, heard, ..
        } = &round.met;
        percentile(if self.bounds.full { answered } else { heard }, 99)
    }

    fn note_pair(&mut self, attacked: &Round, harmless: &Round) {
        for (name, round) in [("attack ", attacked), ("control", harmless)] {
            let Met {
                heard,
                looked,
                refused,
                lost,
                ..
            } = &round.met;
            let _ = writeln!(
                self.report,
                "{name}: 50 % {:5.1?}, 99 % {:5.1?} of {}, slowest at {:.1?}; looks 50 % {:5.1?}, most {:5.1?}; refused {refused}, lost {lost}; \
                 {:.2?} of processors",
                percentile(heard, 50),
                self.latency(round),
                heard.len(),
                round.met.slowest_at,
                percentile(looked, 50),
                percentile(looked, 100),
                round.curve.total(),
            );
        }
    }

    fn memory(&self) -> [Memory; 3] {
        [
            self.services.connectors[0].memory(),
            self.services.chats[0].memory(),
            self.redis.memory(),
        ]
    }

    async fn memory_is_given_back(&mut self) {
        let names = ["connector", "chat", "redis"];
        let before = self.before;
        let returning = if self.bounds.redis_returns { 3 } else { 2 };
        let excess = |now: [Memory; 3]| {
            let each = names
                .into_iter()
                .zip(before.into_iter().zip(now))
                .take(returning);
            let too_much = each.filter(|(_, (before, now))| now.now > before.now + GIVEN_BACK);
            too_much.map(|(name, _)| name).collect::<Vec<_>>()
        };
        let given_back = async || excess(self.memory()).is_empty().then_some(());
        let _ = wait::within(SOON, given_back).await;
        let now = self.memory();
        for (name, (before, now)) in names.into_iter().zip(before.into_iter().zip(now)) {
            let [before, after, peak] = [before.now, now.now, now.peak].map(|it| it / MEBIBYTE);
            let _ = writeln!(
                self.report,
                "{name}: {before} MiB before, {peak} at the peak, {after} afterwards"
            );
            if name != "redis" && now.peak > self.before_of(name) + self.bounds.peak {
                let grown = peak - before;
                self.find(format!("{name} grew by {grown} MiB at its peak"));
            }
        }
        for name in excess(now) {
            self.find(format!(
                "{name} did not give its memory back within {SOON:?}"
            ));
        }
    }

    fn before_of(&self, name: &str) -> u64 {
        self.before[usize::from(name == "chat")].now
    }

    async fn all_are_there(&mut self) {
        let mut ended = self.bystanders.ended();
        ended.extend(
            self.quiet
                .ended()
                .map(|how| format!("a quiet client: {how}")),
        );
        for how in ended {
            self.find(format!("disconnected: {how}"));
        }
        let told = self.bystanders.leaves_told();
        self.check(told == 0, "bystanders were told that others left");
        let api = self.services.api(0);
        let listed = api.members(bystanders::ROOM).await;
        if listed.as_ref().ok() != Some(&Bystanders::members()) {
            self.find(format!("the bystanders' room has the members {listed:?}"));
        }
        let call = format!("roll-call-{}", self.rounds);
        let json = serde_json::json!({ "content": call }).to_string();
        let sent = api.send(bystanders::ROOM, "herald", &json, "").await;
        if let Err(status) = sent {
            self.find(format!("a back end can't send afterwards: {status}"));
        }
        let missing = self.bystanders.without(&call, SOON).await;
        for name in missing {
            self.find(format!(
                "after the attack {name} does not hear what is said"
            ));
        }
    }

    async fn probes_are_answered(&mut self) {
        // The last ones of the attack are on their way until one that came after them is answered.
        let end = self.attacks.last().map(|(_, end)| *end);
        let later = async |probes: &Probes| {
            let now = Instant::now();
            let later = probes.within(end.unwrap_or(now), now);
            let is_there = |asked: &Asked| later.iter().any(|probe| probe.asked == *asked);
            Asked::ALL.iter().all(is_there).then_some(())
        };
        let _ = wait::within(3 * ANSWERED, async || later(&self.probes).await).await;
        for asked in Asked::ALL {
            let within = self.attacks.iter();
            let within = within.flat_map(|&(begin, end)| self.probes.within(begin, end));
            let mut took = Vec::new();
            let mut refused = Vec::new();
            for probe in within.filter(|probe| probe.asked == asked) {
                took.push(probe.took);
                refused.extend(probe.outcome.err());
            }
            took.sort();
            let (half, most) = (percentile(&took, 50), percentile(&took, 100));
            let _ = writeln!(
                self.report,
                "{asked:?}: {} times, 50 % {half:.1?}, most {most:.1?}, refused {}",
                took.len(),
                refused.len()
            );
            let is_told_in_words = self.bounds.full
                && !matches!(asked, Asked::ConnectorLives | Asked::ChatLives)
                && refused.iter().all(|it| !it.contains("no answer"));
            if let (Some(first), false) = (refused.first(), is_told_in_words) {
                let count = refused.len();
                self.find(format!(
                    "{asked:?}: {count} of {} failed: {first}",
                    took.len()
                ));
            }
        }
    }
}

/// The value below which so many of a hundred are; zero of none.
fn percentile(sorted: &[Duration], hundredths: usize) -> Duration {
    let place = (sorted.len() * hundredths).div_ceil(100);
    let value = sorted.get(place.saturating_sub(1));
    value.copied().unwrap_or_default()
}

fn median(values: impl Iterator<Item = Duration>) -> Duration {
    let mut values: Vec<_> = values.collect();
    values.sort();
    percentile(&values, 50)
}

/// Attacks hold more sockets than shells allow by default.
///
/// # Panics
/// Never: the soft limit may always be raised to the hard one.
pub fn raise_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    setrlimit(Resource::Nofile, raised).expect("the soft limit may be raised to the hard one");
}

/// How many times as long as in the control half of the looks took.
fn looks_ratio(pairs: &[(Round, Round)]) -> f64 {
    let took = |round: &Round| percentile(&round.met.looked, 50);
    let attacked = median(pairs.iter().map(|(attacked, _)| took(attacked)));
    let harmless = median(pairs.iter().map(|(_, harmless)| took(harmless)));
    attacked.max(RESOLUTION).as_secs_f64() / harmless.max(RESOLUTION).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_sorted_values() {
        let values: Vec<_> = (1..=200).map(Duration::from_millis).collect();
        assert_eq!(percentile(&values, 50), Duration::from_millis(100));
        assert_eq!(percentile(&values, 99), Duration::from_millis(198));
        assert_eq!(percentile(&values, 100), Duration::from_millis(200));
        assert_eq!(percentile(&[], 99), Duration::ZERO);
    }
}
