//! One watcher: its place in each of its channels, and what it is given next.
//!
//! Nothing is done while the caller takes nothing. A watcher holds what it took last, which is a batch of a ring or a page of a
//! log, and a few pages that it has asked for.

use super::WatchPlace;
use super::channel::{Pulled, before_all};
use super::channels::{BACKOFF, Channels, Watch};
use super::prefix::Ear;
use super::ready::Ready;
use crate::error::Error;
use channel_store::{
    Birth, ChannelName, Continuity, DIRECTORY_PARTS, LogPage, NotedPage, Position, Publication,
    StoreError, WatchFeed,
};
use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{FuturesUnordered, StreamExt};
use runtime::Backoff;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until, timeout};

/// How often places are told, if anything has changed.
const PROGRESS: Duration = Duration::from_secs(2);
/// The most places in one message.
const PLACES: usize = 1_000;
/// Pages that one watcher asks for at once. With the one that it gives, they have less than 1 MiB, unless a single message is
/// larger.
const READS: usize = 4;
/// How long it may take until everything is followed that a watch begins with.
const START_TIME: Duration = Duration::from_secs(20);
/// A watch ends when the store can't be reached for so long.
const AWAY_TIME: Duration = Duration::from_secs(60);
/// How often a watcher of a prefix reads the directory, in case it has missed the birth of a channel.
const REREAD: Duration = Duration::from_secs(30);
/// How many names the directory is asked for at once.
const NAMES: usize = 500;
/// The most channels of one watcher.
pub(crate) const MOST: usize = 50_000;

/// What to watch.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Channels to begin with, each of them once.
    pub(crate) places: Vec<(ChannelName, Begin)>,
    /// Present: all channels whose names begin with it, too.
    pub(crate) prefix: Option<String>,
    /// Where channels begin that the directory has at the start and that have no place.
    pub(crate) others: Begin,
    /// Only these routes. Empty: all.
    pub(crate) routes: HashSet<String>,
}

/// Where a channel begins.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Begin {
    /// At its end.
    #[default]
    Now,
    /// At the oldest publication that is held.
    Oldest,
    /// At its first publication. If that is not held any more, this is told as a gap.
    First,
    /// After this position.
    After(Position),
}

/// What a watcher is given.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Event {
    /// Everything is followed that the watch begins with.
    Started,
    Opened(ChannelName, Position),
    Publication(ChannelName, Publication),
    Gap(ChannelName, Continuity, Position),
    Ended(ChannelName),
    Progress(Vec<(ChannelName, Position)>),
}

/// A place in one channel.
struct Cursor {
    name: ChannelName,
    watch: Watch,
    begin: Begin,
    /// Everything up to this was given. `None`: it is not known yet where to begin.
    position: Option<Position>,
    /// True if the log has confirmed the position.
    is_of_log: bool,
    is_opened: bool,
    /// True if the channel was not named by the caller.
    is_listed: bool,
    /// True once the channel is followed.
    is_followed: bool,
    backoff: Backoff,
    /// The reading of the directory in which the channel was met last.
    met: u64,
    /// How many readings in a row have not met it.
    missed: u8,
}

type Page = Result<Arc<LogPage>, StoreError>;
type Noted = Result<NotedPage, StoreError>;

/// One reading of the directory, which goes on part by part.
struct Reading {
    part: usize,
    page: BoxFuture<'static, Noted>,
}

/// See [the module](self).
pub(crate) struct Watcher {
    channels: Arc<Channels>,
    ready: Arc<Ready>,
    cursors: HashMap<u64, Cursor>,
    keys: BTreeMap<ChannelName, u64>,
    next_key: u64,
    outgoing: VecDeque<Event>,
    reads: FuturesUnordered<BoxFuture<'static, (u64, Page)>>,
    /// Cursors that wait until they may read.
    to_read: VecDeque<u64>,
    /// Cursors that are to be pulled at some time.
    later: BTreeSet<(Instant, u64)>,
    moved: BTreeSet<u64>,
    progress_at: Instant,
    routes: HashSet<String>,
    others: Begin,
    ear: Option<Ear>,
    /// The number of the reading of the directory that is under way, or was last.
    readings: u64,
    reading: Option<Reading>,
    reread_at: Option<Instant>,
    /// True once the directory was read, or need not be read.
    is_complete: bool,
    is_started: bool,
    /// Cursors whose channels are not followed yet.
    unfollowed: usize,
    began: Instant,
    away_since: Option<Instant>,
    /// Ready once the watch has to end, with the reason.
    ending: BoxFuture<'static, Error>,
    /// Why it ends as soon as the last places are given.
    last: Option<Error>,
    is_over: bool,
    _place: WatchPlace,
}

