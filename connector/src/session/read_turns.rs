//! The order in which clients read pages. Pages of history and of members are long, so clients take turns.
//!
//! A few pages are read at once. If more are wanted, the client that has read least comes first, so a client that reads
//! now and then does not wait behind a hundred that read all the time. This is start-time fair queueing: the *place* of
//! a request, counted in bytes, is where the client's last page ended. A client that has not read for a while comes
//! before the others, but by [`SAVED`] at most, so its advantage has a limit.
//!
//! Pages of one channel never take all turns. If its pages are slow, because very many clients read it at the same
//! chat, turns are left for other channels.

use channel_store::ChannelName;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use tokio::sync::oneshot;

/// The number of pages that are read at once.
const AT_ONCE: usize = 4;
/// The number of these that may be of one channel.
const EACH: usize = 2;
/// The most bytes by which a client may come before those that read all the time. Without any, it would wait until each
/// of them has had one more page.
const SAVED: u64 = 1 << 20;

/// What one client has read.
#[derive(Default)]
pub(crate) struct Reader {
    /// The place of its next request, if that comes soon.
    place: u64,
}

impl Reader {
    /// Counts a page of `bytes` bytes.
    pub(crate) fn has_read(&mut self, bytes: usize) {
        self.place = self.place.saturating_add(bytes as u64);
    }
}

/// Turns at reading pages.
#[derive(Default)]
pub(crate) struct ReadTurns {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    under_way: usize,
    /// The highest place that was given a turn.
    now: u64,
    /// Channels whose pages are being read or waited for.
    channels: HashMap<ChannelName, ChannelQueue>,
    arrivals: u64,
}

#[derive(Default)]
struct ChannelQueue {
    under_way: usize,
    /// The waiting requests, by place and then by arrival. A connection waits with one request at a time.
    waiting: BTreeMap<(u64, u64), oneshot::Sender<Turn>>,
}

/// A turn at reading. It ends when this is dropped.
pub(crate) struct Turn {
    /// `None`: there is nothing to give back.
    turns: Option<Arc<ReadTurns>>,
    channel: ChannelName,
}

impl State {
    /// Gives free turns to the requests that are next and whose channel has a turn left. Requests that were given up
    /// are skipped.
    fn pass_on(&mut self, turns: &Arc<ReadTurns>) {
        while self.under_way < AT_ONCE {
            let queues = self.channels.iter();
            let first = queues.filter(|(_, queue)| queue.under_way < EACH);
            let first = first.filter_map(|(channel, queue)| {
                let (place, _) = queue.waiting.first_key_value()?;
                Some((*place, channel))
            });
            let Some((_, channel)) = first.min_by_key(|(place, _)| *place) else {
                return;
            };
            let channel = channel.clone();
            let queue = self.channels.entry(channel.clone()).or_default();
            let Some(((place, _), next)) = queue.waiting.pop_first() else {
                return;
            };
            match next.send(turns.turn(channel.clone())) {
                Ok(()) => {
                    queue.under_way += 1;
                    self.under_way += 1;
                    self.now = self.now.max(place);
                }
                Err(mut refused) => {
                    // The turn was not counted yet, so dropping it must not give it back.
                    refused.turns = None;
                    self.forget(&channel);
                }
            }
        }
    }

    fn forget(&mut self, channel: &ChannelName) {
        let queue = self.channels.get(channel);
        if queue.is_some_and(|queue| queue.under_way == 0 && queue.waiting.is_empty()) {
            self.channels.remove(channel);
        }
    }
}

impl ReadTurns {
    /// Waits for a turn. If the future is dropped, for example because the request's time is over, the request gives up
    /// its place.
    pub(crate) async fn take(self: &Arc<Self>, reader: &mut Reader, channel: &ChannelName) -> Turn {
        let turn = {
            let mut state = self.state.lock();
            reader.place = reader.place.max(state.now.saturating_sub(SAVED));
            let (sender, turn) = oneshot::channel();
            state.arrivals += 1;
            let place = (reader.place, state.arrivals);
            let queue = state.channels.entry(channel.clone()).or_default();
            queue.waiting.insert(place, sender);
            state.pass_on(self);
            turn
        };
        match turn.await {
            Ok(turn) => turn,
            // Can't happen: a sender stays in its queue until it has sent a turn.
            Err(_) => std::future::pending().await,
        }
    }

