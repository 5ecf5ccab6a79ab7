//! What is measured, and how. Each mode is one run with one subject.

use crate::clock::Clock;
use crate::message::Stamp;
use crate::order::Faults;
use crate::protocol::Received;
use crate::subject::{Subject, cpu};
use crate::swarm::{Layout, Member, Swarm};
use anyhow::Context;
use clap::{Args, Subcommand};
use hdrhistogram::Histogram;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The results of a run by name. The names tell their units.
pub(crate) type Figures = BTreeMap<String, f64>;

/// Clients that connect at once where connecting is not measured.
const AT_ONCE: usize = 256;
/// The time before anything is measured.
pub(crate) const WARM_UP: Duration = Duration::from_secs(1);
/// The time in which servers come to rest: buffers are freed and tasks end.
pub(crate) const SETTLE: Duration = Duration::from_secs(2);

/// The clients and their rooms.
#[derive(Debug, Clone, Args)]
pub(crate) struct People {
    /// The number of clients, spread over rooms and servers
    #[arg(long, default_value_t = 200)]
    clients: usize,
    /// The number of rooms
    #[arg(long, default_value_t = 1)]
    rooms: u32,
    /// The size of a message in bytes
    #[arg(long, default_value_t = 128)]
    bytes: usize,
    /// How many seconds to measure
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Let clients offer to take compressed frames
    #[arg(long)]
    deflate: bool,
}

impl People {
    fn layout(&self, senders: u32) -> Layout {
        Layout {
            rooms: self.rooms,
            senders,
            bytes: self.bytes,
            deflate: self.deflate,
            first: 0,
            keep_places: false,
        }
    }

    fn time(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }
}

/// A way to load a server
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Mode {
    /// Senders keep a window full: how many deliveries a second, and what each costs
    FanOut {
        #[command(flatten)]
        people: People,
        /// Senders in each room
        #[arg(long, default_value_t = 4)]
        senders: u32,
        /// Messages of one sender that are under way at once
        #[arg(long, default_value_t = 8)]
        window: u32,
    },
    /// Messages at fixed times, whatever the answers do: how long each delivery takes from the time when it was due
    Latency {
        #[command(flatten)]
        people: People,
        /// Deliveries a second, all together
        #[arg(long, default_value_t = 20_000.0)]
        offered: f64,
        /// Joins and leaves a second meanwhile, in turn
        #[arg(long, default_value_t = 0.0)]
        churn: f64,
    },
    /// All clients connect and log in as fast as they can: how many a second, until all have received all joins
    Storm {
        #[command(flatten)]
        people: People,
        /// Clients that connect at once and are not online yet
        #[arg(long, default_value_t = 4_000)]
        at_once: usize,
    },
    /// All clients are connected and silent: memory and CPU
    Idle {
        #[command(flatten)]
        people: People,
    },
    /// Like latency, and then again with as many further clients that do not read
    Slow {
        #[command(flatten)]
        people: People,
        /// Deliveries a second to the clients that read
        #[arg(long, default_value_t = 20_000.0)]
        offered: f64,
    },
}

impl Mode {
    /// Runs this mode with a subject.
    pub(crate) async fn run(&self, subject: &Subject) -> anyhow::Result<(Figures, Faults)> {
        let run = Run::new(subject);
        match self {
            Self::FanOut {
                people,
                senders,
                window,
            } => run.fan_out(people, *senders, *window),
            Self::Latency {
                people,
                offered,
                churn,
            } => run.latency(people, *offered, *churn),
            Self::Storm { people, at_once } => run.storm(people, *at_once),
            Self::Idle { people } => run.idle(people).await,
            Self::Slow { people, offered } => run.slow(people, *offered),
        }
    }
}

/// One run, and what was measured so far.
pub(crate) struct Run<'a> {
    subject: &'a Subject,
    pub(crate) figures: Figures,
}

impl<'a> Run<'a> {
    pub(crate) fn new(subject: &'a Subject) -> Self {
        Self {
            subject,
            figures: Figures::new(),
        }
    }

    fn swarm(&self, layout: Layout) -> anyhow::Result<Swarm> {
        let servers = self.subject.servers.clone();
        Swarm::new(self.subject.protocol, layout, servers, Instant::now())
    }

    pub(crate) fn note(&mut self, name: &str, value: f64) {
        self.figures.insert(name.to_owned(), value);
    }

