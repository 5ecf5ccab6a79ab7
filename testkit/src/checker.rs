//! What is wrong with a history.
//!
//! Nothing here trusts an offset alone: contents are compared wherever two records speak of one position, and orders by
//! what senders call their messages.

use crate::history::{Content, Event, History, Member, Message, Outcome, Position, Reason};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

/// What kind of wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// It stands in the log, and a member that was there neither saw it nor was told.
    Lost,
    /// It was acknowledged, and neither the log nor anybody has it.
    Forgotten,
    /// A member holds what the log doesn't have, and was not told.
    Stale,
    /// A message, or an offset, came twice.
    Duplicated,
    /// Two orders of the same messages, or a sender's own order broken.
    Reordered,
    /// One position with two contents.
    Inconsistent,
    /// An offset that is not the one after the position, untold.
    Hole,
    /// The same right after a login that was answered with `recovered`.
    RecoveredWithHole,
    /// Refused for good, and yet seen.
    RefusedYetSeen,
    /// Told of a loss though nothing was lost.
    ToldForNothing,
    /// Who is listed, or has joined and not left, is not who has a live socket.
    Membership,
    /// What the protocol forbids.
    Protocol,
}

/// Something wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Its kind.
    pub kind: Kind,
    /// Who and what.
    pub text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.text)
    }
}

/// Everything that is wrong with a history, in the order of the kinds.
#[must_use]
pub fn check(history: &History) -> Vec<Finding> {
    let mut checker = Checker {
        history,
        findings: Vec::new(),
        contents: HashMap::new(),
        stays: Vec::new(),
    };
    for (&offset, content) in &history.log.entries {
        let position = Position {
            epoch: history.log.epoch(offset).to_owned(),
            offset,
        };
        checker.contents.insert(position, ("the log", content));
    }
    for member in &history.members {
        checker.follow(member);
    }
    checker.against_the_log();
    checker.order();
    checker.outcomes();
    checker.membership();
    checker.findings.sort_by_key(|finding| finding.kind);
    checker.findings
}

/// A member from a login without a position to its end, or to the next one.
struct Stay<'a> {
    name: &'a str,
    position: Position,
    /// The offset after which it must have everything.
    start: u64,
    /// What it holds, in the order of arrival.
    held: Vec<(Position, &'a Content)>,
    /// Offsets that it was told to be lost to it: after the first, up to the second.
    told: Vec<(u64, u64)>,
    /// It has not ended, so it must reach the end of the log.
    there: bool,
}

struct Checker<'a> {
    history: &'a History,
    findings: Vec<Finding>,
    contents: HashMap<Position, (&'a str, &'a Content)>,
    stays: Vec<Stay<'a>>,
}

impl<'a> Checker<'a> {
    fn find(&mut self, kind: Kind, text: String) {
        self.findings.push(Finding { kind, text });
    }

    /// Goes through a member's events.
    fn follow(&mut self, member: &'a Member) {
        let name = member.name.as_str();
        let mut present: Option<Stay<'a>> = None;
        // What the last login said of recovery, until something comes after it.
        let mut recovered = None;
        for event in &member.events {
            if let Event::Entered(position) = event {
                let stay = Stay {
                    name,
                    position: position.clone(),
                    start: position.offset,
                    held: Vec::new(),
                    told: Vec::new(),
                    there: true,
                };
                let earlier = present.replace(stay);
                self.stays.extend(earlier.map(|stay| Stay {
                    there: false,
                    ..stay
                }));
                recovered = None;
                continue;
            }
            let Some(stay) = &mut present else {
                if !matches!(event, Event::Ended(_)) {
                    self.find(Kind::Protocol, format!("{name}: {event:?} before a login"));
                }
                continue;
            };
            match event {
                Event::Entered(_) => {}
                Event::Resumed {
                    since,
                    recovered: was,
                } => {
                    stay.there = true;
                    recovered = Some(*was);
                    if *since != stay.position {
                        let text = format!("{name} resumes from {since}, is at {}", stay.position);
                        self.find(Kind::Protocol, text);
                    }
                }
                Event::Received(offset, content) => {
                    self.receive(stay, recovered.take(), *offset, content);
                }
                Event::Told(position, reason) => {
                    if *reason == Reason::NewEpoch {
                        self.next_epoch(stay, position);
                    } else {
                        recovered = None;
                        self.tell(stay, position, *reason);
                    }
                }
                Event::Ended(_) => stay.there = false,
                Event::Puzzled(what) => self.find(Kind::Protocol, format!("{name}: {what}")),
            }
        }
        self.stays.extend(present);
    }

