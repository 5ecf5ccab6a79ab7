//! A client that comes and goes, remembers what it was given, and checks it.

use crate::testing::at;
use crate::testing::client::{Told, frame_in, of_json};
use channel_store::Position;
use parking_lot::Mutex;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The content of each position, as any client was given it.
#[derive(Default)]
pub(super) struct Contents(Mutex<BTreeMap<(String, u64), String>>);

impl Contents {
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
            trace: String::new(),
        }
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
        if route == "onPosition" {
            return self.moved(&own, &body);
        }
        let offset = offset.ok_or("a push without its offset")?;
        if offset != own.offset + 1 {
            return Err(format!("{}: {offset} after {own:?}", self.user));
        }
        let next = at(own.epoch.as_str(), offset);
        contents.note(&next, &content)?;
        self.held.insert(offset, content);
        self.position = Some(next);
        Ok(())
    }

    fn moved(&mut self, own: &Position, body: &Value) -> Result<(), String> {
        let next = at(
            body["epoch"].as_str().unwrap(),
            body["offset"].as_u64().unwrap(),
        );
        match body["reason"].as_str().unwrap() {
            "new-epoch" if next.offset == own.offset => self.new_epochs += 1,
            "diverged" if next.offset < own.offset => {
                self.losses += 1;
                self.held.split_off(&(next.offset + 1));
            }
            "trimmed" if next.offset > own.offset => self.lose(),
            "unknown" if next.epoch != own.epoch => self.lose(),
            reason => return Err(format!("{}: {reason} {next:?} at {own:?}", self.user)),
        }
        self.position = Some(next);
        Ok(())
    }

    fn lose(&mut self) {
        self.losses += 1;
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
