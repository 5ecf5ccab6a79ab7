//! Finds everything that is wrong with a history.
//!
//! It does not rely on offsets alone: where two records have the same position, it compares their contents. It compares
//! orders by the names that senders gave their messages.

use crate::history::{Content, Event, Member, Message, Outcome, Position, Reason};
use crate::log::Log;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

/// All that is known of one channel at the end of a test.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// All clients.
    pub members: Vec<Member>,
    /// All messages that were sent.
    pub sent: BTreeMap<Message, Outcome>,
    /// The log of the channel.
    pub log: Log,
    /// The listed members with the number of their sessions, if chat was asked.
    pub listed: Option<BTreeMap<String, u32>>,
}

/// The kind of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A publication is in the log, and a member at that time neither received it nor was told of a loss.
    Lost,
    /// A message was acknowledged, and neither the log nor any member has it.
    Forgotten,
    /// A member has a publication that is not in the log, and was not told of a loss.
    Stale,
    /// A message or an offset was received twice.
    Duplicated,
    /// The same messages have two orders, or messages of one sender are not in the order in which they were sent.
    Reordered,
    /// One position has two contents.
    Inconsistent,
    /// A member received an offset that does not follow its position, and was not told of a loss.
    Gap,
    /// The same happened right after a login whose reply said `recovered`.
    RecoveredWithGap,
    /// A message was refused, and a member received it.
    RefusedButSeen,
    /// A member was told of a loss although nothing was lost.
    FalseLoss,
    /// The users with a live socket are not those that are listed, or not those that have joined and not left.
    Membership,
    /// Something that the protocol forbids.
    Protocol,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Its kind.
    pub kind: Kind,
    /// Which member it is about, and what happened.
    pub text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.kind, self.text)
    }
}

