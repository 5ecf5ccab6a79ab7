//! The reconnect storm: all clients lose their connections at the same moment, come back as fast as they can, and take
//! their places again. It is compared with the same clients' plain logins in the same run.

use crate::clock::Clock;
use crate::modes::{Figures, Run, SETTLE, WARM_UP, histogram};
use crate::order::Faults;
use crate::protocol::{LOGIN, Protocol, Received};
use crate::subject::{Subject, Up};
use crate::swarm::{Layout, PATIENCE, Swarm};
use anyhow::{Context, anyhow, bail, ensure};
use clap::Args;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// The number of the first of the others, and of their first room.
const OTHERS_FROM: u32 = 1_000_000;
/// The longest time for which something that is due may wait for a turn.
const TURN: Duration = Duration::from_millis(5);

/// All clients log in, are cut off at the same moment, and resume as fast as they can: how many a second, beside plain
/// logins, and how long others wait meanwhile. For --protocol pomelo and json
#[derive(Debug, Clone, Args)]
pub(crate) struct Reconnect {
    /// The number of clients that are cut off, spread over rooms and servers. With one more in each room, which speaks
    /// there, and the others, they must be fewer than this process may have descriptors
    #[arg(long, default_value_t = 200)]
    clients: usize,
    /// The number of rooms
    #[arg(long, default_value_t = 10)]
    rooms: u32,
    /// Clients that connect at once and are not online yet. If they are more than the connectors' --half-open, connectors
    /// close some of them, which is a fault here
    #[arg(long, default_value_t = 2_000)]
    at_once: usize,
    /// Clients that are not cut off, each in a room of its own. It is measured how long their sends take until they are
    /// answered
    #[arg(long, default_value_t = 100)]
    others: u32,
    /// Sends a second of the others, all together
    #[arg(long, default_value_t = 500.0)]
    offered: f64,
    /// Messages a second into the rooms of those who are cut off, all together, while they are away
    #[arg(long, default_value_t = 100.0)]
    said: f64,
    /// How many seconds to stay after the storm. Give more than the grace to see leaves that come when it ends
    #[arg(long, default_value_t = 2.0)]
    stay: f64,
}

/// How long an answer took: when the message was due, and the time from then on, in nanoseconds.
type Wait = (u64, u64);

impl Reconnect {
    /// Refuses what cannot be measured.
    pub(crate) fn check(&self, up: Option<Up>, protocol: Protocol) -> anyhow::Result<()> {
        if up == Some(Up::Floor) || !matches!(protocol, Protocol::Pomelo | Protocol::Json) {
            bail!(
                "reconnect needs positions and secrets: only --protocol pomelo and json have them"
            );
        }
        ensure!(
            self.rooms > 0 && self.others > 0 && self.offered > 0.0 && self.said > 0.0,
            "reconnect needs rooms, others and messages"
        );
        Ok(())
    }