    /// Runs something, and notes what it cost: the servers for each thing that `count` counts, and the generator as a
    /// whole.
    pub(crate) fn metered(
        &mut self,
        swarm: &mut Swarm,
        count: impl Fn(&Swarm) -> u64,
        run: impl FnOnce(&mut Swarm) -> anyhow::Result<()>,
    ) -> anyhow::Result<(u64, f64)> {
        let own = std::process::id();
        let (before, own_before, counted) = (self.subject.used()?, cpu(own)?, count(swarm));
        let began = Instant::now();
        run(swarm)?;
        let seconds = began.elapsed().as_secs_f64();
        let (after, own_after) = (self.subject.used()?, cpu(own)?);
        let count = count(swarm) - counted;
        let mut all = 0.0;
        for (kind, used) in after {
            let used = (used - before.get(kind).copied().unwrap_or_default()) as f64;
            all += used;
            self.note(
                &format!("cpu_us_each_{kind}"),
                used / 1e3 / count.max(1) as f64,
            );
            self.note(&format!("cpu_percent_{kind}"), used / 1e7 / seconds);
        }
        self.note("cpu_us_each", all / 1e3 / count.max(1) as f64);
        self.note("cpu_percent", all / 1e7 / seconds);
        let busy = (own_after - own_before) as f64 / 1e9 / seconds;
        self.note("generator_busy", busy);
        Ok((count, seconds))
    }

    fn fan_out(
        mut self,
        people: &People,
        senders: u32,
        window: u32,
    ) -> anyhow::Result<(Figures, Faults)> {
        let mut swarm = self.swarm(people.layout(senders))?;
        swarm.gather(people.clients, AT_ONCE)?;
        let (protocol, bytes) = (swarm.protocol, people.bytes);
        for client in 0..swarm.len() {
            for _ in 0..window {
                swarm.send(client, 0);
            }
        }
        let talk = |swarm: &mut Swarm, time: Duration| {
            let end = Instant::now() + time;
            while Instant::now() < end {
                swarm.turn(Some(time), &mut |member, _, _, out| {
                    while member
                        .sender
                        .is_some_and(|it| it.under_way(protocol) < window)
                    {
                        member.send(protocol, bytes, 0, out);
                    }
                })?;
            }
            anyhow::Ok(())
        };
        talk(&mut swarm, WARM_UP)?;
        let sent = |swarm: &Swarm| swarm.sent().iter().map(|it| u64::from(*it)).sum::<u64>();
        let before = sent(&swarm);
        let time = people.time();
        let (count, seconds) =
            self.metered(&mut swarm, |it| it.delivered, |swarm| talk(swarm, time))?;
        self.note("deliveries_per_second", count as f64 / seconds);
        self.note("sends_per_second", (sent(&swarm) - before) as f64 / seconds);
        Ok((self.figures, swarm.rest()?))
    }

    fn latency(
        mut self,
        people: &People,
        offered: f64,
        churn: f64,
    ) -> anyhow::Result<(Figures, Faults)> {
        let mut swarm = self.swarm(people.layout(1))?;
        swarm.gather(people.clients, AT_ONCE)?;
        let mut times = histogram()?;
        let mut offer = Offer::new(people, offered, churn)?;
        offer.run(&mut swarm, WARM_UP, &mut histogram()?)?;
        let time = people.time();
        let (count, seconds) = self.metered(
            &mut swarm,
            |it| it.delivered,
            |swarm| offer.run(swarm, time, &mut times),
        )?;
        self.note("deliveries_per_second", count as f64 / seconds);
        self.percentiles("", &times);
        Ok((self.figures, swarm.rest()?))
    }

    pub(crate) fn percentiles(&mut self, suffix: &str, times: &Histogram<u64>) {
        for (name, quantile) in [("p50", 0.5), ("p99", 0.99), ("p999", 0.999)] {
            let value = times.value_at_quantile(quantile) as f64 / 1e6;
            self.note(&format!("{name}_ms{suffix}"), value);
        }
        self.note(&format!("max_ms{suffix}"), times.max() as f64 / 1e6);
    }

    fn storm(mut self, people: &People, at_once: usize) -> anyhow::Result<(Figures, Faults)> {
        let mut swarm = self.swarm(people.layout(0))?;
        let clients = people.clients;
        let mut faults = Faults::default();
        let begin = swarm.now();
        self.metered(
            &mut swarm,
            |it| it.online as u64,
            |swarm| {
                swarm.gather(clients, at_once)?;
                // Until all have received the joins of all that came later.
                faults = swarm.rest()?;
                Ok(())
            },
        )?;
        let seconds = (swarm.latest - begin) as f64 / 1e9;
        self.note("logins_per_second", clients as f64 / seconds);
        self.note("logins_tried_again", swarm.retried as f64);
        self.note("deliveries_per_second", swarm.pushes as f64 / seconds);
        Ok((self.figures, faults))
    }

