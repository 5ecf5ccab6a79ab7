//! Measures what an attack does to other clients, in a way that makes the comparison fair.
//!
//! The attackers run on the same machine as the services, which has few cores. So they take processor time from the
//! services in any case. Therefore each round of the attack is followed by a **control**: harmless clients, which only
//! chat in rooms of their own, from a thread like the attacker's. Every 10 ms the test notes how much processor time
//! the attack and all services have used. The control follows this curve, so that it uses as much in the same time. The
//! difference between the two rounds is what the attack does to others beyond using processor time.
//!
//! The test compares latencies of quiet clients. A latency begins at the moment when the message was *due*, so a client
//! that is held up is late for everything that follows, and it ends when the message arrives in the room. Four quiet
//! clients send every 20 ms each. A fifth one reads a room's history now and then. It must be answered, and the median
//! of its reads is compared, too. Each round has its own percentiles, and the medians of the rounds are compared. So a
//! moment in which the machine was busy with something else spoils one round, but not the result. Three pairs of rounds
//! decide. If the latency is too high, but not by far, four more pairs run, because all seven can't be bad luck.
//!
//! A short run compares the median latency. A client that queues behind an attack waits longer all the time, so the median
//! shows it on every machine. A long run compares the 99th percentile, too. It shows bursts of a few milliseconds, but
//! only on a machine that has a free core during the attack: the control needs as much processor time as the attack,
//! but never has more than a few requests that wait for it.
//!
//! Meanwhile bystanders of each protocol stay connected, new users log in, a back end makes calls, probes ask `/livez`
//! and `/readyz`, and the test watches memory. It collects everything that is wrong, so that a failed test shows all of
//! it.

pub mod bystanders;
pub mod load;
pub mod probes;
pub mod quiet;
pub mod usage;

use crate::permit::Permit;
use crate::process::Memory;
use crate::redis::Redis;
use crate::system::{Plan, Services};
use crate::{ANSWERED, SOON, wait};
use bystanders::Bystanders;
use load::{Attack, Tally, Target};
use probes::{Asked, Ports, Probes};
use quiet::{Observed, Quiet};
use std::fmt::Write;
use std::time::Duration;
use tokio::time::Instant;
use usage::{Curve, Meter};

/// How long a round is.
const ROUND: Duration = Duration::from_millis(1_500);
/// Pairs of rounds that decide at first, and in all if the first ones are not good enough.
const PAIRS: [usize; 2] = [3, 7];
/// A percentile of the latency, and what the scheduler of two cores may add to it or take from it. A shorter latency
/// counts as this one.
type Compared = (usize, Duration);
const MEDIAN: Compared = (50, Duration::from_millis(1));
const SLOWEST: Compared = (99, Duration::from_millis(4));
/// A higher latency than this many times that of the control is a finding.
const TWICE: f64 = 2.0;
/// The same for the median time to read a room's history. A round has few such reads, so the bound is wider. If all
/// readers waited in one queue, it would be ten times as long.
const READS: f64 = 4.0;
/// If the latency is higher than this, more rounds would not help.
const BY_FAR: f64 = 8.0;
/// A shorter time to read history counts as this one.
const READ_RESOLUTION: Duration = Duration::from_millis(4);
/// Within this time after the attack the services must be idle.
const REST: Duration = Duration::from_secs(5);
/// Services are idle if they use less than this share of a processor, or at most this many times what they used before
/// the first attack. Quiet clients, bystanders and probes go on meanwhile.
const RESTING: f64 = 0.25;
const RESTING_TIMES: f64 = 2.0;
/// A service may keep this much more memory than before, because allocators keep some.
pub const GIVEN_BACK: u64 = 64 * MEBIBYTE;
/// 1 MiB.
pub const MEBIBYTE: u64 = 1 << 20;
/// How long the test looks at the processor time of services to tell whether they are idle.
const LOOK: Duration = Duration::from_millis(100);
/// How often it looks at most before the first attack.
const LOOKS: u32 = 20;
/// One service must not log more warnings than this.
const WARNINGS: usize = 100;

/// What an attack may do to others.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// The memory of connector and chat may grow by this many bytes each, at its peak.
    pub peak: u64,
    /// True if Redis must give its memory back, too.
    pub redis_returns: bool,
    /// True if the store is full during the attack. Then requests may be refused, if the refusal is an answer and comes
    /// in time.
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

/// A moment of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// The attack is about to begin.
    Before,
    /// It has ended.
    After,
}

/// What was measured in one round, of the attack or of the control.
#[derive(Debug, Clone)]
struct Round {
    observed: Observed,
    curve: Curve,
}

