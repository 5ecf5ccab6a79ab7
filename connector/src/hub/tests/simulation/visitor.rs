//! A client that comes and goes, remembers what it was given, and checks it.

use crate::testing::at;
use crate::testing::client::{Told, frame_in, of_json};
use channel_store::Position;
use parking_lot::Mutex;
use serde_json::Value;
use std::collections::BTreeMap;
use std::mem;
use std::sync::Arc;

/// The content of each position, as any client was given it, and where each ephemeral was published.
#[derive(Default)]
pub(super) struct Contents(
    Mutex<BTreeMap<(String, u64), String>>,
    Mutex<BTreeMap<u64, Position>>,
);

impl Contents {
    /// The ephemeral with this number was published here.
    pub(super) fn place(&self, number: u64, place: Position) {
        self.1.lock().insert(number, place);
    }

    /// Fails if the position was seen with another content, which must never happen.
    fn note(&self, position: &Position, content: &str) -> Result<(), String> {
        let key = (position.epoch.as_str().to_owned(), position.offset);
        let mut contents = self.0.lock();
        let first = contents.entry(key).or_insert_with(|| content.to_owned());
        if first == content {
            return Ok(());
        }
        Err(format!("{position:?} holds {first}, and {content}"))
    }
}

/// A client. It may be at any connector.
pub(super) struct Visitor {
    pub(super) user: String,
    pub(super) position: Option<Position>,
    /// The publications that it has received since it was last told of a loss, by offset.
    pub(super) held: BTreeMap<u64, String>,
    /// How often it was told of a loss.
    pub(super) losses: u64,
    pub(super) new_epochs: u64,
    pub(super) recovered: u64,
    /// The offset of its own onJoin, if that was published and the log goes on from there.
    pub(super) joined: Option<u64>,
    /// Where the log ended when its present session joined. `None`: the log has begun anew since.
    pub(super) entered: Option<u64>,
    /// The next move is the answer to the position with which it came back, and says nothing about its present session.
    pub(super) is_judged: bool,
    /// It was given a deletion after that, so its present session gets nothing more.
    is_out: bool,
    pub(super) deletions: u64,
    /// The number of the last ephemeral that it was given, and how many these were.
    last_ephemeral: Option<u64>,
    pub(super) ephemerals: u64,
    /// Everything that it was given, to compare runs.
    pub(super) trace: String,
}

impl Visitor {
    pub(super) fn new(user: String) -> Self {
        Self {
            user,
            position: None,
            held: BTreeMap::new(),
            losses: 0,
            new_epochs: 0,
            recovered: 0,
            joined: None,
            entered: None,
            is_judged: false,
            is_out: false,
            deletions: 0,
            last_ephemeral: None,
            ephemerals: 0,
            trace: String::new(),
        }
    }

    /// Its present session has joined, where the log ended at this offset.
    pub(super) fn enters(&mut self, offset: u64) {
        self.entered = Some(offset);
        self.is_out = false;
        self.is_judged = false;
    }

    /// Reads what was written to it, as far as it arrived.
    pub(super) fn take(&mut self, mut bytes: &[u8], contents: &Contents) -> Result<(), String> {
        while let Some((opcode, start, end)) = frame_in(bytes) {
            if opcode == 1 {
                self.message(&bytes[start..end], contents)?;
            }
            bytes = &bytes[end..];
        }
        Ok(())
    }

    fn message(&mut self, text: &[u8], contents: &Contents) -> Result<(), String> {
        let offset = serde_json::from_slice::<Value>(text).unwrap()["offset"].as_u64();
        let Told::Push { route, body } = of_json(text) else {
            return Ok(());
        };
        let own = self.position.clone().ok_or("a push before the reply")?;
        let content = format!("{route} {body}");
        self.trace += &format!("{offset:?} {content}\n");
        if self.is_out {
            return Err(format!("{} is out, and is given {content}", self.user));
        }
        if route == "onPosition" {
            return self.moved(&own, &body);
        }
        if let Some(number) = body["ephemeral"].as_u64() {
            return self.ephemeral(&own, offset, number, contents);
        }
        let offset = offset.ok_or("a push without its offset")?;
        if offset != own.offset + 1 {
            return Err(format!("{}: {offset} after {own:?}", self.user));
        }
        let next = at(own.epoch.as_str(), offset);
        contents.note(&next, &content)?;
        self.held.insert(offset, content);
        if route == "onDeleted" && self.entered.is_some_and(|it| it < offset) {
            self.is_out = true;
            self.deletions += 1;
        }
        self.position = Some(next);
        Ok(())
    }

    /// An ephemeral must come exactly where it was published, once, in order, and not before the own join.
    fn ephemeral(
        &mut self,
        own: &Position,
        offset: Option<u64>,
        number: u64,
        contents: &Contents,
    ) -> Result<(), String> {
        let place = contents.1.lock().get(&number).cloned();
        let place = place.ok_or("an ephemeral that nobody has published")?;
        let is_here = *own == place || own.offset == 0 && place.offset == 0;
        let is_early = self.joined.is_some_and(|joined| place.offset < joined);
        let is_old = self.last_ephemeral.is_some_and(|last| number <= last);
        if offset.is_some() || !is_here || is_early || is_old {
            let Self { user, joined, .. } = self;
            return Err(format!(
                "{user}: ephemeral {number} of {place:?} at {own:?}, joined at {joined:?}"
            ));
        }
        self.last_ephemeral = Some(number);
        self.ephemerals += 1;
        Ok(())
    }

    fn moved(&mut self, own: &Position, body: &Value) -> Result<(), String> {
        let next = at(
            body["epoch"].as_str().unwrap(),
            body["offset"].as_u64().unwrap(),
        );
        let reason = body["reason"].as_str().unwrap();
        let was_judged = reason != "new-epoch" && mem::take(&mut self.is_judged);
        match reason {
            "new-epoch" if next.offset == own.offset => self.new_epochs += 1,
            "diverged" if next.offset < own.offset => {
                self.losses += 1;
                self.joined = None;
                self.held.split_off(&(next.offset + 1));
            }
            "trimmed" if next.offset > own.offset => self.lose(),
            "unknown" if next.epoch != own.epoch => {
                self.lose();
                if !was_judged {
                    self.entered = None;
                }
            }
            reason => return Err(format!("{}: {reason} {next:?} at {own:?}", self.user)),
        }
        self.position = Some(next);
        Ok(())
    }

    fn lose(&mut self) {
        self.losses += 1;
        self.joined = None;
        self.held.clear();
    }
}

/// What is written to a client. Perhaps not all of it arrives.
pub(super) type Wire = Arc<Mutex<Vec<u8>>>;

/// The complete frames that arrived. Unless `all` is true, the connection broke somewhere.
pub(super) fn arrived(written: &[u8], all: bool) -> &[u8] {
    let mut ends = vec![0];
    while let Some((_, _, end)) = frame_in(&written[ends[ends.len() - 1]..]) {
        ends.push(ends[ends.len() - 1] + end);
    }
    let last = if all {
        ends.len() - 1
    } else {
        fastrand::usize(..ends.len())
    };
    &written[..ends[last]]
}
