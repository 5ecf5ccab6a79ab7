//! The log of a channel, read from Redis with plain commands. This is what all members must have received.

use crate::history::{Content, Position};
use crate::resp::{Resp, Value};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// The number of entries in one answer.
const PAGE: usize = 5_000;
/// The reader follows at most this many redirections of a Cluster.
const MOVES: usize = 5;

/// The log of one channel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Log {
    /// Each epoch with its first offset, oldest first.
    pub epochs: Vec<(String, u64)>,
    /// The last offset that was given.
    pub last: u64,
    /// The entries that Redis holds, by offset.
    pub entries: BTreeMap<u64, Content>,
}

impl Log {
    /// Reads the log from a server, or from the node of its Cluster that has it. A channel that does not exist has an
    /// empty log.
    ///
    /// # Panics
    /// If there is no answer, or one that can't be read.
    pub async fn read(server: SocketAddr, channel: &str) -> Self {
        let mut server = server;
        for _ in 0..MOVES {
            let connection = Resp::connect(server).await;
            let mut connection = connection.unwrap_or_else(|e| panic!("{server}: {e}"));
            match Self::read_on(&mut connection, channel).await {
                Ok(log) => return log,
                Err(refusal) => {
                    let moved = refusal.strip_prefix("MOVED ");
                    let address = moved.and_then(|moved| moved.split(' ').nth(1)?.parse().ok());
                    server = address.unwrap_or_else(|| panic!("{server}: {refusal}"));
                }
            }
        }
        panic!("no node has the channel {channel}");
    }

    async fn read_on(connection: &mut Resp, channel: &str) -> Result<Self, String> {
        let meta = format!("gc:{{{channel}}}:m");
        let stream = format!("gc:{{{channel}}}:l");
        let mut log = Self::default();
        let answer = command(connection, &["HMGET", &meta, "t", "n"]).await?;
        let [table, last] = answer.list() else {
            panic!("HMGET: {answer:?}");
        };
        let Some(table) = table.text() else {
            return Ok(log);
        };
        for entry in table.split(' ') {
            let (epoch, start) = entry.split_once('@').expect("an epoch has a start");
            let start = start.parse().expect("a start is a number");
            log.epochs.push((epoch.to_owned(), start));
        }
        log.last = last
            .text()
            .and_then(|last| last.parse().ok())
            .expect("an offset");
        let mut from = "-".to_owned();
        loop {
            let count = PAGE.to_string();
            let range = ["XRANGE", &stream, &from, "+", "COUNT", &count];
            let page = command(connection, &range).await?;
            for entry in page.list() {
                let (offset, content) = entry_of(entry).expect("an entry of the log");
                log.entries.insert(offset, content);
                from = format!("{}", offset + 1);
            }
            if page.list().len() < PAGE {
                return Ok(log);
            }
        }
    }

    /// The epoch of an offset.
    ///
    /// # Panics
    /// If no epoch begins at or before the offset.
    #[must_use]
    pub fn epoch(&self, offset: u64) -> &str {
        let mut epochs = self.epochs.iter().rev();
        let epoch = epochs.find(|(_, start)| *start <= offset);
        &epoch.expect("an epoch begins at or before the offset").0
    }

    /// The first offset that is held; if there is none, the offset after the last.
    #[must_use]
    pub fn first(&self) -> u64 {
        let first = self.entries.keys().next();
        first.copied().unwrap_or(self.last + 1)
    }

    /// The position of the end; `None` if there is no log.
    #[must_use]
    pub fn end(&self) -> Option<Position> {
        let (epoch, _) = self.epochs.last()?;
        Some(Position {
            epoch: epoch.clone(),
            offset: self.last,
        })
    }

    /// True if the log once had everything up to this position.
    #[must_use]
    pub fn reaches(&self, position: &Position) -> bool {
        let known = self.epochs.iter().position(|(e, _)| *e == position.epoch);
        known.is_some_and(|known| {
            let next = self.epochs.get(known + 1);
            position.offset <= next.map_or(self.last, |(_, start)| start - 1)
        })
    }
}

async fn command(connection: &mut Resp, parts: &[&str]) -> Result<Value, String> {
    match connection.command(parts).await {
        Ok(Value::Error(refusal)) => Err(refusal),
        Ok(answer) => Ok(answer),
        Err(error) => panic!("{parts:?}: {error}"),
    }
}

/// Reads `[offset-milliseconds, [d, data]]`. The data are route, sender and body, separated by NULs.
fn entry_of(entry: &Value) -> Option<(u64, Content)> {
    let [id, fields] = entry.list() else {
        return None;
    };
    let id = id.text()?;
    let offset = id.split('-').next()?.parse().ok()?;
    let [_, data] = fields.list() else {
        return None;
    };
    let mut parts = data.bytes()?.splitn(3, |byte| *byte == 0);
    let route = String::from_utf8(parts.next()?.to_vec()).ok()?;
    let _sender = parts.next()?;
    let body = serde_json::from_slice(parts.next()?).ok()?;
    Some((offset, Content::new(&route, &body)))
}