    fn turn(self: &Arc<Self>, channel: ChannelName) -> Turn {
        Turn {
            turns: Some(Arc::clone(self)),
            channel,
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(turns) = self.turns.take() else {
            return;
        };
        let mut state = turns.state.lock();
        state.under_way -= 1;
        if let Some(queue) = state.channels.get_mut(&self.channel) {
            queue.under_way -= 1;
        }
        state.forget(&self.channel);
        state.pass_on(&turns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use std::pin::Pin;

    fn channel(number: usize) -> ChannelName {
        ChannelName::new(number.to_string()).unwrap()
    }

    /// A channel that nobody else reads.
    fn own() -> ChannelName {
        channel(fastrand::usize(1_000..))
    }

    /// Takes all turns.
    fn all(turns: &Arc<ReadTurns>) -> Vec<Turn> {
        let mut reader = Reader::default();
        let take = |number| {
            turns
                .take(&mut reader, &channel(number))
                .now_or_never()
                .expect("there is room")
        };
        (0..AT_ONCE).map(take).collect()
    }

    /// Lets each of them wait for a turn, in this order.
    fn waiting<'a>(
        turns: &'a Arc<ReadTurns>,
        readers: &'a mut [Reader],
    ) -> Vec<Pin<Box<impl Future<Output = Turn> + 'a>>> {
        let wait = |reader| {
            let channel = own();
            let mut turn = Box::pin(async move { turns.take(reader, &channel).await });
            assert!(turn.as_mut().now_or_never().is_none());
            turn
        };
        readers.iter_mut().map(wait).collect()
    }

    fn readers<const N: usize>(place: u64) -> [Reader; N] {
        std::array::from_fn(|_| Reader { place })
    }

    /// A hundred clients have read for long and wait again. Another one has read nothing.
    #[tokio::test]
    async fn the_client_that_has_read_least_gets_the_next_turn() {
        let turns = Arc::new(ReadTurns::default());
        let mut under_way = all(&turns);
        let mut many = readers::<100>(0);
        for reader in &mut many {
            reader.has_read(1_000_000);
        }
        let mut many = waiting(&turns, &mut many);
        let mut fresh = readers::<1>(0);
        let mut fresh = waiting(&turns, &mut fresh);
        under_way.pop();
        let turn = fresh[0].as_mut().now_or_never().expect("its turn");
        assert!(many[0].as_mut().now_or_never().is_none());
        drop(turn);
        assert!(many[0].as_mut().now_or_never().is_some());
    }

    /// All clients have read equally much and wait for their next page when another one comes.
    #[tokio::test]
    async fn a_client_that_reads_rarely_does_not_wait_for_a_page_of_each_other_client() {
        let turns = Arc::new(ReadTurns::default());
        let mut under_way = all(&turns);
        turns.state.lock().now = 100_000;
        let mut many = readers::<100>(100_000);
        let _many = waiting(&turns, &mut many);
        let mut seldom = readers::<1>(5_000);
        let mut seldom = waiting(&turns, &mut seldom);
        under_way.pop();
        assert!(seldom[0].as_mut().now_or_never().is_some());
    }

    #[tokio::test]
    async fn a_client_that_has_not_read_for_long_saves_up_only_a_bounded_amount() {
        let turns = Arc::new(ReadTurns::default());
        turns.state.lock().now = 10 * SAVED;
        let mut idle = Reader::default();
        drop(turns.take(&mut idle, &own()).await);
        idle.has_read(2 * usize::try_from(SAVED).expect("it fits"));
        let mut under_way = all(&turns);
        let busy = Reader { place: 10 * SAVED };
        let mut both = [idle, busy];
        let mut both = waiting(&turns, &mut both);
        under_way.pop();
        let turn = both[1].as_mut().now_or_never().expect("its turn");
        assert!(both[0].as_mut().now_or_never().is_none());
        drop(turn);
        assert!(both[0].as_mut().now_or_never().is_some());
    }

    #[tokio::test]
    async fn a_client_that_no_longer_waits_is_skipped_and_its_turn_is_not_lost() {
        let turns = Arc::new(ReadTurns::default());
        for _ in 0..3 {
            let mut under_way = all(&turns);
            let mut six = readers::<6>(0);
            let mut six = waiting(&turns, &mut six);
            let mut stays = six.pop().expect("one of them");
            // One turn was given to a request that is dropped before it takes the turn.
            under_way.pop();
            drop(six);
            assert!(stays.as_mut().now_or_never().is_some());
        }
        let state = turns.state.lock();
        assert_eq!((state.under_way, state.channels.len()), (0, 0));
    }

    #[tokio::test]
    async fn a_channel_with_slow_pages_does_not_delay_reads_of_another() {
        let turns = Arc::new(ReadTurns::default());
        let (slow, other) = (channel(0), channel(1));
        let mut many = readers::<100>(0);
        let (mut served, mut waiting) = (Vec::new(), Vec::new());
        for reader in &mut many {
            let mut turn = Box::pin(turns.take(reader, &slow));
            match turn.as_mut().now_or_never() {
                Some(turn) => served.push(turn),
                None => waiting.push(turn),
            }
        }
        assert_eq!(served.len(), EACH);
        let mut seldom = Reader::default();
        let turn = turns.take(&mut seldom, &other).now_or_never();
        assert!(turn.is_some());
        // The channel's own pages go on when one of them is done.
        served.pop();
        assert!(waiting[0].as_mut().now_or_never().is_some());
    }
}
