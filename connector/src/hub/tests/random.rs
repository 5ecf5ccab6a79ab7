//! Random histories with a small model of the store: servers fail over, with and without loss, connections break, and
//! members come and go. A member that is not told of a loss must have a run of the log without a gap.

use super::{FORMATS, Guest, guest};
use crate::testing::client::Client;
use crate::testing::feed::{Read, Script, of_lifetime};
use crate::testing::{at, channel, joining, let_run, publication, soon};
use channel_store::{
    Continuity, FeedConnection, FeedSink, LogPage, Position, Publication, ServerLifetime, Since,
};
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::task::JoinHandle;
use wire::{Disconnect, WireFormat};

/// The server as `docs/design/log.md` describes it, and what is on its way from it.
struct Server {
    lifetime: u64,
    /// The server lifetime under which the newest epoch began.
    epoch_of: u64,
    /// Each epoch, and the offset of its first publication.
    epochs: Vec<(Position, u64)>,
    log: Vec<Publication>,
    on_the_way: VecDeque<Arriving>,
    /// Publications that earlier connections may still bring.
    late: Vec<Arriving>,
    connection: FeedConnection,
}

enum Arriving {
    Subscribed(FeedConnection),
    Publication(FeedConnection, Publication),
}

impl Server {
    fn new() -> Self {
        Self {
            lifetime: 1,
            epoch_of: 1,
            epochs: vec![(at("e1", 0), 1)],
            log: Vec::new(),
            on_the_way: VecDeque::new(),
            late: Vec::new(),
            connection: of_lifetime(1, "1"),
        }
    }

    fn lifetime(&self) -> ServerLifetime {
        self.lifetime.to_string().into()
    }

    fn end(&self) -> u64 {
        self.log.len() as u64
    }

    /// A message, or somebody's join.
    fn publish(&mut self) -> Position {
        let publish = if fastrand::bool() {
            publication
        } else {
            joining
        };
        self.publish_as(publish)
    }

    fn publish_as(&mut self, publish: fn(&str, u64) -> Publication) -> Position {
        let next = self.end() + 1;
        if self.epoch_of != self.lifetime {
            self.epoch_of = self.lifetime;
            let name = format!("e{}", self.lifetime);
            self.epochs.push((at(&name, 0), next));
        }
        let epoch = self.epochs[self.epochs.len() - 1].0.epoch.clone();
        let published = publish(epoch.as_str(), next);
        self.log.push(published.clone());
        let arriving = Arriving::Publication(self.connection.clone(), published.clone());
        self.on_the_way.push_back(arriving);
        published.position
    }

    /// The feed gets a new connection. What was on its way over the old one is lost or late.
    fn connect(&mut self) {
        let mut lifetime = self.lifetime();
        if fastrand::u8(..4) == 0 {
            // The lifetime was asked for just before a failover.
            lifetime = "old".into();
            self.late.clear();
        }
        let number = self.connection.number + 1;
        self.late.extend(self.on_the_way.drain(..));
        self.connection = FeedConnection { number, lifetime };
        let connection = self.connection.clone();
        self.on_the_way.push_back(Arriving::Subscribed(connection));
    }

    /// Another server takes over. It is `lost` publications behind.
    fn fail_over(&mut self, lost: usize) {
        self.lifetime += 1;
        self.log.truncate(self.log.len().saturating_sub(lost));
        let end = self.end();
        while self.epochs.len() > 1 && self.epochs[self.epochs.len() - 1].1 > end {
            self.epochs.pop();
        }
        self.connect();
        self.connection.lifetime = self.lifetime();
        self.on_the_way.clear();
        let connection = self.connection.clone();
        self.on_the_way.push_back(Arriving::Subscribed(connection));
    }

    fn answer(&self, read: &Read) -> LogPage {
        let end = self.end();
        let newest = &self.epochs[self.epochs.len() - 1].0;
        let newest = at(newest.epoch.as_str(), end);
        let (continuity, position) = match &read.since {
            Since::Head => (Continuity::Contiguous, newest),
            Since::Position(since) => {
                let of = self
                    .epochs
                    .iter()
                    .position(|(name, _)| name.epoch == since.epoch);
                match of {
                    None => (Continuity::Unknown, newest),
                    Some(of) => {
                        let ends = self.epochs.get(of + 1).map_or(end, |(_, start)| start - 1);
                        if since.offset <= ends {
                            (Continuity::Contiguous, since.clone())
                        } else {
                            (Continuity::Diverged, at(since.epoch.as_str(), ends))
                        }
                    }
                }
            }
        };
        let from = usize::try_from(position.offset).unwrap();
        // Pages are small, so that there are several.
        let limit = read.limit.min(3);
        LogPage {
            continuity,
            lifetime: self.lifetime(),
            position,
            last: end,
            entries: self.log.iter().skip(from).take(limit).cloned().collect(),
        }
    }
}

