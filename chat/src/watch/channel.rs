//! One channel that is watched: a follower that keeps it contiguous, and what it brought last.

use super::ready::Ready;
use channel_store::follow::{Confirmed, Deliver, Follower, Next, Ring, SharedReads};
use channel_store::{
    ChannelName, Continuity, Epoch, FeedConnection, LogPage, Look, Position, Publication, Since,
};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// The most publications that a watcher takes from the ring at once …
const BATCH: usize = 64;
/// … and about their bytes.
const BATCH_BYTES: usize = 64 << 10;
/// All rings together hold about so many bytes. Beyond that, watchers that are behind read the log.
const RINGS: usize = 64 << 20;
/// A channel may be found expired this much before its time as it was computed here: the store tells whole seconds.
const SLACK: Duration = Duration::from_secs(2);

/// Where a channel ends that does not exist: before the first publication of its next life.
pub(super) fn before_all() -> Position {
    Position {
        epoch: Epoch::new(""),
        offset: 0,
    }
}

/// One channel with at least one watcher.
pub(super) struct WatchedChannel {
    name: ChannelName,
    state: Mutex<State>,
    /// Reads of the log for single watchers.
    pub(super) reads: SharedReads,
}

struct State {
    follower: Follower,
    kept: Kept,
    watchers: HashMap<u64, Listed>,
    next_id: u64,
    /// How many watchers were told that there is something, and have not taken all of it.
    behind: usize,
}

/// A watcher in the channel's list.
struct Listed {
    ready: Arc<Ready>,
    /// What the watcher calls this channel.
    key: u64,
    /// True if its key is with the watcher.
    told: bool,
}

/// What a channel remembers of its log.
struct Kept {
    ring: Option<Ring>,
    /// The bytes of all rings.
    bytes: Arc<AtomicUsize>,
    /// Where the follower stands; `None` before it is known.
    end: Option<Position>,
    /// When the channel expires, as it was seen there.
    expires: Option<Instant>,
    /// Where the last life of the channel ended, if nothing of it is missing.
    ended: Option<Position>,
}

impl Kept {
    fn begin(&mut self, at: &Position) {
        let held = self.ring.as_ref().map_or(0, Ring::bytes);
        self.bytes.fetch_sub(held, Ordering::Relaxed);
        self.ring = Some(Ring::new(at.clone()));
        self.end = Some(at.clone());
        self.expires = None;
    }

    fn push(&mut self, publication: Publication) {
        let position = publication.position.clone();
        let size = publication.payload.as_bytes().len();
        let has_room = self.bytes.load(Ordering::Relaxed) + size <= RINGS;
        match &mut self.ring {
            Some(ring) if has_room => {
                let before = ring.bytes();
                ring.push(publication);
                self.bytes.fetch_add(ring.bytes(), Ordering::Relaxed);
                self.bytes.fetch_sub(before, Ordering::Relaxed);
            }
            _ => self.begin(&position),
        }
        self.end = Some(position);
        // What was just published has given the channel more time.
        self.expires = None;
    }

    /// True if the channel has expired when it had to.
    fn was_to_expire(&self) -> bool {
        let now = Instant::now();
        self.expires.is_some_and(|at| at <= now + SLACK)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let held = self.ring.as_ref().map_or(0, Ring::bytes);
        self.bytes.fetch_sub(held, Ordering::Relaxed);
    }
}

/// Takes what the follower delivers.
struct Outlet<'a> {
    kept: &'a mut Kept,
    watchers: &'a mut HashMap<u64, Listed>,
    behind: &'a mut usize,
}

impl Outlet<'_> {
    fn tell_all(&mut self) {
        if *self.behind == self.watchers.len() {
            return;
        }
        for watcher in self.watchers.values_mut().filter(|it| !it.told) {
            watcher.told = true;
            *self.behind += 1;
            watcher.ready.push(watcher.key);
        }
    }
}

impl Deliver for Outlet<'_> {
    fn deliver(&mut self, _: Option<&Position>, publication: Publication) {
        self.kept.push(publication);
        self.tell_all();
    }

    fn locate(&mut self, position: &Position, lost: Option<Continuity>) {
        let is_other_life = lost == Some(Continuity::Unknown) && position.offset == 0;
        if is_other_life && self.kept.was_to_expire() {
            self.kept.ended = self.kept.end.take();
        }
        self.kept.begin(position);
        self.tell_all();
    }

    fn gap(&mut self) {}

    fn repaired(&mut self) {}
}

/// What a channel has for a watcher that stands at some position.
#[derive(Debug)]
pub(super) enum Pulled {
    /// It is not known yet where the log ends. The watcher will be told.
    Nothing,
    /// The watcher has everything: it stands at this end. It will be told when there is more.
    End(Position),
    /// The next publications. Pull again afterwards.
    Some(Vec<Publication>),
    /// The life in which the watcher stands has ended, and it has everything of it. Pull again afterwards.
    Ended,
    /// Only the log can tell.
    Read,
}

impl WatchedChannel {
    /// `rings`: the bytes of all rings.
    pub(super) fn new(name: ChannelName, rings: Arc<AtomicUsize>) -> Arc<Self> {
        let kept = Kept {
            ring: None,
            bytes: rings,
            end: None,
            expires: None,
            ended: None,
        };
        let state = State {
            follower: Follower::default(),
            kept,
            watchers: HashMap::new(),
            next_id: 0,
            behind: 0,
        };
        Arc::new(Self {
            name,
            state: Mutex::new(state),
            reads: SharedReads::default(),
        })
    }

    pub(super) fn name(&self) -> &ChannelName {
        &self.name
    }