    /// The flags that connectors need beside those that were given: without a grace, clients that are cut off leave.
    pub(crate) fn flags(&self, given: &[&'static str]) -> &'static [&'static str] {
        if given.contains(&"--grace") {
            &[]
        } else {
            &["--grace", "30s"]
        }
    }

    /// Runs this mode with a subject.
    pub(crate) fn run(&self, subject: &Subject) -> anyhow::Result<(Figures, Faults)> {
        let began = Instant::now();
        let layout = |rooms, first, keep_places| Layout {
            rooms,
            senders: 1,
            bytes: 128,
            deflate: false,
            first,
            keep_places,
        };
        let swarm = |layout| {
            let servers = subject.servers.clone();
            Swarm::new(subject.protocol, layout, servers, began)
        };
        let mut others = swarm(layout(self.others, OTHERS_FROM, false))?;
        others.gather(self.others as usize, self.at_once)?;
        let enough = Arc::<AtomicBool>::default();
        // On a thread of its own, because the one of the storm is too busy to see in time that an answer has come.
        let talking = {
            let (offered, enough) = (self.offered, Arc::clone(&enough));
            thread::spawn(move || talk(others, offered, &enough))
        };
        let run = Run::new(subject);
        let stormed = self.storm(run, swarm(layout(self.rooms, 0, true))?, &enough);
        enough.store(true, Ordering::Relaxed);
        let talked = talking
            .join()
            .map_err(|_| anyhow!("the others panicked"))?
            .context("the others")?;
        let Storm {
            mut run,
            mut faults,
            times,
        } = stormed?;
        let (waits, wrong) = talked;
        faults += wrong;
        for (suffix, from, to) in times {
            let mut times = histogram()?;
            for (_, wait) in waits.iter().filter(|(due, _)| (from..to).contains(due)) {
                times.saturating_record(*wait);
            }
            run.percentiles(suffix, &times);
        }
        Ok((run.figures, faults))
    }

    fn storm<'a>(
        &self,
        mut run: Run<'a>,
        mut swarm: Swarm,
        enough: &AtomicBool,
    ) -> anyhow::Result<Storm<'a>> {
        let (speakers, clients) = (self.rooms as usize, self.clients);
        swarm.gather(speakers, self.at_once)?;
        let first = swarm.now();
        let mut faults = Faults::default();
        let online = |swarm: &Swarm| swarm.online as u64;
        run.metered(&mut swarm, online, |swarm| {
            swarm.gather(clients, self.at_once)?;
            faults = swarm.rest()?;
            Ok(())
        })?;
        let logged_in = swarm.latest;
        // A login that was refused and then let in is counted, and the storm can begin all the same.
        if !(Faults {
            refused: 0,
            ..faults
        })
        .is_clean()
        {
            bail!("the logins before the storm went wrong: {faults:?}");
        }
        let logins = clients as f64 / seconds(first, logged_in);
        let plain = mem::take(&mut run.figures);
        run.figures
            .extend((plain.into_iter()).map(|(name, it)| (format!("{name}_plain"), it)));

        let mut speech = Speech::new(self.said, speakers, &swarm);
        let quiet = swarm.now();
        speech.go_on(&mut swarm, WARM_UP)?;
        let before = swarm.told;
        swarm.told.all_joined = true;
        let cut = swarm.now();
        swarm.cut_off(speakers..speakers + clients);
        // So everybody misses something, however short the storm is.
        for room in 0..speakers {
            swarm.send(room, cut);
        }
        let begin = swarm.now();
        run.metered(&mut swarm, online, |swarm| {
            self.come_back(swarm, &mut speech, speakers)
        })?;
        let end = swarm.now();
        // Messages and answers that are on their way are waited for, and news that nobody should get.
        let stay = Duration::from_secs_f64(self.stay.max(0.0));
        speech.go_on(&mut swarm, stay.max(SETTLE))?;
        let after = swarm.now();
        enough.store(true, Ordering::Relaxed);
        let faults = swarm.rest()?;

        let resumes = clients as f64 / seconds(begin, end);
        let told = swarm.told;
        for (name, value) in [
            ("logins_per_second", logins),
            ("resumes_per_second", resumes),
            ("resumes_per_login", resumes / logins),
            ("cut_off_ms", seconds(cut, begin) * 1e3),
            ("logins_put_off", before.put_off as f64),
            ("logins_refused", before.refused as f64),
            ("resumes_put_off", (told.put_off - before.put_off) as f64),
            ("resumes_refused", (told.refused - before.refused) as f64),
            ("logins_tried_again", swarm.retried as f64),
            ("resumed", told.recovered as f64),
            ("places_kept", clients as f64 - told.joined_again as f64),
            ("replayed", told.replayed as f64),
        ] {
            run.note(name, value);
        }
        Ok(Storm {
            run,
            faults,
            times: [
                ("_others_plain", first, logged_in),
                ("_others_quiet", quiet, cut),
                ("_others", cut, end),
                ("_others_after", end, after),
            ],
        })
    }