    fn receive(
        &mut self,
        stay: &mut Stay<'a>,
        recovered: Option<bool>,
        offset: u64,
        content: &'a Content,
    ) {
        let next = stay.position.offset + 1;
        let name = stay.name;
        if offset < next {
            let text = format!("{name}, at {}, received {offset} again", stay.position);
            self.find(Kind::Duplicated, text);
        } else if offset > next {
            let text = format!("{name}, at {}, received {offset}", stay.position);
            let kind = match recovered {
                Some(true) => Kind::RecoveredWithHole,
                _ => Kind::Hole,
            };
            self.find(kind, text);
        } else if recovered == Some(false) {
            let text = format!(
                "{name} was not recovered at {}, and not told",
                stay.position
            );
            self.find(Kind::Hole, text);
        }
        stay.position.offset = offset;
        let position = stay.position.clone();
        match self.contents.get(&position) {
            Some((other, known)) if *known != content => {
                let text = format!("{position}: {other} has {known:?}, {name} {content:?}");
                self.find(Kind::Inconsistent, text);
            }
            Some(_) => {}
            None => {
                self.contents.insert(position.clone(), (name, content));
            }
        }
        if stay
            .held
            .iter()
            .rev()
            .take_while(|(p, _)| p.offset >= offset)
            .all(|(p, _)| p.offset != offset)
        {
            stay.held.push((position, content));
        }
    }

    fn next_epoch(&mut self, stay: &mut Stay<'a>, position: &Position) {
        if position.offset != stay.position.offset {
            let text = format!("{}, at {}, told of {position}", stay.name, stay.position);
            self.find(Kind::Hole, text);
        }
        stay.position = position.clone();
    }

    /// Told of a loss: what is void goes.
    fn tell(&mut self, stay: &mut Stay<'a>, position: &Position, reason: Reason) {
        let log = &self.history.log;
        if log.reaches(&stay.position) && stay.position.offset + 1 >= log.first() {
            let text = format!(
                "{}, at {}, told {reason:?} {position}",
                stay.name, stay.position
            );
            self.find(Kind::ToldForNothing, text);
        }
        match reason {
            Reason::Diverged if position.offset <= stay.position.offset => {
                stay.held.retain(|(held, _)| held.offset <= position.offset);
                stay.start = stay.start.min(position.offset);
            }
            Reason::Trimmed => stay.told.push((stay.position.offset, position.offset)),
            Reason::Diverged | Reason::Unknown | Reason::NewEpoch => {
                stay.held.clear();
                stay.told.clear();
                stay.start = position.offset;
            }
        }
        stay.position = position.clone();
    }

    /// What each member holds is what the log holds.
    fn against_the_log(&mut self) {
        let log = &self.history.log;
        let mut findings = Vec::new();
        for stay in &self.stays {
            let mut holds = BTreeSet::new();
            for (position, content) in &stay.held {
                holds.insert(position.offset);
                // What was trimmed was compared with other members alone.
                if position.offset < log.first() {
                    continue;
                }
                let entry = log.entries.get(&position.offset);
                if entry != Some(content) || log.epoch(position.offset) != position.epoch {
                    let text = format!(
                        "{} holds {position}: {content:?}; the log: {entry:?}",
                        stay.name
                    );
                    findings.push((Kind::Stale, text));
                }
            }
            let end = if stay.there {
                log.last
            } else {
                stay.position.offset
            };
            let from = (stay.start + 1).max(log.first());
            let missing: Vec<_> = (from..=end.min(log.last))
                .filter(|offset| !holds.contains(offset))
                .filter(|offset| {
                    let told = stay.told.iter();
                    !told
                        .copied()
                        .any(|(after, to)| after < *offset && *offset <= to)
                })
                .collect();
            if let (Some(first), Some(last)) = (missing.first(), missing.last()) {
                let text = format!(
                    "{} misses {} of the log from {first} to {last}, is at {}",
                    stay.name,
                    missing.len(),
                    stay.position
                );
                findings.push((Kind::Lost, text));
            }
        }
        for (kind, text) in findings {
            self.find(kind, text);
        }
    }