impl Watcher {
    pub(super) fn begin(
        channels: Arc<Channels>,
        plan: Plan,
        ear: Option<Ear>,
        place: WatchPlace,
        ending: BoxFuture<'static, Error>,
    ) -> Result<Self, Error> {
        let now = Instant::now();
        let mut watcher = Self {
            channels,
            ready: Arc::default(),
            cursors: HashMap::new(),
            keys: BTreeMap::new(),
            next_key: 0,
            outgoing: VecDeque::new(),
            reads: FuturesUnordered::new(),
            to_read: VecDeque::new(),
            later: BTreeSet::new(),
            moved: BTreeSet::new(),
            progress_at: now + PROGRESS,
            routes: plan.routes,
            others: plan.others,
            is_complete: ear.is_none(),
            ear,
            readings: 0,
            reading: None,
            reread_at: None,
            is_started: false,
            unfollowed: 0,
            began: now,
            away_since: None,
            ending,
            last: None,
            is_over: false,
            _place: place,
        };
        for (name, begin) in plan.places {
            watcher.add(name, begin, false)?;
        }
        Ok(watcher)
    }

    /// The next event. `None` after an error.
    pub(crate) async fn next(&mut self) -> Option<Result<Event, Error>> {
        loop {
            if let Some(event) = self.outgoing.pop_front() {
                return Some(Ok(event));
            }
            if self.is_over {
                return None;
            }
            if let Some(reason) = self.last.take() {
                self.is_over = true;
                return Some(Err(reason));
            }
            if let Err(error) = self.step().await {
                self.is_over = true;
                return Some(Err(error));
            }
        }
    }