/// A member, the position where it began, and the task of its join.
struct Joined {
    guest: Arc<Guest>,
    format: WireFormat,
    start: Position,
    begins: JoinHandle<()>,
}

struct History {
    script: Script,
    server: Server,
    reads: Vec<Read>,
    members: Vec<Joined>,
    /// Members that are gone: where they began, and what they can still read.
    gone: Vec<(Position, WireFormat, Client)>,
}

impl History {
    async fn step(&mut self, with_loss: bool) {
        match fastrand::u8(..100) {
            0..30 => drop(self.server.publish()),
            30..60 => self.arrive(),
            60..78 => self.answer_one(),
            78..86 => self.join().await,
            86..90 if self.members.len() > 1 => {
                let member = fastrand::usize(..self.members.len());
                let left = self.members.swap_remove(member);
                self.leave(left).await;
            }
            90..93 => self.server.connect(),
            93..95 => self.server.fail_over(0),
            95..96 if with_loss => self.server.fail_over(fastrand::usize(..3)),
            96..99 => {
                // The task of the earlier connection still had this publication.
                if let Some(late) = self.server.late.pop() {
                    self.bring(late);
                }
            }
            _ => tokio::time::advance(std::time::Duration::from_millis(100)).await,
        }
        if fastrand::bool() {
            let_run().await;
        }
        while let Some(read) = self.script.poll_read() {
            self.reads.push(read);
        }
    }

    fn bring(&self, arriving: Arriving) {
        match arriving {
            Arriving::Subscribed(connection) => self.script.subscribed(&connection),
            Arriving::Publication(connection, publication) => {
                let run = &mut std::iter::once(publication);
                self.script.hub.publications(&connection, &channel(), run);
            }
        }
    }

    fn arrive(&mut self) {
        for _ in 0..fastrand::u8(1..6) {
            if let Some(arriving) = self.server.on_the_way.pop_front() {
                self.bring(arriving);
            }
        }
    }

    fn answer_one(&mut self) {
        if !self.reads.is_empty() {
            let read = self.reads.swap_remove(fastrand::usize(..self.reads.len()));
            if fastrand::u8(..8) == 0 {
                return read.fail();
            }
            let page = self.server.answer(&read);
            read.answer(page);
        }
    }

    /// Chat publishes the member's own `onJoin`. Before its answer comes, anything may happen.
    async fn join(&mut self) {
        let format = FORMATS[fastrand::usize(..FORMATS.len())];
        let guest = Arc::new(guest(&self.script.hub, format).await);
        let position = self.server.publish_as(joining);
        if fastrand::bool() {
            guest.member.has_joined_at(&position);
        }
        let start = at(position.epoch.as_str(), position.offset - 1);
        let begins = tokio::spawn({
            let guest = Arc::clone(&guest);
            let start = start.clone();
            let pause = std::time::Duration::from_millis(fastrand::u64(..300));
            async move {
                guest.member.followed().await;
                tokio::time::sleep(pause).await;
                guest.member.begin(start);
            }
        });
        self.members.push(Joined {
            guest,
            format,
            start,
            begins,
        });
    }

    async fn leave(&mut self, left: Joined) {
        left.begins.abort();
        let _ = left.begins.await;
        let Guest {
            member,
            connection,
            client,
        } = Arc::into_inner(left.guest).unwrap();
        drop(member);
        connection.close(Disconnect::Shutdown);
        connection.conclude();
        self.gone.push((left.start, left.format, client));
    }