    async fn idle(mut self, people: &People) -> anyhow::Result<(Figures, Faults)> {
        let mut swarm = self.swarm(people.layout(0))?;
        let wait = |swarm: &mut Swarm, time: Duration| {
            let end = Instant::now() + time;
            while Instant::now() < end {
                swarm.turn(Some(Duration::from_millis(100)), &mut |_, _, _, _| {})?;
            }
            anyhow::Ok(())
        };
        let before = self.subject.memory().now;
        swarm.gather(people.clients, AT_ONCE)?;
        wait(&mut swarm, SETTLE)?;
        let after = self.subject.memory().now;
        let commands = self.subject.commands().await;
        let time = people.time();
        let (_, seconds) = self.metered(&mut swarm, |_| 0, |swarm| wait(swarm, time))?;
        if let (Some(before), Some(after)) = (commands, self.subject.commands().await) {
            self.note(
                "redis_commands_per_second",
                (after - before) as f64 / seconds,
            );
        }
        let grown = after.saturating_sub(before) as f64;
        self.note("bytes_per_connection", grown / people.clients as f64);
        Ok((self.figures, swarm.rest()?))
    }

    fn slow(mut self, people: &People, offered: f64) -> anyhow::Result<(Figures, Faults)> {
        let mut swarm = self.swarm(people.layout(1))?;
        swarm.gather(people.clients, AT_ONCE)?;
        let mut offer = Offer::new(people, offered, 0.0)?;
        offer.run(&mut swarm, WARM_UP, &mut histogram()?)?;
        let mut times = histogram()?;
        offer.run(&mut swarm, people.time(), &mut times)?;
        self.percentiles("_alone", &times);
        let healthy = swarm.len();
        swarm.gather(people.clients, AT_ONCE)?;
        for client in healthy..swarm.len() {
            swarm.stall(client)?;
        }
        let before = self.subject.memory().now;
        let mut times = histogram()?;
        let time = people.time();
        self.metered(
            &mut swarm,
            |it| it.delivered,
            |swarm| offer.run(swarm, time, &mut times),
        )?;
        self.percentiles("", &times);
        let peak = self.subject.memory().peak;
        self.note(
            "memory_grown_mib",
            peak.saturating_sub(before) as f64 / 1048576.0,
        );
        Ok((self.figures, swarm.rest()?))
    }
}

/// Times in nanoseconds.
pub(crate) fn histogram() -> anyhow::Result<Histogram<u64>> {
    Histogram::new_with_bounds(1_000, 60_000_000_000, 3).context("a histogram")
}

/// Sends messages that are due at fixed times, by the first client of each room in turn, and lets clients join and
/// leave.
struct Offer {
    rooms: u32,
    /// The time between two messages, in nanoseconds.
    every: f64,
    /// Joins and leaves a second.
    churn: f64,
    clock: Clock,
    guests: Vec<usize>,
}

impl Offer {
    fn new(people: &People, offered: f64, churn: f64) -> anyhow::Result<Self> {
        let members = people.clients as f64 / f64::from(people.rooms);
        Ok(Self {
            rooms: people.rooms,
            every: 1e9 * members / offered,
            churn,
            clock: Clock::new()?,
            guests: Vec::new(),
        })
    }

    fn run(
        &mut self,
        swarm: &mut Swarm,
        time: Duration,
        times: &mut Histogram<u64>,
    ) -> anyhow::Result<()> {
        swarm.wake_by(&mut self.clock.source())?;
        let begin = swarm.now();
        let (mut messages, mut changes) = (0_u32, 0_u32);
        let length = time.as_nanos() as u64;
        let mut record = |_: &mut Member, received: Received<'_>, now: u64, _: &mut Vec<u8>| {
            if let Received::Message(Stamp { due, .. }) = received
                && due >= begin
            {
                times.saturating_record(now.saturating_sub(due));
            }
        };
        loop {
            let now = swarm.now() - begin;
            let mut due = (f64::from(messages) * self.every) as u64;
            while due <= now && due < length {
                swarm.send((messages % self.rooms) as usize, begin + due);
                messages += 1;
                due = (f64::from(messages) * self.every) as u64;
            }
            if self.churn > 0.0 {
                let change = (f64::from(changes) * 1e9 / self.churn) as u64;
                if change <= now {
                    self.change(swarm, changes.is_multiple_of(2))?;
                    changes += 1;
                }
                due = due.min(change.max(now));
            }
            if now >= length {
                break;
            }
            self.clock.ring_in(due.min(length).saturating_sub(now));
            swarm.turn(None, &mut record)?;
        }
        // A message that was sent in time is counted however late it comes.
        let end = Instant::now() + SETTLE;
        let sent = swarm.sent();
        while Instant::now() < end && !swarm.has_all(&sent) {
            swarm.turn(Some(Duration::from_millis(5)), &mut record)?;
        }
        swarm.wake_no_more(&mut self.clock.source())?;
        Ok(())
    }

    fn change(&mut self, swarm: &mut Swarm, join: bool) -> anyhow::Result<()> {
        if join {
            self.guests.push(swarm.add(true)?);
        } else if let Some(guest) = self.guests.pop() {
            swarm.leave(guest);
        }
        Ok(())
    }
}