    /// Messages by their names alone: once each, in one order, and each sender's own order.
    fn order(&mut self) {
        let log = self.history.log.entries.values();
        let log: Vec<_> = log.filter_map(|content| content.message.as_ref()).collect();
        let mut sequences = vec![("the log", log)];
        for stay in &self.stays {
            let held = stay.held.iter();
            let messages = held.filter_map(|(_, content)| content.message.as_ref());
            sequences.push((stay.name, messages.collect()));
        }
        let mut findings = Vec::new();
        for (name, messages) in &sequences {
            let mut last: BTreeMap<&str, u64> = BTreeMap::new();
            let mut seen = BTreeSet::new();
            for message in messages {
                if !seen.insert(*message) {
                    findings.push((Kind::Duplicated, format!("{name} has {message:?} twice")));
                    continue;
                }
                // What nobody answered for may come late.
                if self.history.sent.get(*message) == Some(&Outcome::Unknown) {
                    continue;
                }
                let before = last.insert(&message.0, message.1);
                if before.is_some_and(|before| before > message.1) {
                    let text = format!("{name} has {message:?} after {before:?}");
                    findings.push((Kind::Reordered, text));
                }
            }
        }
        let places: Vec<HashMap<&Message, usize>> = sequences
            .iter()
            .map(|(_, messages)| messages.iter().enumerate().map(|(n, m)| (*m, n)).collect())
            .collect();
        for (first, (name, messages)) in sequences.iter().enumerate() {
            for (other, places) in places.iter().enumerate().skip(first + 1) {
                let common = messages.iter().filter_map(|m| Some((*m, places.get(m)?)));
                let common: Vec<_> = common.collect();
                if let Some(pair) = common.windows(2).find(|pair| pair[0].1 > pair[1].1) {
                    let text = format!(
                        "{name} has {:?} before {:?}, {} the other way round",
                        pair[0].0, pair[1].0, sequences[other].0
                    );
                    findings.push((Kind::Reordered, text));
                }
            }
        }
        for (kind, text) in findings {
            self.find(kind, text);
        }
    }

    /// What senders were told is what came of it.
    fn outcomes(&mut self) {
        let log = self.history.log.entries.values();
        let held = self.stays.iter().flat_map(|stay| &stay.held);
        let stands: BTreeSet<&Message> = log
            .chain(held.map(|(_, content)| *content))
            .filter_map(|content| content.message.as_ref())
            .collect();
        let received = self
            .history
            .members
            .iter()
            .flat_map(|member| &member.events);
        let received = received.filter_map(|event| match event {
            Event::Received(_, content) => content.message.as_ref(),
            _ => None,
        });
        let seen: BTreeSet<&Message> = received.chain(stands.iter().copied()).collect();
        let mut findings = Vec::new();
        for (message, outcome) in &self.history.sent {
            match outcome {
                Outcome::Acknowledged if !stands.contains(message) => {
                    findings.push((Kind::Forgotten, format!("{message:?}")));
                }
                Outcome::Refused if seen.contains(message) => {
                    findings.push((Kind::RefusedYetSeen, format!("{message:?}")));
                }
                _ => {}
            }
        }
        for (kind, text) in findings {
            self.find(kind, text);
        }
    }

    /// Whoever has a live socket has joined and not left, by the log, and is listed with as many sessions; nobody else
    /// has, or is. Who has left says nothing.
    fn membership(&mut self) {
        let mut live: BTreeMap<&str, u32> = BTreeMap::new();
        for stay in self.stays.iter().filter(|stay| stay.there) {
            *live.entry(stay.name).or_default() += 1;
        }
        let mut present: BTreeMap<String, bool> = BTreeMap::new();
        let mut findings = Vec::new();
        for (offset, content) in &self.history.log.entries {
            let joins = match content.route.as_str() {
                "onJoin" => true,
                "onLeave" => false,
                _ => {
                    let speaker = content.message.as_ref().map(|(user, _)| user);
                    if speaker.is_some_and(|user| present.get(user) == Some(&false)) {
                        findings.push(format!("{offset}: {:?} by who left", content.message));
                    }
                    continue;
                }
            };
            let body: serde_json::Value = serde_json::from_str(&content.body).unwrap_or_default();
            let user = body["userId"].as_str().unwrap_or_default().to_owned();
            if present.get(&user) == Some(&joins) {
                findings.push(format!("{offset}: {} of {user} twice", content.route));
            }
            present.insert(user, joins);
        }
        let sockets = |user: &str| live.get(user).copied().unwrap_or_default();
        for (user, joined) in &present {
            if *joined != (sockets(user) > 0) {
                let sockets = sockets(user);
                findings.push(format!(
                    "{user}: joined {joined}, has {sockets} live sockets"
                ));
            }
        }
        if self.history.log.first() == 1 {
            let live = live.keys();
            let silent = live.filter(|user| !present.contains_key(**user));
            findings.extend(silent.map(|user| format!("{user} is there and never joined")));
        }
        if let Some(listed) = &self.history.listed {
            let users: BTreeSet<_> = listed.keys().map(String::as_str).collect();
            for user in users.union(&live.keys().copied().collect()) {
                let (sessions, sockets) = (listed.get(*user).copied(), sockets(user));
                if sessions.unwrap_or_default() != sockets {
                    findings.push(format!(
                        "{user}: listed with {sessions:?} sessions, has {sockets} live sockets"
                    ));
                }
            }
        }
        for text in findings {
            self.find(Kind::Membership, text);
        }
    }
}

#[cfg(test)]
mod tests;