    /// Adds a watcher, which calls this channel `key`, and tells it at once. Returns what the channel calls the watcher.
    pub(super) fn attach(&self, key: u64, ready: &Arc<Ready>) -> u64 {
        let mut state = self.state.lock();
        let id = state.next_id;
        state.next_id += 1;
        let listed = Listed {
            ready: Arc::clone(ready),
            key,
            told: true,
        };
        state.watchers.insert(id, listed);
        state.behind += 1;
        ready.push(key);
        id
    }

    /// Removes a watcher. True: it was the last one, so the channel is no longer followed.
    pub(super) fn detach(&self, id: u64) -> bool {
        let mut state = self.state.lock();
        let watcher = state.watchers.remove(&id);
        if watcher.is_some_and(|it| it.told) {
            state.behind -= 1;
        }
        let is_last = state.watchers.is_empty();
        if is_last {
            state.follower.stop();
        }
        is_last
    }

    /// What comes after a position. `is_of_log`: the log was asked about that position before. Otherwise the ring is not
    /// believed, because it may still have what was removed from the log.
    pub(super) fn pull(&self, id: u64, position: Option<&Position>, is_of_log: bool) -> Pulled {
        let mut state = self.state.lock();
        let State {
            kept,
            watchers,
            behind,
            ..
        } = &mut *state;
        let end = kept.end.clone();
        let is_there = match (&end, position) {
            (None, _) | (Some(_), None) => true,
            (Some(end), Some(own)) => {
                own == end || own.epoch.as_str().is_empty() && own.offset == 0 && end.offset == 0
            }
        };
        if is_there {
            if let Some(watcher) = watchers.get_mut(&id).filter(|it| it.told) {
                watcher.told = false;
                *behind -= 1;
            }
            let Some(end) = end else {
                return Pulled::Nothing;
            };
            if *behind == 0 && kept.ring.as_ref().is_some_and(|ring| ring.bytes() > 0) {
                let expires = kept.expires;
                kept.begin(&end);
                kept.expires = expires;
            }
            return Pulled::End(end);
        }
        let Some(position) = position else {
            return Pulled::Nothing;
        };
        if kept.ended.as_ref() == Some(position) {
            return Pulled::Ended;
        }
        let following = kept.ring.as_ref().filter(|_| is_of_log);
        let mut some = Vec::new();
        let mut bytes = 0;
        for publication in following
            .and_then(|ring| ring.after(position))
            .into_iter()
            .flatten()
            .take(BATCH)
        {
            bytes += publication.payload.as_bytes().len();
            if bytes > BATCH_BYTES && !some.is_empty() {
                break;
            }
            some.push(publication.clone());
        }
        if some.is_empty() {
            Pulled::Read
        } else {
            Pulled::Some(some)
        }
    }

    /// Calls the follower, which delivers to the ring and tells the watchers.
    fn follow<T>(&self, call: impl FnOnce(&mut Follower, &mut Outlet<'_>) -> T) -> T {
        let mut state = self.state.lock();
        let State {
            follower,
            kept,
            watchers,
            behind,
            ..
        } = &mut *state;
        let mut outlet = Outlet {
            kept,
            watchers,
            behind,
        };
        call(follower, &mut outlet)
    }

    /// See [`Follower::subscribed`].
    pub(super) fn subscribed(&self, connection: &FeedConnection) -> Confirmed {
        self.state.lock().follower.subscribed(connection)
    }

    /// See [`Follower::publications`].
    pub(super) fn publications(
        &self,
        connection: u64,
        run: &mut dyn Iterator<Item = Publication>,
    ) -> bool {
        self.follow(|follower, outlet| follower.publications(connection, run, outlet))
    }

    /// See [`Follower::since`].
    pub(super) fn since(&self) -> Option<Since> {
        self.state.lock().follower.since()
    }

    /// See [`Follower::read`].
    pub(super) fn read(&self, page: LogPage) -> Next {
        self.follow(|follower, outlet| follower.read(page, outlet))
    }

    /// See [`Follower::doubt`].
    pub(super) fn doubt(&self) -> bool {
        self.follow(|follower, outlet| follower.doubt(outlet))
    }

    /// Takes what was seen of the channel. `settles`: the look was asked for because a subscription was confirmed. Any other
    /// look says nothing while the log is read.
    pub(super) fn looked(&self, look: Look, settles: bool) -> Next {
        self.follow(|follower, outlet| {
            let Look { head, life } = look;
            let end = head.position.clone();
            let next = match follower.since() {
                Some(_) if !settles => return Next::Done,
                Some(Since::Head) => {
                    let page = LogPage {
                        continuity: Continuity::Contiguous,
                        lifetime: head.lifetime,
                        last: end.offset,
                        position: head.position,
                        entries: Vec::new(),
                    };
                    follower.read(page, outlet)
                }
                Some(Since::Position(_)) => follower.compared(Some(head), outlet),
                None => {
                    let own = follower.position().cloned().unwrap_or_else(before_all);
                    let is_nowhere = own == before_all();
                    if life.is_none() && !is_nowhere && outlet.kept.was_to_expire() {
                        if follower.expired(outlet) {
                            outlet.kept.ended = Some(own);
                        }
                        Next::Done
                    } else if is_nowhere && end.offset == 0
                        || !follower.touched(Some(&head), outlet)
                    {
                        Next::Done
                    } else {
                        Next::Read
                    }
                }
            };
            if follower.position() == Some(&end) {
                outlet.kept.expires = life.map(|life| Instant::now() + life);
            }
            next
        })
    }
}