    /// The bytes of what was taken and not given yet.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        let publications = self.outgoing.iter().map(|event| match event {
            Event::Publication(_, it) => it.payload.as_bytes().len(),
            _ => 0,
        });
        publications.sum()
    }

    async fn step(&mut self) -> Result<(), Error> {
        let now = Instant::now();
        if now >= self.progress_at {
            return self.on_time();
        }
        while let Some((_, key)) = self.later.first().copied().filter(|(at, _)| *at <= now) {
            self.later.pop_first();
            self.pull(key);
        }
        self.begin_reads();
        let later = self.later.first().map(|(at, _)| *at);
        let wake_at = later.map_or(self.progress_at, |at| at.min(self.progress_at));
        if !self.outgoing.is_empty() {
            return Ok(());
        }
        tokio::select! {
            biased;
            reason = &mut self.ending => {
                // The caller goes on from here. Otherwise it would be given again what came after the places that it knows.
                self.tell_places();
                self.last = Some(reason);
            }
            Some((key, page)) = self.reads.next() => self.take_page(key, page),
            page = noted(self.reading.as_mut()) => self.take_names(page)?,
            birth = heard(self.ear.as_ref()) => self.take_birth(birth)?,
            key = self.ready.next() => self.pull(key),
            () = sleep_until(wake_at) => {}
        }
        Ok(())
    }

    /// Tells places, and does what else is to be done from time to time.
    fn on_time(&mut self) -> Result<(), Error> {
        let now = Instant::now();
        self.progress_at = now + PROGRESS;
        let is_available = *self.channels.feed()?.available().borrow();
        let away_since = (!is_available).then(|| self.away_since.unwrap_or(now));
        self.away_since = away_since;
        let is_away = away_since.is_some_and(|since| now - since >= AWAY_TIME);
        let is_late = !self.is_started && now - self.began >= START_TIME;
        if is_away || is_late {
            let reason = "the store can't be reached: go on from your stored places";
            return Err(StoreError::Unavailable(reason.into()).into());
        }
        if self.reread_at.is_some_and(|at| at <= now) && self.reading.is_none() {
            self.read_directory();
        }
        self.tell_places();
        Ok(())
    }

    fn tell_places(&mut self) {
        let moved = std::mem::take(&mut self.moved);
        let places = moved.into_iter().filter_map(|key| {
            let cursor = self.cursors.get(&key)?;
            Some((cursor.name.clone(), cursor.position.clone()?))
        });
        let places: Vec<_> = places.collect();
        for some in places.chunks(PLACES) {
            self.outgoing.push_back(Event::Progress(some.to_vec()));
        }
    }

    /// Begins to watch a channel, unless it is watched already.
    fn add(&mut self, name: ChannelName, begin: Begin, is_listed: bool) -> Result<(), Error> {
        if let Some(key) = self.keys.get(&name) {
            if let Some(cursor) = self.cursors.get_mut(key) {
                cursor.met = self.readings;
                cursor.missed = 0;
            }
            return Ok(());
        }
        if self.cursors.len() >= MOST {
            return Err(Error::PrefixTooWide { most: MOST });
        }
        let key = self.next_key;
        self.next_key += 1;
        let watch = self.channels.attach(&name, key, &self.ready)?;
        let position = match &begin {
            Begin::Now => None,
            Begin::Oldest | Begin::First => Some(before_all()),
            Begin::After(position) => Some(position.clone()),
        };
        self.unfollowed += 1;
        self.keys.insert(name.clone(), key);
        let cursor = Cursor {
            name,
            watch,
            begin,
            position,
            is_of_log: false,
            is_opened: false,
            is_listed,
            is_followed: false,
            backoff: BACKOFF,
            met: self.readings,
            missed: 0,
        };
        self.cursors.insert(key, cursor);
        Ok(())
    }

    /// Takes what a channel has.
    fn pull(&mut self, key: u64) {
        let Some(cursor) = self.cursors.get_mut(&key) else {
            return;
        };
        let watch = &cursor.watch;
        let position = cursor.position.as_ref();
        let pulled = watch.channel.pull(watch.id, position, cursor.is_of_log);
        if matches!(pulled, Pulled::Nothing) {
            return;
        }
        if !cursor.is_followed {
            cursor.is_followed = true;
            self.unfollowed -= 1;
        }
        match pulled {
            Pulled::Nothing => {}
            Pulled::End(end) => {
                let moved = cursor.position.as_ref() != Some(&end);
                cursor.position = Some(end);
                cursor.is_of_log = true;
                cursor.backoff.reset();
                if moved && cursor.is_opened {
                    self.moved.insert(key);
                }
                // What does not exist is opened with its first publication, unless it was named.
                let is_awaited = cursor.is_listed || cursor.begin == Begin::First;
                if !is_awaited || cursor.position != Some(before_all()) {
                    self.open(key);
                }
            }
            Pulled::Some(publications) => {
                self.give(key, publications);
                self.ready.push(key);
            }
            Pulled::Ended => self.end(key),
            Pulled::Read => self.to_read.push_back(key),
        }
        self.start();
    }

    /// Tells that the channel is followed from here, unless that was told.
    fn open(&mut self, key: u64) {
        let Some(cursor) = self.cursors.get_mut(&key).filter(|it| !it.is_opened) else {
            return;
        };
        let Some(position) = &cursor.position else {
            return;
        };
        cursor.is_opened = true;
        let event = Event::Opened(cursor.name.clone(), position.clone());
        self.outgoing.push_back(event);
        self.moved.insert(key);
    }

    /// Tells that the channel has ended. With its next publication it is opened again.
    fn end(&mut self, key: u64) {
        self.open(key);
        let Some(cursor) = self.cursors.get_mut(&key) else {
            return;
        };
        let had_begun = cursor.position.as_ref().is_some_and(|it| it.offset > 0);
        cursor.position = Some(before_all());
        if had_begun {
            cursor.begin = Begin::First;
            cursor.is_opened = false;
            self.outgoing.push_back(Event::Ended(cursor.name.clone()));
        }
        self.moved.insert(key);
        self.ready.push(key);
    }

    /// Tells that everything is followed, once it is.
    fn start(&mut self) {
        if !self.is_started && self.is_complete && self.unfollowed == 0 {
            self.is_started = true;
            self.outgoing.push_back(Event::Started);
        }
    }

    fn give(&mut self, key: u64, publications: Vec<Publication>) {
        self.open(key);
        let Some(cursor) = self.cursors.get_mut(&key) else {
            return;
        };
        for publication in publications {
            cursor.position = Some(publication.position.clone());
            if self.routes.is_empty() || self.routes.contains(publication.payload.route()) {
                let event = Event::Publication(cursor.name.clone(), publication);
                self.outgoing.push_back(event);
            }
        }
        cursor.backoff.reset();
        self.moved.insert(key);
    }

    fn begin_reads(&mut self) {
        while self.reads.len() < READS {
            let Some(key) = self.to_read.pop_front() else {
                return;
            };
            let Some(cursor) = self.cursors.get(&key) else {
                continue;
            };
            let Some(position) = cursor.position.clone() else {
                continue;
            };
            let channels = Arc::clone(&self.channels);
            let channel = Arc::clone(&cursor.watch.channel);
            let read = async move { (key, channels.read(&channel, &position).await) };
            self.reads.push(read.boxed());
        }
    }

    fn take_page(&mut self, key: u64, page: Page) {
        let Some(cursor) = self.cursors.get_mut(&key) else {
            return;
        };
        let page = match page {
            Ok(page) => page,
            Err(error) => {
                let channel = cursor.name.as_str();
                tracing::debug!(channel, %error, "can't read the log for a watcher");
                return self.pull_later(key);
            }
        };
        cursor.is_of_log = true;
        let is_oldest = cursor.begin == Begin::Oldest && !cursor.is_opened;
        let is_exact = page.continuity == Continuity::Contiguous;
        if !is_exact && is_oldest {
            cursor.position = Some(page.position.clone());
        }
        self.open(key);
        if let Some(cursor) = self.cursors.get_mut(&key)
            && !is_exact
            && !is_oldest
        {
            cursor.position = Some(page.position.clone());
            let (name, position) = (cursor.name.clone(), page.position.clone());
            self.outgoing
                .push_back(Event::Gap(name, page.continuity, position));
            self.moved.insert(key);
        }
        if page.entries.is_empty() && is_exact {
            // The log ends here, and the channel's follower is elsewhere: one of the two is behind.
            if let Some(cursor) = self.cursors.get(&key) {
                let channel = &cursor.watch.channel;
                if channel.doubt() {
                    self.channels.repair(Arc::clone(channel));
                }
            }
            return self.pull_later(key);
        }
        self.give(key, page.entries.clone());
        self.ready.push(key);
    }

    fn pull_later(&mut self, key: u64) {
        if let Some(cursor) = self.cursors.get_mut(&key) {
            let at = Instant::now() + cursor.backoff.next_pause();
            self.later.insert((at, key));
        }
    }

    fn take_birth(&mut self, birth: Birth) -> Result<(), Error> {
        match birth {
            Birth::Of(name) => self.add(name, Begin::First, true),
            Birth::Missed => {
                self.read_directory();
                Ok(())
            }
        }
    }

    /// Begins to read the directory.
    fn read_directory(&mut self) {
        self.readings += 1;
        self.reread_at = None;
        self.reading = self.read_names(0, None);
    }

    fn read_names(&self, part: usize, after: Option<String>) -> Option<Reading> {
        let feed = Arc::clone(self.channels.feed().ok()?);
        let prefix = self.ear.as_ref()?.prefix().to_owned();
        let page = noted_in(feed, part, prefix, after).boxed();
        Some(Reading { part, page })
    }

    fn take_names(&mut self, page: Noted) -> Result<(), Error> {
        let Some(Reading { part, .. }) = self.reading.take() else {
            return Ok(());
        };
        let page = match page {
            Ok(page) => page,
            Err(error) => {
                tracing::debug!(%error, "can't read the directory for a watcher");
                // The next turn of the progress begins again.
                self.reread_at = Some(Instant::now());
                return Ok(());
            }
        };
        let begin = if self.is_complete {
            Begin::First
        } else {
            self.others.clone()
        };
        for name in page.channels {
            self.add(name, begin.clone(), true)?;
        }
        let part = part + usize::from(page.next.is_none());
        if part < DIRECTORY_PARTS {
            self.reading = self.read_names(part, page.next);
            return Ok(());
        }
        self.is_complete = true;
        self.reread_at = Some(Instant::now() + REREAD);
        self.forget_ended();
        self.start();
        Ok(())
    }

    /// Forgets channels that have ended and that the directory does not have any more: two readings in a row must not have
    /// met them, because a birth may be heard before a reading ends that began earlier.
    fn forget_ended(&mut self) {
        let readings = self.readings;
        let mut over = Vec::new();
        for (key, cursor) in &mut self.cursors {
            if cursor.met != readings {
                cursor.missed = cursor.missed.saturating_add(1);
            }
            let is_nowhere = cursor.is_followed && cursor.position == Some(before_all());
            if cursor.missed >= 2 && is_nowhere {
                over.push(*key);
            }
        }
        for key in over {
            if let Some(cursor) = self.cursors.remove(&key) {
                self.keys.remove(&cursor.name);
            }
        }
    }
}

async fn noted_in(
    feed: Arc<dyn WatchFeed>,
    part: usize,
    prefix: String,
    after: Option<String>,
) -> Noted {
    let page = feed.noted(part, &prefix, after.as_deref(), NAMES);
    let late = |_| StoreError::Unavailable("not answered in time".into());
    timeout(START_TIME / 2, page).await.map_err(late)?
}

async fn noted(reading: Option<&mut Reading>) -> Noted {
    match reading {
        Some(reading) => (&mut reading.page).await,
        None => std::future::pending().await,
    }
}

async fn heard(ear: Option<&Ear>) -> Birth {
    match ear {
        Some(ear) => ear.next().await,
        None => std::future::pending().await,
    }
}
