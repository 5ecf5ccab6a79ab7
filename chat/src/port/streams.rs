//! How many send streams there are, and which of them ends when another one needs its place.
//!
//! A stream lasts as long as its caller likes, even if nothing is sent. So all places may be taken while hardly anything is
//! going on. Then chat ends an idle stream: of the caller that has the most streams, the one that has been idle for longest. The
//! status says why, and the caller opens another one when it has something to send. A caller with only one stream loses it only
//! after a minute without use.

use super::connections::{Caller, Untaken};
use super::share::{Share, Taken};
use crate::error::Error;
use crate::metering;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// A stream that was used within this time is not idle.
const JUST_USED: Duration = Duration::from_secs(1);
/// A stream that is its caller's only one may be without use for this long.
const ONLY_ONE: Duration = Duration::from_secs(60);

/// All send streams.
pub(crate) struct Streams {
    share: Arc<Share>,
    open: Mutex<BTreeMap<u64, Arc<Open>>>,
    numbers: Mutex<u64>,
}

struct Open {
    caller: Arc<Caller>,
    used: Mutex<Instant>,
    ended: CancellationToken,
    /// Set when the stream was told to end. If its caller does not take the end, the connection is ended.
    going: Mutex<Option<Untaken>>,
}

/// A stream's place.
pub(crate) struct Place {
    streams: Arc<Streams>,
    number: u64,
    open: Arc<Open>,
    told: Pin<Box<WaitForCancellationFutureOwned>>,
    _taken: Taken,
}

impl Streams {
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            share: Share::new(most),
            open: Mutex::default(),
            numbers: Mutex::default(),
        })
    }

    /// A place for another stream of this caller.
    ///
    /// # Errors
    /// [`Error::Overloaded`] if all places are taken and no stream is idle.
    pub(crate) fn enter(self: &Arc<Self>, caller: &Arc<Caller>) -> Result<Place, Error> {
        let taken = match self.share.take(&caller.streams, 1) {
            Some(taken) => taken,
            None if self.end_an_idle_one(caller) => self.share.take_anyway(&caller.streams, 1),
            None => return Err(Error::Overloaded),
        };
        let open = Arc::new(Open {
            caller: Arc::clone(caller),
            used: Mutex::new(Instant::now()),
            ended: CancellationToken::new(),
            going: Mutex::default(),
        });
        let number = {
            let mut numbers = self.numbers.lock();
            *numbers += 1;
            *numbers
        };
        self.open.lock().insert(number, Arc::clone(&open));
        Ok(Place {
            streams: Arc::clone(self),
            number,
            told: Box::pin(open.ended.clone().cancelled_owned()),
            open,
            _taken: taken,
        })
    }

    /// False if no stream may be ended for this caller.
    fn end_an_idle_one(&self, caller: &Arc<Caller>) -> bool {
        let own = caller.streams.amount();
        let now = Instant::now();
        let chosen = {
            let open = self.open.lock();
            let idle = open.values().filter_map(|it| {
                let idle = now.duration_since(*it.used.lock());
                let theirs = it.caller.streams.amount();
                let may_end = idle >= ONLY_ONE || idle >= JUST_USED && theirs > own + 1;
                (may_end && !it.ended.is_cancelled()).then_some((theirs, idle, it))
            });
            let chosen = idle.max_by_key(|&(theirs, idle, _)| (theirs, idle));
            chosen.map(|(_, _, it)| Arc::clone(it))
        };
        let Some(chosen) = chosen else { return false };
        *chosen.going.lock() = Some(chosen.caller.untaken());
        chosen.ended.cancel();
        metering::stream_ended();
        true
    }
}

impl Place {
    /// Notes that something came or went on the stream.
    pub(crate) fn used(&self) {
        *self.open.used.lock() = Instant::now();
    }

    /// Ready once another stream needs this place.
    pub(crate) fn poll_told_to_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.told.as_mut().poll(cx)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.streams.open.lock().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(streams: &Arc<Streams>, caller: &Arc<Caller>) -> Vec<Place> {
        std::iter::from_fn(|| streams.enter(caller).ok()).collect()
    }

    fn ending(places: &[Place]) -> usize {
        places
            .iter()
            .filter(|it| it.open.ended.is_cancelled())
            .count()
    }

    #[tokio::test(start_paused = true)]
    async fn the_caller_with_the_most_streams_loses_an_idle_one() {
        let streams = Streams::new(8);
        let [greedy, modest, late] = [(); 3].map(|()| Caller::in_process());
        let all = fill(&streams, &greedy);
        assert_eq!(all.len(), 4);
        let one = streams.enter(&modest).unwrap();
        let more = [(); 3].map(|()| streams.enter(&Caller::in_process()).unwrap());

        // No stream is idle yet.
        assert!(streams.enter(&late).is_err());
        tokio::time::advance(JUST_USED).await;
        all[0].used();
        let _late = streams.enter(&late).unwrap();
        assert_eq!(ending(&all), 1);
        assert!(
            !all[0].open.ended.is_cancelled(),
            "this stream was used just now"
        );
        assert!(!one.open.ended.is_cancelled());
        assert_eq!(ending(&more), 0);
        assert!(
            streams.enter(&greedy).is_err(),
            "this caller has enough streams"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_only_stream_of_a_caller_may_be_idle_for_a_minute() {
        let streams = Streams::new(1);
        let (first, second) = (Caller::in_process(), Caller::in_process());
        let one = streams.enter(&first).unwrap();
        tokio::time::advance(ONLY_ONE - JUST_USED).await;
        assert!(streams.enter(&second).is_err());
        tokio::time::advance(JUST_USED).await;
        let other = streams.enter(&second).unwrap();
        assert!(one.open.ended.is_cancelled());
        drop(one);
        assert_eq!(first.streams.amount(), 0);
        drop(other);
        assert!(streams.enter(&first).is_ok());
    }
}