/// A connector, a chat and a Redis, with all clients other than the attackers.
pub struct ImpactTest {
    /// The connector and the chat.
    pub services: Services,
    /// Their Redis.
    pub redis: Redis,
    /// What the attackers count.
    pub tally: Tally,
    bounds: Bounds,
    quiet: Quiet,
    bystanders: Bystanders,
    probes: Probes,
    meter: Meter,
    before: [Memory; 3],
    /// The share of a processor that the services used before the first attack.
    resting: f64,
    rounds: usize,
    attacks: Vec<(Instant, Instant)>,
    report: String,
    findings: Vec<String>,
    _permit: Permit,
}

impl ImpactTest {
    /// Starts everything, with one connector and one chat. Redis writes no file, because the test is not to measure the
    /// disk.
    ///
    /// # Panics
    /// If something doesn't start.
    pub async fn start(plan: Plan, bounds: Bounds) -> Self {
        raise_descriptors();
        let plan = plan.alone();
        let permit = plan.permit().await;
        let redis = Redis::without_persistence().await;
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
            resting: 0.0,
            rounds: 0,
            attacks: Vec::new(),
            report: String::new(),
            findings: Vec::new(),
            _permit: permit,
        };
        // One round without a comparison, so that allocators, connections and caches are warm.
        let mut warm = Curve::default();
        warm.add(ROUND, ROUND / 2);
        scene.control(warm).await;
        scene.resting = settled(&scene.meter).await;
        scene.before = scene.memory();
        scene
    }

    /// Runs rounds of the attack and of the control alternately, and compares them.
    pub async fn compare(&mut self, attack: impl Attack) {
        self.compare_with(attack, async |_, _| {}).await;
    }

    /// Like [`compare`](Self::compare), but calls a function before and after each round of the attack.
    pub async fn compare_with(
        &mut self,
        attack: impl Attack,
        mut hook: impl AsyncFnMut(&mut Self, Moment),
    ) {
        let mut pairs: Vec<(Round, Round)> = Vec::new();
        for least in PAIRS {
            while pairs.len() < least {
                hook(self, Moment::Before).await;
                let attacked = self.attacked(attack.clone()).await;
                hook(self, Moment::After).await;
                self.rest().await;
                let harmless = self.control(attacked.curve.clone()).await;
                self.rest().await;
                self.note_pair(&attacked, &harmless);
                pairs.push((attacked, harmless));
            }
            let ratios = compared().iter().map(|it| self.ratio(&pairs, *it));
            let ratio = ratios.fold(0.0, f64::max);
            if ratio <= TWICE || ratio > BY_FAR {
                break;
            }
        }
        for &compared in compared() {
            let (part, ratio) = (compared.0, self.ratio(&pairs, compared));
            let _ = writeln!(
                self.report,
                "{part} %: {ratio:.2} times the latency of the control"
            );
            if ratio > TWICE {
                self.find(format!(
                    "the latency of quiet clients ({part} %) was {ratio:.2} times as long as with harmless requests"
                ));
            }
        }
        let ratio = read_ratio(&pairs);
        if ratio > READS {
            self.find(format!(
                "quiet clients waited {ratio:.2} times as long for a room's history as with harmless requests"
            ));
        }
        let refused: usize = pairs
            .iter()
            .map(|(attacked, _)| attacked.observed.refused)
            .sum();
        let lost: usize = pairs
            .iter()
            .map(|(attacked, _)| attacked.observed.lost)
            .sum();
        if lost > 0 {
            self.find(format!(
                "{lost} messages or history reads of quiet clients were not answered"
            ));
        }
        if refused > 0 && !self.bounds.full {
            self.find(format!(
                "{refused} messages or history reads of quiet clients were refused, for example with {:?}",
                self.quiet.refusal()
            ));
        }
        for (_, harmless) in &pairs {
            let Observed { refused, lost, .. } = harmless.observed;
            if refused + lost > 0 {
                self.find(format!(
                    "during a control after the attack {refused} were refused and {lost} lost"
                ));
            }
        }
    }

    /// Lets the attack go on, with everything that it keeps open, until the condition is true. If that takes too long,
    /// it is a finding.
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
            // The attack ends when it is dropped. On a busy machine the wait is longer than `within`, and the attack
            // must not end earlier.
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
            self.find(format!(
                "not within {within:?} after the attack began: {what}"
            ));
        }
    }

    /// Lets the attack go on for some time without a comparison. All requests of quiet clients must be accepted and
    /// answered.
    pub async fn endure(&mut self, attack: impl Attack, during: Duration) {
        let target = self.target();
        let begin = Instant::now();
        load::attack(attack, target, &self.meter, during).await;
        let end = Instant::now();
        self.attacks.push((begin, end));
        let observed = self.quiet.observed(begin, end, SOON).await;
        let [half, most] = [50, 99].map(|part| percentile(&observed.heard, part));
        let Observed { refused, lost, .. } = observed;
        let _ = writeln!(
            self.report,
            "endured: 50 % {half:.1?}, 99 % {most:.1?}; refused {refused}, lost {lost}"
        );
        if refused + lost > 0 {
            self.find(format!(
                "{refused} requests of quiet clients were refused, for example with {:?}, and {lost} were lost",
                self.quiet.refusal()
            ));
        }
    }

    /// Adds a finding.
    pub fn find(&mut self, finding: String) {
        self.findings.push(finding);
    }

    /// Adds a finding if this is not true.
    pub fn check(&mut self, is_right: bool, finding: &str) {
        if !is_right {
            self.find(finding.to_owned());
        }
    }

    /// Ends the test after the attack: checks whether everything is as before, and prints all findings.
    ///
    /// # Panics
    /// If there is a finding.
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
                    "{name} logged {} warnings, for example {last}",
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
        let observed = self.quiet.observed(begin, begin + ROUND, SOON).await;
        Round { observed, curve }
    }

    async fn control(&mut self, curve: Curve) -> Round {
        let target = self.target();
        let begin = Instant::now();
        let curve = load::harmless(target, &self.meter, curve, ROUND).await;
        let observed = self.quiet.observed(begin, begin + ROUND, SOON).await;
        Round { observed, curve }
    }

    /// Waits until the services are idle.
    async fn rest(&mut self) {
        let idle = RESTING.max(RESTING_TIMES * self.resting);
        let meter = self.meter.clone();
        let mut least = f64::INFINITY;
        let rests = wait::within(REST, async || {
            let used = share(&meter, LOOK).await;
            least = least.min(used);
            (used < idle).then_some(())
        });
        let rests = rests.await.is_some();
        let used = format!(
            "services used {:.2} of a processor before the load, and {:.2} afterwards",
            self.resting, least
        );
        let _ = writeln!(self.report, "{used}");
        if !rests {
            self.find(format!("{used}, also after {REST:?}"));
        }
    }

    /// How many times as long this percentile of the latency is as in the controls.
    fn ratio(&self, pairs: &[(Round, Round)], (part, least): Compared) -> f64 {
        let attacked = (pairs.iter()).map(|(attacked, _)| self.latency(attacked, part));
        let harmless = (pairs.iter()).map(|(_, harmless)| self.latency(harmless, part));
        median(attacked).max(least).as_secs_f64() / median(harmless).max(least).as_secs_f64()
    }

    /// If the store is full, a refused message never arrives. So the time until the answer counts instead.
    fn latency(&self, round: &Round, part: usize) -> Duration {
        let Observed {
            answered, heard, ..
        } = &round.observed;
        percentile(if self.bounds.full { answered } else { heard }, part)
    }

    fn note_pair(&mut self, attacked: &Round, harmless: &Round) {
        for (name, round) in [("attack ", attacked), ("control", harmless)] {
            let Observed {
                heard,
                looked,
                refused,
                lost,
                ..
            } = &round.observed;
            let _ = writeln!(
                self.report,
                "{name}: 50 % {:5.1?}, 99 % {:5.1?} of {}, slowest at {:.1?}; reads 50 % {:5.1?}, most {:5.1?}; refused {refused}, lost {lost}; \
                 {:.2?} of processors",
                self.latency(round, 50),
                self.latency(round, 99),
                heard.len(),
                round.observed.slowest_at,
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
        self.check(told == 0, "bystanders got onLeave of others");
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
            self.find(format!("after the attack {name} does not get a message"));
        }
    }

    async fn probes_are_answered(&mut self) {
        // Probes of each kind run one after the other. So if a later one is answered, those during the attack are
        // finished.
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

/// The percentiles of the latency that this run compares.
fn compared() -> &'static [Compared] {
    if crate::long() {
        &[MEDIAN, SLOWEST]
    } else {
        &[MEDIAN]
    }
}

/// Waits until the services use no less from look to look. Returns what they use then, for quiet clients, bystanders and probes. That is
/// much on a slow machine, so there is no fixed bound for it.
async fn settled(meter: &Meter) -> f64 {
    let mut used = share(meter, 5 * LOOK).await;
    for _ in 0..LOOKS {
        let next = share(meter, 5 * LOOK).await;
        if next >= used {
            break;
        }
        used = next;
    }
    used
}

/// The share of a processor that services use during this time.
async fn share(meter: &Meter, during: Duration) -> f64 {
    let (before, begin) = (meter.used(), Instant::now());
    tokio::time::sleep(during).await;
    let used = meter.used().saturating_sub(before);
    used.as_secs_f64() / begin.elapsed().as_secs_f64()
}

/// A percentile of sorted values; zero if there are none.
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

/// Raises the limit of file descriptors: attacks open more sockets than shells allow by default.
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

/// The median time to read a room's history, divided by that of the control.
fn read_ratio(pairs: &[(Round, Round)]) -> f64 {
    let took = |round: &Round| percentile(&round.observed.looked, 50);
    let attacked = median(pairs.iter().map(|(attacked, _)| took(attacked)));
    let harmless = median(pairs.iter().map(|(_, harmless)| took(harmless)));
    attacked.max(READ_RESOLUTION).as_secs_f64() / harmless.max(READ_RESOLUTION).as_secs_f64()
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