    /// Everything on its way arrives, every read is answered, and one more publication is made.
    async fn come_to_rest(&mut self) {
        self.server.connect();
        self.server.connection.lifetime = self.server.lifetime();
        self.server.on_the_way.clear();
        let connection = self.server.connection.clone();
        self.server
            .on_the_way
            .push_back(Arriving::Subscribed(connection));
        self.server.publish();
        for _ in 0..100 {
            while let Some(arriving) = self.server.on_the_way.pop_front() {
                self.bring(arriving);
            }
            for read in std::mem::take(&mut self.reads) {
                let page = self.server.answer(&read);
                read.answer(page);
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            let_run().await;
            while let Some(read) = self.script.poll_read() {
                self.reads.push(read);
            }
        }
    }
}

/// The position of a member after what it was given. That must be a run, except where a loss was told.
fn end_of(
    start: &Position,
    format: WireFormat,
    given: &[(String, u64, Option<String>)],
    with_loss: bool,
) -> Result<Position, String> {
    let mut own = start.clone();
    for (epoch, offset, moved) in given {
        let next = at(epoch, *offset);
        match moved.as_deref() {
            Some("new-epoch") if next.offset == own.offset => {}
            Some("new-epoch") => return Err(format!("{next:?} begins after {own:?}")),
            Some(_) if with_loss => {}
            Some(_) => return Err("the member was told of a loss although nothing was lost".into()),
            None if next.offset != own.offset + 1 => {
                return Err(format!("{next:?} after {own:?}"));
            }
            None if format.tells_positions() && next.epoch != own.epoch => {
                return Err(format!("{next:?} of another epoch than {own:?}"));
            }
            None => {}
        }
        own = next;
    }
    Ok(own)
}

/// True if what a member has is the log, since the last loss that it was told of.
fn is_the_log(log: &[(String, u64)], given: &[(String, u64, Option<String>)]) -> bool {
    let is_loss = |reason: &Option<String>| reason.as_ref().is_some_and(|it| it != "new-epoch");
    let since = given.iter().rposition(|(_, _, moved)| is_loss(moved));
    let pushes = given[since.map_or(0, |it| it + 1)..]
        .iter()
        .filter(|(_, _, moved)| moved.is_none());
    let pushes: Vec<_> = pushes
        .map(|(epoch, offset, _)| (epoch.clone(), *offset))
        .collect();
    log.ends_with(&pushes)
}

async fn history(seed: u64, with_loss: bool) -> usize {
    fastrand::seed(seed);
    let script = Script::new();
    let first = guest(&script.hub, WireFormat::JSON).await;
    let mut history = History {
        script,
        server: Server::new(),
        reads: Vec::new(),
        members: Vec::new(),
        gone: Vec::new(),
    };
    let connection = history.server.connection.clone();
    history.script.subscribed(&connection);
    for _ in 0..150 {
        history.step(with_loss).await;
    }
    drop(first.member);
    history.come_to_rest().await;
    let log: Vec<_> = history
        .server
        .log
        .iter()
        .map(|entry| {
            (
                entry.position.epoch.as_str().to_owned(),
                entry.position.offset,
            )
        })
        .collect();
    for (start, format, mut client) in history.gone {
        let given = client.history().await;
        let end = end_of(&start, format, &given, with_loss);
        assert!(
            end.is_ok(),
            "{end:?}: {given:?} after {start:?}, seed {seed}"
        );
    }
    let mut told_of_loss = 0;
    for Joined {
        guest,
        format,
        start,
        begins,
    } in history.members
    {
        soon(begins).await.unwrap();
        let closed = guest.connection.closing();
        assert!(
            closed.is_none() || (with_loss && !format.tells_positions()),
            "closed: {closed:?}, seed {seed}"
        );
        guest.connection.close(Disconnect::Shutdown);
        guest.connection.conclude();
        let mut guest = Arc::into_inner(guest).unwrap();
        let given = guest.client.history().await;
        let end = end_of(&start, format, &given, with_loss);
        assert!(
            end.is_ok(),
            "{end:?}: {given:?} after {start:?}, seed {seed}"
        );
        if closed.is_none() {
            let last = log.last().map(|(_, offset)| *offset);
            assert_eq!(end.ok().map(|end| end.offset), last, "seed {seed}");
            assert!(
                is_the_log(&log, &given),
                "{given:?}, not {log:?}, seed {seed}"
            );
        }
        told_of_loss += given.iter().filter(|(_, _, moved)| moved.is_some()).count();
    }
    told_of_loss
}

#[tokio::test(start_paused = true)]
async fn every_member_has_a_run_of_the_one_log_or_is_told_of_a_loss() {
    let mut told = 0;
    for seed in 0..60 {
        history(seed, false).await;
        told += history(seed, true).await;
    }
    assert!(told > 60, "only {told} positions moved");
}