/// Everything that is wrong with a history, sorted by kind.
#[must_use]
pub fn check(history: &History) -> Vec<Finding> {
    let mut checker = Checker {
        history,
        findings: Vec::new(),
        contents: HashMap::new(),
        presences: Vec::new(),
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

/// The time of a member from a login without a position until its end, or until the next such login.
struct Presence<'a> {
    name: &'a str,
    position: Position,
    /// The member must have everything after this offset.
    start: u64,
    /// What the member has, in the order in which it came.
    held: Vec<(Position, &'a Content)>,
    /// Ranges of offsets that the member was told to have lost: after the first number, up to the second.
    told: Vec<(u64, u64)>,
    /// True if the connection has not ended. Then the member must reach the end of the log.
    attached: bool,
}

struct Checker<'a> {
    history: &'a History,
    findings: Vec<Finding>,
    contents: HashMap<Position, (&'a str, &'a Content)>,
    presences: Vec<Presence<'a>>,
}

impl<'a> Checker<'a> {
    fn find(&mut self, kind: Kind, text: String) {
        self.findings.push(Finding { kind, text });
    }

    /// Goes through a member's events.
    fn follow(&mut self, member: &'a Member) {
        let name = member.name.as_str();
        let mut present: Option<Presence<'a>> = None;
        // What the reply to the last login said about recovery, until the next event.
        let mut recovered = None;
        for event in &member.events {
            if let Event::Entered(position) = event {
                let presence = Presence {
                    name,
                    position: position.clone(),
                    start: position.offset,
                    held: Vec::new(),
                    told: Vec::new(),
                    attached: true,
                };
                let earlier = present.replace(presence);
                self.presences.extend(earlier.map(|presence| Presence {
                    attached: false,
                    ..presence
                }));
                recovered = None;
                continue;
            }
            let Some(presence) = &mut present else {
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
                    presence.attached = true;
                    recovered = Some(*was);
                    if *since != presence.position {
                        let text = format!(
                            "{name} resumes from {since}, but is at {}",
                            presence.position
                        );
                        self.find(Kind::Protocol, text);
                    }
                }
                Event::Received(offset, content) => {
                    self.receive(presence, recovered.take(), *offset, content);
                }
                Event::PositionTold(position, reason) => {
                    if *reason == Reason::NewEpoch {
                        self.next_epoch(presence, position);
                    } else {
                        recovered = None;
                        self.tell(presence, position, *reason);
                    }
                }
                Event::Ended(_) => presence.attached = false,
                Event::ProtocolError(what) => self.find(Kind::Protocol, format!("{name}: {what}")),
            }
        }
        self.presences.extend(present);
    }

    fn receive(
        &mut self,
        presence: &mut Presence<'a>,
        recovered: Option<bool>,
        offset: u64,
        content: &'a Content,
    ) {
        let next = presence.position.offset + 1;
        let name = presence.name;
        if offset < next {
            let text = format!("{name}, at {}, received {offset} again", presence.position);
            self.find(Kind::Duplicated, text);
        } else if offset > next {
            let text = format!("{name}, at {}, received {offset}", presence.position);
            let kind = match recovered {
                Some(true) => Kind::RecoveredWithGap,
                _ => Kind::Gap,
            };
            self.find(kind, text);
        } else if recovered == Some(false) {
            let text = format!(
                "{name} was not recovered at {}, and was not told of a loss",
                presence.position
            );
            self.find(Kind::Gap, text);
        }
        presence.position.offset = offset;
        let position = presence.position.clone();
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
        if presence
            .held
            .iter()
            .rev()
            .take_while(|(p, _)| p.offset >= offset)
            .all(|(p, _)| p.offset != offset)
        {
            presence.held.push((position, content));
        }
    }

    fn next_epoch(&mut self, presence: &mut Presence<'a>, position: &Position) {
        if position.offset != presence.position.offset {
            let text = format!(
                "{}, at {}, told of {position}",
                presence.name, presence.position
            );
            self.find(Kind::Gap, text);
        }
        presence.position = position.clone();
    }

    /// The member was told of a loss, so it drops what is not valid any more.
    fn tell(&mut self, presence: &mut Presence<'a>, position: &Position, reason: Reason) {
        let log = &self.history.log;
        if log.reaches(&presence.position) && presence.position.offset + 1 >= log.first() {
            let text = format!(
                "{}, at {}, told {reason:?} {position}",
                presence.name, presence.position
            );
            self.find(Kind::FalseLoss, text);
        }
        match reason {
            Reason::Diverged if position.offset <= presence.position.offset => {
                presence
                    .held
                    .retain(|(held, _)| held.offset <= position.offset);
                presence.start = presence.start.min(position.offset);
            }
            Reason::Trimmed => presence
                .told
                .push((presence.position.offset, position.offset)),
            Reason::Diverged | Reason::Unknown | Reason::NewEpoch => {
                presence.held.clear();
                presence.told.clear();
                presence.start = position.offset;
            }
        }
        presence.position = position.clone();
    }

    /// Compares what each member has with the log.
    fn against_the_log(&mut self) {
        let log = &self.history.log;
        let mut findings = Vec::new();
        for presence in &self.presences {
            let mut holds = BTreeSet::new();
            for (position, content) in &presence.held {
                holds.insert(position.offset);
                // Entries that were trimmed can only be compared with other members, which was done before.
                if position.offset < log.first() {
                    continue;
                }
                let entry = log.entries.get(&position.offset);
                if entry != Some(content) || log.epoch(position.offset) != position.epoch {
                    let text = format!(
                        "{} has {position}: {content:?}; the log has {entry:?}",
                        presence.name
                    );
                    findings.push((Kind::Stale, text));
                }
            }
            let end = if presence.attached {
                log.last
            } else {
                presence.position.offset
            };
            let from = (presence.start + 1).max(log.first());
            let missing: Vec<_> = (from..=end.min(log.last))
                .filter(|offset| !holds.contains(offset))
                .filter(|offset| {
                    let told = presence.told.iter();
                    !told
                        .copied()
                        .any(|(after, to)| after < *offset && *offset <= to)
                })
                .collect();
            if let (Some(first), Some(last)) = (missing.first(), missing.last()) {
                let text = format!(
                    "{} misses {} entries of the log from {first} to {last}, and is at {}",
                    presence.name,
                    missing.len(),
                    presence.position
                );
                findings.push((Kind::Lost, text));
            }
        }
        for (kind, text) in findings {
            self.find(kind, text);
        }
    }

    /// Looks at messages only by their names: each occurs once, all members have the same order, and each sender's own
    /// order is kept.
    fn order(&mut self) {
        let log = self.history.log.entries.values();
        let log: Vec<_> = log.filter_map(|content| content.message.as_ref()).collect();
        let mut sequences = vec![("the log", log)];
        for presence in &self.presences {
            let held = presence.held.iter();
            let messages = held.filter_map(|(_, content)| content.message.as_ref());
            sequences.push((presence.name, messages.collect()));
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
                // A message whose sender got no answer may come late.
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

    /// The answer to each message agrees with what became of the message.
    fn outcomes(&mut self) {
        let log = self.history.log.entries.values();
        let held = self.presences.iter().flat_map(|presence| &presence.held);
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
                    findings.push((Kind::RefusedButSeen, format!("{message:?}")));
                }
                _ => {}
            }
        }
        for (kind, text) in findings {
            self.find(kind, text);
        }
    }

    /// The users with a live socket are exactly those that, by the log, have joined and not left, and they are listed
    /// with as many sessions as they have sockets. A user that has left publishes nothing.
    fn membership(&mut self) {
        let mut live: BTreeMap<&str, u32> = BTreeMap::new();
        for presence in self.presences.iter().filter(|presence| presence.attached) {
            *live.entry(presence.name).or_default() += 1;
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
                        findings.push(format!(
                            "{offset}: {:?} by a user that had left",
                            content.message
                        ));
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
                    "{user}: joined: {joined}, but has {sockets} live sockets"
                ));
            }
        }
        if self.history.log.first() == 1 {
            let live = live.keys();
            let silent = live.filter(|user| !present.contains_key(**user));
            findings
                .extend(silent.map(|user| format!("{user} has a live socket and never joined")));
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