    /// Connects those again who were cut off, and returns when all of them are members.
    fn come_back(
        &self,
        swarm: &mut Swarm,
        speech: &mut Speech,
        speakers: usize,
    ) -> anyhow::Result<()> {
        let (began, target) = (Instant::now(), swarm.len());
        let mut next = speakers;
        while swarm.online < target {
            while next < target && next < swarm.online + self.at_once {
                swarm.reconnect(next)?;
                next += 1;
            }
            speech.go_on(swarm, Duration::ZERO)?;
            if began.elapsed() > PATIENCE || swarm.faults.ended > 0 {
                bail!(
                    "{} of {target} clients are back: {:?}, {:?}",
                    swarm.online,
                    swarm.faults,
                    swarm.told
                );
            }
        }
        Ok(())
    }
}

/// What came of a storm.
struct Storm<'a> {
    run: Run<'a>,
    faults: Faults,
    /// The parts of the run in which the others are looked at: the end of their figures' names, from when, and to when.
    times: [(&'static str, u64, u64); 4],
}

/// The messages into the rooms of those who are cut off: the speakers of the rooms speak in turn.
struct Speech {
    /// The time between two messages, in nanoseconds.
    every: f64,
    speakers: usize,
    begin: u64,
    count: usize,
}

impl Speech {
    fn new(said: f64, speakers: usize, swarm: &Swarm) -> Self {
        Self {
            every: 1e9 / said,
            speakers,
            begin: swarm.now(),
            count: 0,
        }
    }

    /// Sends what is due and takes what comes, for this time, and at least once.
    fn go_on(&mut self, swarm: &mut Swarm, time: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + time;
        loop {
            let now = swarm.now();
            let mut due = self.due();
            while due <= now {
                swarm.send(self.count % self.speakers, due);
                self.count += 1;
                due = self.due();
            }
            swarm.turn(Some(TURN), &mut |_, _, _, _| {})?;
            if Instant::now() >= end {
                return Ok(());
            }
        }
    }

    fn due(&self) -> u64 {
        self.begin + (self.count as f64 * self.every) as u64
    }
}

/// Sends at a steady rate, one client after another, until it is enough. Returns how long each answer took.
fn talk(
    mut swarm: Swarm,
    offered: f64,
    enough: &AtomicBool,
) -> anyhow::Result<(Vec<Wait>, Faults)> {
    let clock = Clock::new()?;
    swarm.wake_by(&mut clock.source())?;
    let (begin, clients) = (swarm.now(), swarm.len() as u64);
    let due = |number: u64| begin + (number as f64 * 1e9 / offered) as u64;
    let (mut waits, mut sent) = (Vec::new(), 0);
    let mut end = None;
    loop {
        if enough.load(Ordering::Relaxed) {
            let end = *end.get_or_insert_with(|| Instant::now() + PATIENCE / 4);
            if waits.len() as u64 == sent || Instant::now() > end {
                break;
            }
        } else {
            while due(sent) <= swarm.now() {
                swarm.send((sent % clients) as usize, due(sent));
                sent += 1;
            }
            clock.ring_in(due(sent).saturating_sub(swarm.now()));
        }
        swarm.turn(Some(TURN), &mut |member, received, now, _| {
            if let Received::Answer(id, _) = received
                && let Some(sender) = member.sender
                && let Some(own) = id.checked_sub(LOGIN + 1)
            {
                let due = due(own * clients + u64::from(sender.number));
                waits.push((due, now.saturating_sub(due)));
            }
        })?;
    }
    swarm.wake_no_more(&mut clock.source())?;
    Ok((waits, swarm.rest()?))
}

fn seconds(from: u64, to: u64) -> f64 {
    to.saturating_sub(from) as f64 / 1e9
}
